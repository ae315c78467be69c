use std::{path::Path, time::Instant};

use serde::Serialize;

use super::{
    BenchError,
    calls::Calls,
    crowd::together,
    samples::{Samples, Summary},
    workload::{Network, Workload},
};

/// How long the kubelet's two periodic lists take with many containers running.
#[derive(Debug, Clone, Serialize)]
pub struct ListsReport {
    /// Running containers, in pods of `CONTAINERS_A_POD` on the node's network.
    pub containers: usize,
    /// ListContainers, milliseconds.
    pub list_containers: Summary,
    /// ListContainerStats, milliseconds.
    pub list_container_stats: Summary,
}

/// Containers in each pod.
const CONTAINERS_A_POD: usize = 10;

/// Calls of each list.
const ROUNDS: usize = 50;

pub(crate) async fn measure(
    calls: &Calls,
    workload: &Workload,
    directory: &Path,
    containers: usize,
) -> Result<Option<ListsReport>, BenchError> {
    let pods = (0..containers.div_ceil(CONTAINERS_A_POD)).map(|number| {
        let members = CONTAINERS_A_POD.min(containers - number * CONTAINERS_A_POD);
        pod(calls, workload, directory, number, members)
    });
    let pods: Vec<(String, Vec<String>)> = together(4, pods).await?;
    let mut listed = Samples::default();
    let mut figures = Samples::default();
    for round in 0..=ROUNDS {
        let begun = Instant::now();
        calls.list_containers().await?;
        let list = begun.elapsed();
        let begun = Instant::now();
        calls.list_container_stats().await?;
        // The first call of each opens what the others find open.
        if round > 0 {
            listed.keep(list);
            figures.keep(begun.elapsed());
        }
    }
    for (pod, containers) in &pods {
        for id in containers {
            calls.stop(id).await?;
        }
        calls.stop_pod(pod).await?;
        calls.remove_pod(pod).await?;
    }
    let summaries = listed.summary().zip(figures.summary());
    Ok(
        summaries.map(|(list_containers, list_container_stats)| ListsReport {
            containers,
            list_containers,
            list_container_stats,
        }),
    )
}

async fn pod(
    calls: &Calls,
    workload: &Workload,
    directory: &Path,
    number: usize,
    members: usize,
) -> Result<(String, Vec<String>), BenchError> {
    let name = format!("lists-{}-{number}", calls.subject);
    let config = workload.pod(Network::Host, &name, directory);
    let pod = calls.run_pod(config.clone()).await?;
    let mut containers = Vec::with_capacity(members);
    for member in 0..members {
        let mut container = workload.container(Network::Host, &name, directory);
        if let Some(metadata) = &mut container.metadata {
            metadata.name = format!("member-{member}");
        }
        container.log_path = format!("member-{number}-{member}.log");
        let id = calls.create(&pod, container, config.clone()).await?;
        calls.start(&id).await?;
        containers.push(id);
    }
    Ok((pod, containers))
}
