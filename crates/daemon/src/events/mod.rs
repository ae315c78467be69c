//! What becomes of pods and containers, told to readers in the order in which it happens.
//!
//! ```text
//!   an operation                                   a reader (GetContainerEvents)
//!   happen(|news| change a phase; news.tell) ──▶ its own bounded queue ──▶ its connection
//!        └── one at a time ──┘
//! ```
//!
//! A change of phase and its telling are one step under one lock: readers see the changes in their order, and what a reader makes of an event
//! (the pod's and its containers' statuses) is of that very moment. Nothing under the lock waits.
//!
//! A reader that cannot keep up is cut off and told so; nothing is left out silently. While there has been no reader since the daemon began,
//! ends are kept for the first that comes, those that happened while no daemon ran among them: told at least once. Everything else a reader
//! learns by listing when it has connected.

pub(crate) mod queue;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    container::{Container, Phase as ContainerPhase},
    inventory::Inventory,
    pod::{Phase as PodPhase, Pod},
    runtime::now_ns,
};

/// What happened to a container or a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Created,
    Started,
    Stopped,
    Deleted,
}

/// Something that has happened just now. The pod and its containers are as this event leaves them for as long as its reader looks.
#[derive(Debug)]
pub(crate) struct Event<'a> {
    /// Of the container, or of the sandbox itself.
    pub(crate) id: &'a str,
    pub(crate) kind: Kind,
    /// Nanoseconds since the Unix epoch; no two events have the same, and later ones have more.
    pub(crate) at_ns: i64,
    pub(crate) pod: &'a Pod,
    /// Those that are listed.
    pub(crate) containers: &'a [Arc<Container>],
}

/// Takes an event in, without waiting. `false`: it wants no more.
pub(crate) type Reader = Box<dyn FnMut(&Event<'_>) -> bool + Send>;

/// Who reads, and what is kept until somebody does.
#[derive(Debug, Default)]
pub(crate) struct Events {
    readers: Arc<Mutex<Readers>>,
}

#[derive(Default)]
struct Readers {
    next: u64,
    reading: Vec<(u64, Reader)>,
    had_one: bool,
    closed: bool,
    last_ns: i64,
    /// Ended, and not told to anybody.
    untold: Vec<Ended>,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers")
            .field("reading", &self.reading.len())
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
enum Ended {
    Container(Arc<Container>),
    Pod(Arc<Pod>),
}

/// A reader's place; it reads no more when this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    readers: Arc<Mutex<Readers>>,
    number: u64,
}

/// The daemon is ending, and tells nobody anything any more.
#[derive(Debug, thiserror::Error)]
#[error("the daemon is ending")]
pub(crate) struct Closed;

impl Events {
    /// Makes a change, and tells of it before anything else happens.
    pub(crate) fn happen<T>(
        &self,
        inventory: &Inventory,
        change: impl FnOnce(&mut News<'_>) -> T,
    ) -> T {
        let mut news = News {
            readers: lock(&self.readers),
            inventory,
        };
        change(&mut news)
    }

    /// Tells the reader of everything from now on, after the ends that were kept for it.
    pub(crate) fn read(&self, inventory: &Inventory, reader: Reader) -> Result<Seat, Closed> {
        let mut readers = lock(&self.readers);
        if readers.closed {
            return Err(Closed);
        }
        let number = readers.next;
        readers.next += 1;
        readers.had_one = true;
        readers.reading.push((number, reader));
        let untold = std::mem::take(&mut readers.untold);
        let mut news = News { readers, inventory };
        for ended in untold {
            match ended {
                Ended::Container(container) => {
                    if let ContainerPhase::Exited(_) = container.phase() {
                        news.container(Kind::Stopped, &container);
                    }
                }
                Ended::Pod(pod) => match pod.phase() {
                    PodPhase::Lost { .. }
                    | PodPhase::Stopping { .. }
                    | PodPhase::Stopped { .. } => {
                        news.pod(Kind::Stopped, &pod);
                    }
                    PodPhase::Starting | PodPhase::Ready | PodPhase::Removed => {}
                },
            }
        }
        Ok(Seat {
            readers: Arc::clone(&self.readers),
            number,
        })
    }

    /// Ends all reading, now and later.
    pub(crate) fn close(&self) {
        let mut readers = lock(&self.readers);
        readers.closed = true;
        readers.reading.clear();
    }
}

/// The right to change phases and to tell of it.
#[derive(Debug)]
pub(crate) struct News<'a> {
    readers: MutexGuard<'a, Readers>,
    inventory: &'a Inventory,
}

impl News<'_> {
    /// Something has happened to a container.
    pub(crate) fn container(&mut self, kind: Kind, container: &Arc<Container>) {
        self.keep(kind, || Ended::Container(Arc::clone(container)));
        self.tell(container.id.as_str(), kind, &container.pod);
    }

    /// Something has happened to a sandbox.
    pub(crate) fn pod(&mut self, kind: Kind, pod: &Arc<Pod>) {
        self.keep(kind, || Ended::Pod(Arc::clone(pod)));
        self.tell(pod.id.as_str(), kind, pod);
    }

    fn tell(&mut self, id: &str, kind: Kind, pod: &Pod) {
        let at_ns = now_ns().max(self.readers.last_ns + 1);
        self.readers.last_ns = at_ns;
        if self.readers.reading.is_empty() {
            return;
        }
        let containers = self.inventory.containers_of(&pod.id);
        let event = Event {
            id,
            kind,
            at_ns,
            pod,
            containers: &containers,
        };
        self.readers.reading.retain_mut(|(_, read)| read(&event));
    }

    /// Keeps an end for the first reader, and nothing of what has been deleted.
    fn keep(&mut self, kind: Kind, ended: impl FnOnce() -> Ended) {
        if self.readers.had_one {
            return;
        }
        match kind {
            Kind::Stopped => self.readers.untold.push(ended()),
            Kind::Deleted => {
                let gone = ended();
                self.readers.untold.retain(|kept| kept.id() != gone.id());
            }
            Kind::Created | Kind::Started => {}
        }
    }
}

impl Ended {
    fn id(&self) -> &str {
        match self {
            Self::Container(container) => container.id.as_str(),
            Self::Pod(pod) => pod.id.as_str(),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut readers = lock(&self.readers);
        readers.reading.retain(|(number, _)| *number != self.number);
    }
}

fn lock(readers: &Mutex<Readers>) -> MutexGuard<'_, Readers> {
    readers.lock().unwrap_or_else(PoisonError::into_inner)
}
