use std::time::{Duration, Instant};

use cri::v1::{ContainerEventType, ContainerState, PodSandboxState, VersionRequest};
use tokio::process::Command;

use crate::check::{
    case::{Case, Ended, Verdict, case, ensure, ensure_eq, skip},
    events::Events,
    scene::Scene,
};

pub(super) const CASES: &[Case] = &[
    case!(alone "recovery", "a ready pod is ready after a crash, and goes", ready_pod),
    case!(alone "recovery", "a created container starts after a crash", created),
    case!(alone "recovery", "a running container runs through a crash, and writes its log", running),
    case!(alone "recovery", "a container's end during a crash is told with its code", ended_meanwhile),
    case!(alone "recovery", "a container that had ended has its code and times after a crash", ended_before),
    case!(alone "recovery", "a stopped pod is stopped after a crash", stopped_pod),
    case!(alone "recovery", "an image is there after a crash", image),
    case!(alone "recovery", "a crash while a pod is made leaves one that is right, or none", during_pod),
    case!(alone "recovery", "a crash while a container is made leaves one that is right, or none", during_create),
    case!(alone "recovery", "a crash while a container stops ends in one that is stopped", during_stop),
    case!(alone "recovery", "a crash while a pod is removed ends in none", during_removal),
    case!(alone "recovery", "a crash while an image is pulled leaves one that is whole, or none", during_pull),
    case!(alone "recovery", "a crash while a command runs leaves its container alive", during_exec),
    case!(alone "recovery", "events go on after a crash", events),
    case!(alone "recovery", "two crashes lose nothing either", twice),
];

/// How long a runtime may take to answer again.
const BACK_WITHIN: Duration = Duration::from_secs(120);

async fn shell(command: &str) -> Verdict {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        .kill_on_drop(true)
        .stdin(std::process::Stdio::null());
    let output = tokio::time::timeout(BACK_WITHIN, shell.output()).await;
    let output = output.map_err(|_| Ended::Failed(format!("{command:?} does not end")))??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        said.trim()
    );
    Ok(())
}

fn commands<'a>(scene: &'a Scene<'_>) -> Verdict<(&'a str, &'a str)> {
    let settings = &scene.bed.settings;
    match (&settings.kill_command, &settings.restart_command) {
        (Some(kill), Some(restart)) => Ok((kill, restart)),
        (None, _) | (_, None) => skip!("no commands that kill and restart the runtime are given"),
    }
}

async fn kill(scene: &Scene<'_>) -> Verdict {
    shell(commands(scene)?.0).await
}

/// Starts it, and waits until it answers.
async fn restart(scene: &Scene<'_>) -> Verdict {
    shell(commands(scene)?.1).await?;
    let end = Instant::now() + BACK_WITHIN;
    loop {
        let asked = scene.calls().version(VersionRequest::default());
        match tokio::time::timeout(Duration::from_secs(5), asked).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => ensure!(Instant::now() < end, "it does not answer again: {error}"),
            Err(_) => ensure!(Instant::now() < end, "it does not answer again"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn crash(scene: &Scene<'_>) -> Verdict {
    kill(scene).await?;
    restart(scene).await
}

/// A crash while a call is under way, so long after it has begun.
async fn crash_during<T, E>(
    scene: &Scene<'_>,
    after: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> Verdict {
    let killed = async {
        tokio::time::sleep(after).await;
        kill(scene).await
    };
    let (_broken, killed) = tokio::join!(call, killed);
    killed?;
    restart(scene).await
}

/// Moments after a call's beginning, at which it has come more or less far.
const MOMENTS: [u64; 4] = [0, 4, 15, 60];

async fn ready_pod(scene: &Scene<'_>) -> Verdict {
    commands(scene)?;
    let pod = scene.pod(scene.network_pod("pod")).await?;
    let before = scene.pod_status(&pod.id).await?;
    crash(scene).await?;
    ensure_eq!(scene.pod_status(&pod.id).await?, before, "the status");
    scene.run(&pod, scene.sleeper(&pod, "one")).await?;
    scene.stop_pod(&pod.id).await?;
    scene.remove_pod(&pod.id).await?;
    ensure!(scene.own_pods().await?.is_empty(), "it is still listed");
    Ok(())
}

async fn created(scene: &Scene<'_>) -> Verdict {
    commands(scene)?;
    let pod = scene.any_pod().await?;
    let id = scene.create(&pod, scene.sleeper(&pod, "one")).await?;
    crash(scene).await?;
    ensure_eq!(
        scene.status(&id).await?.state(),
        ContainerState::ContainerCreated,
        "the state"
    );
    scene.start(&id).await?;
    ensure_eq!(
        scene.sh(&id, "echo alive").await?,
        "alive",
        "what a command in it says"
    );
    Ok(())
}

async fn running(scene: &Scene<'_>) -> Verdict {
    commands(scene)?;
    let pod = scene.any_pod().await?;
    let config = scene.script(
        &pod,
        "one",
        "trap 'exit 0' TERM; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done",
    );
    let id = scene.run(&pod, config.clone()).await?;
    scene.until_logged(&pod, &config, "line 2\n").await?;
    let started = scene.status(&id).await?.started_at;
    kill(scene).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    restart(scene).await?;
    let status = scene.status(&id).await?;
    ensure_eq!(
        (status.state(), status.started_at),
        (ContainerState::ContainerRunning, started),
        "state and started_at"
    );
    let lines = scene.output(&pod, &config)?.lines().count();
    scene
        .until_logged(&pod, &config, &format!("line {}\n", lines + 2))
        .await?;
    let output = scene.output(&pod, &config)?;
    let numbers: Vec<usize> = output
        .lines()
        .filter_map(|it| it.rsplit(' ').next()?.parse().ok())
        .collect();
    ensure!(
        numbers.iter().copied().eq(1..=numbers.len()),
        "the log has gaps: {numbers:?}"
    );
    scene.stop(&id, 30).await?;
    ensure_eq!(scene.status(&id).await?.exit_code, 0, "the exit code");
    Ok(())
}

async fn ended_meanwhile(scene: &Scene<'_>) -> Verdict {
    commands(scene)?;
    let pod = scene.any_pod().await?;
    let go = scene.directory("shared")?;
    let mut config = scene.script(
        &pod,
        "one",
        "until [ -e /shared/go ]; do sleep 0.05; done; exit 33",
    );
    config.mounts = vec![cri::v1::Mount {
        host_path: go.display().to_string(),
        container_path: "/shared".to_owned(),
        ..Default::default()
    }];
    let id = scene.run(&pod, config).await?;
    kill(scene).await?;
    std::fs::write(go.join("go"), "")?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    restart(scene).await?;
    let status = scene.until_exited(&id).await?;
    ensure_eq!(status.exit_code, 33, "the exit code");
    Ok(())
}

async fn ended_before(scene: &Scene<'_>) -> Verdict {
    commands(scene)?;
    let pod = scene.any_pod().await?;
    let id = scene.run(&pod, scene.script(&pod, "one", "exit 5")).await?;
    let before = scene.until_exited(&id).await?;
    crash(scene).await?;
    let after = scene.status(&id).await?;
    ensure_eq!(
        (after.exit_code, after.started_at, after.finished_at),
        (5, before.started_at, before.finished_at),
        "code and times"
    );
    Ok(())
}

async fn stopped_pod(scene: &Scene<'_>) -> Verdict {
    commands(scene)?;
    let (pod, id) = scene.any_container().await?;
    scene.stop_pod(&pod.id).await?;
    crash(scene).await?;
    ensure_eq!(
        scene.pod_status(&pod.id).await?.state(),
        PodSandboxState::SandboxNotready,
        "the pod's state"
    );
    ensure_eq!(
        scene.status(&id).await?.state(),
        ContainerState::ContainerExited,
        "the container's"
    );
    Ok(())
}

async fn image(scene: &Scene<'_>) -> Verdict {
    commands(scene)?;
    let reference = scene.own_image("one");
    scene.pull(&reference).await?;
    let before = scene.present_image(&reference).await?;
    crash(scene).await?;
    ensure_eq!(scene.present_image(&reference).await?, before, "the image");
    Ok(())
}

async fn during_pod(scene: &Scene<'_>) -> Verdict {
    commands(scene)?;
    for moment in MOMENTS {
        let config = scene.network_pod(&format!("at{moment}"));
        let after = Duration::from_millis(moment);
        crash_during(scene, after, scene.try_pod(config.clone())).await?;
        let own = |it: &cri::v1::PodSandbox| it.metadata == config.metadata;
        let found: Vec<_> = scene.own_pods().await?.into_iter().filter(own).collect();
        ensure!(found.len() <= 1, "two pods of a name");
        for pod in found
            .iter()
            .filter(|it| it.state() == PodSandboxState::SandboxReady)
        {
            let pod = crate::check::scene::Pod {
                id: pod.id.clone(),
                config: config.clone(),
            };
            scene.run(&pod, scene.sleeper(&pod, "one")).await?;
        }
        for pod in found {
            scene.stop_pod(&pod.id).await?;
            scene.remove_pod(&pod.id).await?;
        }
        // The name is free.
        let again = scene.pod(config).await?;
        scene.stop_pod(&again.id).await?;
        scene.remove_pod(&again.id).await?;
    }
    Ok(())
}

async fn during_create(scene: &Scene<'_>) -> Verdict {
    commands(scene)?;
    let pod = scene.any_pod().await?;
    for moment in MOMENTS {
        let config = scene.sleeper(&pod, &format!("at{moment}"));
        let after = Duration::from_millis(moment);
        crash_during(scene, after, scene.try_create(&pod, config.clone())).await?;
        let found = scene.own_containers().await?;
        ensure!(found.len() <= 1, "two containers of a name");
        for container in found {
            if container.state() == ContainerState::ContainerCreated {
                scene.start(&container.id).await?;
            }
            scene.remove(&container.id).await?;
        }
        let again = scene.run(&pod, config).await?;
        scene.remove(&again).await?;
    }
    Ok(())
}

async fn during_stop(scene: &Scene<'_>) -> Verdict {
    commands(scene)?;
    let pod = scene.any_pod().await?;
    let config = scene.script(
        &pod,
        "one",
        "trap '' TERM; echo ready; while :; do sleep 0.1; done",
    );
    let id = scene.run(&pod, config.clone()).await?;
    scene.until_logged(&pod, &config, "ready").await?;
    crash_during(scene, Duration::from_millis(200), scene.stop(&id, 2)).await?;
    scene.stop(&id, 2).await?;
    let status = scene.status(&id).await?;
    ensure_eq!(
        (status.state(), status.exit_code),
        (ContainerState::ContainerExited, 137),
        "state and code"
    );
    Ok(())
}

async fn during_removal(scene: &Scene<'_>) -> Verdict {
    commands(scene)?;
    for moment in MOMENTS {
        let pod = scene.pod(scene.network_pod(&format!("at{moment}"))).await?;
        scene.run(&pod, scene.sleeper(&pod, "one")).await?;
        scene.stop_pod(&pod.id).await?;
        let after = Duration::from_millis(moment);
        crash_during(scene, after, scene.remove_pod(&pod.id)).await?;
        scene.stop_pod(&pod.id).await?;
        scene.remove_pod(&pod.id).await?;
        ensure!(scene.own_pods().await?.is_empty(), "it is still listed");
        ensure!(
            scene.own_containers().await?.is_empty(),
            "its container is still listed"
        );
    }
    Ok(())
}

async fn during_pull(scene: &Scene<'_>) -> Verdict {
    commands(scene)?;
    for moment in MOMENTS {
        let name = format!("at{moment}");
        let noise = registry::image::noise(2 << 20);
        let layer = registry::image::Layer::new().file(&name, 0o644, noise);
        let reference = scene.push(&name, "1", &scene.recipe(&name).layer(layer).build());
        crash_during(scene, Duration::from_millis(moment), scene.pull(&reference)).await?;
        if scene.image(&reference).await?.is_none() {
            scene.pull(&reference).await?;
        }
        let pod = scene.pod(scene.host_pod(&name)).await?;
        let mut config = scene.script(&pod, "one", &format!("wc -c </{name}"));
        config.image = Some(crate::check::scene::spec(&reference));
        ensure_eq!(
            scene.written_by(&pod, config).await?.trim(),
            "2097152",
            "bytes of the image's file"
        );
    }
    Ok(())
}

async fn during_exec(scene: &Scene<'_>) -> Verdict {
    commands(scene)?;
    let (_, id) = scene.any_container().await?;
    let call = scene.exec(&id, &["sleep", "2"], 30);
    crash_during(scene, Duration::from_millis(200), call).await?;
    ensure_eq!(
        scene.status(&id).await?.state(),
        ContainerState::ContainerRunning,
        "the container's state"
    );
    ensure_eq!(
        scene.sh(&id, "echo alive").await?,
        "alive",
        "what a command in it says"
    );
    Ok(())
}

async fn events(scene: &Scene<'_>) -> Verdict {
    commands(scene)?;
    let (pod, id) = scene.any_container().await?;
    crash(scene).await?;
    let mut events = Events::listen(scene).await?;
    scene.stop(&id, 30).await?;
    let seen = events
        .until(&pod.id, ContainerEventType::ContainerStoppedEvent, &id)
        .await?;
    let own = seen.iter().filter(|it| it.container_id == id).count();
    ensure_eq!(own, 1, "events of the container after the crash");
    Ok(())
}

async fn twice(scene: &Scene<'_>) -> Verdict {
    commands(scene)?;
    let (pod, id) = scene.any_container().await?;
    let before = scene.status(&id).await?;
    crash(scene).await?;
    crash(scene).await?;
    ensure_eq!(
        scene.status(&id).await?,
        before,
        "the status after two crashes"
    );
    scene.run(&pod, scene.sleeper(&pod, "another")).await?;
    Ok(())
}
