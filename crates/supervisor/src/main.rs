//! `longshore-pod`: one per pod. It owns the processes of the pod's containers, their pipes, terminals and logs, reaps them, records how they
//! ended, and outlives the daemon that asked for all of that.
//!
//! ```text
//!  daemon ──socket──▶ longshore-pod ──clone──▶ containers' inits, execs, the pod's init
//!                          │                            │
//!                          └──fork──▶ log process ◀──pipes
//! ```
//!
//! One thread and one place to wait ([`poll`]). A static executable without an async runtime: there is one in memory for every pod of
//! the node.
//!
//! `longshore-pod` with `--path`, `--enclosed`, `--pause` or `--proof` is something else: see [`path`], [`enclosed`], [`pause`] and [`proof`].

mod anchor;
mod attach;
mod checkpoint;
mod commands;
mod connection;
mod container;
mod denied;
mod enclosed;
mod exec;
mod exits;
mod logs;
mod path;
mod pause;
mod poll;
mod proof;
mod reap;
mod root;
mod runtime;
mod sandbox;
mod start;
mod streams;
mod supervisor;

use std::process::ExitCode;

fn main() -> ExitCode {
    start::protect_from_oom_killer();
    let mut arguments = std::env::args_os().skip(1).peekable();
    let other = [
        supervisor_api::PATH_ARGUMENT,
        supervisor_api::ENCLOSED_ARGUMENT,
        supervisor_api::PAUSE_ARGUMENT,
        supervisor_api::PROOF_ARGUMENT,
    ];
    let ended = match arguments.next_if(|first| other.iter().any(|one| first == one)) {
        Some(first) if first == supervisor_api::ENCLOSED_ARGUMENT => enclosed::run(arguments),
        Some(first) if first == supervisor_api::PAUSE_ARGUMENT => pause::sleep(),
        Some(first) if first == supervisor_api::PROOF_ARGUMENT => proof::give(
            arguments
                .next()
                .as_deref()
                .and_then(std::ffi::OsStr::to_str),
        ),
        Some(_path) => path::answer(),
        None => start::start(arguments).and_then(|mut supervisor| {
            supervisor
                .run()
                .map_err(|error| start::StartError::new("wait for events", error))
        }),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            supervisor::complain(&connection::chain(&error));
            ExitCode::FAILURE
        }
    }
}
