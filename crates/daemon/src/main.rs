//! `longshored`: the Container Runtime Interface on a local socket.
//!
//! A request is followed left to right in ARCHITECTURE.md: `rpc` decodes it, `pod` or `container` does it, through `supervisor`, which speaks to
//! the pod's own process; `state` remembers.

mod cdi;
mod checkpoint;
mod classes;
mod compose;
mod config;
mod container;
mod disk;
mod events;
mod failpoint;
mod files;
mod flight;
mod handlers;
mod hooks;
mod id;
mod inventory;
mod memory;
mod metrics;
mod nri;
mod operations;
mod paths;
mod pod;
mod pod_cidr;
mod quantity;
mod resctrl;
mod rpc;
mod runtime;
mod selinux;
mod service;
mod sessions;
mod socket;
mod spec;
mod state;
mod stats;
mod supervisor;
mod systemd;
mod watch;

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{bail, ensure};
use clap::Parser;
use config::{Arguments, Command, Config, ConfigCommand};
use tokio::runtime::Runtime;
use tracing_subscriber::{
    filter::Targets, fmt, layer::SubscriberExt, registry, reload, util::SubscriberInitExt,
};

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == files::WORKER_ARGUMENT)
    {
        return files::worker_main();
    }
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        None => serve(&arguments),
        Some(Command::Config(config)) => show(&config.command, &arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Before the log is set up there is only stderr; there is nowhere else to say that this failed.
            let _unsaid = writeln!(std::io::stderr(), "longshored: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show(command: &ConfigCommand, arguments: &Arguments) -> anyhow::Result<()> {
    let text = match command {
        ConfigCommand::Default => config::default_text(),
        ConfigCommand::Dump => config::dump(&config::load(arguments)?),
        ConfigCommand::Check => config::verdict(&config::load(arguments)?),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // `| head` has seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn serve(arguments: &Arguments) -> anyhow::Result<()> {
    let config = config::load(arguments)?.config;
    ensure!(
        rustix::process::geteuid().is_root(),
        "pods need root: run longshored as root, or as a service"
    );
    if let Some(missing) = sys::missing_calls().first() {
        bail!(
            "the kernel has no {}(2), which is in Linux since {}, or a seccomp filter hides it: longshored needs Linux 5.15",
            missing.name,
            missing.since
        );
    }
    memory::bound();
    // Two workers serve a node; blocking calls have threads of their own, which keep their stacks while they wait for the next.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()?;
    log_to_stderr(&config, &runtime)?;
    failpoint::arm();
    runtime.spawn(memory::give_back());
    let result = runtime.block_on(compose::run(config, arguments));
    // A call that hangs on a dead file system must not keep the daemon from ending.
    runtime.shutdown_background();
    result
}

/// What is logged follows the configuration. Directives name targets and levels; those of `EnvFilter` would bring the compiler of regular
/// expressions along, for fields that nobody filters by.
fn log_to_stderr(config: &Config, runtime: &Runtime) -> anyhow::Result<()> {
    let mut changes = config.log.changes();
    let (filter, handle) = reload::Layer::new(config.log.get().parse::<Targets>()?);
    let lines = fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    registry().with(filter).with(lines).init();
    runtime.spawn(async move {
        while changes.changed().await.is_ok() {
            let text = changes.borrow_and_update().clone();
            // The text has been checked, and the subscriber lives as long as the process.
            if let Ok(filter) = text.parse::<Targets>() {
                let _gone = handle.reload(filter);
            }
        }
    });
    Ok(())
}
