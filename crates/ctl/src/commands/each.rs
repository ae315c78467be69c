use std::fmt::Display;
use std::io::Write;

use clap::Args;
use futures_util::{StreamExt, stream};

use crate::error::{self, Error};
use crate::output::Output;
use crate::session::Session;

/// Of each command that names what it has found or changed.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Quiet {
    /// Print only ids
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// One a line.
pub(crate) fn write_ids<T: Display>(
    out: &mut Output,
    ids: impl IntoIterator<Item = T>,
) -> Result<(), Error> {
    for id in ids {
        writeln!(out, "{id}")?;
    }
    Ok(())
}

/// As many removals and stops as run at the same time.
pub(crate) const AT_ONCE: usize = 8;

/// Acts on every target, `at_once` of them at a time, and prints what each action returns, in order. A failure is reported
/// and does not keep the others from being done; the whole fails at the end.
pub(crate) async fn each(
    session: &Session,
    out: &mut Output,
    at_once: usize,
    targets: Vec<Result<String, Error>>,
    action: impl AsyncFn(String) -> Result<String, Error>,
) -> Result<(), Error> {
    let action = &action;
    let mut results = stream::iter(targets)
        .map(|target| async move {
            match target {
                Ok(id) => action(id).await,
                Err(error) => Err(error),
            }
        })
        .buffered(at_once);
    let mut failed = false;
    while let Some(result) = results.next().await {
        match result {
            Ok(line) => {
                writeln!(out, "{line}")?;
                out.flush()?;
            }
            // Nothing can be done without a connection; once is enough.
            Err(error @ Error::Connect(_)) => return Err(error),
            Err(error) => {
                failed = true;
                error::report(session.program(), &error);
            }
        }
    }
    if failed { Err(Error::Reported) } else { Ok(()) }
}

/// Ids given and `--all` exclude each other, and one of them must be there.
pub(crate) fn check_targets(what: &str, ids: &[String], all: bool) -> Result<(), Error> {
    match (ids.is_empty(), all) {
        (true, false) => Err(Error::Missing(format!(
            "name at least one {what}, or use --all"
        ))),
        (false, true) => Err(Error::Usage(format!("--all takes no {what}"))),
        _ => Ok(()),
    }
}
