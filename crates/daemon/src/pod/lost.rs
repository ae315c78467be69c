//! Following a supervisor's events, and what happens when there is none to follow any more.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use supervisor_api::{Event, ExitRecord};
use tokio::sync::mpsc;

use super::{Phase, Pod};
use crate::{
    container::{self, Container},
    runtime::{BlockingError, DISK_BOUND, Runtime, blocking, now_ns},
    state::SupervisorRecord,
};

/// How long the kernel may take to end a killed process. One in an uninterruptible sleep takes longer, and is reported.
const DEATH_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(crate) enum KillError {
    #[error("kill the processes of cgroup {cgroup}")]
    Cgroup {
        cgroup: String,
        #[source]
        source: cgroup::Error,
    },
    #[error("processes of cgroup {cgroup} outlive SIGKILL: they are in an uninterruptible sleep")]
    Undead { cgroup: String },
    #[error("kill the pod's supervisor, process {pid}")]
    Supervisor {
        pid: i32,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

/// Takes in a supervisor's events until it hangs up.
pub(crate) async fn follow(
    runtime: Weak<Runtime>,
    pod: Arc<Pod>,
    mut events: mpsc::UnboundedReceiver<Event>,
) {
    while let Some(event) = events.recv().await {
        let Some(runtime) = runtime.upgrade() else {
            return;
        };
        match event {
            Event::Exited { id, exit } => container::exited(&runtime, &id, &exit),
            Event::ExecExited {
                exec_id,
                exit_code,
                killed,
            } => {
                container::exec_exited(&pod, &exec_id, exit_code, killed);
            }
        }
    }
    let Some(runtime) = runtime.upgrade() else {
        return;
    };
    lose(&runtime, &pod, "the pod's supervisor is gone").await;
}

/// A pod whose supervisor has gone unasked: nobody watches its containers, so they must not run.
pub(crate) async fn lose(runtime: &Arc<Runtime>, pod: &Arc<Pod>, reason: &str) {
    pod.set_link(None);
    container::forget_execs(pod);
    // One that is being made finds its link gone; one that is being stopped was asked to go.
    let news = pod.phase.send_if_modified(|phase| {
        let ready = *phase == Phase::Ready;
        if ready {
            *phase = Phase::Lost {
                reason: reason.to_owned(),
            };
        }
        ready
    });
    if !news {
        return;
    }
    let last_words = pod.last_words();
    tracing::error!(pod = %pod.id, reason, last_words, "killing the pod's containers");
    if let Err(error) = kill(runtime, pod).await {
        tracing::error!(pod = %pod.id, error = &error as &dyn std::error::Error, "a lost pod");
    }
    settle_containers(runtime, pod);
}

/// Kills the supervisor, if it is there, and everything in the pod's and its containers' cgroups, and waits for their end.
pub(super) async fn kill(runtime: &Arc<Runtime>, pod: &Arc<Pod>) -> Result<(), KillError> {
    let mut cgroups: Vec<String> = runtime
        .inventory
        .claims_of(&pod.id)
        .iter()
        .map(|c| c.cgroup.clone())
        .collect();
    cgroups.push(pod.cgroup());
    let supervisor = pod.record().supervisor;
    let hierarchies = runtime.hierarchies.clone();
    blocking(DISK_BOUND, move || {
        if let Some(supervisor) = supervisor {
            kill_supervisor(&supervisor)?;
        }
        for path in cgroups {
            kill_cgroup(&hierarchies, &path)?;
        }
        Ok(())
    })
    .await?
}

pub(crate) fn kill_cgroup(hierarchies: &cgroup::Hierarchies, path: &str) -> Result<(), KillError> {
    let failed = |source| KillError::Cgroup {
        cgroup: path.to_owned(),
        source,
    };
    let cgroup = match hierarchies.open_owned(path) {
        Ok(cgroup) => cgroup,
        Err(cgroup::Error::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    cgroup.kill_all().map_err(failed)?;
    if cgroup.wait_empty(DEATH_WITHIN).map_err(failed)? {
        return Ok(());
    }
    Err(KillError::Undead {
        cgroup: path.to_owned(),
    })
}

/// Kills the process if it still is the one that was recorded.
fn kill_supervisor(supervisor: &SupervisorRecord) -> Result<(), KillError> {
    let failed = |source: rustix::io::Errno| KillError::Supervisor {
        pid: supervisor.pid,
        source: source.into(),
    };
    let Some(pid) = Pid::from_raw(supervisor.pid) else {
        return Ok(());
    };
    let pidfd = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    // Compared after the pidfd pins the process: the pid cannot come round in between.
    if identify(supervisor.pid).as_ref() != Some(supervisor) {
        return Ok(());
    }
    match rustix::process::pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// The process as a record can name it; `None` if there is none of that pid.
pub(crate) fn identify(pid: i32) -> Option<SupervisorRecord> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold spaces and parentheses; field 22 counts from 3 after it (proc(5)).
    let after_name = &stat[stat.rfind(')')? + 1..];
    let start_ticks = after_name.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some(SupervisorRecord { pid, start_ticks })
}

/// Containers of a pod without supervisor have ended.
pub(super) fn settle_containers(runtime: &Runtime, pod: &Pod) {
    for container in runtime.inventory.claims_of(&pod.id) {
        settle_container(runtime, &container);
    }
}

/// A container whose cgroup is empty has ended: as its exit record says, or by our kill.
pub(crate) fn settle_container(runtime: &Runtime, container: &Container) {
    if container.has_exited() {
        return;
    }
    let recorded = runtime.records.exit(&container.pod.id, &container.id);
    container.take_exit(&recorded.unwrap_or_else(|| ExitRecord {
        exit_code: 137,
        signal: Some(9),
        oom_killed: false,
        started_at_ns: container.started_at_ns(),
        finished_at_ns: now_ns(),
        message: Some(
            "killed: the pod's supervisor was gone before an exit was recorded".to_owned(),
        ),
    }));
}
