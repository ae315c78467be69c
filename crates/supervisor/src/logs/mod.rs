//! Logs, as the supervisor sees them.
//!
//! A write to a regular file can block (a full network file system, a thawing disk), and O_NONBLOCK does nothing there. So a forked
//! process, one per pod, reads the containers' streams and writes their logs; the supervisor talks to it over a socket that it
//! never waits for.
//!
//! The supervisor keeps the read ends and the log files as well. That is what lets containers outlive their log process: a pipe whose only
//! reader dies kills its writers with SIGPIPE, while here a new process goes on reading. What the old one had read and not yet
//! written is lost, and the exit record says so.

mod control;
mod file;
mod framing;
mod listeners;
mod process;
mod timestamp;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use supervisor_api::{AttachEnd, Outgoing, ReceiveError, receive};

use crate::poll::{Deadline, Interest, Poll, Source};
pub(crate) use control::{AttachKey, LogKey};
use control::{FromLogProcess, ToLogProcess};

/// How long a container's output is waited for after its init has exited, if a grandchild keeps the pipe.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);

/// Orders that the log process has not taken yet; one that is this far behind is stuck, and more would only take memory.
const MOST_ORDERS: usize = 4096;

/// A log process that has not lived longer is followed by the next one only after as long a pause: what kills each of them (want of memory,
/// say) must not become a fork loop.
const SHORT_LIFE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Logs {
    process: Option<LogProcess>,
    logs: BTreeMap<LogKey, Log>,
    next_key: u64,
}

#[derive(Debug)]
struct LogProcess {
    pid: i32,
    started: Instant,
    socket: OwnedFd,
    /// Orders that did not fit into the socket.
    orders: VecDeque<Outgoing>,
    /// Writability is waited for.
    armed: bool,
}

/// All that a new log process needs to go on.
#[derive(Debug)]
struct Log {
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
    file: Option<OwnedFd>,
    reopening: u32,
    draining: bool,
    /// A log process died under it.
    interrupted: bool,
    attaches: Vec<AttachKey>,
}

/// What the log process has finished.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    Reopened(LogKey),
    Drained {
        key: LogKey,
        trouble: Option<String>,
    },
    Attached(AttachKey),
    AttachEnded {
        attach: AttachKey,
        reason: AttachEnd,
    },
}

impl Logs {
    /// Reads these streams (non-blocking ends) from now on and appends to `file`.
    pub(crate) fn add(
        &mut self,
        poll: &Poll,
        stdout: OwnedFd,
        stderr: Option<OwnedFd>,
        file: Option<OwnedFd>,
    ) -> Result<LogKey, Errno> {
        if self.process.is_none() {
            self.restart(poll)?;
        }
        let key = LogKey(self.next_key);
        self.next_key += 1;
        let log = Log {
            stdout,
            stderr,
            file,
            reopening: 0,
            draining: false,
            interrupted: false,
            attaches: Vec::new(),
        };
        let (order, descriptors) = log.add_order(key)?;
        self.logs.insert(key, log);
        self.order(poll, &order, descriptors)?;
        Ok(key)
    }

    /// Continues in `file`. `Ok(false)`: [`Finished::Reopened`] comes once no byte will go to the old one; `Ok(true)`: none will already.
    pub(crate) fn reopen(
        &mut self,
        poll: &Poll,
        key: LogKey,
        file: OwnedFd,
    ) -> Result<bool, Errno> {
        let log = self.logs.get_mut(&key).ok_or(Errno::NOENT)?;
        let copy = file.try_clone().map_err(errno)?;
        log.file = Some(file);
        if self.process.is_none() {
            return Ok(true);
        }
        log.reopening += 1;
        self.order(poll, &ToLogProcess::Reopen { key }, vec![copy])?;
        Ok(false)
    }

    /// Asks for [`Finished::Drained`], which comes when the streams have ended, or after [`DRAIN`].
    pub(crate) fn drain(&mut self, poll: &Poll, key: LogKey) -> Result<(), Errno> {
        let log = self.logs.get_mut(&key).ok_or(Errno::NOENT)?;
        log.draining = true;
        self.order(poll, &drain_order(key), Vec::new())
    }

    /// Copies the streams to these pipes as well (non-blocking ends), from [`Finished::Attached`] to
    /// [`Finished::AttachEnded`].
    pub(crate) fn attach(
        &mut self,
        poll: &Poll,
        key: LogKey,
        attach: AttachKey,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> Result<(), Errno> {
        let log = self.logs.get_mut(&key).ok_or(Errno::NOENT)?;
        // Between two log processes there is nobody to copy.
        if self.process.is_none() {
            return Err(Errno::AGAIN);
        }
        log.attaches.push(attach);
        let order = ToLogProcess::Attach {
            key,
            attach,
            stdout: stdout.is_some(),
            stderr: stderr.is_some(),
        };
        let descriptors = stdout.into_iter().chain(stderr).collect();
        self.order(poll, &order, descriptors).inspect_err(|_| {
            if let Some(log) = self.logs.get_mut(&key) {
                log.attaches.retain(|one| *one != attach);
            }
        })
    }

    /// What is still attached to it has ended.
    pub(crate) fn remove(&mut self, poll: &Poll, key: LogKey) -> Vec<AttachKey> {
        let removed = self.logs.remove(&key);
        if removed.is_some() {
            // A log process that cannot be told is dead or stuck, and keeps a few descriptors for a while.
            let _ = self.order(poll, &ToLogProcess::Remove { key }, Vec::new());
        }
        removed.map(|log| log.attaches).unwrap_or_default()
    }

    /// Somebody still waits for the log process to change files.
    pub(crate) fn is_reopening(&self, key: LogKey) -> bool {
        self.logs.get(&key).is_some_and(|log| log.reopening > 0)
    }

    /// Forgets every log and lets the log process go; its pid, for the caller to reap.
    pub(crate) fn close(&mut self, poll: &Poll) -> Option<i32> {
        let keys: Vec<LogKey> = self.logs.keys().copied().collect();
        for key in keys {
            self.remove(poll, key);
        }
        let process = self.process.take()?;
        poll.remove(&process.socket);
        Some(process.pid)
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        self.process.as_ref().map(|process| process.pid)
    }

    /// The socket is readable or writable.
    pub(crate) fn ready(&mut self, poll: &Poll) -> Vec<Finished> {
        let Some(process) = &mut self.process else {
            return Vec::new();
        };
        process.flush(poll);
        let mut finished = Vec::new();
        loop {
            match receive::<FromLogProcess>(process.socket.as_fd()) {
                Ok(Some((message, _))) => finished.extend(finish(&mut self.logs, message)),
                Err(ReceiveError::Socket(Errno::AGAIN)) => break,
                // Its death follows as a signal, and that is where it is dealt with.
                Ok(None) | Err(_) => {
                    poll.remove(&process.socket);
                    break;
                }
            }
        }
        finished
    }

    /// The log process has been reaped: a new one takes over, at once or, after a short life, after a pause.
    pub(crate) fn died(&mut self, poll: &mut Poll) -> Vec<Finished> {
        let Some(old) = self.process.take() else {
            return Vec::new();
        };
        poll.remove(&old.socket);
        let mut finished = Vec::new();
        for (&key, log) in &mut self.logs {
            log.interrupted = true;
            // Nobody writes to the old file any more, and the new process begins with the new one.
            for _ in 0..std::mem::take(&mut log.reopening) {
                finished.push(Finished::Reopened(key));
            }
            for attach in log.attaches.drain(..) {
                let reason = AttachEnd::Interrupted;
                finished.push(Finished::AttachEnded { attach, reason });
            }
        }
        if self.logs.is_empty() {
            return finished;
        }
        if old.started.elapsed() < SHORT_LIFE || self.restart(poll).is_err() {
            poll.after(SHORT_LIFE, Deadline::RestartLogs);
        }
        finished
    }

    /// The pause is over.
    pub(crate) fn restart_due(&mut self, poll: &mut Poll) {
        if self.process.is_none() && !self.logs.is_empty() && self.restart(poll).is_err() {
            poll.after(SHORT_LIFE, Deadline::RestartLogs);
        }
    }

    /// A log process for all logs that there are; what was asked of the old one is asked again.
    fn restart(&mut self, poll: &Poll) -> Result<(), Errno> {
        let mut orders = Vec::new();
        for (&key, log) in &self.logs {
            orders.push(log.add_order(key)?);
            if log.draining {
                orders.push((drain_order(key), Vec::new()));
            }
        }
        self.process = Some(LogProcess::fork(poll)?);
        for (order, descriptors) in orders {
            self.order(poll, &order, descriptors)?;
        }
        Ok(())
    }

    fn order(
        &mut self,
        poll: &Poll,
        order: &ToLogProcess,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Errno> {
        let outgoing = Outgoing::new(order, descriptors).map_err(|_| Errno::NOMEM)?;
        // The next one gets the whole state.
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        if process.orders.len() >= MOST_ORDERS {
            return Err(Errno::AGAIN);
        }
        process.orders.push_back(outgoing);
        process.flush(poll);
        Ok(())
    }
}

fn finish(logs: &mut BTreeMap<LogKey, Log>, message: FromLogProcess) -> Option<Finished> {
    match message {
        FromLogProcess::Reopened { key } => {
            let log = logs.get_mut(&key)?;
            log.reopening = log.reopening.checked_sub(1)?;
            Some(Finished::Reopened(key))
        }
        FromLogProcess::Drained { key, trouble } => {
            let log = logs.get_mut(&key)?;
            log.draining = false;
            let interrupted = log
                .interrupted
                .then(|| "its log process was killed; some of its log may be missing".to_owned());
            let trouble = match (interrupted, trouble) {
                (Some(first), Some(second)) => Some(format!("{first}; {second}")),
                (first, second) => first.or(second),
            };
            Some(Finished::Drained { key, trouble })
        }
        FromLogProcess::Attached { attach } => Some(Finished::Attached(attach)),
        FromLogProcess::AttachEnded { attach, reason } => {
            let log = logs
                .values_mut()
                .find(|log| log.attaches.contains(&attach))?;
            log.attaches.retain(|one| *one != attach);
            Some(Finished::AttachEnded { attach, reason })
        }
    }
}

impl Log {
    fn add_order(&self, key: LogKey) -> Result<(ToLogProcess, Vec<OwnedFd>), Errno> {
        let order = ToLogProcess::Add {
            key,
            stderr: self.stderr.is_some(),
            file: self.file.is_some(),
        };
        let kept = [Some(&self.stdout), self.stderr.as_ref(), self.file.as_ref()];
        let copies = kept.into_iter().flatten().map(OwnedFd::try_clone);
        let copies: Result<Vec<OwnedFd>, std::io::Error> = copies.collect();
        Ok((order, copies.map_err(errno)?))
    }
}

impl LogProcess {
    fn fork(poll: &Poll) -> Result<Self, Errno> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        match sys::clone_process(sys::CloneFlags::empty(), None)? {
            sys::Clone::Child => {
                sys::exit_at_panic();
                let _ = rustix::thread::set_name(c"longshore-log");
                // Nothing of the supervisor's may stay open here: pipes would never end, the daemon would never see a hang-up.
                let status = match sys::close_from_except(3, theirs.as_fd()) {
                    Ok(()) => i32::from(process::run(theirs).is_err()),
                    Err(_) => 1,
                };
                sys::exit_process(status)
            }
            sys::Clone::Parent { pid, pidfd: _ } => {
                rustix::io::ioctl_fionbio(&ours, true)?;
                poll.add(ours.as_fd(), Source::LogProcess, Interest::Read)?;
                Ok(Self {
                    pid,
                    started: Instant::now(),
                    socket: ours,
                    orders: VecDeque::new(),
                    armed: false,
                })
            }
        }
    }

    fn flush(&mut self, poll: &Poll) {
        while let Some(order) = self.orders.front() {
            match order.send(self.socket.as_fd()) {
                Ok(()) => drop(self.orders.pop_front()),
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::TOOMANYREFS) => break,
                // Dead; a signal follows.
                Err(_) => self.orders.clear(),
            }
        }
        let wanted = !self.orders.is_empty();
        if wanted != self.armed {
            self.armed = wanted;
            let interest = match wanted {
                true => Interest::ReadWrite,
                false => Interest::Read,
            };
            // It fails once the socket has been removed after a hang-up.
            let _ = poll.change(self.socket.as_fd(), Source::LogProcess, interest);
        }
    }
}

fn drain_order(key: LogKey) -> ToLogProcess {
    ToLogProcess::Drain {
        key,
        bound_ms: u32::try_from(DRAIN.as_millis()).unwrap_or(u32::MAX),
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
