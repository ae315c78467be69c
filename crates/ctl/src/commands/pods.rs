use std::io::Write;

use clap::Args;
use cri::v1::{ListPodSandboxResponse, PodSandbox};

use crate::error::Error;
use crate::ids::short;
use crate::output::table::Table;
use crate::output::time::{ago, now_ns, spaced};
use crate::output::{Format, Output, json};
use crate::select::{PodSelection, pod_state, write_maps};
use crate::session::Session;

/// List pods
#[derive(Debug, Args)]
pub(crate) struct Pods {
    #[command(flatten)]
    selection: PodSelection,
    /// Filter by pod id or its beginning
    #[arg(long, value_name = "POD-ID")]
    id: Option<String>,
    /// Show all that the list knows of each pod
    #[arg(long, short)]
    verbose: bool,
    /// Show only ids
    #[arg(long, short)]
    quiet: bool,
    /// Output format
    #[arg(long, short, default_value = "table")]
    output: Format,
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
}

impl Pods {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let format = self.output;
        let pods = self.selection.list(session, self.id.as_deref()).await?;
        if format != Format::Table {
            return json::write_message(out, format, &ListPodSandboxResponse { items: pods });
        }
        if self.quiet {
            for pod in &pods {
                writeln!(out, "{}", pod.id)?;
            }
            return Ok(());
        }
        if self.verbose {
            return pods.iter().try_for_each(|pod| details(out, pod));
        }
        table(&pods, self.no_trunc, now_ns()).write(out)?;
        Ok(())
    }
}

fn table(pods: &[PodSandbox], whole_ids: bool, now_ns: i64) -> Table {
    let mut table = Table::with_header(&[
        "POD ID",
        "CREATED",
        "STATE",
        "NAME",
        "NAMESPACE",
        "ATTEMPT",
        "RUNTIME",
    ]);
    for pod in pods {
        let metadata = pod.metadata.clone().unwrap_or_default();
        let id = if whole_ids {
            &pod.id
        } else {
            short(&pod.id, "")
        };
        table.row([
            id.to_owned(),
            ago(pod.created_at, now_ns),
            pod_state(pod.state()).to_owned(),
            metadata.name,
            metadata.namespace,
            metadata.attempt.to_string(),
            handler(pod).to_owned(),
        ]);
    }
    table
}

fn details(out: &mut Output, pod: &PodSandbox) -> Result<(), Error> {
    let metadata = pod.metadata.clone().unwrap_or_default();
    writeln!(out, "ID: {}", pod.id)?;
    writeln!(out, "Name: {}", metadata.name)?;
    writeln!(out, "UID: {}", metadata.uid)?;
    writeln!(out, "Namespace: {}", metadata.namespace)?;
    if metadata.attempt != 0 {
        writeln!(out, "Attempt: {}", metadata.attempt)?;
    }
    writeln!(out, "Status: {}", pod_state(pod.state()))?;
    writeln!(out, "Created: {}", spaced(pod.created_at))?;
    write_maps(
        out,
        [("Labels", &pod.labels), ("Annotations", &pod.annotations)],
    )?;
    writeln!(out, "Runtime: {}\n", handler(pod))?;
    Ok(())
}

fn handler(pod: &PodSandbox) -> &str {
    if pod.runtime_handler.is_empty() {
        "(default)"
    } else {
        &pod.runtime_handler
    }
}
