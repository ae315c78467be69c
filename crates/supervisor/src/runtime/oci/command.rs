//! One command of a runtime: a child in a copy of the host's mount namespace, whose output is kept to its last lines.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use oci_runtime::ChildStdio;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags};
use rustix::pipe::PipeFlags;
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use supervisor_api::{ErrorKind, OciRuntime, WireError};
use sys::CStrings;

use super::mounts::Place;
use super::report;
use crate::connection::Asker;
use crate::reap::Ending;

/// Of what it has written.
const TAIL_BYTES: usize = 8192;

/// Where programs of the node are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Who waits for a command: a container or an exec by its key, or the asker of a signal to the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Aim {
    Create(u32),
    Start(u32),
    Exec(u32),
    Delete(u32),
    Kill {
        key: u32,
        asker: Asker,
        /// SIGKILL, on which a sandbox that does not pass it on ends itself.
        last: bool,
    },
    /// For the end of a container inside a sandbox.
    Wait(u32),
    /// By CRIU.
    Restore {
        key: u32,
        bound: Duration,
    },
    /// By CRIU.
    Dump {
        key: u32,
        asker: Asker,
        bound: Duration,
    },
}

impl Aim {
    /// The command's name.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Start(_) => "start",
            Self::Exec(_) => "exec",
            Self::Delete(_) => "delete",
            Self::Kill { .. } => "kill",
            Self::Wait(_) => "wait",
            Self::Restore { .. } => "restore",
            Self::Dump { .. } => "dump",
        }
    }

    /// How long it may take. What a user waits for may; a stop has a grace of its own, and a removal ends in any case.
    pub(crate) fn bound(&self) -> Duration {
        Duration::from_secs(match self {
            Self::Create(_) | Self::Start(_) | Self::Exec(_) => 25,
            Self::Delete(_) => 8,
            Self::Kill { .. } => 5,
            // As long as the container.
            Self::Wait(_) => return Duration::MAX,
            Self::Restore { bound, .. } | Self::Dump { bound, .. } => return *bound,
        })
    }
}

/// Where commands run.
#[derive(Debug, Clone, Copy)]
pub(in crate::runtime) struct Node<'a> {
    /// The host's mount namespace, of which each gets a copy.
    pub(in crate::runtime) mounts: BorrowedFd<'a>,
    pub(in crate::runtime) host: &'a oci_runtime::Host,
    /// A mount that the copy goes without.
    pub(in crate::runtime) hidden: Option<&'a Path>,
    /// A directory that is empty in the copy.
    pub(in crate::runtime) emptied: Option<&'a Path>,
}

/// What to run.
#[derive(Debug)]
pub(in crate::runtime) struct Order<'a> {
    pub(in crate::runtime) aim: Aim,
    /// Behind the global options.
    pub(in crate::runtime) arguments: Vec<String>,
    /// The container's streams. Without them what the command prints is kept like its log.
    pub(in crate::runtime) stdio: Option<ChildStdio<'a>>,
    pub(in crate::runtime) places: &'a [Place],
    /// What it starts inherits it: runtimes rate no exec.
    pub(in crate::runtime) oom_score: Option<i16>,
    /// The directory in the v2 tree that it is born in.
    pub(in crate::runtime) cgroup: Option<OwnedFd>,
    /// Its `PATH`, where it is not the node's.
    pub(in crate::runtime) path: Option<&'a str>,
    /// Descriptors that it finds from [`FIRST_INHERITED`] on.
    pub(in crate::runtime) inherited: &'a [BorrowedFd<'a>],
    /// The container's cgroups in v1 trees, which it is to enter.
    pub(in crate::runtime) tasks: &'a [OwnedFd],
    /// What it starts sees the cgroups that it is in as the roots.
    pub(in crate::runtime) cgroup_namespace: bool,
}

impl Order<'_> {
    /// A command that makes nothing.
    pub(super) fn of(aim: Aim, arguments: &[&str]) -> Self {
        Self {
            aim,
            arguments: arguments.iter().map(|one| (*one).to_owned()).collect(),
            stdio: None,
            places: &[],
            oom_score: None,
            cgroup: None,
            path: None,
            inherited: &[],
            tasks: &[],
            cgroup_namespace: false,
        }
    }
}

/// A command that runs. It dies with this process.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) pid: i32,
    pub(crate) aim: Aim,
    pidfd: OwnedFd,
    /// `handler runc: /usr/bin/runc create`.
    name: String,
    output: OwnedFd,
    /// Named in `/proc` for its log.
    _writer: OwnedFd,
    tail: Vec<u8>,
    overdue: bool,
}

/// Where a program that inherits descriptors finds the first of them.
pub(in crate::runtime) const FIRST_INHERITED: i32 = 4;

/// How a command ended.
pub(crate) type Outcome = Result<(), WireError>;

/// The step that failed before the runtime's program ran.
struct Failed(&'static str, Errno);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0, self.1)
    }
}

impl Command {
    /// Starts it; nothing here waits.
    pub(super) fn run(
        order: Order<'_>,
        runtime: &OciRuntime,
        pod: &Path,
        node: Node<'_>,
    ) -> Result<Self, Errno> {
        let pipe = output_pipe()?;
        let own = rustix::process::getpid().as_raw_nonzero().to_string();
        let mut arguments = vec![runtime.program.clone()];
        arguments.extend(["--root".to_owned(), super::text(&pod.join("runtime"))]);
        arguments.extend(["--log".to_owned(), descriptor(&own, pipe.1.as_fd())]);
        arguments.extend(["--log-format".to_owned(), "json".to_owned()]);
        arguments.extend(runtime.options.iter().cloned());
        arguments.extend(order.arguments.iter().cloned());
        let name = format!(
            "handler {}: {} {}",
            runtime.handler,
            runtime.program,
            order.aim.verb()
        );
        Self::spawn(name, &runtime.program, &arguments, pipe, order, node)
    }

    /// A program that is no runtime, with the arguments of the order and no others.
    pub(in crate::runtime) fn run_plain(
        program: &str,
        order: Order<'_>,
        node: Node<'_>,
    ) -> Result<Self, Errno> {
        let mut arguments = vec![program.to_owned()];
        arguments.extend(order.arguments.iter().cloned());
        let name = format!("{program} {}", order.aim.verb());
        Self::spawn(name, program, &arguments, output_pipe()?, order, node)
    }

    fn spawn(
        name: String,
        program: &str,
        arguments: &[String],
        (output, writer): (OwnedFd, OwnedFd),
        order: Order<'_>,
        node: Node<'_>,
    ) -> Result<Self, Errno> {
        let program = c_string(program)?;
        let strings = arguments.iter().map(|one| c_string(one));
        let arguments = CStrings::new(strings.collect::<Result<_, _>>()?);
        let environment = CStrings::new(vec![c_string(&format!(
            "PATH={}",
            order.path.unwrap_or(PATH)
        ))?]);
        match sys::clone_process(
            sys::CloneFlags::empty(),
            order.cgroup.as_ref().map(AsFd::as_fd),
        )? {
            sys::Clone::Parent { pid, pidfd } => Ok(Self {
                pid,
                aim: order.aim,
                pidfd,
                name,
                output,
                _writer: writer,
                tail: Vec::new(),
                overdue: false,
            }),
            sys::Clone::Child => {
                sys::exit_at_panic();
                let failed = match prepare(&order, node, writer.as_fd()) {
                    Ok(()) => Failed(
                        "execute it",
                        sys::execute(&program, &arguments, &environment),
                    ),
                    Err(failed) => failed,
                };
                let _ = rustix::io::write(&writer, failed.to_string().as_bytes());
                sys::exit_process(NOT_RUN)
            }
        }
    }

    /// Of what it writes.
    pub(crate) fn output(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    /// Takes what it has written; all but the last is forgotten. A pipe's worth at a time: some write without end.
    pub(crate) fn read(&mut self) {
        let mut buffer = [0_u8; 4096];
        for _ in 0..16 {
            match rustix::io::read(&self.output, &mut buffer) {
                Ok(count) if count > 0 => {
                    self.tail.extend_from_slice(&buffer[..count]);
                    let excess = self.tail.len().saturating_sub(TAIL_BYTES);
                    self.tail.drain(..excess);
                }
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// How the container has ended that this one has waited for. A wait that failed has lost it with its sandbox.
    pub(crate) fn waited(&mut self, ending: Ending) -> Ending {
        self.read();
        match ending {
            Ending::Exited(0) => report::exit_status(&self.tail).map(Ending::Exited),
            Ending::Exited(_) | Ending::Killed(_) => None,
        }
        .unwrap_or(Ending::Killed(Signal::KILL.as_raw()))
    }

    pub(crate) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Its time is over.
    pub(crate) fn end_overdue(&mut self) {
        self.overdue = true;
        self.kill();
    }

    /// It has been reaped.
    pub(crate) fn outcome(&mut self, ending: Ending) -> Outcome {
        if ending == Ending::Exited(0) {
            return Ok(());
        }
        self.read();
        let last = report::last_lines(&self.tail);
        let how = match self.overdue {
            true => format!(
                "did not end within {} s and was killed",
                self.aim.bound().as_secs()
            ),
            false => ending.to_string(),
        };
        let said = match last.is_empty() {
            true => "it wrote no log".to_owned(),
            false => last,
        };
        let kind = match cannot_execute(&said) && ending != Ending::Exited(NOT_RUN) {
            true => ErrorKind::CannotExecute,
            false => ErrorKind::Internal,
        };
        Err(WireError {
            kind,
            message: format!("{} {how}: {said}", self.name),
        })
    }
}

/// What a command writes to, and what is read of it here.
fn output_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (output, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&output, true)?;
    Ok((output, writer))
}

/// The exit status of a child that could not become its program; shells have the same.
const NOT_RUN: i32 = 127;

/// As runc, crun and youki say that a container's own program is missing or cannot be run.
fn cannot_execute(said: &str) -> bool {
    let of_program = [
        "exec: ",
        "executable file",
        "exec container process",
        "open executable",
    ];
    let why = [
        "not found",
        "no such file",
        "ermission denied",
        "o such file",
        "xec format",
    ];
    of_program.iter().any(|words| said.contains(words))
        && why.iter().any(|words| said.contains(words))
}

/// In the child: everything but the program itself.
fn prepare(order: &Order<'_>, node: Node<'_>, writer: BorrowedFd<'_>) -> Result<(), Failed> {
    let at = |step: &'static str| move |error: Errno| Failed(step, error);
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(at("die with the supervisor"))?;
    sys::reset_signals().map_err(at("reset its signals"))?;
    for tasks in order.tasks {
        rustix::io::write(tasks, b"0").map_err(at("enter the container's cgroups"))?;
    }
    if order.cgroup_namespace {
        sys::unshare(sys::CloneFlags::NEWCGROUP).map_err(at("make a cgroup namespace"))?;
    }
    if let Some(score) = order.oom_score {
        node.host.write_oom_score("self", score);
    }
    move_into_link_name_space(node.mounts, Some(LinkNameSpaceType::Mount))
        .map_err(at("enter the host's mounts"))?;
    sys::unshare(sys::CloneFlags::NEWNS).map_err(at("copy the host's mounts"))?;
    let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", downstream).map_err(at("part its mounts from the host's"))?;
    if let Some(hidden) = node.hidden {
        match rustix::mount::unmount(hidden, UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => return Err(Failed("hide cgroup v2", error)),
        }
    }
    if let Some(emptied) = node.emptied {
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("tmpfs", emptied, "tmpfs", flags, c"size=4k")
            .map_err(at("empty a directory"))?;
    }
    for place in order.places {
        rustix::mount::move_mount(
            &place.mount,
            "",
            rustix::fs::CWD,
            &place.target,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(at("put its bundle together"))?;
    }
    rustix::process::chdir("/").map_err(at("enter the root"))?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(at("open /dev/null"))?;
    let (stdin, stdout, stderr) = match order.stdio {
        Some(stdio) => (stdio.stdin, stdio.stdout, stdio.stderr),
        None => (None, Some(writer), Some(writer)),
    };
    // Copies, above what is about to be replaced.
    let inherited = order.inherited.iter();
    let inherited: Result<Vec<OwnedFd>, Errno> = inherited
        .map(|one| rustix::io::fcntl_dupfd_cloexec(one, 10))
        .collect();
    let inherited = inherited.map_err(at("copy what it inherits"))?;
    let copies = [stdin, stdout, stderr]
        .map(|one| rustix::io::fcntl_dupfd_cloexec(one.unwrap_or(null.as_fd()), 10));
    for (number, copy) in copies.into_iter().enumerate() {
        let copy = copy.map_err(at("copy its streams"))?;
        sys::place_descriptor(copy.as_fd(), number as i32, true)
            .map_err(at("place its streams"))?;
    }
    // Last: some of the numbers are those of what has been used until here, and none of that may be closed afterwards.
    drop(null);
    for (number, copy) in inherited.iter().enumerate() {
        sys::place_descriptor(copy.as_fd(), FIRST_INHERITED + number as i32, true)
            .map_err(at("place what it inherits"))?;
    }
    Ok(())
}

/// A descriptor of a process, by a path that others can open.
pub(super) fn descriptor(process: &str, descriptor: BorrowedFd<'_>) -> String {
    format!("/proc/{process}/fd/{}", descriptor.as_raw_fd())
}

fn c_string(text: &str) -> Result<CString, Errno> {
    CString::new(text).map_err(|_| Errno::INVAL)
}
