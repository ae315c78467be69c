use std::io::Write;

use clap::Args;

use crate::error::Error;
use crate::output::Output;

/// Show what a command does, and its flags
#[derive(Debug, Args)]
pub(crate) struct Help {
    /// Without one, all commands
    command: Vec<String>,
}

impl Help {
    /// `command` is the whole of the command line, by the name that it was called.
    pub(crate) fn run(self, mut command: clap::Command, out: &mut Output) -> Result<(), Error> {
        command.build();
        let mut found = &mut command;
        for name in &self.command {
            let below = found.find_subcommand_mut(name);
            found =
                below.ok_or_else(|| Error::Usage(format!("help: there is no command {name:?}")))?;
        }
        Ok(write!(out, "{}", found.render_help())?)
    }
}
