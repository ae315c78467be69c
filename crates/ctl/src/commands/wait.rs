use std::io::Write;
use std::time::Duration;

use clap::Args;
use cri::v1::{ContainerEventResponse, ContainerEventType, ContainerState};
use tonic::Streaming;

use crate::error::{self, Error};
use crate::ids;
use crate::output::Output;
use crate::session::Session;

/// How often a container is looked at where the runtime has no events.
const POLL: Duration = Duration::from_millis(500);

/// Wait until containers have exited, and print their exit codes
///
/// Prints a line for each, in the order given: its id and its exit code. Ends with the first code that is not 0.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    #[arg(value_name = "CONTAINER-ID", required = true)]
    ids: Vec<String>,
    /// Print only the exit codes
    #[arg(long, short)]
    quiet: bool,
}

impl Wait {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        // Listening comes first: what exits from here on is told or seen.
        let mut events = session.events().await.ok();
        let mut ending = Ok(());
        for id in ids::containers(session, &self.ids).await? {
            let ended = match id {
                Ok(id) => exit_code(session, &id, &mut events)
                    .await
                    .map(|code| (id, code)),
                Err(error) => Err(error),
            };
            match ended {
                Ok((id, code)) => {
                    let id = if self.quiet { "" } else { &format!("{id} ") };
                    writeln!(out, "{id}{code}")?;
                    out.flush()?;
                    if code != 0 {
                        let code = u8::try_from(code).unwrap_or(1);
                        ending = ending.and(Err(Error::Exit(code)));
                    }
                }
                Err(error @ Error::Connect(_)) => return Err(error),
                Err(error) => {
                    error::report(session.program(), &error);
                    ending = ending.and(Err(Error::Reported));
                }
            }
        }
        ending
    }
}

async fn exit_code(
    session: &Session,
    id: &str,
    events: &mut Option<Streaming<ContainerEventResponse>>,
) -> Result<i32, Error> {
    loop {
        let reply = session.container_status(id, false).await?;
        let status = reply.status.unwrap_or_default();
        if status.state() == ContainerState::ContainerExited {
            return Ok(status.exit_code);
        }
        until_told(id, events).await;
    }
}

/// Until an event says that something became of the container, or for a while where nobody tells.
async fn until_told(id: &str, events: &mut Option<Streaming<ContainerEventResponse>>) {
    while let Some(stream) = events {
        let Ok(Some(event)) = stream.message().await else {
            // The runtime has none, or it went away: the next look says which.
            *events = None;
            break;
        };
        let ends = [
            ContainerEventType::ContainerStoppedEvent,
            ContainerEventType::ContainerDeletedEvent,
        ];
        if event.container_id == id && ends.contains(&event.container_event_type()) {
            return;
        }
    }
    tokio::time::sleep(POLL).await;
}
