use std::collections::BTreeMap;

use cri::v1::*;
use tonic::Code;

use crate::check::{
    case::{Case, Ended, Verdict, case, ensure, ensure_eq},
    scene::{Scene, kept},
};

pub(super) const CASES: &[Case] = &[
    case!("pod", "one that runs is listed and ready", runs),
    case!("pod", "what it was asked for with is kept", keeps),
    case!("pod", "lists are filtered by id, state and labels", filters),
    case!("pod", "one that is stopped is not ready", stops),
    case!("pod", "stopping it ends its containers", stops_containers),
    case!(
        "pod",
        "one that is removed is gone, with its containers",
        removes
    ),
    case!("pod", "one that runs can be removed", removes_running),
    case!("pod", "the same metadata is never two pods", one_of_a_name),
    case!("pod", "the next attempt is another pod", next_attempt),
    case!("pod", "what nobody has is not found", unknown),
    case!("pod", "an unknown handler is refused", unknown_handler),
    case!("pod", "a request without metadata is refused", nameless),
    case!("pod", "sysctls of its namespaces are set", sysctls),
];

async fn runs(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let status = scene.pod_status(&pod.id).await?;
    ensure_eq!(status.id, pod.id, "the status's id");
    ensure_eq!(
        status.state(),
        PodSandboxState::SandboxReady,
        "the status's state"
    );
    ensure!(
        status.created_at > 1_500_000_000_000_000_000,
        "created_at is no time in nanoseconds: {}",
        status.created_at
    );
    let listed = scene.own_pods().await?;
    ensure_eq!(listed.len(), 1, "pods of this case");
    ensure_eq!(listed[0].id, pod.id, "the listed id");
    ensure_eq!(
        listed[0].state(),
        PodSandboxState::SandboxReady,
        "the listed state"
    );
    ensure_eq!(
        listed[0].created_at,
        status.created_at,
        "the listed created_at"
    );
    Ok(())
}

async fn keeps(scene: &Scene<'_>) -> Verdict {
    let mut config = scene.host_pod("pod");
    config.labels.insert("a.b/c".to_owned(), "d".to_owned());
    config.annotations = BTreeMap::from([("note".to_owned(), "two\nlines".to_owned())]);
    let pod = scene.pod(config.clone()).await?;
    let status = scene.pod_status(&pod.id).await?;
    let given = (&config.metadata, &config.labels, &config.annotations);
    let found = (&status.metadata, &status.labels, &status.annotations);
    kept("the status's", found, given)?;
    let listed = scene.own_pods().await?;
    let [listed] = &listed[..] else {
        return Err(Ended::Failed(format!("not one pod: {listed:?}")));
    };
    let found = (&listed.metadata, &listed.labels, &listed.annotations);
    kept("the listed", found, given)
}

async fn filters(scene: &Scene<'_>) -> Verdict {
    let mut first = scene.host_pod("first");
    first.labels.insert("which".to_owned(), "first".to_owned());
    let first = scene.pod(first).await?;
    let second = scene.pod(scene.host_pod("second")).await?;
    scene.stop_pod(&second.id).await?;
    let ids = async |filter: PodSandboxFilter| -> Verdict<Vec<String>> {
        let mut ids: Vec<String> = scene
            .pods(filter)
            .await?
            .into_iter()
            .map(|it| it.id)
            .collect();
        ids.sort();
        Ok(ids)
    };
    let by_id = PodSandboxFilter {
        id: second.id.clone(),
        ..Default::default()
    };
    ensure_eq!(ids(by_id).await?, [second.id.as_str()], "pods by id");
    for (state, wanted) in [
        (PodSandboxState::SandboxReady, &first.id),
        (PodSandboxState::SandboxNotready, &second.id),
    ] {
        let filter = PodSandboxFilter {
            state: Some(PodSandboxStateValue {
                state: state.into(),
            }),
            label_selector: scene.labels(),
            ..Default::default()
        };
        ensure_eq!(
            ids(filter).await?,
            [wanted.as_str()],
            "pods of this case that are {state:?}"
        );
    }
    let mut labels = scene.labels();
    labels.insert("which".to_owned(), "first".to_owned());
    let by_label = PodSandboxFilter {
        label_selector: labels.clone(),
        ..Default::default()
    };
    ensure_eq!(
        ids(by_label).await?,
        [first.id.as_str()],
        "pods by two labels"
    );
    labels.insert("which".to_owned(), "other".to_owned());
    let none = PodSandboxFilter {
        label_selector: labels,
        ..Default::default()
    };
    ensure!(
        ids(none).await?.is_empty(),
        "a label of another value is matched"
    );
    Ok(())
}

async fn stops(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    scene.stop_pod(&pod.id).await?;
    let status = scene.pod_status(&pod.id).await?;
    ensure_eq!(
        status.state(),
        PodSandboxState::SandboxNotready,
        "the state"
    );
    let refused = scene.try_create(&pod, scene.sleeper(&pod, "late")).await;
    ensure!(
        refused.is_err(),
        "a container is created in a pod that is stopped"
    );
    Ok(())
}

async fn stops_containers(scene: &Scene<'_>) -> Verdict {
    let (pod, id) = scene.any_container().await?;
    scene.stop_pod(&pod.id).await?;
    let status = scene.status(&id).await?;
    ensure_eq!(
        status.state(),
        ContainerState::ContainerExited,
        "the container's state"
    );
    Ok(())
}

async fn removes(scene: &Scene<'_>) -> Verdict {
    let (pod, id) = scene.any_container().await?;
    scene.stop_pod(&pod.id).await?;
    scene.remove_pod(&pod.id).await?;
    gone(scene, &pod.id, &id).await
}

async fn removes_running(scene: &Scene<'_>) -> Verdict {
    let (pod, id) = scene.any_container().await?;
    scene.remove_pod(&pod.id).await?;
    gone(scene, &pod.id, &id).await
}

async fn gone(scene: &Scene<'_>, pod: &str, container: &str) -> Verdict {
    ensure!(
        scene.own_pods().await?.is_empty(),
        "the pod is still listed"
    );
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: pod.to_owned(),
        verbose: false,
    };
    let answer = scene.calls().pod_sandbox_status(request).await;
    ensure_eq!(
        answer.map_err(|it| it.code()).err(),
        Some(Code::NotFound),
        "PodSandboxStatus afterwards"
    );
    let left = scene.own_containers().await?;
    ensure!(left.is_empty(), "its container is still listed");
    let request = ContainerStatusRequest {
        container_id: container.to_owned(),
        verbose: false,
    };
    let answer = scene.calls().container_status(request).await;
    ensure_eq!(
        answer.map_err(|it| it.code()).err(),
        Some(Code::NotFound),
        "ContainerStatus afterwards"
    );
    Ok(())
}

async fn one_of_a_name(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    if let Ok(second) = scene.try_pod(pod.config.clone()).await {
        ensure_eq!(second.id, pod.id, "the id of the same pod");
    }
    ensure_eq!(scene.own_pods().await?.len(), 1, "pods of this case");
    Ok(())
}

async fn next_attempt(scene: &Scene<'_>) -> Verdict {
    let first = scene.any_pod().await?;
    scene.stop_pod(&first.id).await?;
    let mut config = first.config.clone();
    config.metadata.get_or_insert_default().attempt = 1;
    let second = scene.pod(config).await?;
    ensure!(second.id != first.id, "both attempts have one id");
    let status = scene.pod_status(&second.id).await?;
    ensure_eq!(
        status.metadata.unwrap_or_default().attempt,
        1,
        "the attempt"
    );
    ensure_eq!(scene.own_pods().await?.len(), 2, "pods of this case");
    Ok(())
}

async fn unknown(scene: &Scene<'_>) -> Verdict {
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: "nobody".to_owned(),
        verbose: false,
    };
    let answer = scene.calls().pod_sandbox_status(request).await;
    ensure_eq!(
        answer.map_err(|it| it.code()).err(),
        Some(Code::NotFound),
        "PodSandboxStatus"
    );
    Ok(())
}

async fn unknown_handler(scene: &Scene<'_>) -> Verdict {
    let request = RunPodSandboxRequest {
        config: Some(scene.host_pod("pod")),
        runtime_handler: "a-handler-of-nobody".to_owned(),
    };
    let answer = scene.calls().run_pod_sandbox(request).await;
    ensure!(
        answer.is_err(),
        "it runs a pod by a handler that nobody has"
    );
    ensure!(
        scene.own_pods().await?.is_empty(),
        "the refused pod is listed"
    );
    Ok(())
}

async fn nameless(scene: &Scene<'_>) -> Verdict {
    let mut config = scene.host_pod("pod");
    config.metadata = None;
    let answer = scene.try_pod(config).await;
    ensure!(answer.is_err(), "it runs a pod without metadata");
    Ok(())
}

async fn sysctls(scene: &Scene<'_>) -> Verdict {
    let mut config = scene.network_pod("pod");
    let linux = config.linux.get_or_insert_default();
    linux.sysctls = BTreeMap::from([
        ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
        (
            "net.ipv4.ip_local_port_range".to_owned(),
            "1024 65000".to_owned(),
        ),
        ("fs.mqueue.msg_max".to_owned(), "100".to_owned()),
    ]);
    let pod = scene.pod(config).await?;
    let config = scene.script(&pod, "reader", "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_local_port_range /proc/sys/fs/mqueue/msg_max");
    let output = scene.written_by(&pod, config).await?;
    let words: Vec<_> = output.split_whitespace().collect();
    ensure_eq!(words, ["1", "1024", "65000", "100"], "the values");
    Ok(())
}
