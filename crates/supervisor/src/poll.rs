use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::logs::LogKey;
use crate::runtime::Launch;

/// What is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Listener,
    Signals,
    LogProcess,
    Connection(u32),
    /// A sandbox, container or exec on its way.
    Launch(u32),
    /// A command of a runtime, by its pid, has written something.
    Command(u32),
    /// Calls that a filter denies, of one process and its children.
    Denied(u32),
}

/// What is due. Whoever gets it looks whether it still matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Deadline {
    /// Connections are accepted again, after a failure that would repeat itself at once.
    Accept,
    /// A launch must have ended.
    Launch(u32),
    /// An exec's time is over.
    Exec(u32),
    /// The log process must have drained a container's log.
    Drain(LogKey),
    /// The log process must have reopened a container's log.
    Reopen(LogKey),
    /// There may be a log process again.
    RestartLogs,
    /// Look again whether a container's cgroup can be removed.
    Remove(u32),
    /// Look again whether anything of the sandbox still runs.
    Stop,
    /// A command of a runtime, by its pid, must have ended.
    Command(i32),
    /// Containers that are held still go on.
    Frozen(u32),
    /// What a container was denied is told.
    Denied(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    ReadWrite,
}

/// A deadline that can be cancelled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Alarm((Instant, u64));

/// A request's delay may be any number; ten years do for ever.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The one place where the supervisor waits.
#[derive(Debug)]
pub(crate) struct Poll {
    epoll: OwnedFd,
    deadlines: BTreeMap<(Instant, u64), Deadline>,
    next_deadline: u64,
}

impl Poll {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            deadlines: BTreeMap::new(),
            next_deadline: 0,
        })
    }

    pub(crate) fn add(
        &self,
        file: BorrowedFd<'_>,
        source: Source,
        interest: Interest,
    ) -> Result<(), Errno> {
        epoll::add(&self.epoll, file, data(source), flags(interest))
    }

    pub(crate) fn change(
        &self,
        file: BorrowedFd<'_>,
        source: Source,
        interest: Interest,
    ) -> Result<(), Errno> {
        epoll::modify(&self.epoll, file, data(source), flags(interest))
    }

    /// Must come before a descriptor is closed that another process may hold as well: epoll watches open files, not
    /// descriptors.
    pub(crate) fn remove(&self, file: impl AsFd) {
        // It fails only for what is not there.
        let _ = epoll::delete(&self.epoll, file.as_fd());
    }

    /// As [`Self::remove`], for what a launch is watched by.
    pub(crate) fn forget(&self, launch: &Launch) {
        if let Some(handshake) = launch.handshake() {
            self.remove(handshake);
        }
    }

    /// Watches a launch, where there is anything to watch.
    pub(crate) fn watch(&self, launch: &Launch, key: u32) -> Result<(), Errno> {
        match launch.handshake() {
            Some(handshake) => self.add(handshake, Source::Launch(key), Interest::Read),
            None => Ok(()),
        }
    }

    /// Longer delays than [`LONGEST`] are cut.
    pub(crate) fn after(&mut self, delay: Duration, deadline: Deadline) -> Alarm {
        let key = (Instant::now() + delay.min(LONGEST), self.next_deadline);
        self.next_deadline += 1;
        self.deadlines.insert(key, deadline);
        Alarm(key)
    }

    /// Forgets a deadline that no longer matters: a thousand short execs should not leave a thousand of them for half a minute.
    pub(crate) fn cancel(&mut self, alarm: Option<Alarm>) {
        if let Some(Alarm(key)) = alarm {
            self.deadlines.remove(&key);
        }
    }

    /// Waits until something is ready or due.
    pub(crate) fn wait(&mut self) -> Result<(Vec<Source>, Vec<Deadline>), Errno> {
        let mut events = Vec::with_capacity(16);
        let timeout = self.timeout();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let ready = events.iter().filter_map(|event| source(event.data.u64()));
        Ok((ready.collect(), self.due()))
    }

    fn timeout(&self) -> Option<Timespec> {
        let ((next, _), _) = self.deadlines.first_key_value()?;
        Timespec::try_from(next.saturating_duration_since(Instant::now())).ok()
    }

    fn due(&mut self) -> Vec<Deadline> {
        let mut due = Vec::new();
        if self.deadlines.is_empty() {
            return due;
        }
        let now = Instant::now();
        while let Some(entry) = self.deadlines.first_entry()
            && entry.key().0 <= now
        {
            due.push(entry.remove());
        }
        due
    }
}

fn flags(interest: Interest) -> epoll::EventFlags {
    match interest {
        Interest::Read => epoll::EventFlags::IN,
        Interest::ReadWrite => epoll::EventFlags::IN | epoll::EventFlags::OUT,
    }
}

fn data(source: Source) -> epoll::EventData {
    let (kind, id) = match source {
        Source::Listener => (0, 0),
        Source::Signals => (1, 0),
        Source::LogProcess => (2, 0),
        Source::Connection(id) => (3, id),
        Source::Launch(id) => (4, id),
        Source::Command(pid) => (5, pid),
        Source::Denied(id) => (6, id),
    };
    epoll::EventData::new_u64((kind << 32) | u64::from(id))
}

fn source(data: u64) -> Option<Source> {
    let id = data as u32;
    Some(match data >> 32 {
        0 => Source::Listener,
        1 => Source::Signals,
        2 => Source::LogProcess,
        3 => Source::Connection(id),
        4 => Source::Launch(id),
        5 => Source::Command(id),
        6 => Source::Denied(id),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_survive_their_encoding() {
        for expected in [
            Source::Listener,
            Source::Signals,
            Source::LogProcess,
            Source::Connection(u32::MAX),
            Source::Launch(7),
            Source::Command(1),
            Source::Denied(9),
        ] {
            assert_eq!(source(data(expected).u64()), Some(expected));
        }
    }

    #[test]
    fn deadlines_come_in_order_and_once() {
        let mut poll = Poll::new().unwrap();
        poll.after(Duration::MAX, Deadline::Accept);
        poll.after(Duration::from_millis(2), Deadline::Stop);
        let alarm = poll.after(Duration::ZERO, Deadline::Exec(1));
        poll.cancel(Some(alarm));
        poll.after(Duration::ZERO, Deadline::Launch(1));
        poll.after(Duration::ZERO, Deadline::Launch(2));
        let (_, mut due) = poll.wait().unwrap();
        while due.len() < 3 {
            due.extend(poll.wait().unwrap().1);
        }
        assert_eq!(
            due,
            [Deadline::Launch(1), Deadline::Launch(2), Deadline::Stop]
        );
    }
}
