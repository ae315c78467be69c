//! The first process of a container, from its clone to its program.

use std::cell::RefCell;
use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use oci_plan::ContainerPlan;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::credentials::{self, Sets};
use crate::error::{Context, Error, Stage};
use crate::handshake::{self, Order};
use crate::host::Host;
use crate::launch::{ChildStdio, Pause, Placement, Standalone};
use crate::namespaces::{Entries, Entry};
use crate::program::Program;
use crate::rootfs::{self, Entrance, Leaf, Prepared};
use crate::streams::Settled;
use crate::{labels, streams, sysctls, terminal};

/// Everything that a container's init needs, made ready by its parent.
pub(crate) struct Init<'a> {
    pub(crate) host: &'a Host,
    pub(crate) plan: &'a ContainerPlan,
    pub(crate) entries: &'a Entries<'a>,
    pub(crate) root: BorrowedFd<'a>,
    pub(crate) mounts: &'a [Prepared<'a>],
    pub(crate) placement: Placement<'a>,
    pub(crate) stdio: ChildStdio<'a>,
    pub(crate) pause: Option<Pause<'a>>,
    pub(crate) alone: Standalone<'a>,
    pub(crate) sets: Sets,
    /// The child takes it to complete it; the parent's copy stays as it is.
    pub(crate) program: RefCell<Program>,
}

impl Init<'_> {
    /// With the caller's own rights.
    pub(crate) fn early(&self) -> Result<(), Error> {
        labels::ask(self.host, &self.plan.process.labels)?;
        start_afresh(self.alone.keep_keyring)?;
        let in_own_user = matches!(self.entries.user, Entry::New);
        if let (Some(score), false) = (self.plan.process.oom_score_adj, in_own_user) {
            self.host.write_oom_score("self", score.0);
        }
        Ok(())
    }

    /// In the container's namespaces. Returns only once it has reported a failure.
    pub(crate) fn late(&self, socket: BorrowedFd<'_>) {
        match self.create(socket) {
            Ok(settled) => {
                let Err(error) = self.run(&settled);
                handshake::say_failed(settled.handshake, &error);
            }
            Err(error) => handshake::say_failed(socket, &error),
        }
    }

    fn create(&self, socket: BorrowedFd<'_>) -> Result<Settled, Error> {
        let plan = self.plan;
        enter_cgroups(self.placement)?;
        // Here, and not with the other habits: a policy that the kernel refuses is a container that is not made.
        credentials::take_memory_policy(&plan.process.habits)?;
        self.entries.enter_cgroup_namespace()?;
        self.entries.enter_time_namespace(self.host)?;
        if let Some(domainname) = &plan.alone.domainname {
            rustix::system::setdomainname(domainname.as_bytes())
                .at(Stage::Hostname, format_args!("(domain) {domainname}"))?;
        }
        if let Some(hostname) = &plan.hostname {
            rustix::system::sethostname(hostname.as_bytes()).at(Stage::Hostname, hostname)?;
        }
        sysctls::write(self.host, &plan.sysctls)?;

        // Who looks at a container from its caller's side looks at the order of its mounts.
        let in_order = self.alone.gate.is_some();
        let built = rootfs::build(self.root, plan, self.mounts, self.pause, in_order)?;
        let root = built.root;
        let process = &plan.process;
        let owner = (process.user.uid, process.user.gid);
        root.ensure(&process.cwd, Leaf::Directory, Some(owner))
            .at(Stage::MakeWorkingDirectory, &process.cwd)?;
        let terminal = match process.terminal {
            Some(size) => Some(terminal::open(&root, size, &process.user)?),
            None => None,
        };
        if let Some(terminal) = &terminal {
            terminal::mount_console(&root, terminal)?;
        }
        built.make_readonly()?;
        if self.pause.is_some() {
            handshake::say_paused(socket).at(Stage::Handshake, "its file system")?;
            handshake::obey(socket, Order::Resume).at(Stage::Handshake, "its root")?;
        }
        let entrance = match self.alone.no_pivot {
            true => Entrance::Change {
                elsewhere: self.pause.is_some(),
            },
            false => Entrance::Pivot,
        };
        rootfs::pivot(self.host, &root, plan, entrance)?;

        if let Some(terminal) = &terminal {
            handshake::say_console(socket, terminal.master_fd())
                .at(Stage::Handshake, "its terminal")?;
        }
        let own_null = streams::own_null();
        let null = own_null.as_ref().map_or(self.host.null(), AsFd::as_fd);
        let settled = streams::settle(null, self.stdio, terminal.as_ref(), socket, self.alone);
        // Their descriptors are closed already.
        std::mem::forget((terminal, own_null));
        let settled = settled?;
        handshake::say_created(settled.handshake).at(Stage::Handshake, "its creation")?;
        Ok(settled)
    }

    fn run(&self, settled: &Settled) -> Result<Infallible, Error> {
        let socket = settled.handshake;
        match settled.gate {
            Some(gate) => wait_at(gate, socket)?,
            None => {
                handshake::obey(socket, Order::Start).at(Stage::Handshake, "its start")?;
            }
        }
        let mut program = self.program.borrow_mut();
        let process = &self.plan.process;
        credentials::run(self.host, process, self.sets, &mut program, socket)
    }
}

/// Waits until somebody comes to the gate and says so; the connection takes the handshake's place. Who comes and goes again has not started it.
fn wait_at(gate: BorrowedFd<'_>, handshake: BorrowedFd<'_>) -> Result<(), Error> {
    loop {
        let connection =
            rustix::io::retry_on_intr(|| rustix::net::accept_with(gate, SocketFlags::CLOEXEC))
                .at(Stage::Handshake, "its start (at the gate)")?;
        sys::place_descriptor(connection.as_fd(), handshake.as_raw_fd(), false)
            .at(Stage::Stdio, "the handshake's descriptor")?;
        drop(connection);
        match handshake::obey(handshake, Order::Start) {
            Err(Errno::PIPE | Errno::CONNRESET) => {}
            other => return other.at(Stage::Handshake, "its start"),
        }
    }
}

/// Nothing of the caller's session, signal actions, keys and umask.
pub(crate) fn start_afresh(keep_keyring: bool) -> Result<(), Error> {
    rustix::process::setsid().at(Stage::Prepare, "a session")?;
    sys::reset_signals().at(Stage::Prepare, "the signals' actions")?;
    if !keep_keyring {
        sys::leave_session_keyring().at(Stage::Prepare, "a session keyring")?;
    }
    rustix::process::umask(Mode::empty());
    Ok(())
}

/// v1 hierarchies; a child is in its v2 one from birth.
pub(crate) fn enter_cgroups(placement: Placement<'_>) -> Result<(), Error> {
    for (index, tasks) in placement.tasks.iter().enumerate() {
        rustix::io::write(tasks, b"0").at(Stage::EnterCgroup, index)?;
    }
    Ok(())
}
