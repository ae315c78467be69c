use std::io::Write;

use clap::Args;
use cri::progress::ChangeKind;
use serde_json::{Value, json};

use crate::error::Error;
use crate::ids;
use crate::output::{Format, Output, json as output};
use crate::session::Session;

/// Show what a container has changed in its image: A is added, C changed, D deleted
#[derive(Debug, Args)]
pub(crate) struct Diff {
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// Output format
    #[arg(long, short, default_value = "table")]
    output: Format,
    /// Only show paths
    #[arg(long, short)]
    quiet: bool,
}

impl Diff {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let id = ids::container(session, &self.id).await?;
        let mut changes = session.changes(&id).await?;
        let operation = || format!("compare container {id} with its image");
        let failed = |status| Error::own_rpc(operation(), status);
        let mut all = Vec::new();
        while let Some(change) = changes.message().await.map_err(failed)? {
            let path = String::from_utf8_lossy(&change.path);
            let (letter, word) = match change.kind() {
                ChangeKind::Added => ("A", "added"),
                ChangeKind::Changed => ("C", "changed"),
                ChangeKind::Deleted => ("D", "deleted"),
                ChangeKind::Unspecified => ("?", "unknown"),
            };
            match (self.output, self.quiet) {
                (Format::Table, true) => writeln!(out, "{}", shown(&path))?,
                (Format::Table, false) => writeln!(out, "{letter} {}", shown(&path))?,
                (_, true) => all.push(Value::from(path)),
                (_, false) => all.push(json!({ "kind": word, "path": path })),
            }
        }
        match self.output {
            Format::Table => Ok(()),
            format => output::write_value(out, format, &json!({ "changes": all })),
        }
    }
}

/// Names in a container are anybody's: a line is a path, and a terminal does nothing that it is told by one.
fn shown(path: &str) -> String {
    let escaped = path.chars().map(|character| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_line_and_no_command_for_a_terminal() {
        assert_eq!(shown("/a b/é"), "/a b/é");
        assert_eq!(shown("/a\nD /etc"), "/a\\nD /etc");
        assert_eq!(shown("/\u{1b}[2J"), "/\\u{1b}[2J");
    }
}
