use std::io::Write;

use clap::Args;

use crate::error::Error;
use crate::ids;
use crate::output::Output;
use crate::session::Session;

/// Run a command in a running container
#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// The command and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<String>,
    /// Wait for the command and show its output when it has ended
    #[arg(long, short)]
    sync: bool,
    /// Seconds after which the command is killed; 0 is never
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout: i64,
    /// Keep stdin open (needs streaming)
    #[arg(long, short)]
    interactive: bool,
    /// Use a terminal (needs streaming)
    #[arg(long, short)]
    tty: bool,
}

impl Exec {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        if !self.sync || self.interactive || self.tty {
            return Err(Error::Usage(
                "exec: streaming is not implemented in this release; use exec -s, which has neither stdin nor a terminal"
                    .to_owned(),
            ));
        }
        let id = ids::container(session, &self.id).await?;
        let reply = session.exec_sync(&id, self.command, self.timeout).await?;
        out.write_all(&reply.stdout)?;
        out.flush()?;
        // Nobody to tell if stderr is gone.
        let _ = std::io::stderr().lock().write_all(&reply.stderr);
        match reply.exit_code {
            0 => Ok(()),
            code => Err(Error::Exit(
                u8::try_from(code).ok().filter(|&c| c != 0).unwrap_or(1),
            )),
        }
    }
}
