//! `measure SOCKET IMAGE [ROUNDS]`: how long each call of a pod's life takes at a CRI endpoint, one client, one pod at a time.
//!
//! A measurement for people, not a test: it asserts nothing about time. The image must be there and have `/bin/sh` and `sleep`.

#![allow(clippy::print_stdout, reason = "a command talks to people")]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use cri::{
    client::{Client, Endpoint},
    v1::{
        ContainerConfig, ContainerMetadata, ImageSpec, LinuxContainerConfig,
        LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext,
        NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
    },
};
use e2e::Cri;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, image, rest @ ..] = &arguments[..] else {
        anyhow::bail!("usage: measure SOCKET IMAGE [ROUNDS]");
    };
    let rounds: usize = rest.first().map_or(Ok(50), |rounds| rounds.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(socket.into(), image, rounds))
}

async fn measure(socket: PathBuf, image: &str, rounds: usize) -> anyhow::Result<()> {
    let client = Client::connect(Endpoint::of_socket(socket), Duration::from_secs(5)).await?;
    let cri = Cri::new(client);
    for (title, network) in [
        ("host network", NamespaceMode::Node),
        ("pod network", NamespaceMode::Pod),
    ] {
        let mut times = Times::default();
        for round in 0..rounds {
            // The first warms the way up and is not counted.
            one(
                &cri,
                image,
                network,
                round,
                if round == 0 { None } else { Some(&mut times) },
            )
            .await
            .with_context(|| format!("{title}, round {round}"))?;
        }
        println!("{title}: {} rounds, ms", rounds.saturating_sub(1));
        times.print();
    }
    Ok(())
}

async fn one(
    cri: &Cri,
    image: &str,
    network: NamespaceMode,
    round: usize,
    times: Option<&mut Times>,
) -> anyhow::Result<()> {
    let mut unkept = Times::default();
    let times = times.unwrap_or(&mut unkept);
    let pod = pod(network, round);
    let container = container(image);
    let ready = Instant::now();
    let pod_id = times
        .time("RunPodSandbox", cri.run_pod(pod.clone()))
        .await?;
    let both = Instant::now();
    let id = times
        .time("CreateContainer", cri.create(&pod_id, container, pod))
        .await?;
    times.time("StartContainer", cri.start(&id)).await?;
    times.keep("Create + Start", both.elapsed());
    times.keep("pod ready", ready.elapsed());
    for _ in 0..3 {
        times
            .time("ExecSync true", cri.exec(&id, &["true"], 10))
            .await?;
    }
    times.time("StopContainer", cri.stop(&id, 10)).await?;
    times.time("RemoveContainer", cri.remove(&id)).await?;
    times.time("StopPodSandbox", cri.stop_pod(&pod_id)).await?;
    times
        .time("RemovePodSandbox", cri.remove_pod(&pod_id))
        .await?;
    Ok(())
}

fn pod(network: NamespaceMode, round: usize) -> PodSandboxConfig {
    let namespaces = NamespaceOption {
        network: network.into(),
        pid: NamespaceMode::Container.into(),
        ..NamespaceOption::default()
    };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: format!("measure-{round}"),
            uid: format!("{}-{round}", std::process::id()),
            namespace: "measure".to_owned(),
            attempt: 0,
        }),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces),
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    }
}

fn container(image: &str) -> ContainerConfig {
    let namespaces = NamespaceOption {
        pid: NamespaceMode::Container.into(),
        ..NamespaceOption::default()
    };
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: "main".to_owned(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: image.to_owned(),
            ..ImageSpec::default()
        }),
        // Ends on SIGTERM at once, which the first process of a PID namespace otherwise ignores.
        command: ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]
            .map(str::to_owned)
            .to_vec(),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces),
                ..LinuxContainerSecurityContext::default()
            }),
            ..LinuxContainerConfig::default()
        }),
        ..ContainerConfig::default()
    }
}

#[derive(Default)]
struct Times {
    order: Vec<&'static str>,
    kept: BTreeMap<&'static str, Vec<Duration>>,
}

impl Times {
    async fn time<T, E>(
        &mut self,
        name: &'static str,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begun = Instant::now();
        let answer = call.await?;
        self.keep(name, begun.elapsed());
        Ok(answer)
    }

    fn keep(&mut self, name: &'static str, took: Duration) {
        if !self.kept.contains_key(name) {
            self.order.push(name);
        }
        self.kept.entry(name).or_default().push(took);
    }

    fn print(mut self) {
        println!("  {:<20}{:>8}{:>8}{:>8}", "", "min", "p50", "p99");
        for name in self.order {
            let Some(times) = self.kept.get_mut(name) else {
                continue;
            };
            times.sort_unstable();
            let at = |share: usize| {
                times
                    .get((times.len() - 1) * share / 100)
                    .map_or(0.0, |t| t.as_secs_f64() * 1e3)
            };
            println!("  {name:<20}{:>8.2}{:>8.2}{:>8.2}", at(0), at(50), at(99));
        }
    }
}
