use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use cgroup::Cgroup;
use oci_plan::{ContainerPlan, Process, SandboxPlan};
use oci_runtime::{ChildStdio, ExecPlan, Host, Launch, Pause, Placement, PodHandles};
use rustix::process::Signal;
use supervisor_api::WireError;

use super::{Body, failed_precondition, failure, internal, loopback};
use crate::root;

/// The OCI core in this process: containers are children, and live in cgroups that were made here.
#[derive(Debug)]
pub(crate) struct Embedded {
    host: Host,
    shm_mountpoint: OwnedFd,
    pod: Option<PodHandles>,
    cgroup: Option<Cgroup>,
}

impl Embedded {
    pub(crate) fn new(host: Host, shm_mountpoint: OwnedFd) -> Self {
        Self {
            host,
            shm_mountpoint,
            pod: None,
            cgroup: None,
        }
    }

    pub(super) fn create_sandbox(&mut self, plan: &SandboxPlan) -> Result<(), WireError> {
        let cgroup = self
            .host
            .hierarchies()
            .ensure(&plan.cgroup, &plan.resources)
            .map_err(|error| failure::cgroup(&error))?;
        match self.make_namespaces(plan) {
            Ok(pod) => {
                self.pod = Some(pod);
                self.cgroup = Some(cgroup);
                Ok(())
            }
            Err(error) => {
                root::unmount_shm();
                // The first error is the one to tell.
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    fn make_namespaces(&self, plan: &SandboxPlan) -> Result<PodHandles, WireError> {
        let pod = PodHandles::create(&self.host, plan, self.shm_mountpoint.as_fd())
            .map_err(|error| failure::core(&error))?;
        if let Some(network) = &pod.net
            && let Err(error) = loopback::bring_up(&self.host, network.as_fd())
        {
            if let Some(init) = &pod.init {
                let _ = rustix::process::pidfd_send_signal(&init.pidfd, Signal::KILL);
            }
            return Err(internal(format!(
                "bring its loopback interface up: {error}"
            )));
        }
        Ok(pod)
    }

    pub(super) fn user_namespace(&self) -> Option<BorrowedFd<'_>> {
        Some(self.pod.as_ref()?.user.as_ref()?.as_fd())
    }

    pub(super) fn network(&self) -> Option<BorrowedFd<'_>> {
        Some(self.pod.as_ref()?.net.as_ref()?.as_fd())
    }

    pub(super) fn sandbox_init(&self) -> Option<(i32, BorrowedFd<'_>)> {
        let init = self.pod.as_ref()?.init.as_ref()?;
        Some((init.pid, init.pidfd.as_fd()))
    }

    pub(super) fn stop_sandbox(&mut self) {
        self.pod = None;
        root::unmount_shm();
    }

    pub(super) fn remove_sandbox(&mut self) -> Result<(), WireError> {
        self.stop_sandbox();
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove().map_err(|error| failure::cgroup(&error))?;
        }
        self.cgroup = None;
        Ok(())
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// Where cgroup v2 is mounted beside v1.
    pub(super) fn hybrid_mount_point(&self) -> Option<&Path> {
        self.host.hierarchies().hybrid_mount_point()
    }

    pub(super) fn pod(&self) -> Result<&PodHandles, WireError> {
        self.pod
            .as_ref()
            .ok_or_else(|| failed_precondition("the pod has no sandbox".to_owned()))
    }

    /// The cgroup of a container, new and limited.
    pub(super) fn make_cgroup(&self, plan: &ContainerPlan) -> Result<Cgroup, WireError> {
        self.host
            .hierarchies()
            .create(&plan.cgroup, &plan.resources)
            .map_err(|error| failure::cgroup(&error))
    }

    pub(super) fn create<'a>(
        &self,
        plan: &ContainerPlan,
        descriptors: &[OwnedFd],
        targets: &dyn Fn(&str) -> Option<BorrowedFd<'a>>,
        stdio: ChildStdio<'_>,
        pause: Option<Pause<'_>>,
    ) -> Result<(Launch, Body), WireError> {
        let pod = self.pod()?;
        let cgroup = self.make_cgroup(plan)?;
        let launched = place(&cgroup, |placement| {
            Launch::container(
                &self.host,
                plan,
                descriptors,
                pod,
                targets,
                placement,
                stdio,
                pause,
            )
        });
        finish(launched, cgroup)
    }

    pub(super) fn exec(
        &self,
        container: &Body,
        init: BorrowedFd<'_>,
        name: &str,
        process: &Process,
        stdio: ChildStdio<'_>,
    ) -> Result<(Launch, Body), WireError> {
        let Body(cgroup) = container.exec(name)?;
        let plan = ExecPlan {
            process,
            container: init,
        };
        let launched = place(&cgroup, |placement| {
            Launch::exec(&self.host, plan, placement, stdio)
        });
        finish(launched, cgroup)
    }
}

fn place(
    cgroup: &Cgroup,
    launch: impl FnOnce(Placement<'_>) -> Result<Launch, oci_runtime::Error>,
) -> Result<Launch, WireError> {
    let tasks = cgroup
        .attach_fds()
        .map_err(|error| failure::cgroup(&error))?;
    let unified = cgroup
        .unified_dir()
        .map_err(|error| failure::cgroup(&error))?;
    let placement = Placement {
        tasks: &tasks,
        unified: unified.as_ref().map(AsFd::as_fd),
    };
    launch(placement).map_err(|error| failure::core(&error))
}

fn finish(
    launched: Result<Launch, WireError>,
    cgroup: Cgroup,
) -> Result<(Launch, Body), WireError> {
    match launched {
        Ok(launch) => Ok((launch, Body(cgroup))),
        Err(error) => {
            // The first error is the one to tell.
            let _ = cgroup.kill_all().and_then(|()| cgroup.remove());
            Err(error)
        }
    }
}
