//! Kind `oci`: an external command line makes the containers.
//!
//! ```text
//!  create ──exit 0, pid file──▶ Created ──start──exit 0──▶ Started          exec ──exit 0, pid file──▶ Started
//!     └──else: its exit and the last of its log ──▶ the error                  └──else ──▶ the error
//! ```
//!
//! The sandbox is the embedded core's: namespaces pinned here, no pause container. So are the cgroups, which the runtime finds made and joins:
//! limits, statistics, OOM kills and the certain end of every process are the same for each handler. What the runtime starts comes to this
//! process, its subreaper, when its command ends, and is reaped like a child of our own.
//!
//! Its own state (`--root`) is in the pod's directory and goes away with it, whether or not it ever deletes anything.

mod command;
mod inside;
mod mounts;
mod report;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_plan::ContainerPlan;
use oci_runtime::ChildStdio;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use rustix::process::{PidfdFlags, Signal};
use supervisor_api::{Bundle, OciRuntime, WireError, pid_file, process_file};

pub(crate) use command::{Aim, Command, Outcome};

use inside::Held;

use super::{Body, Embedded, NewExec, internal};
pub(super) use command::{FIRST_INHERITED, Node, Order};
pub(super) use mounts::{Place, places};

/// Of every network namespace: what is mounted further down would be in one namespace's alone.
const SYSCTLS: &str = "/proc/sys/net";

/// The runtime of one pod.
#[derive(Debug)]
pub(crate) struct Oci {
    runtime: OciRuntime,
    /// The host's mount namespace.
    mounts: OwnedFd,
    /// The pod's directory, as this process reaches it, and as the host calls it.
    directory: OwnedFd,
    path: PathBuf,
}

/// A container or an exec on its way.
#[derive(Debug)]
pub(crate) struct Launch {
    /// Relative to the pod's directory.
    pid_file: PathBuf,
    console: Option<Console>,
    init: Option<OwnedFd>,
    held: Option<Held>,
}

/// Where the runtime sends the terminal's master.
#[derive(Debug)]
struct Console {
    listener: OwnedFd,
    /// The socket's directory, and its name there.
    directory: OwnedFd,
    name: String,
}

/// The process that a command has left behind.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) pid: i32,
    pub(crate) console: Option<OwnedFd>,
}

impl Oci {
    pub(crate) fn new(
        runtime: OciRuntime,
        mounts: OwnedFd,
        directory: OwnedFd,
        path: PathBuf,
    ) -> Self {
        Self {
            runtime,
            mounts,
            directory,
            path,
        }
    }

    pub(super) fn bundles(&self) -> &Path {
        Path::new(&self.runtime.bundles)
    }

    pub(super) fn create(
        &self,
        core: &Embedded,
        plan: &ContainerPlan,
        places: Vec<Place>,
        stdio: ChildStdio<'_>,
        key: u32,
    ) -> Result<(Launch, Body, Command), WireError> {
        let bundle = Bundle::of(self.bundles(), &plan.id);
        let pid_file = match self.sandbox() == Some(&plan.id) {
            // The daemon has no record of it, and so no directory.
            true => self.path.join("sandbox.pid"),
            false => pid_file(&self.path, &plan.id),
        };
        let body = Body(core.make_cgroup(plan)?);
        let begun = self.launch(
            &pid_file,
            &plan.id,
            "console",
            plan.process.terminal.is_some(),
        );
        let result = begun.and_then(|mut launch| {
            let inside = self.is_inside(&plan.id);
            let mut arguments = vec!["create".to_owned()];
            arguments.extend(self.arguments(&launch, &pid_file));
            arguments.extend(["--bundle".to_owned(), text(bundle.path())]);
            arguments.push(plan.id.clone());
            let order = Order {
                aim: Aim::Create(key),
                arguments,
                stdio: (launch.console.is_none() && !inside).then_some(stdio),
                oom_score: None,
                places: if inside { &[] } else { &places },
                cgroup: placement(core, &body)?,
                path: None,
                inherited: &[],
                tasks: &[],
                cgroup_namespace: false,
            };
            let command = self.run(core, order)?;
            if inside {
                launch.held = Some(Held::hold(places, stdio)?);
            }
            Ok((launch, command))
        });
        or_without(body, result)
    }

    pub(super) fn start(
        &self,
        core: &Embedded,
        launch: &mut Launch,
        id: &str,
        aim: Aim,
    ) -> Result<Command, WireError> {
        match launch.held.take() {
            Some(held) => self.start_inside(core, launch, held, id, aim),
            None => self.simple(core, aim, &["start", id]),
        }
    }

    /// Takes away what the runtime knows of a container.
    pub(super) fn delete(&self, core: &Embedded, id: &str, aim: Aim) -> Result<Command, WireError> {
        self.simple(core, aim, &["delete", "--force", id])
    }

    pub(super) fn kill(
        &self,
        core: &Embedded,
        id: &str,
        signal: i32,
        aim: Aim,
    ) -> Result<Command, WireError> {
        self.simple(core, aim, &["kill", id, &signal.to_string()])
    }

    fn simple(&self, core: &Embedded, aim: Aim, arguments: &[&str]) -> Result<Command, WireError> {
        self.run(core, Order::of(aim, arguments))
    }

    pub(super) fn exec(
        &self,
        core: &Embedded,
        name: &str,
        new: NewExec<'_>,
    ) -> Result<(Launch, Body, Command), WireError> {
        let (id, exec_id) = (new.container_id, new.exec_id);
        let file = process_file(&self.path, id, exec_id);
        let pid_file = file.with_extension("pid");
        let body = new.container.exec(name)?;
        let result = self
            .launch(&pid_file, id, exec_id, new.process.terminal.is_some())
            .and_then(|launch| {
                let mut arguments = vec!["exec".to_owned(), "--detach".to_owned()];
                arguments.extend(self.arguments(&launch, &pid_file));
                arguments.extend(["--process".to_owned(), text(&file)]);
                let cgroup = placement(core, &body)?;
                if cgroup.is_none() && self.runtime.exec_cgroup {
                    arguments.extend(["--cgroup".to_owned(), format!("/{name}")]);
                }
                arguments.push(id.to_owned());
                let order = Order {
                    aim: Aim::Exec(new.key),
                    arguments,
                    stdio: launch.console.is_none().then_some(new.stdio),
                    oom_score: new.process.oom_score_adj.map(|score| score.0),
                    places: &[],
                    cgroup,
                    path: None,
                    inherited: &[],
                    tasks: &[],
                    cgroup_namespace: false,
                };
                Ok((launch, self.run(core, order)?))
            });
        or_without(body, result)
    }

    /// What an exec has needed until now.
    pub(super) fn forget_exec(&self, id: &str, exec_id: &str) {
        let file = process_file(&self.path, id, exec_id);
        self.unlink(&file);
        self.unlink(&file.with_extension("pid"));
    }

    fn launch(
        &self,
        pid_file: &Path,
        id: &str,
        socket: &str,
        terminal: bool,
    ) -> Result<Launch, WireError> {
        // One of an earlier attempt would be taken for this one's.
        self.unlink(pid_file);
        let console = match terminal {
            true => Some(
                Console::listen(&self.directory, id, socket)
                    .map_err(|error| internal(format!("listen for its terminal: {error}")))?,
            ),
            false => None,
        };
        Ok(Launch {
            pid_file: self.relative(pid_file),
            console,
            init: None,
            held: None,
        })
    }

    fn arguments(&self, launch: &Launch, pid_file: &Path) -> Vec<String> {
        let mut arguments = vec!["--pid-file".to_owned(), text(pid_file)];
        if let Some(console) = &launch.console {
            arguments.extend(["--console-socket".to_owned(), console.path()]);
        }
        arguments
    }

    /// gVisor's network stack. It takes a namespace for the node's, and does not start there, where it sees a sysctl of `net.core` that only the
    /// node's had until Linux 6.10 or so: its commands see none. The stack has its own.
    fn has_own_stack(&self) -> bool {
        let mut options = self.runtime.options.iter();
        self.sandbox().is_some()
            && !options.any(|one| one.trim_start_matches('-') == "network=host")
    }

    fn run(&self, core: &Embedded, order: Order<'_>) -> Result<Command, WireError> {
        let verb = order.aim.verb();
        let node = Node {
            mounts: self.mounts.as_fd(),
            host: core.host(),
            hidden: core.hybrid_mount_point(),
            emptied: self.has_own_stack().then_some(Path::new(SYSCTLS)),
        };
        Command::run(order, &self.runtime, &self.path, node).map_err(|error| {
            let OciRuntime {
                handler, program, ..
            } = &self.runtime;
            internal(format!("handler {handler}: run {program} {verb}: {error}"))
        })
    }

    /// What a command that has succeeded has left: the process of its pid file. `ended` says of a pid whether it has been reaped already.
    pub(super) fn made(
        &self,
        launch: &mut Launch,
        verb: &str,
        ended: impl Fn(i32) -> bool,
    ) -> Result<Made, WireError> {
        if launch.held.is_some() {
            return Ok(inside::NOT_YET);
        }
        let made = left_behind(&self.directory, &launch.pid_file, ended);
        let (pid, init) = made.map_err(|what| self.lie(verb, &what))?;
        launch.init = init;
        let console = self.terminal(launch, verb)?;
        Ok(Made { pid, console })
    }

    /// The master of its terminal, where it has one.
    fn terminal(&self, launch: &mut Launch, verb: &str) -> Result<Option<OwnedFd>, WireError> {
        let console = launch.console.take();
        let received = console.map(|console| {
            console.receive().map_err(|error| {
                let what = format!("it sent no terminal to its console socket: {error}");
                self.lie(verb, &what)
            })
        });
        received.transpose()
    }

    fn lie(&self, verb: &str, what: &str) -> WireError {
        internal(format!(
            "handler {}: {} {verb} succeeded, but {what}",
            self.runtime.handler, self.runtime.program
        ))
    }

    fn unlink(&self, file: &Path) {
        // It may never have been there; what stays goes with the container.
        let _ = rustix::fs::unlinkat(&self.directory, self.relative(file), AtFlags::empty());
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.path).unwrap_or(path).to_owned()
    }
}

/// The process that a pid file names, which is one of ours; without a descriptor if `ended` says that it has been reaped.
pub(super) fn left_behind(
    directory: &OwnedFd,
    pid_file: &Path,
    ended: impl Fn(i32) -> bool,
) -> Result<(i32, Option<OwnedFd>), String> {
    let pid = read_pid(directory, pid_file).map_err(|what| format!("its pid file {what}"))?;
    if ended(pid) {
        return Ok((pid, None));
    }
    let pidfd = rustix::process::Pid::from_raw(pid)
        .ok_or(Errno::SRCH)
        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()))
        .map_err(|_| format!("its pid file names {pid}, which does not run"))?;
    // A signal to somebody else's process would be the least of the harm.
    if parent_of(pid) != Some(rustix::process::getpid().as_raw_nonzero().get()) {
        return Err(format!(
            "its pid file names {pid}, which is no process of this pod"
        ));
    }
    Ok((pid, Some(pidfd)))
}

fn read_pid(directory: &OwnedFd, file: &Path) -> Result<i32, String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::openat(directory, file, flags, Mode::empty())
        .map_err(|error| format!("cannot be read: {error}"))?;
    let mut buffer = [0_u8; 32];
    let count =
        rustix::io::read(&file, &mut buffer).map_err(|error| format!("cannot be read: {error}"))?;
    let said = String::from_utf8_lossy(&buffer[..count]);
    said.trim()
        .parse()
        .ok()
        .filter(|pid| *pid > 1)
        .ok_or_else(|| format!("holds {said:?}"))
}

/// The body goes where the command could not be started.
fn or_without(
    body: Body,
    begun: Result<(Launch, Command), WireError>,
) -> Result<(Launch, Body, Command), WireError> {
    match begun {
        Ok((launch, command)) => Ok((launch, body, command)),
        Err(error) => {
            // The first error is the one to tell.
            let _ = body.kill().and_then(|()| body.remove());
            Err(error)
        }
    }
}

/// Where v2 stands beside v1 a runtime gets to see v1 alone, and is born in the v2 cgroup that its container lives in.
fn placement(core: &Embedded, body: &Body) -> Result<Option<OwnedFd>, WireError> {
    match core.hybrid_mount_point() {
        Some(_) => body.unified(),
        None => Ok(None),
    }
}

impl Launch {
    pub(super) fn init(&self) -> Option<BorrowedFd<'_>> {
        self.init.as_ref().map(AsFd::as_fd)
    }

    /// The process lives on.
    pub(super) fn into_init(mut self) -> Option<OwnedFd> {
        self.init.take()
    }
}

impl Drop for Launch {
    /// As the core's: what has not started ends.
    fn drop(&mut self) {
        if let Some(init) = &self.init {
            let _ = rustix::process::pidfd_send_signal(init, Signal::KILL);
        }
    }
}

impl Console {
    /// By way of descriptors: the path is longer than a socket's address may be.
    fn listen(pod: &OwnedFd, id: &str, name: &str) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(pod, format!("containers/{id}"), flags, Mode::empty())?;
        let name = format!("{}.sock", &name[..name.len().min(24)]);
        let _ = rustix::fs::unlinkat(&directory, &name, AtFlags::empty());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let console = Self {
            listener,
            directory,
            name,
        };
        let own = command::descriptor("self", console.directory.as_fd());
        let address = SocketAddrUnix::new(format!("{own}/{}", console.name))?;
        rustix::net::bind(&console.listener, &address)?;
        rustix::net::listen(&console.listener, 1)?;
        Ok(console)
    }

    fn path(&self) -> String {
        let own = rustix::process::getpid().as_raw_nonzero().to_string();
        format!(
            "{}/{}",
            command::descriptor(&own, self.directory.as_fd()),
            self.name
        )
    }

    /// The runtime has ended: what it sent is there. Non-blocking.
    fn receive(self) -> Result<OwnedFd, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let connection = rustix::net::accept_with(&self.listener, flags)?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0_u8; 4096];
        rustix::net::recvmsg(
            &connection,
            &mut [std::io::IoSliceMut::new(&mut name)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let master = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let master = master.ok_or(Errno::NODATA)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(master)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
    }
}

/// The fourth field of `/proc/PID/stat`, behind a name that may hold anything.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Paths of ours are text: the daemon's are, and identifiers.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
