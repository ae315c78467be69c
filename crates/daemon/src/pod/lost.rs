//! Following a supervisor's events, and what happens when there is none to follow any more.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use supervisor_api::{Event, ExitRecord, PodState};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Phase, Pod,
    dial::{Dialled, dial},
};
use crate::{
    container::{self, Container},
    events::Kind,
    runtime::{BlockingError, DISK_BOUND, Runtime, blocking, now_ns},
    state::SupervisorRecord,
};

/// How long the kernel may take to end a killed process. One in an uninterruptible sleep takes longer, and is reported.
const DEATH_WITHIN: Duration = Duration::from_secs(10);

/// Between attempts to kill what a lost pod has left.
const TRY_AGAIN: Duration = Duration::from_secs(5);

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

/// Takes in a supervisor's events until it hangs up for good.
pub(crate) async fn follow(
    runtime: Weak<Runtime>,
    pod: Arc<Pod>,
    mut events: mpsc::UnboundedReceiver<Event>,
) {
    loop {
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
                } => pod.execs.tell(&exec_id, (exit_code, killed)),
                Event::AttachEnded { attach_id, reason } => pod.attaches.tell(&attach_id, reason),
                Event::SandboxEnded { reason } => ended(&runtime, &pod, &reason),
                Event::Denied { id, calls } => container::denied(&runtime, &id, &calls),
            }
        }
        pod.set_link(None);
        pod.execs.forget_all();
        pod.attaches.forget_all();
        // One that is being made finds its link gone; one that is being stopped was asked to go.
        if !pod.is_ready() {
            return;
        }
        // A connection may end without its supervisor.
        let dialled = dial(&pod).await;
        let Some(runtime) = runtime.upgrade() else {
            return;
        };
        match dialled {
            Dialled::Answered {
                state,
                events: more,
            } => {
                tracing::warn!(pod = %pod.id, "the connection to the pod's supervisor had ended; connected again");
                reconcile(&runtime, &pod, &state);
                events = more;
            }
            Dialled::Dead => return lose(&runtime, &pod, "the pod's supervisor is gone"),
            Dialled::Mute { reason } => {
                return ended(
                    &runtime,
                    &pod,
                    &format!("the pod's supervisor does not answer: {reason}"),
                );
            }
        }
    }
}

/// What happened while nobody listened.
fn reconcile(runtime: &Runtime, pod: &Pod, state: &PodState) {
    for container in runtime.inventory.containers_of(&pod.id) {
        let known = state
            .containers
            .iter()
            .find(|c| c.id == container.id.as_str());
        if let Some(known) = known {
            container.reconcile(runtime, &known.status);
        }
    }
}

/// The pod can hold nothing any more, though its supervisor may be there: not ready, and the kubelet makes another.
pub(crate) fn ended(runtime: &Runtime, pod: &Arc<Pod>, reason: &str) {
    if mark(runtime, pod, reason) {
        tracing::error!(pod = %pod.id, reason, "the pod is not ready any more");
    }
}

/// A pod whose supervisor has gone unasked: nobody watches its containers, so they must not run. They are killed in the background.
pub(crate) fn lose(runtime: &Arc<Runtime>, pod: &Arc<Pod>, reason: &str) {
    if !mark(runtime, pod, reason) {
        return;
    }
    let last_words = pod.last_words();
    tracing::error!(pod = %pod.id, reason, last_words, "killing the pod's containers");
    let (runtime, pod) = (Arc::clone(runtime), Arc::clone(pod));
    tokio::spawn(async move {
        // From StopPodSandbox on, that one kills.
        while matches!(pod.phase(), Phase::Lost { .. }) {
            match kill(&runtime, &pod).await {
                Ok(()) => return,
                Err(error) => tracing::error!(
                    pod = %pod.id,
                    error = &error as &dyn std::error::Error,
                    "a lost pod's processes are not all dead; trying again"
                ),
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    });
}

/// Whether the pod was ready until now.
fn mark(runtime: &Runtime, pod: &Arc<Pod>, reason: &str) -> bool {
    runtime.happen(|news| {
        let lost = pod.phase.send_if_modified(|phase| {
            let ready = *phase == Phase::Ready;
            if ready {
                *phase = Phase::Lost {
                    reason: reason.to_owned(),
                };
            }
            ready
        });
        // One that is not listed yet is told of when it is.
        if lost && runtime.inventory.has_pod(&pod.id) {
            news.pod(Kind::Stopped, pod);
        }
        lost
    })
}

/// Kills the supervisor, if it is there, and everything in the pod's and its containers' cgroups, waits for their end, and settles
/// the containers that have ended. One that does not end keeps no other from its end.
pub(super) async fn kill(runtime: &Arc<Runtime>, pod: &Arc<Pod>) -> Result<(), KillError> {
    let containers = runtime.inventory.claims_of(&pod.id);
    let mut cgroups: Vec<String> = containers.iter().map(|c| c.cgroup().to_owned()).collect();
    cgroups.push(pod.cgroup());
    if pod.made_with.is_some() {
        cgroups.push(pod.sandbox_cgroup());
    }
    let supervisor = pod.record().supervisor;
    let hierarchies = runtime.hierarchies.clone();
    let (undead, result) = blocking(DISK_BOUND, move || {
        let first = supervisor.map_or(Ok(()), |supervisor| kill_supervisor(&supervisor));
        let (undead, second) = kill_cgroups(&hierarchies, &cgroups);
        (undead, first.and(second))
    })
    .await?;
    for container in containers {
        if !undead.iter().any(|one| one == container.cgroup()) {
            settle_container(runtime, &container);
        }
    }
    result
}

pub(crate) fn kill_cgroup(hierarchies: &cgroup::Hierarchies, path: &str) -> Result<(), KillError> {
    kill_cgroups(hierarchies, &[path.to_owned()]).1
}

/// Kills everything first and waits for all of it within one bound. Returns the cgroups that still hold, or may hold, processes, and the
/// first error. A cgroup that is not there holds none.
fn kill_cgroups(
    hierarchies: &cgroup::Hierarchies,
    paths: &[String],
) -> (Vec<String>, Result<(), KillError>) {
    let mut undead = Vec::new();
    let mut result = Ok(());
    let mut fails = |path: &String, error: KillError| {
        undead.push(path.clone());
        if result.is_ok() {
            result = Err(error);
        }
    };
    let failed = |path: &String, source| KillError::Cgroup {
        cgroup: path.clone(),
        source,
    };
    let mut killed = Vec::new();
    for path in paths {
        let cgroup = match hierarchies.open_owned(path) {
            Ok(cgroup) => cgroup,
            Err(cgroup::Error::NotFound { .. }) => continue,
            Err(error) => {
                fails(path, failed(path, error));
                continue;
            }
        };
        match cgroup.kill_all() {
            Ok(()) => killed.push((path, cgroup)),
            Err(error) => fails(path, failed(path, error)),
        }
    }
    let deadline = std::time::Instant::now() + DEATH_WITHIN;
    for (path, cgroup) in killed {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        match cgroup.wait_empty(left) {
            Ok(true) => {}
            Ok(false) => fails(
                path,
                KillError::Undead {
                    cgroup: path.clone(),
                },
            ),
            Err(error) => fails(path, failed(path, error)),
        }
    }
    (undead, result)
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
        // EINVAL: the process is gone, and its number is kept by a process group or session that it led (before Linux 6.15 or so).
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(()),
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

/// Whether the process that was started as the pod's supervisor still runs.
pub(super) fn supervisor_lives(pod: &Pod) -> bool {
    let supervisor = pod.record().supervisor;
    supervisor.is_some_and(|supervisor| identify(supervisor.pid) == Some(supervisor))
}

/// The process as a record can name it; `None` if none of that pid runs.
pub(super) fn identify(pid: i32) -> Option<SupervisorRecord> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold spaces and parentheses; the state follows it, and field 22 counts from there (proc(5)).
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some(SupervisorRecord { pid, start_ticks })
}

/// Containers of a pod whose processes have all ended.
pub(crate) fn settle_containers(runtime: &Runtime, pod: &Pod) {
    for container in runtime.inventory.claims_of(&pod.id) {
        settle_container(runtime, &container);
    }
}

/// A container whose cgroup is empty has ended: as its exit record says, or by our kill, which is written down before it is told.
pub(crate) fn settle_container(runtime: &Runtime, container: &Arc<Container>) {
    if container.has_exited() || !container.is_told() {
        return;
    }
    if let Some(exit) = runtime.records.exit(&container.pod.id, &container.id) {
        return container.take_exit(runtime, &exit);
    }
    let exit = ExitRecord {
        exit_code: 137,
        signal: Some(9),
        oom_killed: false,
        started_at_ns: container.started_at_ns(),
        finished_at_ns: now_ns(),
        message: Some(
            "killed: the pod's supervisor was gone before an exit was recorded".to_owned(),
        ),
    };
    if let Err(error) = runtime
        .records
        .save_exit(&container.pod.id, &container.id, &exit)
    {
        let error = &error as &dyn std::error::Error;
        tracing::error!(container = %container.id, error, "an exit is known to this daemon only");
    }
    container.take_exit(runtime, &exit);
}

/// Waits until the container's exit is known, by its supervisor's word or its record.
pub(crate) async fn exit_known(
    runtime: &Runtime,
    container: &Arc<Container>,
    within: Duration,
) -> bool {
    let deadline = Instant::now() + within;
    if tokio::time::timeout_at(deadline, container.exited())
        .await
        .is_ok()
    {
        return true;
    }
    // The word may have been lost with a connection; the record was written before it.
    match runtime.records.exit(&container.pod.id, &container.id) {
        Some(exit) => {
            container.take_exit(runtime, &exit);
            true
        }
        None => false,
    }
}
