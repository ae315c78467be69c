//! What is under way, for whoever wonders why something takes so long.

use std::{borrow::Cow, time::Duration};

use image::{LayerProgress, LayerStage, PullProgress, PullStage};

use crate::{
    container::Container,
    flight::{Airborne, Flights},
    id::{ContainerId, PodId},
    pod::Pod,
    runtime::Runtime,
};

/// A change of a pod, a container or an image that has begun and not ended.
#[derive(Debug)]
pub(crate) struct Operation {
    /// The RPC that asks for it.
    pub(crate) rpc: &'static str,
    /// Of the pod or container; empty for an image.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) stage: Cow<'static, str>,
    pub(crate) age: Duration,
    /// `None`: nobody knows.
    pub(crate) stage_age: Option<Duration>,
}

impl Runtime {
    /// From memory, in no order.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        let flights = &self.flights;
        let mut operations = Vec::new();
        self.of_pods("RunPodSandbox", &flights.run_pod, &mut operations);
        self.of_pods("StopPodSandbox", &flights.stop_pod, &mut operations);
        self.of_pods("RemovePodSandbox", &flights.remove_pod, &mut operations);
        let all = &mut operations;
        self.of_containers("CreateContainer", &flights.create_container, all);
        self.of_containers("StartContainer", &flights.start_container, all);
        self.of_containers("StopContainer", &flights.stop_container, all);
        self.of_containers("RemoveContainer", &flights.remove_container, all);
        operations.extend(
            self.images
                .pulls()
                .into_iter()
                .map(|(name, progress, age)| Operation {
                    rpc: "PullImage",
                    id: String::new(),
                    name,
                    stage: stage_of_pull(&progress),
                    age,
                    stage_age: None,
                }),
        );
        operations
    }

    fn of_pods<T: Clone + Send + Sync + 'static>(
        &self,
        rpc: &'static str,
        flights: &Flights<PodId, T>,
        all: &mut Vec<Operation>,
    ) {
        all.extend(flights.airborne().into_iter().map(|(id, flight)| {
            let pods = self.inventory.all_pods();
            let pod = pods.into_iter().find(|pod| pod.id == id);
            let name = pod.map_or_else(String::new, |pod| name_of_pod(&pod));
            operation(rpc, id.to_string(), name, &flight)
        }));
    }

    fn of_containers<T: Clone + Send + Sync + 'static>(
        &self,
        rpc: &'static str,
        flights: &Flights<ContainerId, T>,
        all: &mut Vec<Operation>,
    ) {
        all.extend(flights.airborne().into_iter().map(|(id, flight)| {
            let pods = self.inventory.all_pods();
            let claims = pods
                .iter()
                .flat_map(|pod| self.inventory.claims_of(&pod.id));
            let container = claims.into_iter().find(|container| container.id == id);
            let name =
                container.map_or_else(String::new, |container| name_of_container(&container));
            operation(rpc, id.to_string(), name, &flight)
        }));
    }
}

fn operation(rpc: &'static str, id: String, name: String, flight: &Airborne) -> Operation {
    Operation {
        rpc,
        id,
        name,
        stage: flight.stage.into(),
        age: flight.age,
        stage_age: Some(flight.stage_age),
    }
}

fn name_of_pod(pod: &Pod) -> String {
    let metadata = &pod.config.metadata;
    format!("{}/{}", metadata.namespace, metadata.name)
}

fn name_of_container(container: &Container) -> String {
    let pod = name_of_pod(&container.pod);
    format!("{pod}/{}", container.config.metadata.name)
}

fn stage_of_pull(progress: &PullProgress) -> Cow<'static, str> {
    match progress.stage {
        PullStage::Resolving => "ask the registry what the name means".into(),
        PullStage::Recording => "record the image".into(),
        PullStage::Layers => {
            let layers = &progress.layers;
            let complete = |layer: &&LayerProgress| layer.stage == LayerStage::Complete;
            let here = layers.iter().filter(complete).count();
            let fetched: u64 = layers.iter().map(|layer| layer.fetched_bytes).sum();
            let total: u64 = layers.iter().map(|layer| layer.total_bytes).sum();
            let (fetched, total) = (fetched >> 20, total >> 20);
            let of = layers.len();
            format!("fetch and unpack layers: {here} of {of}, {fetched} of {total} MiB").into()
        }
    }
}
