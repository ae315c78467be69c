//! Signals by number and name, as CRI, image configurations and people write them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A signal's number on Linux, 1 to 64. In JSON it is CRI's number for it (`SIGTERM` is 23), as the peers write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "i32", try_from = "i32")]
pub(crate) struct Signal(i32);

/// A text or number that names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a signal: use a name such as SIGTERM or a number from 1 to 64")]
pub(crate) struct UnknownSignal(pub(crate) String);

/// Names below SIGRTMIN, with or without their `SIG`, by their number on x86-64 and arm64. The first name of a number is
/// the one shown.
const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// CRI's enum below SIGRTMIN: the position is CRI's number, 1 being the first.
const CRI_ORDER: [&str; 34] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

/// CRI's number of SIGRTMIN; the real-time signals follow in the kernel's order, up to SIGRTMAX.
const CRI_RTMIN: i32 = 35;

/// The C libraries keep 32 and 33 for themselves, so that programs' SIGRTMIN is 34.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

impl Signal {
    pub(crate) const KILL: Signal = Signal(9);
    pub(crate) const TERM: Signal = Signal(15);

    /// As `kill(2)` takes it.
    pub(crate) fn number(self) -> i32 {
        self.0
    }

    /// From a number of `kill(2)`.
    pub(crate) fn from_number(number: i32) -> Result<Self, UnknownSignal> {
        if (1..=RTMAX).contains(&number) {
            Ok(Signal(number))
        } else {
            Err(UnknownSignal(number.to_string()))
        }
    }

    /// CRI's number for it. 32 and 33, which CRI has no name for, are its "runtime default".
    pub(crate) fn cri_number(self) -> i32 {
        if self.0 >= RTMIN {
            return CRI_RTMIN + (self.0 - RTMIN);
        }
        let shown = NAMES.iter().find(|(_, number)| *number == self.0);
        shown
            .and_then(|(name, _)| CRI_ORDER.iter().position(|listed| listed == name))
            .map_or(0, |position| position as i32 + 1)
    }

    /// From CRI's number; 0, "runtime default", is none of them.
    pub(crate) fn from_cri_number(number: i32) -> Result<Self, UnknownSignal> {
        let unknown = || UnknownSignal(format!("CRI signal {number}"));
        if (CRI_RTMIN..=CRI_RTMIN + RTMAX - RTMIN).contains(&number) {
            return Ok(Signal(number - CRI_RTMIN + RTMIN));
        }
        let position = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
        position
            .and_then(|position| CRI_ORDER.get(position))
            .and_then(|name| by_name(name))
            .map(Signal)
            .ok_or_else(unknown)
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// `SIGTERM`, `TERM`, `sigterm`, `15`, `SIGRTMIN+3`, `RTMAX-1`: what image configurations are seen to hold.
    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let unknown = || UnknownSignal(text.to_owned());
        if let Ok(number) = text.parse::<i32>() {
            return Signal::from_number(number);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
            Some(digits) => digits.parse::<i32>().ok(),
            None if rest.is_empty() => Some(0),
            None => None,
        };
        let number = if let Some(rest) = name.strip_prefix("RTMIN") {
            offset(rest, '+').and_then(|n| RTMIN.checked_add(n))
        } else if let Some(rest) = name.strip_prefix("RTMAX") {
            offset(rest, '-').and_then(|n| RTMAX.checked_sub(n))
        } else {
            return by_name(name).map(Signal).ok_or_else(unknown);
        };
        match number {
            Some(number) if (RTMIN..=RTMAX).contains(&number) => Ok(Signal(number)),
            _ => Err(unknown()),
        }
    }
}

fn by_name(name: &str) -> Option<i32> {
    NAMES
        .iter()
        .find(|(listed, _)| *listed == name)
        .map(|(_, number)| *number)
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None if self.0 == RTMIN => f.write_str("SIGRTMIN"),
            None if self.0 > RTMIN => write!(f, "SIGRTMIN+{}", self.0 - RTMIN),
            None => write!(f, "{}", self.0),
        }
    }
}

impl From<Signal> for i32 {
    fn from(signal: Signal) -> i32 {
        signal.cri_number()
    }
}

impl TryFrom<i32> for Signal {
    type Error = UnknownSignal;

    fn try_from(number: i32) -> Result<Self, UnknownSignal> {
        Signal::from_cri_number(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cri_number_names_a_signal_that_names_it_back() {
        for number in 1..=65 {
            let signal = Signal::from_cri_number(number).unwrap();
            // Two names of one number come back as the first.
            let canonical = Signal::from_cri_number(signal.cri_number()).unwrap();
            assert_eq!(signal, canonical);
        }
        assert_eq!(Signal::from_cri_number(23).unwrap(), Signal::TERM);
        assert_eq!(Signal::from_cri_number(13).unwrap(), Signal::KILL);
        assert_eq!(Signal::from_cri_number(35).unwrap().number(), 34);
        assert_eq!(Signal::from_cri_number(65).unwrap().number(), 64);
        assert_eq!(
            Signal::from_cri_number(51).unwrap().to_string(),
            "SIGRTMIN+16"
        );
        assert!(Signal::from_cri_number(0).is_err());
        assert!(Signal::from_cri_number(66).is_err());
        assert!(Signal::from_cri_number(-1).is_err());
    }

    #[test]
    fn texts_of_images() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("RTMIN", 34),
        ] {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        for text in [
            "",
            "SIG",
            "0",
            "65",
            "-9",
            "SIGRTMIN+31",
            "RTMAX+1",
            "SIGRTMIN-1",
            "NOPE",
        ] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }
}
