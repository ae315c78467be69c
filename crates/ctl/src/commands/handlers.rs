use clap::Args;
use serde_json::{Map, Value};

use super::each::{Quiet, write_ids};
use crate::error::Error;
use crate::output::table::Table;
use crate::output::{Format, Output, json};
use crate::session::Session;

/// List the handlers that a RuntimeClass may name, with what each can do and what is missing
#[derive(Debug, Args)]
pub(crate) struct Handlers {
    /// Output format
    #[arg(long, short, default_value = "table")]
    output: Format,
    #[command(flatten)]
    quiet: Quiet,
}

impl Handlers {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let format = self.output;
        let mut reply = session.status(true).await?;
        let described = reply.info.remove("info").unwrap_or_default();
        let described: Value = serde_json::from_str(&described).unwrap_or_default();
        let mut handlers: Vec<Map<String, Value>> = described["handlers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|handler| handler.as_object().cloned())
            .collect();
        if handlers.is_empty() {
            // Another runtime, which says no more than CRI asks for.
            handlers.extend(reply.runtime_handlers.iter().map(|handler| {
                let features = handler.features.unwrap_or_default();
                let mut object = Map::new();
                object.insert("name".to_owned(), handler.name.clone().into());
                object.insert(
                    "recursiveReadOnlyMounts".to_owned(),
                    features.recursive_read_only_mounts.into(),
                );
                object.insert("userNamespaces".to_owned(), features.user_namespaces.into());
                object
            }));
        }
        if self.quiet.quiet {
            let name = |handler: &Map<String, Value>| {
                let name = handler.get("name").and_then(Value::as_str);
                name.unwrap_or_default().to_owned()
            };
            return write_ids(out, handlers.iter().map(name));
        }
        if format != Format::Table {
            let handlers = handlers.into_iter().map(Value::Object).collect();
            return json::write_value(out, format, &Value::Array(handlers));
        }
        let mut table = Table::with_header(&[
            "HANDLER",
            "KIND",
            "VERSION",
            "RECURSIVE RO",
            "USER NAMESPACES",
            "SECCOMP",
            "TRIAL",
            "PATH",
            "MISSING",
        ]);
        for handler in &handlers {
            table.row(row(handler));
        }
        Ok(table.write(out)?)
    }
}

fn row(handler: &Map<String, Value>) -> Vec<String> {
    let text = |key: &str| match handler.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(true)) => "yes".to_owned(),
        Some(Value::Bool(false)) => "no".to_owned(),
        _ => "-".to_owned(),
    };
    let mut name = text("name");
    if handler.get("default") == Some(&Value::Bool(true)) {
        name.push_str(" (default)");
    }
    let keys = [
        "kind",
        "version",
        "recursiveReadOnlyMounts",
        "userNamespaces",
        "seccomp",
        "trial",
        "path",
        "trouble",
    ];
    let mut cells: Vec<String> = std::iter::once(name).chain(keys.map(text)).collect();
    let missing = handler.get("missing").and_then(Value::as_array);
    let missing: Vec<&str> = missing
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if let (Some(last), false) = (
        cells.last_mut().filter(|last| *last == "-"),
        missing.is_empty(),
    ) {
        *last = missing.join(", ");
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_what_was_found_out_and_what_is_missing() {
        let cells = |handler: Value| row(handler.as_object().unwrap());
        let tried = serde_json::json!({
            "name": "crun", "default": true, "kind": "oci", "version": "crun version 1.8.1",
            "recursiveReadOnlyMounts": true, "userNamespaces": false, "seccomp": true,
            "trial": "no maps today", "path": "/usr/bin/crun", "trouble": null,
            "missing": ["user namespaces", "seccomp"],
        });
        assert_eq!(
            cells(tried),
            [
                "crun (default)",
                "oci",
                "crun version 1.8.1",
                "yes",
                "no",
                "yes",
                "no maps today",
                "/usr/bin/crun",
                "user namespaces, seccomp",
            ]
        );
        let broken = serde_json::json!({
            "name": "gone", "kind": "oci", "trouble": "there is no such file", "missing": [],
        });
        let cells = cells(broken);
        assert_eq!(cells[2..7], ["-", "-", "-", "-", "-"]);
        assert_eq!(cells.last().unwrap(), "there is no such file");
    }
}
