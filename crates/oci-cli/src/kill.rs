use anyhow::{Context as _, bail};
use rustix::process::Signal;

use crate::arguments::Kill;
use crate::record::Status;
use crate::store::Store;

/// By their numbers, from 1 on.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The first real-time signal of the C library's.
const REAL_TIME: i32 = 34;

/// Sends a signal; 0 asks whether there is somebody to send one to, as kill(2) has it.
pub(crate) fn kill(store: &Store, given: &Kill) -> anyhow::Result<u8> {
    let signal = match given.signal.as_str() {
        "0" => None,
        other => Some(parse(other)?),
    };
    let place = store.find(&given.id)?;
    let record = place.made()?;
    let status = record.status(&place);
    if given.all {
        // All of nobody is no error.
        if let Some(signal) = signal {
            record.cgroup()?.signal(signal)?;
        }
        return Ok(0);
    }
    let init = record.init.and_then(crate::record::Init::open);
    let Some(init) = init else {
        bail!(
            "container {} is not running: it is {}",
            given.id,
            status.name()
        );
    };
    let Some(signal) = signal else {
        return Ok(0);
    };
    rustix::process::pidfd_send_signal(&init, signal)
        .with_context(|| format!("signal container {}", given.id))?;
    // Its end takes nobody along.
    if signal == Signal::KILL && !record.own_pid_namespace {
        record.cgroup()?.kill_all()?;
    }
    if signal == Signal::KILL && status == Status::Paused {
        record.cgroup()?.thaw()?;
    }
    Ok(0)
}

fn parse(text: &str) -> anyhow::Result<Signal> {
    let unknown = || format!("{text:?} is no signal: use a number, or a name such as TERM");
    if let Ok(number) = text.parse() {
        return sys::signal_from_number(number).with_context(unknown);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = match NAMES.iter().position(|known| *known == name) {
        Some(index) => i32::try_from(index).ok().map(|index| index + 1),
        None => match name {
            "RTMIN" => Some(REAL_TIME),
            "RTMAX" => Some(64),
            name => name
                .strip_prefix("RTMIN+")
                .and_then(|more| more.parse::<u8>().ok())
                .map(|more| REAL_TIME + i32::from(more)),
        },
    };
    number
        .and_then(sys::signal_from_number)
        .with_context(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("KILL", 9),
            ("SIGTERM", 15),
            ("sigusr1", 10),
            ("9", 9),
            ("SYS", 31),
            ("RTMIN+3", 37),
        ] {
            assert_eq!(parse(text).unwrap().as_raw(), number, "{text}");
        }
        for text in ["", "0", "-1", "65", "NOPE", "RTMIN+99"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
