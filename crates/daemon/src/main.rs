//! `longshored`: the Container Runtime Interface on a local socket.
//!
//! A request is followed left to right in ARCHITECTURE.md: `rpc` decodes it, `pod` or `container` does it, through `supervisor`, which speaks to
//! the pod's own process; `state` remembers.

mod compose;
mod config;
mod container;
mod failpoint;
mod flight;
mod id;
mod inventory;
mod pod;
mod rpc;
mod runtime;
mod spec;
mod state;
mod stats;
mod supervisor;

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use config::{Arguments, Config, Raw};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.print_default_config {
        return print(Raw::default_file());
    }
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("longshored: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments) -> anyhow::Result<()> {
    let config = Config::load(arguments)?;
    let filter = EnvFilter::try_new(&config.log_filter)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    failpoint::arm();
    // Two workers serve a node; blocking calls have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(compose::run(config));
    // A call that hangs on a dead file system must not keep the daemon from ending.
    runtime.shutdown_background();
    result
}

fn print(text: &str) -> ExitCode {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_reader_has_gone) => ExitCode::FAILURE,
    }
}

/// Before the log is set up there is only stderr.
fn complain(text: &str) {
    use std::io::Write;
    // There is nowhere else to say that this failed.
    let _unsaid = std::io::stderr().write_all(text.as_bytes());
}
