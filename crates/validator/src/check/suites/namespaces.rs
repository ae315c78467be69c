use std::fs;

use cri::v1::*;

use crate::check::{
    case::{Case, Verdict, case, ensure, ensure_eq, skip},
    scene::{Pod, Scene, pod_namespaces, pod_security, security},
};

pub(super) const CASES: &[Case] = &[
    case!(
        "namespaces",
        "containers have processes of their own, or the pod's, or the node's",
        pid
    ),
    case!(
        "namespaces",
        "a container joins another's processes",
        pid_of_target
    ),
    case!(
        "namespaces",
        "pods have System V memory of their own, or the node's",
        ipc
    ),
    case!("namespaces", "mounts are a container's own", mount),
    case!(
        "namespaces",
        "the mode that a pod was asked for with is told",
        told
    ),
    case!("namespaces", "a user namespace maps ids", user),
    case!(
        "namespaces",
        "a user namespace that does not map id 0 is refused",
        user_without_root
    ),
    case!(
        "namespaces",
        "a user namespace of several ranges is refused",
        user_of_several
    ),
    case!(
        "namespaces",
        "a user namespace of a container's own or another's is refused",
        user_modes
    ),
];

/// Links of `/proc/self/ns` in a container.
async fn link(
    scene: &Scene<'_>,
    pod: &Pod,
    name: &str,
    kind: &str,
    edit: impl FnOnce(&mut NamespaceOption),
) -> Verdict<String> {
    let mut config = scene.script(pod, name, &format!("readlink /proc/self/ns/{kind}"));
    edit(
        security(&mut config)
            .namespace_options
            .get_or_insert_default(),
    );
    Ok(scene.written_by(pod, config).await?.trim().to_owned())
}

fn own(kind: &str) -> Verdict<String> {
    Ok(fs::read_link(format!("/proc/self/ns/{kind}"))?
        .display()
        .to_string())
}

async fn pid(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let one = link(scene, &pod, "one", "pid", |_| {}).await?;
    // Both live: a namespace's number may be used again.
    let sleeper = scene.run(&pod, scene.sleeper(&pod, "sleeper")).await?;
    let two = scene.sh(&sleeper, "readlink /proc/self/ns/pid").await?;
    let three = link(scene, &pod, "three", "pid", |_| {}).await?;
    ensure!(
        one.starts_with("pid:") && two != three,
        "two containers have {two}"
    );
    let mut config = scene.host_pod("shared");
    pod_namespaces(&mut config).pid = NamespaceMode::Pod.into();
    let shared = scene.pod(config).await?;
    let sleeper = scene
        .run(&shared, scene.sleeper(&shared, "sleeper"))
        .await?;
    let first = scene.sh(&sleeper, "readlink /proc/self/ns/pid").await?;
    let second = link(scene, &shared, "second", "pid", |_| {}).await?;
    ensure_eq!(second, first, "that of the pod's second container");
    let mut config = scene.host_pod("node");
    pod_namespaces(&mut config).pid = NamespaceMode::Node.into();
    let node = scene.pod(config).await?;
    let of_node = link(scene, &node, "one", "pid", |_| {}).await?;
    ensure!(of_node != first && of_node != two, "the node's is a pod's");
    let again = link(scene, &node, "again", "pid", |_| {}).await?;
    ensure_eq!(again, of_node, "that of another container on the node's");
    Ok(())
}

async fn pid_of_target(scene: &Scene<'_>) -> Verdict {
    let (pod, target) = scene.any_container().await?;
    let of_target = scene.sh(&target, "readlink /proc/self/ns/pid").await?;
    let seen = link(scene, &pod, "visitor", "pid", |it| {
        it.pid = NamespaceMode::Target.into();
        it.target_id = target.clone();
    })
    .await?;
    ensure_eq!(seen, of_target, "that of the visitor");
    Ok(())
}

async fn ipc(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let sleeper = scene.run(&pod, scene.sleeper(&pod, "sleeper")).await?;
    let first = scene.sh(&sleeper, "readlink /proc/self/ns/ipc").await?;
    let second = link(scene, &pod, "second", "ipc", |_| {}).await?;
    ensure_eq!(second, first, "that of the pod's second container");
    let other = scene.pod(scene.host_pod("other")).await?;
    let of_other = link(scene, &other, "one", "ipc", |_| {}).await?;
    ensure!(of_other != first, "two pods have {first}");
    let mut config = scene.host_pod("node");
    pod_namespaces(&mut config).ipc = NamespaceMode::Node.into();
    let node = scene.pod(config).await?;
    let of_node = link(scene, &node, "one", "ipc", |_| {}).await?;
    ensure!(
        of_node != first && of_node != of_other,
        "the node's is a pod's"
    );
    Ok(())
}

async fn mount(scene: &Scene<'_>) -> Verdict {
    let (pod, id) = scene.any_container().await?;
    let one = scene.sh(&id, "readlink /proc/self/ns/mnt").await?;
    let two = link(scene, &pod, "two", "mnt", |_| {}).await?;
    ensure!(
        one != two && one != own("mnt")?,
        "it is shared: {one}, {two}"
    );
    Ok(())
}

async fn told(scene: &Scene<'_>) -> Verdict {
    for (name, network) in [("pod", NamespaceMode::Pod), ("node", NamespaceMode::Node)] {
        let mut config = scene.network_pod(name);
        if network == NamespaceMode::Node {
            config = scene.host_pod(name);
        }
        let pod = scene.pod(config).await?;
        let linux = scene.pod_status(&pod.id).await?.linux.unwrap_or_default();
        let options = linux
            .namespaces
            .and_then(|it| it.options)
            .unwrap_or_default();
        ensure_eq!(options.network(), network, "the network's mode");
        ensure_eq!(options.pid(), NamespaceMode::Container, "that of processes");
    }
    Ok(())
}

fn mapping(host: u32, container: u32) -> IdMapping {
    IdMapping {
        host_id: host,
        container_id: container,
        length: 65536,
    }
}

fn user_namespace(uids: Vec<IdMapping>) -> UserNamespace {
    UserNamespace {
        mode: NamespaceMode::Pod.into(),
        gids: uids.clone(),
        uids,
    }
}

fn has_user_namespaces(scene: &Scene<'_>) -> Verdict {
    if scene.handler_features().user_namespaces {
        return Ok(());
    }
    let handler = &scene.bed.settings.handler;
    skip!("the runtime says that its handler {handler:?} has no user namespaces")
}

async fn user(scene: &Scene<'_>) -> Verdict {
    has_user_namespaces(scene)?;
    let mut config = scene.network_pod("pod");
    let options = user_namespace(vec![mapping(2_000_000_000, 0)]);
    pod_namespaces(&mut config).userns_options = Some(options);
    let pod = scene.pod(config).await?;
    let config = scene.script(
        &pod,
        "one",
        "cat /proc/self/uid_map /proc/self/gid_map; id -u; stat -c %u /bin/busybox",
    );
    let output = scene.written_by(&pod, config).await?;
    let words: Vec<_> = output.split_whitespace().collect();
    let map = ["0", "2000000000", "65536"];
    ensure_eq!(
        words,
        [&map[..], &map[..], &["0", "0"]].concat(),
        "both maps, its user, and the owner of its files"
    );
    Ok(())
}

async fn refused(scene: &Scene<'_>, name: &str, options: UserNamespace) -> Verdict {
    let mut config = scene.network_pod(name);
    pod_namespaces(&mut config).userns_options = Some(options);
    ensure!(scene.try_pod(config).await.is_err(), "it runs");
    Ok(())
}

async fn user_without_root(scene: &Scene<'_>) -> Verdict {
    has_user_namespaces(scene)?;
    refused(
        scene,
        "pod",
        user_namespace(vec![mapping(2_000_000_000, 1)]),
    )
    .await
}

async fn user_of_several(scene: &Scene<'_>) -> Verdict {
    has_user_namespaces(scene)?;
    let maps = vec![mapping(2_000_000_000, 0), mapping(2_100_000_000, 65536)];
    refused(scene, "pod", user_namespace(maps)).await
}

async fn user_modes(scene: &Scene<'_>) -> Verdict {
    has_user_namespaces(scene)?;
    for mode in [NamespaceMode::Container, NamespaceMode::Target] {
        let mut options = user_namespace(vec![mapping(2_000_000_000, 0)]);
        options.mode = mode.into();
        refused(scene, &format!("{mode:?}").to_lowercase(), options).await?;
    }
    let mut config = scene.host_pod("node");
    pod_security(&mut config)
        .namespace_options
        .get_or_insert_default()
        .userns_options = Some(UserNamespace {
        mode: NamespaceMode::Node.into(),
        ..Default::default()
    });
    scene.pod(config).await?;
    Ok(())
}
