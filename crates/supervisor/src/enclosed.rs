//! `longshore-pod --enclosed PROGRAM ARGUMENT...`: a program in a PID namespace of its own, which ends with all that it has started, whatever
//! that did to part from it. For runtimes that are asked what they are: nobody knows yet how they behave.
//!
//! ```text
//!  daemon ──▶ this process ──▶ the namespace's init, which waits for this process's end
//!                  └─────────▶ the program, whose exit status becomes this process's
//! ```

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};
use sys::{CStrings, Clone, CloneFlags};

use crate::start::StartError;

/// As a shell says that a program could not be executed.
const NOT_RUN: i32 = 127;

/// Runs the program to its end, and ends as it did; the error: it never ran.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> Result<(), StartError> {
    let at = |what: &'static str| move |error: Errno| StartError::new(what, error);
    let words = arguments.map(|word| CString::new(word.into_vec()));
    let words: Vec<CString> = words
        .collect::<Result<_, _>>()
        .map_err(|error| StartError::new("read the arguments", error))?;
    let program = words.first().cloned().unwrap_or_default();
    let arguments = CStrings::new(words);
    let environment = std::env::vars_os().map(|(name, value)| {
        let mut entry = name.into_vec();
        entry.push(b'=');
        entry.extend(value.into_vec());
        CString::new(entry)
    });
    let environment = environment.collect::<Result<Vec<_>, _>>();
    let environment =
        CStrings::new(environment.map_err(|error| StartError::new("read the environment", error))?);
    // It is none of the processes that a node lives by.
    let _unprotected = std::fs::write("/proc/self/oom_score_adj", "0");
    sys::unshare(CloneFlags::NEWPID).map_err(at("make a PID namespace"))?;
    let (read, write) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(at("make a pipe for its init"))?;
    let init = match fork().map_err(at("start its init"))? {
        Some(init) => init,
        None => be_init(&read, write),
    };
    let child = match fork().map_err(at("start the program"))? {
        Some(child) => child,
        None => {
            let _default_actions = sys::reset_signals();
            let error = sys::execute(&program, &arguments, &environment);
            let words = format!("{error}\n");
            let _ = rustix::io::write(rustix::stdio::stderr(), words.as_bytes());
            sys::exit_process(NOT_RUN)
        }
    };
    let ended = rustix::process::waitpid(Some(child), WaitOptions::empty())
        .map_err(at("wait for the program"))?;
    // With its init a namespace ends, and every process in it; before that the wait does not.
    let _ = rustix::process::kill_process(init, Signal::KILL);
    let _ = rustix::process::waitpid(Some(init), WaitOptions::empty());
    let status = ended.map(|(_, status)| status);
    let signal = status.and_then(|status| status.terminating_signal());
    if let Some(signal) = signal.and_then(sys::signal_from_number) {
        let _default_actions = sys::reset_signals();
        let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
    }
    sys::exit_process(
        status
            .and_then(|status| status.exit_status())
            .unwrap_or(NOT_RUN),
    )
}

/// `None` in the child.
fn fork() -> Result<Option<Pid>, Errno> {
    match sys::clone_process(CloneFlags::empty(), None)? {
        Clone::Parent { pid, .. } => Pid::from_raw(pid).map(Some).ok_or(Errno::CHILD),
        Clone::Child => {
            sys::exit_at_panic();
            Ok(None)
        }
    }
}

/// Waits until nobody has the pipe's other end: that is how this process learns of a parent that was killed. The program's copy closes when it
/// is executed.
fn be_init(read: &OwnedFd, write: OwnedFd) -> ! {
    drop(write);
    while rustix::io::read(read.as_fd(), &mut [0_u8]) == Err(Errno::INTR) {}
    sys::exit_process(0)
}
