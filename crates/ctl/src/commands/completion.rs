use std::io::Write;

use clap::{Args, ValueEnum};

use crate::error::Error;
use crate::output::Output;

/// Print a script that completes this command's words, for a shell to read
///
/// For example `source <(longshore completion bash)`, or `longshore completion fish | source`.
#[derive(Debug, Args)]
pub(crate) struct Completion {
    #[arg(ignore_case = true, default_value = "bash")]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completion {
    /// `command` is the whole of the command line, by the name that it was called.
    pub(crate) fn run(self, mut command: clap::Command, out: &mut Output) -> Result<(), Error> {
        let shell = match self.shell {
            Shell::Bash => clap_complete::Shell::Bash,
            Shell::Zsh => clap_complete::Shell::Zsh,
            Shell::Fish => clap_complete::Shell::Fish,
        };
        let name = command.get_name().to_owned();
        // The generator does not survive a pipe that closes, so it writes to memory.
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, name, &mut script);
        Ok(out.write_all(&script)?)
    }
}
