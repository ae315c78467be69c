//! `lists SOCKET IMAGE [CONTAINERS]`: how long the lists of statistics and metrics take with many running containers, in pods of ten on
//! networks of their own; asked again at once, which is answered from memory, and after a pause, when everything is read anew.
//!
//! A measurement for people, not a test: it asserts nothing about time. The image must be there and have `sleep`.

#![allow(clippy::print_stdout, reason = "a command talks to people")]

use std::time::{Duration, Instant};

use cri::{
    client::{Client, Endpoint},
    v1::{
        ContainerConfig, ContainerMetadata, ImageSpec, ListPodSandboxMetricsRequest,
        ListPodSandboxStatsRequest, PodSandboxConfig, PodSandboxMetadata,
    },
};
use e2e::Cri;

const CONTAINERS_A_POD: usize = 10;
const AT_ONCE: usize = 50;
const AFTER_A_PAUSE: usize = 15;

/// Longer than figures count as fresh.
const PAUSE: Duration = Duration::from_millis(1100);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, image, rest @ ..] = &arguments[..] else {
        anyhow::bail!("usage: lists SOCKET IMAGE [CONTAINERS]");
    };
    let containers: usize = rest.first().map_or(Ok(200), |number| number.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let endpoint = Endpoint::of_socket(socket);
        let cri = Cri::new(Client::connect(endpoint, Duration::from_secs(5)).await?);
        let mut pods = Vec::new();
        for number in 0..containers.div_ceil(CONTAINERS_A_POD) {
            pods.push(pod(&cri, image, number).await?);
        }
        println!(
            "{containers} containers, {} pods, ms (min, p50, p99)",
            pods.len()
        );
        measure("ListContainerStats", async || {
            cri.list_stats(None).await?;
            Ok(())
        })
        .await?;
        measure("ListPodSandboxStats", async || {
            let request = ListPodSandboxStatsRequest::default();
            let mut rpc = cri.client.runtime_service();
            rpc.list_pod_sandbox_stats(request).await?;
            Ok(())
        })
        .await?;
        measure("ListPodSandboxMetrics", async || {
            let request = ListPodSandboxMetricsRequest::default();
            let mut rpc = cri.client.runtime_service();
            rpc.list_pod_sandbox_metrics(request).await?;
            Ok(())
        })
        .await?;
        for pod in pods {
            cri.stop_pod(&pod).await?;
            cri.remove_pod(&pod).await?;
        }
        Ok(())
    })
}

async fn pod(cri: &Cri, image: &str, number: usize) -> anyhow::Result<String> {
    let config = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: format!("lists-{number}"),
            uid: format!("{}-{number}", std::process::id()),
            namespace: "measure".to_owned(),
            attempt: 0,
        }),
        linux: Some(cri::v1::LinuxPodSandboxConfig::default()),
        ..PodSandboxConfig::default()
    };
    let pod = cri.run_pod(config.clone()).await?;
    for member in 0..CONTAINERS_A_POD {
        let container = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: format!("member-{member}"),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: image.to_owned(),
                ..ImageSpec::default()
            }),
            command: ["sleep", "3600"].map(str::to_owned).to_vec(),
            ..ContainerConfig::default()
        };
        let id = cri.create(&pod, container, config.clone()).await?;
        cri.start(&id).await?;
    }
    Ok(pod)
}

async fn measure(name: &str, call: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    // Opens what the others find open.
    call().await?;
    for (when, rounds, pause) in [
        ("at once", AT_ONCE, Duration::ZERO),
        ("after a pause", AFTER_A_PAUSE, PAUSE),
    ] {
        let mut times = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            tokio::time::sleep(pause).await;
            let begun = Instant::now();
            call().await?;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        let at = |share: usize| {
            let time = times.get((times.len() - 1) * share / 100);
            time.map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        println!(
            "  {name:<22} {when:<14}{:>8.2}{:>8.2}{:>8.2}",
            at(0),
            at(50),
            at(99)
        );
    }
    Ok(())
}
