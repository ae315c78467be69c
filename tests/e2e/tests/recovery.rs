//! The daemon, the supervisor, or both are killed with SIGKILL; what runs goes on, and whatever is left can be undone.

use std::time::Duration;

use cri::v1::{ContainerState, PodSandboxState};
use e2e::{ContainerSettings, Host, PodSettings, long_scenario, scenario};
use tonic::Status;

#[test]
fn containers_outlive_the_daemon() {
    scenario(async |host| {
        let pod = PodSettings::new("survivor");
        let pod_id = host.run_pod(&pod).await?;
        let script = "n=0; while :; do echo $n; n=$((n+1)); sleep 0.005; done";
        let counter = ContainerSettings::sh("counter", script);
        let id = host.run(&pod_id, &pod, &counter).await?;
        let created = host
            .create(&pod_id, &pod, &ContainerSettings::sleeper("created"))
            .await?;
        let before = host.cri.container_status(&id).await?;
        host.until_logged(&pod, &counter, "\n10\n").await?;
        for _ in 0..3 {
            host.restart_daemon().await?;
            host.cri.sh(&id, "echo still here").await?;
        }
        let after = host.cri.container_status(&id).await?;
        assert_eq!(before, after);
        let status = host.cri.pod_status(&pod_id, false).await?.status.unwrap();
        assert_eq!(status.state(), PodSandboxState::SandboxReady);
        host.cri.start(&created).await?;
        host.cri.stop(&id, 0).await?;
        // Not a byte of the log is lost or said twice.
        let output = host.output(&pod, &counter)?;
        let numbers: Vec<usize> = output.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>());
        Ok(())
    });
}

#[test]
fn exits_while_nobody_looked_are_told() {
    scenario(async |host| {
        let pod = PodSettings::new("meanwhile");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh("main", "sleep 2; echo bye; exit 5");
        let id = host.create(&pod_id, &pod, &settings).await?;
        host.cri.start(&id).await?;
        host.daemon.kill();
        // The container waits for nobody.
        let gone = || {
            let running = host.sandbox.processes();
            let is_main = |args: &[String]| args.iter().any(|arg| arg.contains("exit 5"));
            (!running.iter().any(|process| is_main(&process.args))).then_some(())
        };
        testkit::sandbox::poll(Duration::from_secs(10), gone).unwrap();
        host.start_daemon().await?;
        let status = host.cri.container_status(&id).await?;
        assert_eq!(
            (status.state(), status.exit_code),
            (ContainerState::ContainerExited, 5)
        );
        assert!(status.finished_at > status.started_at);
        assert!(host.output(&pod, &settings)?.ends_with("bye\n"));
        Ok(())
    });
}

#[test]
fn a_stop_goes_on_in_the_next_daemon() {
    scenario(async |host| {
        let pod = PodSettings::new("stopping");
        let pod_id = host.run_pod(&pod).await?;
        let script = "trap 'echo TERM' TERM; echo up; while :; do sleep 1 & wait $!; done";
        let settings = ContainerSettings::sh("stubborn", script);
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "up").await?;
        let client = host.cri.clone();
        let stop = tokio::spawn({
            let id = id.clone();
            async move { client.stop(&id, 50).await }
        });
        host.until_logged(&pod, &settings, "TERM").await?;
        host.restart_daemon().await?;
        assert!(stop.await?.is_err());
        host.cri.stop(&id, 1).await?;
        assert_eq!(host.cri.container_status(&id).await?.exit_code, 137);
        Ok(())
    });
}

#[test]
fn a_pod_whose_supervisor_dies_is_not_ready() {
    for daemon_is_away in [false, true] {
        scenario(async |host| {
            let pod = PodSettings::new("lost");
            let pod_id = host.run_pod(&pod).await?;
            let id = host
                .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
                .await?;
            if daemon_is_away {
                host.daemon.kill();
            }
            host.kill_supervisors()?;
            if daemon_is_away {
                host.start_daemon().await?;
            }
            let status = host.until_exited(&id).await?;
            assert_ne!(status.exit_code, 0, "{status:?}");
            assert!(
                !status.reason.is_empty() && !status.message.is_empty(),
                "{status:?}"
            );
            let status = host.cri.pod_status(&pod_id, true).await?;
            assert_eq!(
                status.status.unwrap().state(),
                PodSandboxState::SandboxNotready
            );
            assert!(
                status.info["info"].contains("supervisor"),
                "{:?}",
                status.info
            );
            // Its processes do not run on unwatched.
            let gone = || {
                let left = host.sandbox.processes();
                left.iter()
                    .all(|process| process.name == "longshored")
                    .then_some(())
            };
            testkit::sandbox::poll(Duration::from_secs(10), gone).unwrap();
            assert!(host.cri.exec(&id, &["true"], 5).await.is_err());
            host.cri.stop(&id, 5).await?;
            Ok(())
        });
    }
}

#[test]
fn sigterm_ends_the_daemon_and_nothing_else() {
    scenario(async |host| {
        let pod = PodSettings::new("unharmed");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        host.daemon.terminate()?;
        assert_eq!(host.supervisors().len(), 1);
        host.start_daemon().await?;
        assert_eq!(host.cri.sh(&id, "echo on").await?, "on\n");
        Ok(())
    });
}

/// What a request changes: the edges of the state diagrams of pods and containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    RunPod,
    Create,
    Start,
    Exec,
    StopContainer,
    RemoveContainer,
    StopPod,
    RemovePod,
}

const EDGES: [Edge; 8] = [
    Edge::RunPod,
    Edge::Create,
    Edge::Start,
    Edge::Exec,
    Edge::StopContainer,
    Edge::RemoveContainer,
    Edge::StopPod,
    Edge::RemovePod,
];

/// When the blow falls, from the moment at which the request is sent; `None`: when it has been answered.
const MOMENTS: [Option<Duration>; 7] = [
    Some(Duration::ZERO),
    Some(Duration::from_millis(1)),
    Some(Duration::from_millis(3)),
    Some(Duration::from_millis(8)),
    Some(Duration::from_millis(20)),
    Some(Duration::from_millis(50)),
    None,
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
fn the_daemon_is_killed_at_every_edge() {
    at_every_edge(Victim::Daemon);
}

#[test]
fn the_supervisor_is_killed_at_every_edge() {
    at_every_edge(Victim::Supervisor);
}

#[test]
fn both_are_killed_at_every_edge() {
    at_every_edge(Victim::Both);
}

#[test]
fn the_machine_reboots_at_every_edge() {
    at_every_edge(Victim::Machine);
}

fn at_every_edge(victim: Victim) {
    long_scenario(Duration::from_secs(600), async |host| {
        if victim == Victim::Machine {
            // The ledger of a rebooted sandbox is another: its boot id is a mount.
            host.reboot().await?;
            host.warm_up().await?;
        }
        let mut wrong = Vec::new();
        for edge in EDGES {
            for (number, moment) in MOMENTS.into_iter().enumerate() {
                let name = format!("{edge:?}-{number}").to_lowercase();
                if let Err(error) = strike(host, &name, edge, victim, moment).await {
                    wrong.push(format!(
                        "{victim:?} at {edge:?} after {moment:?}: {error:#}"
                    ));
                    // The rest shall be judged by itself.
                    host.start_daemon().await?;
                    let _ = host.remove_all_pods().await;
                }
            }
        }
        anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    });
}

/// One pod, up to the edge, and the blow; then the request again, and the way back.
async fn strike(
    host: &mut Host,
    name: &str,
    edge: Edge,
    victim: Victim,
    moment: Option<Duration>,
) -> anyhow::Result<()> {
    let mut course = Course::new(name);
    for step in EDGES.into_iter().filter(|step| *step < edge) {
        course.ask(host, step).await?;
    }
    let struck = {
        let request = course.request(host, edge);
        let request = tokio::spawn(request);
        match moment {
            Some(moment) => {
                tokio::time::sleep(moment).await;
                request
            }
            None => {
                let answer = request.await?;
                anyhow::ensure!(
                    answer.is_ok(),
                    "the request failed before the blow: {answer:?}"
                );
                tokio::spawn(async { answer })
            }
        }
    };
    blow(host, victim).await?;
    // Nobody waits for ever: an answer or an error comes within the client's bound.
    let first = struck.await?;
    if let Ok(id) = &first {
        course.note(edge, id.clone());
    }

    let again = course.request(host, edge).await;
    // With the daemon alone away, everything goes on as if nothing had been.
    if victim == Victim::Daemon {
        let done = again.as_ref().map(drop);
        let started_already = edge == Edge::Start
            && done
                .as_ref()
                .is_err_and(|status| status.code() == tonic::Code::FailedPrecondition);
        anyhow::ensure!(
            done.is_ok() || started_already,
            "the request was repeated: {again:?}, after {first:?}"
        );
    } else if let Err(status) = &again {
        let excused = [
            tonic::Code::NotFound,
            tonic::Code::FailedPrecondition,
            tonic::Code::AlreadyExists,
            tonic::Code::Unavailable,
            tonic::Code::Aborted,
        ];
        anyhow::ensure!(
            excused.contains(&status.code()),
            "the request was repeated: {status}"
        );
    }
    host.remove_all_pods().await?;
    anyhow::ensure!(
        host.cri.containers(None).await?.is_empty(),
        "a container is left"
    );
    if victim == Victim::Machine {
        // Bridge and tables come back with the first pod.
        let before = host.before.clone();
        host.warm_up().await?;
        host.before = before;
    }
    host.settles()
}

async fn blow(host: &mut Host, victim: Victim) -> anyhow::Result<()> {
    match victim {
        Victim::Daemon => host.restart_daemon().await,
        // There may be none yet, or none any more.
        Victim::Supervisor => {
            let _ = host.kill_supervisors();
            Ok(())
        }
        Victim::Both => {
            host.daemon.kill();
            let _ = host.kill_supervisors();
            host.start_daemon().await
        }
        Victim::Machine => host.reboot().await,
    }
}

/// A pod with one container on its way through the diagrams.
struct Course {
    pod: PodSettings,
    container: ContainerSettings,
    pod_id: String,
    container_id: String,
}

impl Course {
    fn new(name: &str) -> Self {
        Self {
            pod: PodSettings::new(name),
            container: ContainerSettings::sleeper("main"),
            pod_id: String::new(),
            container_id: String::new(),
        }
    }

    async fn ask(&mut self, host: &Host, edge: Edge) -> anyhow::Result<()> {
        let id = self.request(host, edge).await?;
        self.note(edge, id);
        Ok(())
    }

    fn note(&mut self, edge: Edge, id: String) {
        match edge {
            Edge::RunPod => self.pod_id = id,
            Edge::Create => self.container_id = id,
            Edge::Start
            | Edge::Exec
            | Edge::StopContainer
            | Edge::RemoveContainer
            | Edge::StopPod
            | Edge::RemovePod => {}
        }
    }

    /// The request of an edge, with the id that it gives.
    fn request(
        &self,
        host: &Host,
        edge: Edge,
    ) -> impl Future<Output = Result<String, Status>> + Send + 'static {
        let cri = host.cri.clone();
        let pod = host.pod_config(&self.pod);
        let container = self.container.config(&host.image);
        let (pod_id, id) = (self.pod_id.clone(), self.container_id.clone());
        async move {
            // As a kubelet does; an error shows in the request.
            let _ = std::fs::create_dir_all(&pod.log_directory);
            match edge {
                Edge::RunPod => return cri.run_pod(pod).await,
                Edge::Create => return cri.create(&pod_id, container, pod).await,
                Edge::Start => cri.start(&id).await,
                Edge::Exec => cri
                    .exec(&id, &["sh", "-c", "sleep 0.02; echo x"], 10)
                    .await
                    .map(drop),
                Edge::StopContainer => cri.stop(&id, 10).await,
                Edge::RemoveContainer => cri.remove(&id).await,
                Edge::StopPod => cri.stop_pod(&pod_id).await,
                Edge::RemovePod => cri.remove_pod(&pod_id).await,
            }?;
            Ok(String::new())
        }
    }
}
