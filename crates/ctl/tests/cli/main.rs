//! The real binary against a CRI server of canned data, on a socket in a temporary directory.

#![allow(clippy::unwrap_used, reason = "all of this crate is test code")]

mod actions;
mod bad_input;
mod config;
mod errors;
mod fake;
mod lists;
mod logs;
mod manifests;
mod progress;
mod serving;
mod shapes;
mod templates;
mod terminal;
mod top;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fake::{Extras, Fake};

/// A running fake, and a directory for what a test needs.
struct Bench {
    fake: Fake,
    directory: tempfile::TempDir,
}

impl Bench {
    fn start() -> Self {
        Self::with(Extras::None)
    }

    fn with(extras: Extras) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("cri.sock");
        let fake = Fake::start(&socket, directory.path(), extras);
        Self { fake, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = longshore();
        command
            .arg("--runtime-endpoint")
            .arg(self.path("cri.sock"))
            .args(["--timeout", "20s"])
            .args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments).output().unwrap())
    }

    /// Standard output of a command that succeeds and says nothing else.
    fn output(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
        outcome.stdout
    }
}

/// The binary, undisturbed by this process's environment.
fn longshore() -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_longshore")));
    for name in [
        "CONTAINER_RUNTIME_ENDPOINT",
        "IMAGE_SERVICE_ENDPOINT",
        "CRI_CONFIG_FILE",
    ] {
        command.env_remove(name);
    }
    command
}

#[derive(Debug, PartialEq)]
struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Outcome {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
