//! A case that cannot fail says nothing: a runtime that is wrong in one point fails those that are about it.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, ensure};
use cri::v1::*;
use e2e::scenario;
use testkit::daemon::SOCKET;

use super::{cases, check_at, proxy, proxy::Spoil};

/// No two answers with it are alike.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Nobody serves streams there.
const NOWHERE: &str = "http://127.0.0.1:9/nowhere";

/// What is spoiled, in which answers, and the cases that have to fail, as an expression.
fn spoils() -> Vec<(&'static str, &'static str, Spoil)> {
    let mut spoils = of_answers();
    spoils.extend(of_streams_and_retries());
    spoils
}

fn of_streams_and_retries() -> Vec<(&'static str, &'static str, Spoil)> {
    vec![
        (
            "GetContainerEvents",
            "^events: ",
            Spoil::chosen::<ContainerEventResponse>(|it| {
                it.container_event_type() != ContainerEventType::ContainerStoppedEvent
            }),
        ),
        (
            "Exec",
            "^(streaming: a command's output.*SPDY|terminal: (a command has one, over SPDY|its interrupt))",
            Spoil::edited::<ExecResponse>(|it| it.url = NOWHERE.into()),
        ),
        (
            "Attach",
            "^(streaming: (one attaches|who leaves)|terminal: a container has)",
            Spoil::edited::<AttachResponse>(|it| it.url = NOWHERE.into()),
        ),
        (
            "PortForward",
            "^streaming: (a port is forwarded, over SPDY|a port that|a forwarded)",
            Spoil::edited::<PortForwardResponse>(|it| it.url = NOWHERE.into()),
        ),
        (
            "RunPodSandbox",
            "^retries: the same pod",
            Spoil::edited::<RunPodSandboxResponse>(|it| {
                it.pod_sandbox_id = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
            }),
        ),
        (
            "CreateContainer",
            "^retries: the same container",
            Spoil::edited::<CreateContainerResponse>(|it| {
                it.container_id = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
            }),
        ),
        (
            "RemovePodSandbox",
            "^(retries: many removals of a pod|leaks: a pod that has gone)",
            Spoil::Ignored,
        ),
        (
            "PullImage",
            "^registries: (a wrong|a layer with|a layer that is missing|a registry that nobody)",
            Spoil::Ignored,
        ),
    ]
}

fn of_answers() -> Vec<(&'static str, &'static str, Spoil)> {
    vec![
        (
            "Version",
            "^runtime: it says its name",
            Spoil::edited::<VersionResponse>(|it| it.runtime_name.clear()),
        ),
        (
            "Status",
            "^runtime: it says whether",
            Spoil::edited::<StatusResponse>(|it| {
                it.status
                    .iter_mut()
                    .for_each(|it| it.conditions.truncate(1))
            }),
        ),
        (
            "RuntimeConfig",
            "^runtime: it says who makes",
            Spoil::edited::<RuntimeConfigResponse>(|it| it.linux = None),
        ),
        (
            "PodSandboxStatus",
            "^pod: (one that runs is listed|what it was asked)",
            Spoil::edited::<PodSandboxStatusResponse>(|it| {
                it.status.iter_mut().for_each(|it| {
                    (it.created_at, it.annotations) = (0, [("x".into(), "y".into())].into())
                });
            }),
        ),
        (
            "ContainerStatus",
            "^container: (its exit code|one that is killed|one beyond)",
            Spoil::edited::<ContainerStatusResponse>(|it| {
                it.status
                    .iter_mut()
                    .for_each(|it| (it.exit_code, it.reason) = (77, String::new()));
            }),
        ),
        (
            "ContainerStatus",
            "^(signals: the signal|resources: limits are told|identity: the user|mounts: they are told)",
            Spoil::edited::<ContainerStatusResponse>(|it| {
                it.status.iter_mut().for_each(|it| {
                    it.set_stop_signal(Signal::Sighup);
                    it.resources
                        .iter_mut()
                        .flat_map(|it| &mut it.linux)
                        .for_each(|it| it.cpu_shares += 1);
                    it.user
                        .iter_mut()
                        .flat_map(|it| &mut it.linux)
                        .for_each(|it| it.uid += 1);
                    it.mounts.clear();
                });
            }),
        ),
        (
            "ExecSync",
            "^container: (a command in it has|a command's megabytes)",
            Spoil::edited::<ExecSyncResponse>(|it| it.stdout.truncate(2)),
        ),
        (
            "ImageStatus",
            "^image: (three tags|its user|its size|it is found)",
            Spoil::edited::<ImageStatusResponse>(|it| {
                it.image.iter_mut().for_each(|it| {
                    (it.repo_tags, it.uid, it.size, it.id) = (Vec::new(), None, 0, "nobody".into())
                });
            }),
        ),
        (
            "PullImage",
            "^image consistency: every call",
            Spoil::edited::<PullImageResponse>(|it| it.image_ref = "elsewhere".into()),
        ),
        (
            "ListImages",
            "^image: lists are|^image consistency: an image is there",
            Spoil::edited::<ListImagesResponse>(|it| it.images.clear()),
        ),
        (
            "ImageFsInfo",
            "^image: the file system",
            Spoil::edited::<ImageFsInfoResponse>(|it| it.image_filesystems.clear()),
        ),
        (
            "ContainerStats",
            "^stats: (a container's|its writable)",
            Spoil::edited::<ContainerStatsResponse>(|it| it.stats = None),
        ),
        (
            "PodSandboxStats",
            "^stats: a pod's",
            Spoil::edited::<PodSandboxStatsResponse>(|it| it.stats = None),
        ),
        (
            "ListMetricDescriptors",
            "^metrics: (descriptors|every metric)",
            Spoil::edited::<ListMetricDescriptorsResponse>(|it| it.descriptors.truncate(1)),
        ),
        (
            "StreamPodSandboxes",
            "^lists: streamed pods",
            Spoil::edited::<StreamPodSandboxesResponse>(|it| it.pod_sandboxes.truncate(1)),
        ),
        (
            "StopContainer",
            "^(signals: a stop sends SIGTERM|container: it is created)",
            Spoil::Ignored,
        ),
        (
            "RemoveContainer",
            "^container: one that (was created|runs|has ended) can be removed",
            Spoil::Ignored,
        ),
        (
            "StopPodSandbox",
            "^pod: (one that is stopped|stopping it)",
            Spoil::Ignored,
        ),
        (
            "RemoveImage",
            "^image: (one of a tag|removing it)",
            Spoil::Ignored,
        ),
        (
            "ReopenContainerLog",
            "^logs: a log (that was moved|is reopened)",
            Spoil::Ignored,
        ),
        (
            "UpdateContainerResources",
            "^resources: limits of (a running|one that)",
            Spoil::Ignored,
        ),
    ]
}

#[test]
fn a_runtime_that_is_wrong_in_one_point_fails() {
    scenario(async |host| {
        let channel = host.cri.client.channel();
        let mut wrong = Vec::new();
        for (number, (method, focus, spoil)) in spoils().into_iter().enumerate() {
            let name = format!("spoiled-{number}.sock");
            let socket = host.sandbox.directory().join(&name);
            let proxy = proxy::serve(&socket, channel.clone(), method, spoil)?;
            let socket = socket.display().to_string();
            // What never comes is waited for only so long.
            let arguments = ["--output=json", "--case-timeout=15s", "--focus", focus];
            let output = check_at(host, &socket, &arguments)?;
            proxy.abort();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let report = serde_json::from_slice(&output.stdout).with_context(|| said.clone())?;
            if cases(&report, "failed").is_empty() || output.status.code() != Some(1) {
                wrong.push(format!(
                    "{method} is spoiled, and none of {focus} fails: {said}"
                ));
            }
            for verdict in ["passed", "skipped"] {
                for case in cases(&report, verdict) {
                    wrong.push(format!(
                        "{method} is spoiled, and {} {verdict}",
                        case["name"]
                    ));
                }
            }
            host.remove_all_pods().await?;
        }
        ensure!(wrong.is_empty(), "at {SOCKET}: {wrong:#?}");
        Ok(())
    });
}
