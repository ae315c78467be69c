//! At every edge of the state diagrams the daemon, the supervisor, both, or the whole machine go down. Then the request is made again,
//! everything is stopped and removed, and the ledger must be what it was.
//!
//! The edges are failpoints of debug builds (see the daemon's `failpoint`).

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{ContainerSettings, Host, PodSettings, long_scenario};
use tonic::{Code, Status};

/// Requests, in the order in which a pod sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    RunPod,
    Create,
    Start,
    Exec,
    StopContainer,
    RemoveContainer,
    StopPod,
    RemovePod,
}

const STEPS: [Step; 8] = [
    Step::RunPod,
    Step::Create,
    Step::Start,
    Step::Exec,
    Step::StopContainer,
    Step::RemoveContainer,
    Step::StopPod,
    Step::RemovePod,
];

/// Every edge, and the request that crosses it.
const EDGES: [(&str, Step); 25] = [
    ("pod.recorded", Step::RunPod),
    ("pod.supervised", Step::RunPod),
    ("pod.made", Step::RunPod),
    ("pod.attached", Step::RunPod),
    ("pod.ready", Step::RunPod),
    ("container.recorded", Step::Create),
    ("container.layered", Step::Create),
    ("container.made", Step::Create),
    ("container.created", Step::Create),
    ("container.starting", Step::Start),
    ("container.started", Step::Start),
    ("container.stopping", Step::StopContainer),
    ("container.stopped", Step::StopContainer),
    ("container.killed", Step::StopContainer),
    ("container.removing", Step::RemoveContainer),
    ("container.deleted", Step::RemoveContainer),
    ("container.removed-layer", Step::RemoveContainer),
    ("container.removed", Step::RemoveContainer),
    ("pod.stopping", Step::StopPod),
    ("pod.ended", Step::StopPod),
    ("pod.detached", Step::StopPod),
    ("pod.stopped", Step::StopPod),
    ("pod.removing", Step::RemovePod),
    ("pod.removed-cgroups", Step::RemovePod),
    ("pod.removed", Step::RemovePod),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Daemon,
    Supervisor,
    Both,
    /// Everything, and `/run` is empty afterwards.
    Machine,
}

#[test]
fn the_daemon_dies() {
    at_every_edge(Victim::Daemon);
}

#[test]
fn the_supervisor_dies() {
    at_every_edge(Victim::Supervisor);
}

#[test]
fn both_die() {
    at_every_edge(Victim::Both);
}

#[test]
fn the_machine_reboots() {
    at_every_edge(Victim::Machine);
}

/// Between the edges, too: after a time in place of at a place.
#[test]
fn the_daemon_dies_at_any_moment() {
    long_scenario(Duration::from_secs(600), async |host| {
        let mut wrong = Vec::new();
        for step in STEPS {
            for milliseconds in [0, 1, 2, 4, 8, 16, 32] {
                let moment = Duration::from_millis(milliseconds);
                let mut course = Course::new(&format!("{step:?}-{milliseconds}"), "");
                let result = course.struck_after(host, step, moment).await;
                judge(
                    host,
                    &mut wrong,
                    format!("{step:?} after {moment:?}"),
                    result,
                )
                .await?;
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    });
}

fn at_every_edge(victim: Victim) {
    long_scenario(Duration::from_secs(600), async |host| {
        if victim == Victim::Machine {
            // The ledger of a rebooted sandbox is another: its boot id is a mount.
            host.reboot().await?;
            host.warm_up().await?;
        }
        let mut wrong = Vec::new();
        for (edge, step) in EDGES {
            let mut course = Course::new(edge, edge);
            let result = course.struck_at(host, edge, step, victim).await;
            judge(host, &mut wrong, format!("{victim:?} at {edge}"), result).await?;
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    });
}

/// Notes what went wrong, and makes room for the next.
async fn judge(
    host: &mut Host,
    wrong: &mut Vec<String>,
    name: String,
    result: anyhow::Result<()>,
) -> anyhow::Result<()> {
    if let Err(error) = result {
        wrong.push(format!("{name}: {error:#}"));
        host.start_daemon().await.with_context(|| name.clone())?;
        host.remove_all_pods().await.with_context(|| name.clone())?;
        // What this one left shall not be blamed on the next.
        host.before = testkit::ledger::Ledger::take_settled(&host.sandbox)?;
    }
    Ok(())
}

/// A pod with one container on its way through the diagrams.
struct Course {
    pod: PodSettings,
    container: ContainerSettings,
    /// Grace of the container's stop, seconds.
    grace: i64,
    pod_id: String,
    container_id: String,
}

impl Course {
    fn new(name: &str, edge: &str) -> Self {
        let name = name.replace('.', "-").to_lowercase();
        Self {
            pod: PodSettings::new(&name),
            container: ContainerSettings::sleeper("main"),
            grace: if edge == "container.killed" { 0 } else { 10 },
            pod_id: String::new(),
            container_id: String::new(),
        }
    }

    async fn struck_at(
        &mut self,
        host: &mut Host,
        edge: &str,
        step: Step,
        victim: Victim,
    ) -> anyhow::Result<()> {
        let action = match victim {
            Victim::Daemon | Victim::Machine => "daemon",
            Victim::Supervisor => "supervisor",
            Victim::Both => "both",
        };
        host.start_daemon_with(&format!("{edge}:{action}")).await?;
        self.walk_to(host, step).await?;
        let mentions = host.daemon.log().matches("failpoint").count();
        // Nobody waits for ever: an answer or an error comes within the client's bound.
        let first = self.request(host, step).await;
        ensure!(
            host.daemon.log().matches("failpoint").count() > mentions,
            "the edge was not reached: {first:?}"
        );
        match victim {
            Victim::Supervisor => {}
            Victim::Daemon | Victim::Both => host.start_daemon().await?,
            Victim::Machine => host.reboot().await?,
        }
        self.judge(host, step, victim, first).await
    }

    async fn struck_after(
        &mut self,
        host: &mut Host,
        step: Step,
        moment: Duration,
    ) -> anyhow::Result<()> {
        self.walk_to(host, step).await?;
        let request = tokio::spawn(self.request(host, step));
        tokio::time::sleep(moment).await;
        host.restart_daemon().await?;
        let first = request.await?;
        self.judge(host, step, Victim::Daemon, first).await
    }

    async fn walk_to(&mut self, host: &Host, step: Step) -> anyhow::Result<()> {
        for earlier in STEPS.into_iter().filter(|earlier| *earlier < step) {
            let id = self.request(host, earlier).await;
            let id = id.with_context(|| format!("{earlier:?}, before the blow"))?;
            self.note(earlier, id);
        }
        Ok(())
    }

    /// The request again, and the way back.
    async fn judge(
        &mut self,
        host: &mut Host,
        step: Step,
        victim: Victim,
        first: Result<String, Status>,
    ) -> anyhow::Result<()> {
        let again = self.request(host, step).await;
        if let Err(refusal) = &again {
            let excused: &[Code] = match (victim, step) {
                // With the daemon alone away, everything goes on as if nothing had been. An exec is not repeated, and what was
                // started is not started twice.
                (Victim::Daemon, Step::Start) => &[Code::FailedPrecondition],
                (Victim::Daemon, _) => &[],
                _ => &[
                    Code::NotFound,
                    Code::FailedPrecondition,
                    Code::AlreadyExists,
                    Code::Unavailable,
                    Code::Aborted,
                ],
            };
            ensure!(
                excused.contains(&refusal.code()),
                "the request again: {refusal}; at first: {first:?}"
            );
        }
        if let (Ok(first), Ok(again)) = (&first, &again)
            && victim != Victim::Machine
        {
            ensure!(
                first == again,
                "the request again gave {again}, at first {first}"
            );
        }
        host.remove_all_pods().await?;
        let containers = host.cri.containers(None).await?;
        ensure!(containers.is_empty(), "containers are left: {containers:?}");
        if victim == Victim::Machine {
            // Bridge and tables come back with the first pod.
            let before = host.before.clone();
            host.warm_up().await?;
            host.before = before;
        }
        host.settles()
    }

    fn note(&mut self, step: Step, id: String) {
        match step {
            Step::RunPod => self.pod_id = id,
            Step::Create => self.container_id = id,
            Step::Start
            | Step::Exec
            | Step::StopContainer
            | Step::RemoveContainer
            | Step::StopPod
            | Step::RemovePod => {}
        }
    }

    /// The request of a step, with the id that it gives.
    fn request(
        &self,
        host: &Host,
        step: Step,
    ) -> impl Future<Output = Result<String, Status>> + Send + use<> {
        let cri = host.cri.clone();
        let pod = host.pod_config(&self.pod);
        let container = self.container.config(&host.image);
        let (pod_id, id) = (self.pod_id.clone(), self.container_id.clone());
        let grace = self.grace;
        async move {
            // As a kubelet does; an error shows in the request.
            let _ = std::fs::create_dir_all(&pod.log_directory);
            match step {
                Step::RunPod => return cri.run_pod(pod).await,
                Step::Create => return cri.create(&pod_id, container, pod).await,
                Step::Start => cri.start(&id).await,
                Step::Exec => {
                    let script = ["sh", "-c", "sleep 0.02; echo x"];
                    cri.exec(&id, &script, 10).await.map(drop)
                }
                Step::StopContainer => cri.stop(&id, grace).await,
                Step::RemoveContainer => cri.remove(&id).await,
                Step::StopPod => cri.stop_pod(&pod_id).await,
                Step::RemovePod => cri.remove_pod(&pod_id).await,
            }?;
            Ok(String::new())
        }
    }
}
