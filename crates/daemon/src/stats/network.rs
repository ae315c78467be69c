//! What went through a pod's interfaces: `/proc/net/dev` of its network namespace, opened there once and read from anywhere. It is read without
//! the kernel's lock on all links (as netlink's answers are not), which a node that starts pods holds often.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::FileExt},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::runtime::now_ns;

/// A pod has a few interfaces; with one of these sizes hundreds fit.
const FIRST_READ: usize = 4 * 1024;
const LONGEST: usize = 256 * 1024;

/// What the peers and the kubelet call a pod's own interface.
const DEFAULT: &str = "eth0";

/// A pod's interfaces, the default one first.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) taken_at_ns: i64,
    pub(crate) interfaces: Vec<Interface>,
}

/// Counts since the interface was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) received: Traffic,
    pub(crate) sent: Traffic,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) errors: u64,
    pub(crate) dropped: u64,
}

/// The open descriptor holds the namespace: it is let go before the pod's end can be waited for.
#[derive(Debug, Default)]
pub(super) struct NetworkMeter(Mutex<State>);

#[derive(Debug, Clone, Default)]
enum State {
    #[default]
    Unopened,
    Open(Arc<File>),
    /// For good.
    Left,
}

impl NetworkMeter {
    /// Blocks for microseconds; the first time for a thread that goes there and back.
    pub(super) fn read(&self, netns: &Path) -> Option<Network> {
        let state = self.lock().clone();
        let file = match state {
            State::Open(file) => file,
            State::Left => return None,
            State::Unopened => {
                let file = Arc::new(open(netns).ok()?);
                let mut state = self.lock();
                match &*state {
                    State::Left => return None,
                    State::Open(other) => Arc::clone(other),
                    State::Unopened => {
                        *state = State::Open(Arc::clone(&file));
                        file
                    }
                }
            }
        };
        let text = read(&file).ok()?;
        Some(Network {
            taken_at_ns: now_ns(),
            interfaces: parse(&text),
        })
    }

    /// Opens again when it is read next.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        if let State::Open(_) = *state {
            *state = State::Unopened;
        }
    }

    pub(super) fn leave(&self) {
        *self.lock() = State::Left;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Only a thread of its own may change its namespace without taking others' requests along.
fn open(netns: &Path) -> io::Result<File> {
    let netns = File::open(netns)?;
    let there = std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            File::open("/proc/thread-self/net/dev")
        })?;
    let ended = there.join();
    ended.unwrap_or_else(|_panicked| Err(io::Error::other("the thread that opens it crashed")))
}

fn read(file: &File) -> io::Result<String> {
    let mut size = FIRST_READ;
    loop {
        let (mut text, mut length) = (vec![0; size], 0);
        // A read ends between two lines where the kernel's own buffer does.
        while let Some(free) = text.get_mut(length..).filter(|free| !free.is_empty()) {
            match file.read_at(free, length as u64)? {
                0 => {
                    text.truncate(length);
                    return String::from_utf8(text).map_err(io::Error::other);
                }
                more => length += more,
            }
        }
        if size >= LONGEST {
            return Err(io::Error::other("more interfaces than anybody has"));
        }
        size *= 4;
    }
}

/// Two lines of headings, then `NAME: BYTES PACKETS ERRORS DROPPED FIFO FRAME COMPRESSED MULTICAST` received, and the same sent.
fn parse(text: &str) -> Vec<Interface> {
    let mut interfaces: Vec<_> = text
        .lines()
        .skip(2)
        .filter_map(|line| {
            let (name, counts) = line.rsplit_once(':')?;
            let counts = counts.split_whitespace().map(|count| count.parse().ok());
            let counts: Vec<u64> = counts.collect::<Option<_>>()?;
            let (received, sent) = counts.split_at_checked(8)?;
            Some(Interface {
                name: name.trim().to_owned(),
                received: traffic(received)?,
                sent: traffic(sent)?,
            })
        })
        .collect();
    // The default one, then others, then loopback; the sort keeps the kernel's order otherwise.
    interfaces.sort_by_key(|interface| (interface.is_loopback(), interface.name != DEFAULT));
    interfaces
}

fn traffic(counts: &[u64]) -> Option<Traffic> {
    match *counts {
        [bytes, packets, errors, dropped, ..] => Some(Traffic {
            bytes,
            packets,
            errors,
            dropped,
        }),
        _ => None,
    }
}

impl Interface {
    pub(crate) fn is_loopback(&self) -> bool {
        self.name == "lo"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    2776      21    0    0    0     0          0         0     2776      21    0    0    0     0       0          0
  net1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
  eth0:18446744073709551615 7 6 5 0     0          0         0      4      3    2    1    0     0       0          0
";

    #[test]
    fn the_default_interface_is_first_and_loopback_last() {
        let interfaces = parse(TEXT);
        let names: Vec<_> = interfaces.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["eth0", "net1", "lo"]);
        let traffic = |bytes, packets, errors, dropped| Traffic {
            bytes,
            packets,
            errors,
            dropped,
        };
        assert_eq!(interfaces[0].received, traffic(u64::MAX, 7, 6, 5));
        assert_eq!(interfaces[0].sent, traffic(4, 3, 2, 1));
        assert_eq!(interfaces[1].received, traffic(1, 2, 3, 4));
        assert_eq!(interfaces[1].sent, traffic(9, 10, 11, 12));
        assert!(parse("").is_empty() && parse("a\nb\nc: 1 2\n").is_empty());
    }

    #[test]
    fn a_meter_that_was_left_does_not_open_again() {
        let meter = NetworkMeter::default();
        let own = Path::new("/proc/self/ns/net");
        assert!(
            meter
                .read(own)
                .unwrap()
                .interfaces
                .iter()
                .any(Interface::is_loopback)
        );
        meter.close();
        assert!(meter.read(own).is_some());
        meter.leave();
        meter.close();
        assert!(meter.read(own).is_none());
        assert!(
            NetworkMeter::default()
                .read(Path::new("/proc/self/ns/none"))
                .is_none()
        );
    }
}
