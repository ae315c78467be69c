use std::io::Write;

use clap::Args;
use futures_util::{StreamExt, stream};
use streaming::{Ending, client::Wanted};

use crate::error::{self, Error};
use crate::ids;
use crate::output::Output;
use crate::select::{ContainerSelection, StateName};
use crate::session::Session;
use crate::streams::{Leave, Transport, interact};

/// Run a command in a running container
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Not with --name, --pod, --image, --state, --label, --latest and --last
    #[arg(value_name = "CONTAINER-ID", required = true)]
    id: String,
    /// The command and its arguments
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<String>,
    /// Wait for the command and show its output when it has ended
    #[arg(long, short)]
    sync: bool,
    /// With --sync: seconds after which the command is killed; 0 is never
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    timeout: i64,
    /// Keep stdin open
    #[arg(long, short)]
    interactive: bool,
    /// Use a terminal
    #[arg(long, short)]
    tty: bool,
    #[command(flatten)]
    transport: Transport,
    #[command(flatten)]
    filter: Filter,
    /// Do not print the ids of several containers
    #[arg(long, short)]
    quiet: bool,
    /// Do not fail if a command does
    #[arg(long, short = 'e')]
    ignore_errors: bool,
    /// Run the command in all containers at the same time
    #[arg(long, short = 'x')]
    parallel: bool,
}

/// Which containers, if not one by its id.
#[derive(Debug, Clone, Args)]
struct Filter {
    /// In all running containers whose name matches (regular expression)
    #[arg(long, value_name = "REGEX")]
    name: Option<String>,
    /// In all running containers of this pod
    #[arg(long, short, value_name = "POD-ID")]
    pod: Option<String>,
    /// In all running containers of this image
    #[arg(long)]
    image: Option<String>,
    /// In all containers in this state
    #[arg(long, ignore_case = true)]
    state: Option<StateName>,
    /// In all running containers with this label
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// In the most recently created container
    #[arg(long, short)]
    latest: bool,
    /// In the N most recently created containers; 0 is all
    #[arg(long, short = 'n', value_name = "N")]
    last: Option<usize>,
}

impl Filter {
    fn selection(self) -> Option<ContainerSelection> {
        let is_set = self.name.is_some()
            || self.pod.is_some()
            || self.image.is_some()
            || self.state.is_some()
            || !self.labels.is_empty()
            || self.latest
            || self.last.is_some();
        is_set.then(|| ContainerSelection {
            name: self.name,
            pod: self.pod,
            image: self.image,
            state: self.state,
            labels: self.labels,
            latest: self.latest,
            last: self.last.unwrap_or_default(),
            ..ContainerSelection::default()
        })
    }
}

impl Exec {
    pub(crate) async fn run(mut self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let as_crictl = session.program() == "crictl";
        let selection = self.filter.clone().selection();
        let filters = selection.is_some();
        let ids = match selection {
            Some(selection) => {
                self.command.insert(0, std::mem::take(&mut self.id));
                let found = selection.list(session, None).await?;
                found.into_iter().map(|container| container.id).collect()
            }
            None => vec![ids::container(session, &self.id).await?],
        };
        if ids.is_empty() {
            return Err(Error::NoMatch("exec: no container matches".to_owned()));
        }
        if self.command.is_empty() {
            return Err(Error::Missing(
                "exec: name the command after the container".to_owned(),
            ));
        }
        // crictl passes them over.
        if self.sync && (self.interactive || self.tty) && !as_crictl {
            return Err(Error::Usage(
                "exec: --sync has no streams: leave out -i and -t".to_owned(),
            ));
        }
        if self.tty
            && !self.sync
            && (!self.interactive || !std::io::IsTerminal::is_terminal(&std::io::stdin()))
        {
            return Err(Error::Usage(
                "exec: -t needs -i, and a terminal as stdin".to_owned(),
            ));
        }
        if as_crictl && self.ignore_errors && !self.quiet {
            error::note("crictl: --ignore-errors: no error of a command is told");
        }
        let named = match as_crictl {
            true => filters,
            false => ids.len() > 1,
        };
        let shows_ids = named && !self.quiet && !self.parallel;
        let at_once = if self.parallel { ids.len() } else { 1 };
        let several = ids.len() > 1;
        let this = &self;
        let mut results = stream::iter(ids)
            .map(|id| async move {
                match shows_ids {
                    true if as_crictl => writeln!(std::io::stdout().lock(), "{id}:")?,
                    true => error::note(&format!("{id}:")),
                    false => {}
                }
                this.one(session, &id).await
            })
            .buffered(at_once);
        let mut first = Ok(());
        while let Some(result) = results.next().await {
            let Err(error) = result else { continue };
            if self.ignore_errors {
                continue;
            }
            if several && !error.is_quiet() {
                error::report(session.program(), &error);
                first = first.and(Err(Error::Reported));
            } else {
                first = first.and(Err(error));
            }
        }
        out.flush()?;
        first
    }

    async fn one(&self, session: &Session, id: &str) -> Result<(), Error> {
        if self.sync {
            return self.sync(session, id).await;
        }
        let operation = format!("exec in container {id}");
        let wanted = Wanted {
            stdin: self.interactive,
            stdout: true,
            stderr: !self.tty,
            tty: self.tty,
        };
        let url = session.exec_url(id, self.command.clone(), wanted).await?;
        match interact(&operation, &url, &self.transport.options()?, wanted).await? {
            Leave::Detached | Leave::Ended(Ending::Success) => Ok(()),
            // crictl says it in words, and fails with 1.
            Leave::Ended(Ending::Exit(status)) if session.program() == "crictl" => {
                Err(Error::Refused(format!(
                    "{operation}: command terminated with exit code {}",
                    status.0
                )))
            }
            Leave::Ended(Ending::Exit(status)) => Err(Error::Exit(exit_code(status.0))),
            Leave::Ended(Ending::Error(words)) => {
                Err(Error::Refused(format!("{operation}: {words}")))
            }
        }
    }

    async fn sync(&self, session: &Session, id: &str) -> Result<(), Error> {
        let reply = session
            .exec_sync(id, self.command.clone(), self.timeout)
            .await?;
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&reply.stdout)?;
        stdout.flush()?;
        // Nobody to tell if stderr is gone.
        let _ = std::io::stderr().lock().write_all(&reply.stderr);
        match reply.exit_code {
            0 => Ok(()),
            code if session.program() == "crictl" => Err(Error::Refused(format!(
                "exec in container {id}: command '{}' exited with {code}",
                self.command.join(" ")
            ))),
            code => Err(Error::Exit(exit_code(code))),
        }
    }
}

fn exit_code(code: i32) -> u8 {
    u8::try_from(code)
        .ok()
        .filter(|&code| code != 0)
        .unwrap_or(1)
}
