//! `longshore-pod --pause`: the process of a sandbox container, for runtimes that insist on one. It sleeps until it is told to go.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions};
use sys::Signals;

use crate::start::StartError;

const CHILD: i32 = Signal::CHILD.as_raw();

pub(crate) fn sleep() -> Result<(), StartError> {
    let at = |what: &'static str| move |error: Errno| StartError::new(what, error);
    let awaited = Signals::of(&[Signal::TERM.as_raw(), Signal::INT.as_raw(), CHILD]);
    sys::block_signals(awaited).map_err(at("block signals"))?;
    let signals = sys::signal_descriptor(awaited).map_err(at("open a signal descriptor"))?;
    loop {
        while let Ok(Some(number)) = sys::receive_signal(signals.as_fd()) {
            if number != CHILD {
                return Ok(());
            }
            // It is the first process of its PID namespace: orphans come to it.
            while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        }
        match poll(&mut [PollFd::new(&signals, PollFlags::IN)], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(StartError::new("wait for signals", error)),
        }
    }
}
