use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use clap_mangen::Man as Page;

use crate::error::Error;
use crate::output::Output;

/// Print this command's manual page, or write a page for each command into a directory
///
/// For example `longshore man | man -l -`, or `longshore man /usr/local/share/man/man1`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Is made if it is not there; pages that are there are replaced
    #[arg(value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

impl Man {
    /// `command` is the whole of the command line, by the name that it was called.
    pub(crate) fn run(self, mut command: clap::Command, out: &mut Output) -> Result<(), Error> {
        command.build();
        match self.directory {
            None => Ok(out.write_all(&page(command)?)?),
            Some(directory) => {
                std::fs::create_dir_all(&directory)
                    .map_err(|source| failed("make", &directory, source))?;
                pages(command, &directory)
            }
        }
    }
}

/// That of `command`, and below it those of its commands: `longshore-run.1`, `longshore-run-jsonschema.1`.
fn pages(command: clap::Command, directory: &Path) -> Result<(), Error> {
    let below: Vec<_> = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
        .cloned()
        .collect();
    let name = command.get_display_name().unwrap_or(command.get_name());
    let path = directory.join(format!("{name}.1"));
    std::fs::write(&path, page(command)?).map_err(|source| failed("write", &path, source))?;
    below
        .into_iter()
        .try_for_each(|command| pages(command, directory))
}

/// In memory first: the generator does not survive a pipe that closes.
fn page(command: clap::Command) -> Result<Vec<u8>, Error> {
    let mut page = Vec::new();
    Page::new(command)
        .render(&mut page)
        .map_err(Error::Output)?;
    Ok(page)
}

fn failed(doing: &str, path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        what: format!("{doing} {}", path.display()),
        source,
    }
}
