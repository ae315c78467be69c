use clap::Args;
use streaming::{Ending, client::Wanted};

use crate::error::Error;
use crate::ids;
use crate::session::Session;
use crate::streams::{Leave, Transport, interact};

/// Attach to a running container; Ctrl-P Ctrl-Q detaches from a terminal
#[derive(Debug, Args)]
pub(crate) struct Attach {
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// The container has a terminal
    #[arg(long, short)]
    tty: bool,
    /// Keep stdin open
    #[arg(long, short = 'i')]
    stdin: bool,
    #[command(flatten)]
    transport: Transport,
}

impl Attach {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let id = ids::container(session, &self.id).await?;
        if self.tty && (!self.stdin || !std::io::IsTerminal::is_terminal(&std::io::stdin())) {
            return Err(Error::Usage(
                "attach: -t needs -i, and a terminal as stdin".to_owned(),
            ));
        }
        let wanted = Wanted {
            stdin: self.stdin,
            stdout: true,
            stderr: !self.tty,
            tty: self.tty,
        };
        let operation = format!("attach to container {id}");
        let url = session.attach_url(&id, wanted).await?;
        match interact(&operation, &url, &self.transport.options()?, wanted).await? {
            Leave::Detached | Leave::Ended(Ending::Success) => Ok(()),
            Leave::Ended(Ending::Exit(status)) => Err(Error::Refused(format!(
                "{operation}: it terminated with exit code {}",
                status.0
            ))),
            Leave::Ended(Ending::Error(words)) => {
                Err(Error::Refused(format!("{operation}: {words}")))
            }
        }
    }
}
