use std::collections::BTreeSet;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::files;
use crate::hierarchy::{Controller, Hierarchy};

/// Deeper nesting than any container makes in good faith; a descriptor is held for each level.
pub(crate) const DEEPEST: usize = 200;

/// How long the loop for machines without `cgroup.kill` goes on finding new processes.
const LOOP_BOUND: Duration = Duration::from_secs(2);

impl Cgroup {
    /// Sends SIGKILL to every process in the cgroup and below. Returns when all have been signalled, not when they are gone
    /// ([`Cgroup::wait_empty`]). A cgroup that does not exist has none.
    ///
    /// With v2 that is one write, which no fork outruns. Without, the v1 freezer holds the processes still meanwhile; bounded by
    /// two seconds.
    pub fn kill_all(&self) -> Result<(), Error> {
        let Some(tracking) = self.hierarchies.tracking() else {
            return Ok(());
        };
        let path = self.path_in(tracking);
        if tracking.v2 {
            let killed = files::write(tracking, &path, "cgroup.kill", "1");
            match killed.as_ref().map_err(Error::errno) {
                Ok(()) => {
                    self.thaw_v1()?;
                    return Ok(());
                }
                // The file came with 5.14; on a cgroup that is gone the loop below finds nobody.
                Err(Some(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP)) => {}
                Err(_) => return killed,
            }
        }
        self.kill_loop()
    }

    /// Until a pass finds nobody whom it has not yet signalled.
    fn kill_loop(&self) -> Result<(), Error> {
        let started = Instant::now();
        let mut signalled = BTreeSet::new();
        loop {
            // Frozen processes neither fork nor die. A freeze that does not succeed only costs more passes.
            let frozen = self.freeze();
            let processes = self.processes(true);
            let fresh = processes.and_then(|processes| self.signal_all(&processes, &mut signalled));
            let thawed = match frozen {
                Ok(()) => self.thaw(),
                Err(_) => self.thaw_v1(),
            };
            if fresh? == 0 {
                return thawed;
            }
            thawed?;
            if started.elapsed() > LOOP_BOUND {
                return Err(Error::Timeout {
                    what: "kill the processes of",
                    path: self.path.to_string(),
                    waited: started.elapsed(),
                });
            }
            sleep(Duration::from_millis(1));
        }
    }

    fn signal_all(&self, processes: &[Pid], signalled: &mut BTreeSet<i32>) -> Result<usize, Error> {
        let mut fresh = 0;
        for &process in processes {
            match kill_process(process, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(source) => {
                    return Err(Error::Signal {
                        path: self.path.to_string(),
                        pid: process.as_raw_nonzero().get(),
                        source,
                    });
                }
            }
            if signalled.insert(process.as_raw_nonzero().get()) {
                fresh += 1;
            }
        }
        Ok(fresh)
    }

    /// Sends a signal to every process, in no order, without holding them still.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        for process in self.processes(true)? {
            match kill_process(process, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(source) => {
                    return Err(Error::Signal {
                        path: self.path.to_string(),
                        pid: process.as_raw_nonzero().get(),
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// The processes in the cgroup, and below it if `recursive`; none if it does not exist. Those outside the caller's PID
    /// namespace are left out.
    pub fn processes(&self, recursive: bool) -> Result<Vec<Pid>, Error> {
        let Some(tracking) = self.hierarchies.tracking() else {
            return Ok(Vec::new());
        };
        let dir = match self.open_in(tracking) {
            Ok(dir) => dir,
            Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut pids = BTreeSet::new();
        let depth = if recursive { DEEPEST } else { 0 };
        collect(dir.as_fd(), depth, &mut pids).map_err(|source| Error::Read {
            file: tracking.label(&files::join(&self.path_in(tracking), "cgroup.procs")),
            source,
        })?;
        Ok(pids.into_iter().filter_map(Pid::from_raw).collect())
    }

    /// Whether a process is in the cgroup or below it; `false` if it does not exist.
    pub fn is_populated(&self) -> Result<bool, Error> {
        let Some(tracking) = self.hierarchies.tracking() else {
            return Ok(false);
        };
        if tracking.v2 {
            let path = self.path_in(tracking);
            let Some(events) = files::read_if_exists(tracking, &path, "cgroup.events")? else {
                return Ok(false);
            };
            return Ok(field(&events, "populated") != Some(0));
        }
        Ok(!self.processes(true)?.is_empty())
    }

    /// Waits until no process is left. `Ok(false)`: some still were when the bound had passed.
    pub fn wait_empty(&self, bound: Duration) -> Result<bool, Error> {
        let started = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            if !self.is_populated()? {
                return Ok(true);
            }
            let left = bound.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// The v2 file `cgroup.events`, on which `poll(2)` reports POLLPRI when `populated` or `frozen` changes. `None` without v2.
    pub fn events(&self) -> Result<Option<OwnedFd>, Error> {
        let Some(unified) = self.hierarchies.unified() else {
            return Ok(None);
        };
        let file = files::join(&self.path_in(unified), "cgroup.events");
        let opened = files::open_for_reading(unified.dir(), &file);
        opened.map(Some).map_err(|source| Error::Open {
            cgroup: unified.label(&file),
            source,
        })
    }

    /// How many processes of this cgroup the OOM killer has killed; 0 where nothing counts them.
    pub fn oom_kills(&self) -> Result<u64, Error> {
        let Some(memory) = self.hierarchies.home(Controller::Memory) else {
            return Ok(0);
        };
        let file = match memory.v2 {
            true => "memory.events",
            false => "memory.oom_control",
        };
        let text = files::read_if_exists(memory, &self.path_in(memory), file)?;
        Ok(text.and_then(|text| field(&text, "oom_kill")).unwrap_or(0))
    }

    /// Somebody may have used the v1 freezer, where the frozen do not die.
    fn thaw_v1(&self) -> Result<(), Error> {
        let freezer = self.hierarchies.home(Controller::Freezer);
        match freezer.filter(|_| !self.is_exec()) {
            Some(freezer) => thaw_in(freezer, &self.path_in(freezer)),
            None => Ok(()),
        }
    }
}

/// A cgroup that is gone is not frozen.
pub(crate) fn thaw_in(freezer: &Hierarchy, path: &str) -> Result<(), Error> {
    match files::write(freezer, path, "freezer.state", "THAWED") {
        Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NODEV)) => Ok(()),
        other => other,
    }
}

/// The number after a name in a file of `NAME NUMBER` lines.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

pub(crate) fn collect(
    dir: BorrowedFd<'_>,
    depth: usize,
    pids: &mut BTreeSet<i32>,
) -> Result<(), Errno> {
    match files::read_at(dir, "cgroup.procs") {
        // A process of another PID namespace is listed as 0.
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        // A cgroup that was removed meanwhile, and a threaded one, whose processes its domain lists.
        Err(Errno::NODEV | Errno::NOENT | Errno::OPNOTSUPP) => {}
        Err(errno) => return Err(errno),
    }
    if depth == 0 {
        return Ok(());
    }
    for name in files::children(dir)? {
        descend(dir, &name, depth - 1, pids)?;
    }
    Ok(())
}

fn descend(
    dir: BorrowedFd<'_>,
    name: &CStr,
    depth: usize,
    pids: &mut BTreeSet<i32>,
) -> Result<(), Errno> {
    match files::open_child(dir, name) {
        Ok(child) => collect(child.as_fd(), depth, pids),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}
