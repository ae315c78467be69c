//! System calls that containers' filters deny, where that is to be told: counted here, told to the daemon from time to time.
//!
//! ```text
//!   a process ── a denied call ──▶ Listener: denied, counted ── at most once a moment ──▶ Event::Denied, with all counts so far
//! ```

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::Duration;

use oci_runtime::{Heard, Listener};
use supervisor_api::{DeniedCall, Event};

use crate::poll::{Deadline, Interest, Source};
use crate::supervisor::{Supervisor, complain};

/// The daemon is told no more often: a program can make a million calls a second.
const PAUSE: Duration = Duration::from_millis(200);

/// Calls that are answered before others have their turn.
const AT_ONCE: usize = 64;

/// One process's, and its children's.
#[derive(Debug)]
pub(crate) struct Watched {
    key: u32,
    container: u32,
    listener: Listener,
}

/// What a container was denied, by architecture and number.
#[derive(Debug, Default)]
pub(crate) struct Denied {
    calls: BTreeMap<(u32, u32), u64>,
    /// It will be told.
    due: bool,
}

impl Supervisor {
    /// A process of a container has a listener. Where it cannot be watched, denied calls fail with ENOSYS.
    pub(crate) fn listen(&mut self, container: u32, listener: Listener) {
        let key = self.new_key();
        let source = Source::Denied(key);
        match self.poll.add(listener.as_fd(), source, Interest::Read) {
            Ok(()) => self.watched.push(Watched {
                key,
                container,
                listener,
            }),
            Err(error) => complain(&format!("watch denied calls: {error}")),
        }
    }

    /// A denied call waits, or nobody is left who could make one.
    pub(crate) fn hear(&mut self, key: u32) {
        let Some(index) = self.watched.iter().position(|one| one.key == key) else {
            return;
        };
        for _ in 0..AT_ONCE {
            let watched = &self.watched[index];
            match watched.listener.hear() {
                Ok(Heard::Nothing) => return,
                Ok(Heard::Denied(call)) => {
                    let container = watched.container;
                    self.denied(container, (call.architecture, call.number));
                }
                Ok(Heard::End) => return self.unwatch(index),
                Err(error) => {
                    complain(&format!("answer a denied call: {error}"));
                    return self.unwatch(index);
                }
            }
        }
    }

    fn unwatch(&mut self, index: usize) {
        let watched = self.watched.swap_remove(index);
        self.poll.remove(&watched.listener);
    }

    fn denied(&mut self, key: u32, call: (u32, u32)) {
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return;
        };
        *container.denied.calls.entry(call).or_default() += 1;
        if !container.denied.due {
            container.denied.due = true;
            self.poll.after(PAUSE, Deadline::Denied(key));
        }
    }

    pub(crate) fn denied_due(&mut self, key: u32) {
        let Some(container) = self.keyed(key) else {
            return;
        };
        container.denied.due = false;
        let (id, calls) = (container.id.clone(), container.denied.told());
        self.tell(Event::Denied { id, calls });
    }

    /// A daemon has come, which may have missed some.
    pub(crate) fn tell_denied(&mut self) {
        let denied = self.containers.iter().filter_map(|container| {
            let calls = container.denied.told();
            (!calls.is_empty()).then(|| Event::Denied {
                id: container.id.clone(),
                calls,
            })
        });
        for event in denied.collect::<Vec<_>>() {
            self.tell(event);
        }
    }
}

impl Denied {
    fn told(&self) -> Vec<DeniedCall> {
        let calls = self.calls.iter();
        calls
            .map(|(&(architecture, number), &count)| DeniedCall {
                architecture,
                number,
                count,
            })
            .collect()
    }
}
