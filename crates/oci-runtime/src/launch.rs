use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_plan::{ContainerPlan, IdMappings, NamespaceSource, Process, Rlimit};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, Signal, WaitId, WaitIdOptions};

use crate::credentials::Sets;
use crate::error::{Context, Error, Stage};
use crate::exec::{self, Exec};
use crate::handshake::{self, Order, Word};
use crate::host::Host;
use crate::init::Init;
use crate::listener::{Listener, TELL};
use crate::namespaces::{Entries, Entry};
use crate::pod::PodHandles;
use crate::program::Program;
use crate::slots::Slots;
use crate::spawn::{Spawned, Story, spawn};
use crate::{limits, refusals, rootfs};

/// Where a new process belongs, prepared by the caller.
#[derive(Debug, Clone, Copy, Default)]
pub struct Placement<'a> {
    /// `tasks` (or `cgroup.procs`) files of v1 hierarchies, open for writing: the child writes `0` into each.
    pub tasks: &'a [OwnedFd],
    /// Directory in the cgroup2 hierarchy into which the child is cloned.
    pub unified: Option<BorrowedFd<'a>>,
}

/// The child's standard streams; `None` is `/dev/null`. Not looked at where the process has a terminal.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChildStdio<'a> {
    pub stdin: Option<BorrowedFd<'a>>,
    pub stdout: Option<BorrowedFd<'a>>,
    pub stderr: Option<BorrowedFd<'a>>,
}

/// A process to run in a living container.
#[derive(Debug, Clone, Copy)]
pub struct ExecPlan<'a> {
    pub process: &'a Process,
    /// pidfd of the container's init: all of its namespaces are joined.
    pub container: BorrowedFd<'a>,
}

/// A container whose init waits before it enters its root, so that others can look at what is made and change it.
#[derive(Debug, Clone, Copy)]
pub struct Pause<'a> {
    /// A detached recursive copy of the host's `/`, which is used up: it is `/` while init waits. `None` where the caller's own `/` is the
    /// host's.
    pub host: Option<BorrowedFd<'a>>,
    /// Absolute: the directory in it where the container's root is mounted meanwhile.
    pub at: &'a str,
}

/// What a caller asks for that does not stay: a command line, whose container outlives it.
#[derive(Debug, Clone, Copy)]
pub struct Standalone<'a> {
    /// A listening `SOCK_SEQPACKET` socket. Once created, init waits there, not on its handshake: whoever starts it need not be who made it
    /// ([`Launch::rejoin`]).
    pub gate: Option<BorrowedFd<'a>>,
    /// Of the caller's descriptors the program inherits this many, from 3 on.
    pub preserved: u32,
    /// Where the caller's `/` cannot be pivoted away (an initramfs).
    pub no_pivot: bool,
    /// The program stays in the caller's session keyring.
    pub keep_keyring: bool,
}

impl Standalone<'_> {
    /// Nothing of it: the caller stays.
    pub const NONE: Self = Self {
        gate: None,
        preserved: 0,
        no_pivot: false,
        keep_keyring: false,
    };
}

/// How far a launch has come.
#[derive(Debug)]
pub enum Progress {
    /// Nothing new; poll [`Launch::handshake`].
    Pending,
    /// The container waits for [`Launch::resume`]: its file system is made, and not its root yet.
    Paused,
    /// The container waits for [`Launch::start`]. With a terminal: its master side, non-blocking.
    Created { console: Option<OwnedFd> },
    /// The program runs: `execve(2)` has succeeded. (Or the process was killed in the last microseconds before: its exit status then says
    /// so.) `console` is that of an exec with a terminal; a container's came with `Created`.
    Started { console: Option<OwnedFd> },
    /// Calls that its filter denies are told from now on; the rest follows.
    Listening(Listener),
}

/// A container's init, or an exec, on its way to its program.
///
/// Dropped before it has started, it kills its process; reaping is the caller's, as for every child.
#[derive(Debug)]
pub struct Launch {
    child: Child,
    handshake: OwnedFd,
    state: State,
    console: Option<OwnedFd>,
    /// Set when the container starts: earlier they could hamper its making, and its own user namespace could not raise them.
    limits: Vec<Rlimit>,
    /// The profile whose denied calls are told.
    profile: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before `Created`, or, for an exec, before `Going`.
    Making,
    Paused,
    Created,
    /// After [`Launch::start`].
    Starting,
    /// The end of the handshake now means success.
    Going,
    Finished,
}

/// Kills its process when dropped, unless that runs its program.
#[derive(Debug)]
struct Child {
    pid: i32,
    /// Always there until [`Launch::into_pidfd`].
    pidfd: Option<OwnedFd>,
    doomed: bool,
}

impl Launch {
    /// Clones the container's init and returns while it sets itself up. `fds` are those that the plan's slots index; none is closed, but a
    /// detached mount among them is used up. `targets` finds the pidfd of another container of the pod by id.
    ///
    /// # Errors
    ///
    /// `Refused` for what the plan cannot have, and for a failure of what is prepared here. The child's own failures come from
    /// [`advance`](Self::advance).
    #[expect(clippy::too_many_arguments, reason = "each is another owner's")]
    pub fn container<'a>(
        host: &Host,
        plan: &ContainerPlan,
        fds: &[OwnedFd],
        pod: &PodHandles,
        targets: &dyn Fn(&str) -> Option<BorrowedFd<'a>>,
        placement: Placement<'_>,
        stdio: ChildStdio<'_>,
        pause: Option<Pause<'_>>,
    ) -> Result<Self, Error> {
        let alone = Standalone::NONE;
        Self::standalone(
            host, plan, fds, pod, targets, placement, stdio, pause, alone,
        )
    }

    /// The same, for a caller that goes away.
    #[expect(clippy::too_many_arguments, reason = "each is another owner's")]
    pub fn standalone<'a>(
        host: &Host,
        plan: &ContainerPlan,
        fds: &[OwnedFd],
        pod: &PodHandles,
        targets: &dyn Fn(&str) -> Option<BorrowedFd<'a>>,
        placement: Placement<'_>,
        stdio: ChildStdio<'_>,
        pause: Option<Pause<'_>>,
        alone: Standalone<'_>,
    ) -> Result<Self, Error> {
        refusals::container(plan)?;
        let slots = Slots(fds);
        let targets = |id: &str| targets(id);
        let entries = Entries::resolve(plan, slots, pod, &targets)?;
        let mappings = mappings_of(plan, pod);
        let mounts = rootfs::prepare(host, plan, slots, pod, mappings)?;
        let init = Init {
            host,
            plan,
            entries: &entries,
            root: slots.get(plan.rootfs.mount, "rootfs.mount")?,
            mounts: &mounts,
            placement,
            stdio,
            pause,
            alone,
            sets: Sets::within(host, plan.process.capabilities)?,
            program: RefCell::new(Program::new(&plan.process)?),
        };
        let story = Story {
            early: &|| init.early(),
            late: &|socket| init.late(socket),
        };
        let spawned = spawn(host, &entries, mappings, placement.unified, &story)?;
        if let (Entry::New, Some(score)) = (entries.user, plan.process.oom_score_adj) {
            // In its user namespace it could not lower its own.
            host.write_oom_score(&spawned.pid.to_string(), score.0);
        }
        let rlimits = &plan.process.rlimits;
        Ok(Self::new(
            spawned,
            State::Making,
            rlimits,
            Some(&plan.process),
        ))
    }

    /// Clones a process into all namespaces of a living container. It runs its program without a further word: only `Started` follows.
    pub fn exec(
        host: &Host,
        plan: ExecPlan<'_>,
        placement: Placement<'_>,
        stdio: ChildStdio<'_>,
    ) -> Result<Self, Error> {
        Self::standalone_exec(host, plan, placement, stdio, Standalone::NONE)
    }

    /// The same, for a caller that may go away once it has started.
    pub fn standalone_exec(
        host: &Host,
        plan: ExecPlan<'_>,
        placement: Placement<'_>,
        stdio: ChildStdio<'_>,
        alone: Standalone<'_>,
    ) -> Result<Self, Error> {
        refusals::process(plan.process)?;
        let exec = Exec {
            host,
            plan,
            own_user: Exec::has_own(host, plan, "user")?,
            own_time: Exec::has_own(host, plan, "time")?,
            alone,
            placement,
            stdio,
            sets: Sets::within(host, plan.process.capabilities)?,
            program: RefCell::new(Program::new(plan.process)?),
        };
        let story = Story {
            early: &|| exec.early(),
            late: &|socket| exec.late(socket),
        };
        let entries = exec::entries(plan);
        let spawned = spawn(host, &entries, None, placement.unified, &story)?;
        Ok(Self::new(spawned, State::Starting, &[], Some(plan.process)))
    }

    fn new(spawned: Spawned, state: State, limits: &[Rlimit], process: Option<&Process>) -> Self {
        let told = process.and_then(|process| process.seccomp.as_ref());
        let told = told.filter(|filter| filter.flags & TELL != 0);
        Self {
            child: Child {
                pid: spawned.pid,
                pidfd: Some(spawned.pidfd),
                doomed: true,
            },
            handshake: spawned.handshake,
            state,
            console: None,
            limits: limits.to_vec(),
            profile: told.map(|filter| filter.program.clone()),
        }
    }

    /// Takes up a container that waits at its gate, for its start. `connection` is one to the gate; `limits` are those of its plan.
    ///
    /// # Errors
    ///
    /// `Refused` if there is no such process.
    pub fn rejoin(pid: i32, connection: OwnedFd, limits: &[Rlimit]) -> Result<Self, Error> {
        let pidfd = rustix::process::Pid::from_raw(pid)
            .ok_or(Errno::SRCH)
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()))
            .at(Stage::Handshake, "a container that waits")?;
        let spawned = Spawned {
            pid,
            pidfd,
            handshake: connection,
        };
        Ok(Self::new(spawned, State::Created, limits, None))
    }

    /// Leaves a created container at its gate. It is nobody's to kill any more.
    #[must_use]
    pub fn leave(mut self) -> OwnedFd {
        self.child.doomed = false;
        self.into_pidfd()
    }

    /// The process's pid in the caller's PID namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.pid
    }

    /// The process's pidfd: readable once it has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        match &self.child.pidfd {
            Some(pidfd) => pidfd.as_fd(),
            // Only `into_pidfd` takes it, and the launch with it.
            None => self.handshake.as_fd(),
        }
    }

    /// Becomes readable (EPOLLIN or EPOLLHUP) when [`advance`](Self::advance) has something to say. Level-triggered.
    #[must_use]
    pub fn handshake(&self) -> BorrowedFd<'_> {
        self.handshake.as_fd()
    }

    /// Takes what the child has said. Does not block, except for a child that has ended without a word: up to a tenth of a second for its exit
    /// status. After `Started` or an error there is nothing more to say.
    ///
    /// # Errors
    ///
    /// The step at which the child failed. It has ended or has been killed, and is to be reaped by the caller.
    pub fn advance(&mut self) -> Result<Progress, Error> {
        loop {
            let word = match handshake::listen(self.handshake.as_fd()) {
                Ok(word) => word,
                Err(error) => return Err(self.fail(error)),
            };
            match (word, self.state) {
                (Word::Nothing, _) => return Ok(Progress::Pending),
                (Word::Console(master), State::Making | State::Starting) => {
                    self.console = Some(master);
                }
                (Word::Paused, State::Making) => {
                    self.state = State::Paused;
                    return Ok(Progress::Paused);
                }
                (Word::Created, State::Making) => {
                    self.state = State::Created;
                    return Ok(Progress::Created {
                        console: self.console.take(),
                    });
                }
                (Word::Going, State::Starting) => self.state = State::Going,
                (Word::Listening(descriptor), State::Going) => {
                    let listener = self.listen(descriptor);
                    return listener
                        .map(Progress::Listening)
                        .map_err(|error| self.fail(error));
                }
                (Word::End, State::Going) => {
                    self.state = State::Finished;
                    self.child.doomed = false;
                    return Ok(Progress::Started {
                        console: self.console.take(),
                    });
                }
                (Word::End, State::Making) => return Err(self.died("make its container")),
                (Word::End, State::Paused) => return Err(self.died("wait to enter its root")),
                (Word::End, State::Created) => return Err(self.died("wait for its start")),
                (Word::End, State::Starting) => return Err(self.died("become its program")),
                (Word::Failed(error), _) => return Err(self.fail(error)),
                (Word::End, State::Finished) => return Ok(Progress::Pending),
                (
                    Word::Clone { .. }
                    | Word::Console(_)
                    | Word::Paused
                    | Word::Created
                    | Word::Going
                    | Word::Listening(_),
                    State::Making
                    | State::Paused
                    | State::Created
                    | State::Starting
                    | State::Going
                    | State::Finished,
                ) => return Err(self.fail(Error::Handshake(1))),
            }
        }
    }

    /// Takes the child's listener from it; the child waits for that.
    fn listen(&mut self, descriptor: i32) -> Result<Listener, Error> {
        let Some(profile) = self.profile.take() else {
            return Err(Error::Handshake(5));
        };
        let flags = PidfdGetfdFlags::empty();
        let taken = rustix::process::pidfd_getfd(self.pidfd(), descriptor, flags);
        let taken = taken.at(Stage::Seccomp, "its listener")?;
        handshake::order(self.handshake.as_fd(), Order::Listening)
            .at(Stage::Handshake, "its listener")?;
        Ok(Listener::new(taken, profile))
    }

    /// Lets a container that waits before its root go on; `Created` follows.
    ///
    /// # Errors
    ///
    /// `Refused` where it does not wait so. Else the child is gone or has been killed.
    pub fn resume(&mut self) -> Result<(), Error> {
        if self.state != State::Paused {
            return Err(Error::refused(
                "resume",
                "the container is not waiting for it",
            ));
        }
        match handshake::order(self.handshake.as_fd(), Order::Resume) {
            Ok(()) => {
                self.state = State::Making;
                Ok(())
            }
            Err(rustix::io::Errno::PIPE) => Err(self.died("wait to enter its root")),
            Err(error) => {
                let failed = Err::<(), _>(error).at(Stage::Handshake, "its root");
                failed.map_err(|error| self.fail(error))
            }
        }
    }

    /// Lets a created container run its program.
    ///
    /// # Errors
    ///
    /// `Refused` before `Created` and after a start. Else the child is gone or has been killed.
    pub fn start(&mut self) -> Result<(), Error> {
        if self.state != State::Created {
            return Err(Error::refused(
                "start",
                "the container is not waiting for it",
            ));
        }
        if let Err(error) = limits::set(self.child.pid, &self.limits) {
            return Err(self.fail(error));
        }
        match handshake::order(self.handshake.as_fd(), Order::Start) {
            Ok(()) => {
                self.state = State::Starting;
                Ok(())
            }
            Err(rustix::io::Errno::PIPE) => Err(self.died("wait for its start")),
            Err(error) => {
                let failed = Err::<(), _>(error).at(Stage::Handshake, "its start");
                failed.map_err(|error| self.fail(error))
            }
        }
    }

    /// The pidfd of the process, for the caller to keep. The process lives on if it has started.
    #[must_use]
    pub fn into_pidfd(mut self) -> OwnedFd {
        if self.child.doomed {
            self.child.kill();
        }
        self.child.doomed = false;
        self.child
            .pidfd
            .take()
            .expect("only this takes it, and the launch with it")
    }

    fn fail(&mut self, error: Error) -> Error {
        self.state = State::Finished;
        self.child.kill();
        error
    }

    fn died(&mut self, during: &'static str) -> Error {
        let status = last_words(self.pidfd());
        self.fail(Error::Died { during, status })
    }
}

impl Child {
    fn kill(&self) {
        if let Some(pidfd) = &self.pidfd {
            // It may have ended by itself.
            let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.doomed {
            self.kill();
        }
    }
}

/// Mappings of the user namespace that the container will be in.
fn mappings_of<'a>(plan: &'a ContainerPlan, pod: &'a PodHandles) -> Option<&'a IdMappings> {
    match plan.namespaces.user {
        NamespaceSource::New => plan.namespaces.mappings.as_ref(),
        NamespaceSource::Pod => pod.mappings.as_ref(),
        NamespaceSource::Fd(_) => plan.namespaces.mappings.as_ref(),
        NamespaceSource::Host | NamespaceSource::Container(_) => None,
    }
}

/// How a child ended that has closed its handshake. It stays to be reaped.
fn last_words(pidfd: BorrowedFd<'_>) -> String {
    let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
    let patience = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    let _ = rustix::event::poll(&mut ended, Some(&patience));
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match rustix::process::waitid(WaitId::PidFd(pidfd), options) {
        Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "an unknown end".to_owned(),
        },
        Ok(None) => "it is still ending".to_owned(),
        Err(_) => "it has been reaped".to_owned(),
    }
}
