//! `longshore-oci`: the OCI core as a command line, with the verbs and flags of runc.
//!
//! ```text
//!  create ──▶ created ──start──▶ running ──(its program ends)──▶ stopped ──delete──▶ gone
//!               init waits at its gate       ▲  │ pause
//!                                     resume │  ▼
//!                                           paused
//! ```
//!
//! Nothing of it stays: each command is one short process of one thread. What a later one must know is in the container's directory below
//! `--root` ([`store`]); a created container's init listens on a socket there, its gate, for the one that starts it.

mod arguments;
mod bundle;
mod console;
mod create;
mod delete;
mod descriptors;
mod events;
mod exec;
mod features;
mod foreground;
mod hooks;
mod kill;
mod launch;
mod list;
mod log;
mod pause;
mod ps;
mod record;
mod run;
mod start;
mod state;
mod store;
mod template;
mod update;

use std::process::ExitCode;

use arguments::{Command, Global, Options};
use log::Log;

/// What a command that has failed exits with, as runc does; `exec` has its own.
const FAILED: u8 = 1;
const EXEC_FAILED: u8 = 255;

fn main() -> ExitCode {
    let options = match Options::read() {
        Ok(options) => options,
        Err(status) => return status,
    };
    let mut log = match Log::open(&options.global) {
        Ok(log) => log,
        Err(error) => {
            Log::plain().error(&format!("{error:#}"));
            return ExitCode::from(FAILED);
        }
    };
    let Some(command) = options.command else {
        return ExitCode::from(FAILED);
    };
    let verb = command.verb();
    match carry_out(&options.global, command, &mut log) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            log.error(&format!("longshore-oci {verb} failed: {error:#}"));
            ExitCode::from(match verb {
                "exec" => EXEC_FAILED,
                _ => FAILED,
            })
        }
    }
}

fn carry_out(global: &Global, command: Command, log: &mut Log) -> anyhow::Result<u8> {
    global.refuse_unsupported()?;
    let store = store::Store::new(&global.root);
    log.debug(&format!(
        "{} with --root {}",
        command.verb(),
        global.root.display()
    ));
    match command {
        Command::Create(given) => create::create(&store, &given, log),
        Command::Start(given) => start::start(&store, &given.id),
        Command::Run(given) => run::run(&store, &given, log),
        Command::Events(given) => events::events(&store, &given),
        Command::Exec(given) => exec::exec(&store, &given, log),
        Command::Kill(given) => kill::kill(&store, &given),
        Command::Delete(given) => delete::delete(&store, &given, log),
        Command::State(given) => state::print(&store, &given.id),
        Command::List(given) => list::list(&store, &given),
        Command::Ps(given) => ps::ps(&store, &given),
        Command::Pause(given) => pause::pause(&store, &given.id),
        Command::Resume(given) => pause::resume(&store, &given.id),
        Command::Update(given) => update::update(&store, &given),
        Command::Features => features::print(),
        Command::Spec(given) => template::write(&given),
    }
}
