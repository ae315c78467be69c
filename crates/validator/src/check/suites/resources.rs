use cri::v1::*;

use crate::check::{
    case::{Case, Ended, Verdict, case, ensure, ensure_eq, skip},
    scene::{Pod, Scene, resources},
};

pub(super) const CASES: &[Case] = &[
    case!("resources", "limits are those that were asked for", asked),
    case!("resources", "limits are told", told),
    case!(
        "resources",
        "limits of a running container are changed",
        changed
    ),
    case!(
        "resources",
        "a change leaves alone what it does not name",
        partly
    ),
    case!(
        "resources",
        "limits of one that was created are those it starts with",
        changed_before
    ),
    case!(
        "resources",
        "a change of what is not there is refused",
        refused
    ),
    case!(
        "resources",
        "a changed limit is one that the kernel holds",
        held
    ),
    case!("resources", "a pod's resources are taken note of", pod),
    case!(
        "resources",
        "resources of a pod that is not there are refused",
        no_pod
    ),
    case!(
        "resources",
        "the score by which the kernel kills is as asked for",
        oom_score
    ),
];

/// What a container sees of its own cgroup, in the words of v2: memory.max, cpu.max.
const LOOK: &str = "\
c=/sys/fs/cgroup; if [ -f $c/memory.max ]; then cat $c/memory.max $c/cpu.max; \
elif [ -f $c/memory/memory.limit_in_bytes ]; then cat $c/memory/memory.limit_in_bytes; echo $(cat $c/cpu/cpu.cfs_quota_us) $(cat $c/cpu/cpu.cfs_period_us); \
else echo unseen; fi";

async fn look(scene: &Scene<'_>, id: &str) -> Verdict<Vec<String>> {
    let output = scene.sh(id, LOOK).await?;
    if output.contains("unseen") {
        skip!("a container does not see its own cgroup");
    }
    Ok(output.split_whitespace().map(str::to_owned).collect())
}

fn limited(scene: &Scene<'_>, pod: &Pod) -> ContainerConfig {
    let mut config = scene.sleeper(pod, "one");
    *resources(&mut config) = LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        ..Default::default()
    };
    config
}

async fn running(scene: &Scene<'_>) -> Verdict<String> {
    let pod = scene.any_pod().await?;
    scene.run(&pod, limited(scene, &pod)).await
}

async fn update(scene: &Scene<'_>, id: &str, linux: LinuxContainerResources) -> Verdict {
    let request = UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    scene.calls().update_container_resources(request).await?;
    Ok(())
}

async fn asked(scene: &Scene<'_>) -> Verdict {
    let id = running(scene).await?;
    ensure_eq!(
        look(scene, &id).await?,
        ["67108864", "50000", "100000"],
        "memory, quota and period"
    );
    Ok(())
}

async fn linux(scene: &Scene<'_>, id: &str) -> Verdict<LinuxContainerResources> {
    let resources = scene.status(id).await?.resources.and_then(|it| it.linux);
    resources.ok_or(Ended::Unimplemented("ContainerStatus.resources"))
}

async fn told(scene: &Scene<'_>) -> Verdict {
    let id = running(scene).await?;
    let told = linux(scene, &id).await?;
    ensure_eq!(
        (
            told.memory_limit_in_bytes,
            told.cpu_quota,
            told.cpu_period,
            told.cpu_shares
        ),
        (64 << 20, 50_000, 100_000, 512),
        "memory, quota, period and shares"
    );
    Ok(())
}

async fn changed(scene: &Scene<'_>) -> Verdict {
    let id = running(scene).await?;
    update(
        scene,
        &id,
        LinuxContainerResources {
            memory_limit_in_bytes: 96 << 20,
            cpu_period: 100_000,
            cpu_quota: 70_000,
            cpu_shares: 1024,
            ..Default::default()
        },
    )
    .await?;
    let told = linux(scene, &id).await?;
    ensure_eq!(
        (told.memory_limit_in_bytes, told.cpu_quota, told.cpu_shares),
        (96 << 20, 70_000, 1024),
        "what is told: memory, quota and shares"
    );
    ensure_eq!(
        look(scene, &id).await?,
        ["100663296", "70000", "100000"],
        "memory, quota and period"
    );
    Ok(())
}

async fn partly(scene: &Scene<'_>) -> Verdict {
    let id = running(scene).await?;
    update(
        scene,
        &id,
        LinuxContainerResources {
            cpu_shares: 2048,
            ..Default::default()
        },
    )
    .await?;
    let told = linux(scene, &id).await?;
    ensure_eq!(
        (told.cpu_shares, told.memory_limit_in_bytes, told.cpu_quota),
        (2048, 64 << 20, 50_000),
        "shares, memory and quota"
    );
    ensure_eq!(
        look(scene, &id).await?,
        ["67108864", "50000", "100000"],
        "memory, quota and period"
    );
    Ok(())
}

async fn changed_before(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let id = scene.create(&pod, limited(scene, &pod)).await?;
    update(
        scene,
        &id,
        LinuxContainerResources {
            memory_limit_in_bytes: 80 << 20,
            ..Default::default()
        },
    )
    .await?;
    scene.start(&id).await?;
    ensure_eq!(
        look(scene, &id).await?.first().map(String::as_str),
        Some("83886080"),
        "memory"
    );
    Ok(())
}

async fn refused(scene: &Scene<'_>) -> Verdict {
    let request = UpdateContainerResourcesRequest {
        container_id: "nobody".to_owned(),
        linux: Some(LinuxContainerResources {
            cpu_shares: 2048,
            ..Default::default()
        }),
        ..Default::default()
    };
    let answer = scene.calls().update_container_resources(request).await;
    ensure!(answer.is_err(), "limits of nobody are changed");
    Ok(())
}

async fn held(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let mut config = scene.sleeper(&pod, "one");
    resources(&mut config).memory_limit_in_bytes = 512 << 20;
    let id = scene.run(&pod, config).await?;
    let hog = ["dd", "if=/dev/zero", "of=/dev/null", "bs=96M", "count=1"];
    ensure_eq!(
        scene.exec(&id, &hog, 60).await?.exit_code,
        0,
        "a command of 96 MiB below 512 MiB"
    );
    let limit = 32 << 20;
    update(
        scene,
        &id,
        LinuxContainerResources {
            memory_limit_in_bytes: limit,
            memory_swap_limit_in_bytes: limit,
            ..Default::default()
        },
    )
    .await?;
    let reply = scene.exec(&id, &hog, 60).await;
    ensure!(
        reply.is_err() || reply.is_ok_and(|it| it.exit_code != 0),
        "a command of 96 MiB ends well below 32 MiB"
    );
    Ok(())
}

async fn pod(scene: &Scene<'_>) -> Verdict {
    let (pod, id) = scene.any_container().await?;
    let request = UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.id.clone(),
        overhead: Some(LinuxContainerResources::default()),
        resources: Some(LinuxContainerResources {
            memory_limit_in_bytes: 256 << 20,
            cpu_period: 100_000,
            cpu_quota: 90_000,
            ..Default::default()
        }),
    };
    scene.calls().update_pod_sandbox_resources(request).await?;
    ensure_eq!(
        scene.pod_status(&pod.id).await?.state(),
        PodSandboxState::SandboxReady,
        "the pod's state"
    );
    ensure_eq!(
        scene.sh(&id, "echo alive").await?,
        "alive",
        "what its container says"
    );
    Ok(())
}

async fn no_pod(scene: &Scene<'_>) -> Verdict {
    let request = UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: "nobody".to_owned(),
        resources: Some(LinuxContainerResources::default()),
        ..Default::default()
    };
    match scene.calls().update_pod_sandbox_resources(request).await {
        Ok(_) => Err(Ended::Failed("it succeeds".to_owned())),
        Err(refused) if refused.code() == tonic::Code::Unimplemented => Err(refused.into()),
        Err(_) => Ok(()),
    }
}

async fn oom_score(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let mut config = scene.script(&pod, "one", "cat /proc/self/oom_score_adj");
    resources(&mut config).oom_score_adj = 987;
    ensure_eq!(
        scene.written_by(&pod, config).await?.trim(),
        "987",
        "oom_score_adj"
    );
    Ok(())
}
