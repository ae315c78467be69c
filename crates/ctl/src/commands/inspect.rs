use std::io::Write;

use clap::Args;
use cri::v1::{ContainerState, ContainerStatus, ContainerStatusResponse};
use serde_json::Value;

use super::status;
use crate::error::Error;
use crate::ids;
use crate::output::Output;
use crate::output::json::{self, Names};
use crate::output::template::Shape;
use crate::output::time::{ago, now_ns};
use crate::select::{ContainerSelection, write_maps};
use crate::session::Session;

/// Show the status of containers
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Containers; without any, those that the filters select
    #[arg(value_name = "CONTAINER-ID")]
    ids: Vec<String>,
    #[command(flatten)]
    selection: ContainerSelection,
    #[command(flatten)]
    shape: Shape,
    /// Leave out verbose information
    #[arg(long, short)]
    quiet: bool,
}

impl Inspect {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let form = self.shape.form()?;
        let targets = if self.ids.is_empty() {
            let containers = self.selection.list(session, None).await?;
            containers
                .into_iter()
                .map(|container| Ok(container.id))
                .collect()
        } else {
            ids::containers(session, &self.ids).await?
        };
        if targets.is_empty() {
            return Err(Error::NoMatch(
                "no container matches; name one, or see ps -a".to_owned(),
            ));
        }
        let mut objects = Vec::new();
        for target in targets {
            let reply = session.container_status(&target?, !self.quiet).await?;
            if form.is_table() {
                table(out, &reply, !self.quiet, now_ns())?;
                continue;
            }
            let value = value(&reply.status.unwrap_or_default());
            objects.push(status::with_info(value, reply.info));
        }
        if form.is_table() {
            return Ok(());
        }
        status::write(out, &form, objects)
    }
}

/// The status with its times in RFC 3339, those that have not come yet in the year 1.
fn value(container: &ContainerStatus) -> Value {
    let state = container.state();
    let started = state != ContainerState::ContainerCreated;
    let finished = state == ContainerState::ContainerExited
        || (state == ContainerState::ContainerUnknown && container.finished_at > 0);
    let mut value = json::value(container, Names::Json);
    status::set_time(&mut value, "createdAt", Some(container.created_at));
    status::set_time(
        &mut value,
        "startedAt",
        started.then_some(container.started_at),
    );
    status::set_time(
        &mut value,
        "finishedAt",
        finished.then_some(container.finished_at),
    );
    value
}

fn table(
    out: &mut Output,
    reply: &ContainerStatusResponse,
    verbose: bool,
    now_ns: i64,
) -> Result<(), Error> {
    let container = reply.status.clone().unwrap_or_default();
    let metadata = container.metadata.clone().unwrap_or_default();
    writeln!(out, "ID: {}", container.id)?;
    writeln!(out, "Name: {}", metadata.name)?;
    if metadata.attempt != 0 {
        writeln!(out, "Attempt: {}", metadata.attempt)?;
    }
    writeln!(out, "State: {}", container.state().as_str_name())?;
    writeln!(out, "Created: {}", ago(container.created_at, now_ns))?;
    if container.state() != ContainerState::ContainerCreated {
        writeln!(out, "Started: {}", ago(container.started_at, now_ns))?;
    }
    if container.state() == ContainerState::ContainerExited {
        if container.finished_at > 0 {
            writeln!(out, "Finished: {}", ago(container.finished_at, now_ns))?;
        }
        writeln!(out, "Exit Code: {}", container.exit_code)?;
    }
    write_maps(
        out,
        [
            ("Labels", &container.labels),
            ("Annotations", &container.annotations),
        ],
    )?;
    if verbose {
        status::write_info(out, &reply.info)?;
    }
    Ok(())
}
