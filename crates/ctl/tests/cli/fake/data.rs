use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use cri::progress::{LayerProgress, LayerStage, PullProgress, PullStage};
use cri::v1::*;
use tonic::Status;

pub(crate) const WEB_POD: &str = "aa11111111111111111111111111111111111111111111111111111111111111";
pub(crate) const DB_POD: &str = "ab22222222222222222222222222222222222222222222222222222222222222";
pub(crate) const SERVER: &str = "c111111111111111111111111111111111111111111111111111111111111111";
pub(crate) const SERVER2: &str = "c122222222222222222222222222222222222222222222222222222222222222";
pub(crate) const CLIENT: &str = "d333333333333333333333333333333333333333333333333333333333333333";
pub(crate) const BUSYBOX: &str =
    "sha256:eeee456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
pub(crate) const BARE: &str =
    "sha256:ffff456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const SECOND: i64 = 1_000_000_000;

pub(super) fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_nanos() as i64
}

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    let own = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
    entries.iter().map(own).collect()
}

pub(super) fn pods() -> Vec<PodSandbox> {
    let pod = |id: &str, name: &str, state: PodSandboxState, age_seconds: i64, handler: &str| {
        PodSandbox {
            id: id.to_owned(),
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            state: state.into(),
            created_at: now_ns() - age_seconds * SECOND,
            labels: map(&[("app", name)]),
            annotations: map(&[]),
            runtime_handler: handler.to_owned(),
        }
    };
    vec![
        pod(
            DB_POD,
            "db",
            PodSandboxState::SandboxNotready,
            50 * 3600,
            "runsc",
        ),
        pod(WEB_POD, "web", PodSandboxState::SandboxReady, 200, ""),
    ]
}

pub(super) fn containers(server_state: ContainerState) -> Vec<Container> {
    let container =
        |id: &str, name: &str, pod: &str, pod_name: &str, state: ContainerState, age: i64| {
            Container {
                id: id.to_owned(),
                pod_sandbox_id: pod.to_owned(),
                metadata: Some(ContainerMetadata {
                    name: name.to_owned(),
                    attempt: 1,
                }),
                image: Some(ImageSpec {
                    image: BUSYBOX.to_owned(),
                    ..ImageSpec::default()
                }),
                image_ref: BUSYBOX.to_owned(),
                image_id: BUSYBOX.to_owned(),
                state: state.into(),
                created_at: now_ns() - age * SECOND,
                labels: map(&[
                    ("io.kubernetes.pod.name", pod_name),
                    ("io.kubernetes.pod.namespace", "default"),
                ]),
                annotations: map(&[]),
            }
        };
    vec![
        container(
            SERVER2,
            "server",
            DB_POD,
            "db",
            ContainerState::ContainerExited,
            49 * 3600,
        ),
        container(SERVER, "server", WEB_POD, "web", server_state, 195),
        container(
            CLIENT,
            "client",
            WEB_POD,
            "web",
            ContainerState::ContainerRunning,
            190,
        ),
    ]
}

pub(super) fn container_status(container: &Container, logs: &Path) -> ContainerStatus {
    let exited = container.state() == ContainerState::ContainerExited;
    let name = &container.metadata.as_ref().unwrap().name;
    ContainerStatus {
        id: container.id.clone(),
        metadata: container.metadata.clone(),
        state: container.state,
        // Fixed times, for exact output.
        created_at: 1_795_248_000 * SECOND,
        started_at: 1_795_248_001 * SECOND + 500_000_000,
        finished_at: if exited { 1_795_248_002 * SECOND } else { 0 },
        exit_code: if exited { 137 } else { 0 },
        reason: if exited {
            "OOMKilled".to_owned()
        } else {
            String::new()
        },
        log_path: logs.join(format!("{name}.log")).display().to_string(),
        ..ContainerStatus::default()
    }
}

pub(super) fn pod_status(pod: &PodSandbox) -> PodSandboxStatus {
    PodSandboxStatus {
        id: pod.id.clone(),
        metadata: pod.metadata.clone(),
        state: pod.state,
        created_at: 1_795_248_000 * SECOND,
        network: Some(PodSandboxNetworkStatus {
            ip: "10.88.0.5".to_owned(),
            additional_ips: vec![PodIp {
                ip: "fd00::5".to_owned(),
            }],
        }),
        labels: pod.labels.clone(),
        ..PodSandboxStatus::default()
    }
}

pub(super) fn images() -> Vec<Image> {
    vec![
        Image {
            id: BUSYBOX.to_owned(),
            repo_tags: vec![
                "127.0.0.1:5000/busybox:demo".to_owned(),
                "127.0.0.1:5000/busybox:latest".to_owned(),
            ],
            repo_digests: vec![format!("127.0.0.1:5000/busybox@{BARE}")],
            size: 2_212_304,
            pinned: true,
            ..Image::default()
        },
        Image {
            id: BARE.to_owned(),
            repo_digests: vec![format!("127.0.0.1:5000/bare@{BUSYBOX}")],
            size: 731_000_000,
            ..Image::default()
        },
    ]
}

pub(super) fn container_stats(id: &str, name: &str, sample: i64) -> ContainerStats {
    let number = |value| Some(UInt64Value { value });
    ContainerStats {
        attributes: Some(ContainerAttributes {
            id: id.to_owned(),
            metadata: Some(ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            ..ContainerAttributes::default()
        }),
        cpu: Some(CpuUsage {
            timestamp: sample * SECOND,
            usage_core_nano_seconds: number(sample as u64 * 250_000_000),
            ..CpuUsage::default()
        }),
        memory: Some(MemoryUsage {
            working_set_bytes: number(4_567_040),
            ..MemoryUsage::default()
        }),
        writable_layer: Some(FilesystemUsage {
            used_bytes: number(8_192),
            inodes_used: number(7),
            ..FilesystemUsage::default()
        }),
        ..ContainerStats::default()
    }
}

/// A pull with one layer, from its begin to the middle; then the stream breaks.
pub(super) fn pull_progress() -> Vec<Result<PullProgress, Status>> {
    let layer = LayerProgress {
        digest: BARE.to_owned(),
        stage: LayerStage::Fetching.into(),
        done_bytes: 5_000_000,
        total_bytes: 10_000_000,
    };
    let state = |stage: PullStage, layers| PullProgress {
        stage: stage.into(),
        layers,
    };
    vec![
        Ok(state(PullStage::Resolving, Vec::new())),
        Ok(state(PullStage::Layers, vec![layer])),
        Err(Status::unavailable("on purpose")),
    ]
}
