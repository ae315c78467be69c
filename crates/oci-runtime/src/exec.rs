//! A further process in a living container, from its clone to its program.

use std::cell::RefCell;
use std::convert::Infallible;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags};
use rustix::thread::ThreadNameSpaceType;

use crate::credentials::{self, Sets};
use crate::error::{Context, Error, Stage};
use crate::handshake;
use crate::host::Host;
use crate::init::{enter_cgroups, start_afresh};
use crate::launch::{ChildStdio, ExecPlan, Placement, Standalone};
use crate::namespaces::{Entries, Entry, Time};
use crate::program::Program;
use crate::rootfs::Root;
use crate::user_namespace::{become_root, shared};
use crate::{labels, limits, streams, terminal};

pub(crate) struct Exec<'a> {
    pub(crate) host: &'a Host,
    pub(crate) plan: ExecPlan<'a>,
    /// The container has a user namespace that is not the caller's.
    pub(crate) own_user: bool,
    /// And a time namespace.
    pub(crate) own_time: bool,
    pub(crate) alone: Standalone<'a>,
    pub(crate) placement: Placement<'a>,
    pub(crate) stdio: ChildStdio<'a>,
    pub(crate) sets: Sets,
    pub(crate) program: RefCell<Program>,
}

impl Exec<'_> {
    /// Whether the container has a namespace that is not the caller's, by its name in `/proc/PID/ns`.
    pub(crate) fn has_own(host: &Host, plan: ExecPlan<'_>, name: &str) -> Result<bool, Error> {
        let pid = host
            .pid_of(plan.container)
            .at(Stage::JoinNamespace, "of the container")?;
        Ok(!shared(host, pid, name)?)
    }

    /// With the caller's own rights.
    pub(crate) fn early(&self) -> Result<(), Error> {
        let process = self.plan.process;
        labels::ask(self.host, &process.labels)?;
        start_afresh(self.alone.keep_keyring)?;
        if let Some(score) = process.oom_score_adj {
            self.host.write_oom_score("self", score.0);
        }
        limits::set(0, &process.rlimits)?;
        enter_cgroups(self.placement)?;
        credentials::take_memory_policy(&process.habits)
    }

    /// Returns only once it has reported a failure.
    pub(crate) fn late(&self, socket: BorrowedFd<'_>) {
        match self.settle(socket) {
            Ok(settled) => {
                let Err(error) = self.run(settled);
                handshake::say_failed(settled, &error);
            }
            Err(error) => handshake::say_failed(socket, &error),
        }
    }

    fn settle(&self, socket: BorrowedFd<'_>) -> Result<BorrowedFd<'static>, Error> {
        self.join()?;
        let process = self.plan.process;
        let terminal = match process.terminal {
            None => None,
            Some(size) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let root =
                    rustix::fs::open("/", flags, Mode::empty()).at(Stage::Terminal, "in /")?;
                let root = Root::new(std::os::fd::AsFd::as_fd(&root));
                Some(terminal::open(&root, size, &process.user)?)
            }
        };
        if let Some(terminal) = &terminal {
            handshake::say_console(socket, terminal.master_fd())
                .at(Stage::Handshake, "its terminal")?;
        }
        let null = self.host.null();
        let settled = streams::settle(null, self.stdio, terminal.as_ref(), socket, self.alone);
        // Its descriptors are closed already.
        std::mem::forget(terminal);
        settled.map(|settled| settled.handshake)
    }

    fn run(&self, socket: BorrowedFd<'_>) -> Result<Infallible, Error> {
        let mut program = self.program.borrow_mut();
        let process = self.plan.process;
        credentials::run(self.host, process, self.sets, &mut program, socket)
    }

    /// All at once; the PID namespace is that of the clone. The mount namespace brings its root and `/` as the working directory.
    fn join(&self) -> Result<(), Error> {
        let mut kinds = ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::NETWORK
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::CONTROL_GROUP;
        if self.own_user {
            kinds |= ThreadNameSpaceType::USER;
        }
        if self.own_time {
            kinds |= ThreadNameSpaceType::TIME;
        }
        rustix::thread::move_into_thread_name_spaces(self.plan.container, kinds)
            .at(Stage::JoinNamespace, "of the container")?;
        match self.own_user {
            true => become_root(),
            false => Ok(()),
        }
    }
}

/// Namespaces as [`spawn`](crate::spawn::spawn) is to see them: only the PID namespace is its business.
pub(crate) fn entries<'a>(plan: ExecPlan<'a>) -> Entries<'a> {
    Entries {
        pid: Entry::Join(plan.container),
        net: Entry::Keep,
        ipc: Entry::Keep,
        uts: Entry::Keep,
        user: Entry::Keep,
        cgroup: Entry::Keep,
        time: Time::Keep,
        mount: None,
    }
}
