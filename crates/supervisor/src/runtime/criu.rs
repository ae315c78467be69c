//! CRIU, by its command line: it writes down what a container's processes are, and makes them again.
//!
//! It is run in a copy of the host's mounts, as runtimes are. A restore is run where the container is to live: in its cgroups, and in a
//! cgroup namespace of its own, which the processes inherit. What it leaves behind comes to this process, its subreaper, stopped.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_plan::{ContainerPlan, NamespaceSource};
use oci_runtime::ChildStdio;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use supervisor_api::{Dump, Inherited, Restore, WireError, pid_file};

use super::oci::{FIRST_INHERITED, Made, Node, Order, left_behind, places};
use super::{
    Aim, Body, Command, Handler, Launch, Launched, failed_precondition, internal, invalid,
};

/// A container whose processes CRIU makes, or has made.
#[derive(Debug)]
pub(crate) struct Restored {
    /// The pod's.
    directory: OwnedFd,
    /// Relative to it.
    pid_file: PathBuf,
    init: Option<OwnedFd>,
}

/// What a restore works with, of the request and of the pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewRestore<'a> {
    pub(crate) key: u32,
    pub(crate) restore: &'a Restore,
    /// The host's mount namespace.
    pub(crate) mounts: &'a OwnedFd,
    /// The pod's directory, and what the host calls it.
    pub(crate) directory: &'a OwnedFd,
    pub(crate) path: &'a Path,
    pub(crate) descriptors: &'a [OwnedFd],
    pub(crate) stdio: ChildStdio<'a>,
    pub(crate) bound: std::time::Duration,
}

impl Handler {
    /// Begins to write down the tree of processes below `init`. `mounts` is the host's mount namespace.
    pub(crate) fn dump(
        &self,
        dump: &Dump,
        init: i32,
        mounts: &OwnedFd,
        aim: Aim,
    ) -> Result<Command, WireError> {
        let mut arguments = vec!["dump".to_owned(), "--tree".to_owned(), init.to_string()];
        arguments.extend(dump.arguments.iter().cloned());
        let order = Order {
            aim,
            arguments,
            stdio: None,
            places: &[],
            oom_score: None,
            cgroup: None,
            path: Some(&dump.path),
            inherited: &[],
            tasks: &[],
            cgroup_namespace: false,
        };
        self.run_criu(&dump.program, mounts, order)
    }

    /// Begins to make a container's processes again.
    pub(crate) fn restore<'a>(
        &self,
        new: NewRestore<'_>,
        targets: &dyn Fn(&str) -> Option<BorrowedFd<'a>>,
    ) -> Result<Launched, WireError> {
        if self.runtime.is_some() {
            return Err(failed_precondition(
                "the pod's handler is an OCI runtime, which would not know the container"
                    .to_owned(),
            ));
        }
        let plan = &new.restore.create.plan;
        let places = places(
            &self.core,
            plan,
            new.descriptors,
            targets,
            Path::new(&new.restore.bundles),
        )?;
        let file = pid_file(new.path, &plan.id);
        let relative = file.strip_prefix(new.path).unwrap_or(&file).to_owned();
        // One of an earlier attempt would be taken for this one's.
        let _ = rustix::fs::unlinkat(new.directory, &relative, AtFlags::empty());
        let directory = new
            .directory
            .try_clone()
            .map_err(|error| internal(format!("keep the pod's directory: {error}")))?;
        let restored = Restored {
            directory,
            pid_file: relative,
            init: None,
        };
        let body = Body(self.core.make_cgroup(plan)?);
        match self.begin_restore(new, plan, &body, &places, &file) {
            Ok(command) => Ok(Launched {
                launch: Launch::Restored(restored),
                body,
                command: Some(command),
            }),
            Err(error) => {
                // The first error is the one to tell.
                let _ = body.kill().and_then(|()| body.remove());
                Err(error)
            }
        }
    }

    fn begin_restore(
        &self,
        new: NewRestore<'_>,
        plan: &ContainerPlan,
        body: &Body,
        places: &[super::oci::Place],
        pid_file: &Path,
    ) -> Result<Command, WireError> {
        let mut arguments = vec!["restore".to_owned()];
        arguments.extend(new.restore.arguments.iter().cloned());
        arguments.extend(["--pidfile".to_owned(), pid_file.display().to_string()]);
        let mut inherited = Vec::new();
        for (name, what) in &new.restore.inherited {
            let descriptor = match what {
                Inherited::Stdin => new.stdio.stdin,
                Inherited::Stdout => new.stdio.stdout,
                Inherited::Stderr => new.stdio.stderr,
                Inherited::Network => Some(self.network().ok_or_else(|| {
                    failed_precondition("the pod has no network namespace of its own".to_owned())
                })?),
            };
            let number = FIRST_INHERITED + i32::try_from(inherited.len()).unwrap_or(0);
            arguments.extend(["--inherit-fd".to_owned(), format!("fd[{number}]:{name}")]);
            inherited.push(descriptor.unwrap_or(self.core.host().null()));
        }
        let (tasks, unified) = body.entrances()?;
        let order = Order {
            aim: Aim::Restore {
                key: new.key,
                bound: new.bound,
            },
            arguments,
            stdio: None,
            places,
            oom_score: None,
            cgroup: unified,
            path: Some(&new.restore.path),
            inherited: &inherited,
            tasks: &tasks,
            cgroup_namespace: plan.namespaces.cgroup == NamespaceSource::New,
        };
        self.run_criu(&new.restore.program, new.mounts, order)
    }

    /// Sets the name of the pod, in its own UTS namespace.
    pub(crate) fn name_pod(&self, hostname: &str) -> Result<(), WireError> {
        let Some(uts) = &self.core.pod()?.uts else {
            return Ok(());
        };
        let enter = |namespace: BorrowedFd<'_>| {
            let kind = LinkNameSpaceType::HostNameAndNISDomainName;
            move_into_link_name_space(namespace, Some(kind))
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let named = rustix::fs::open("/proc/self/ns/uts", flags, Mode::empty()).and_then(|own| {
            enter(uts.as_fd())?;
            let named = rustix::system::sethostname(hostname.as_bytes());
            enter(own.as_fd()).and(named)
        });
        named.map_err(|error| internal(format!("give the pod its name again: {error}")))
    }

    fn run_criu(
        &self,
        program: &str,
        mounts: &OwnedFd,
        order: Order<'_>,
    ) -> Result<Command, WireError> {
        if !program.starts_with('/') {
            return Err(invalid(format!("{program:?} is no absolute path")));
        }
        let node = Node {
            mounts: mounts.as_fd(),
            host: self.core.host(),
            hidden: None,
            emptied: None,
        };
        let verb = order.aim.verb();
        Command::run_plain(program, order, node)
            .map_err(|error| internal(format!("run {program} {verb}: {error}")))
    }
}

impl Restored {
    /// What CRIU has left behind, once it has succeeded.
    pub(super) fn made(&mut self, ended: impl Fn(i32) -> bool) -> Result<Made, WireError> {
        let (pid, init) = left_behind(&self.directory, &self.pid_file, ended)
            .map_err(|what| internal(format!("criu restore succeeded, but {what}")))?;
        self.init = init;
        Ok(Made { pid, console: None })
    }

    pub(super) fn init(&self) -> Option<BorrowedFd<'_>> {
        self.init.as_ref().map(AsFd::as_fd)
    }

    /// The process lives on.
    pub(super) fn into_init(mut self) -> Option<OwnedFd> {
        self.init.take()
    }
}

impl Drop for Restored {
    /// As the core's: what has not started ends.
    fn drop(&mut self) {
        if let Some(init) = &self.init {
            let _ = rustix::process::pidfd_send_signal(init, Signal::KILL);
        }
    }
}
