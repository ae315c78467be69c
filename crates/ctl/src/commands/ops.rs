use std::time::Duration;

use clap::Args;
use cri::progress::ListOperationsResponse;
use serde_json::{Value, json};

use super::each::{Quiet, write_ids};
use crate::error::Error;
use crate::output::table::Table;
use crate::output::{Format, Output, json as output};
use crate::session::Session;

/// Show what the runtime is doing now: each operation, what it is at, and since when
#[derive(Debug, Args)]
pub(crate) struct Ops {
    /// Output format
    #[arg(long, short, default_value = "table")]
    output: Format,
    #[command(flatten)]
    quiet: Quiet,
}

impl Ops {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let reply = session.list_operations().await?;
        if self.quiet.quiet {
            let ids = reply.operations.iter().map(|operation| &operation.id);
            return write_ids(out, ids.filter(|id| !id.is_empty()));
        }
        if self.output != Format::Table {
            return output::write_value(out, self.output, &value(&reply));
        }
        Ok(table(&reply).write(out)?)
    }
}

fn table(reply: &ListOperationsResponse) -> Table {
    let mut table = Table::with_header(&["OPERATION", "AGE", "OF", "ID", "STAGE"]);
    for operation in &reply.operations {
        let mut stage = operation.stage.clone();
        if operation.stage_age_ns > 0 {
            stage += &format!(" (for {})", shown(operation.stage_age_ns));
        }
        let short: String = match &*operation.id {
            "" => "-".to_owned(),
            id => id.chars().take(13).collect(),
        };
        table.row([
            operation.rpc.clone(),
            shown(operation.age_ns),
            operation.name.clone(),
            short,
            stage,
        ]);
    }
    for call in &reply.calls {
        // What an operation does is told above.
        let told = reply.operations.iter().any(|one| one.rpc == call.rpc);
        if !told {
            let none = || "-".to_owned();
            let waits = "a client waits".to_owned();
            table.row([call.rpc.clone(), shown(call.age_ns), none(), none(), waits]);
        }
    }
    table
}

fn value(reply: &ListOperationsResponse) -> Value {
    let operations = reply.operations.iter().map(|operation| {
        json!({
            "rpc": operation.rpc,
            "id": operation.id,
            "name": operation.name,
            "stage": operation.stage,
            "ageNs": operation.age_ns,
            "stageAgeNs": operation.stage_age_ns,
        })
    });
    let calls = reply.calls.iter();
    let calls = calls.map(|call| json!({ "rpc": call.rpc, "ageNs": call.age_ns }));
    json!({
        "operations": operations.collect::<Vec<_>>(),
        "calls": calls.collect::<Vec<_>>(),
    })
}

/// To the tenth of a second; what is older than minutes needs no tenths.
fn shown(age_ns: i64) -> String {
    let age = Duration::from_nanos(u64::try_from(age_ns).unwrap_or(0));
    match age.as_secs() {
        seconds if seconds >= 3600 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        seconds if seconds >= 60 => format!("{}m{}s", seconds / 60, seconds % 60),
        seconds => format!("{seconds}.{}s", age.subsec_millis() / 100),
    }
}

#[cfg(test)]
mod tests {
    use cri::progress::{Call, Operation};

    use super::*;

    #[test]
    fn operations_come_first_and_calls_without_one_after() {
        let call = |rpc: &str, age_ns| Call {
            rpc: rpc.into(),
            age_ns,
        };
        let reply = ListOperationsResponse {
            operations: vec![Operation {
                rpc: "StopContainer".into(),
                id: "0123456789abcdef".into(),
                name: "default/web/main".into(),
                stage: "wait for the end of the grace period".into(),
                age_ns: 75_000_000_000,
                stage_age_ns: 2_340_000_000,
            }],
            calls: vec![
                call("StopContainer", 75_000_000_000),
                call("ExecSync", 7_300_000_000_000),
            ],
        };
        let mut text = Vec::new();
        table(&reply).write(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<Vec<_>> = text
            .lines()
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|cell| !cell.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(
            lines[1],
            [
                "StopContainer",
                "1m15s",
                "default/web/main",
                "0123456789abc",
                "wait for the end of the grace period (for 2.3s)",
            ]
        );
        assert_eq!(lines[2], ["ExecSync", "2h1m", "-", "-", "a client waits"]);
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(value(&reply)["calls"][1]["rpc"], "ExecSync");
    }
}
