use std::time::Duration;

use cri::v1::{ContainerConfig, ContainerState, Signal};

use crate::check::{
    case::{Case, Ended, Verdict, case, ensure, ensure_eq},
    scene::{Pod, Scene, spec},
};

pub(super) const CASES: &[Case] = &[
    case!("signals", "a stop sends SIGTERM", term),
    case!(
        "signals",
        "a stop sends the signal that the image names",
        of_image
    ),
    case!(
        "signals",
        "a stop sends the signal that the request names, whatever the image's",
        of_request
    ),
    case!(
        "signals",
        "one that does not listen is killed when its time is over",
        deaf
    ),
    case!(
        "signals",
        "a stop ends what the container's first process has left behind",
        orphans
    ),
    case!("signals", "the signal that will be sent is told", told),
];

/// Says which signal has come.
fn listener(scene: &Scene<'_>, pod: &Pod) -> ContainerConfig {
    let traps = ["TERM", "INT", "USR1", "USR2", "QUIT"]
        .map(|name| format!("trap 'echo got {name}; exit 0' {name}"));
    let script = format!(
        "{}; echo ready; while :; do sleep 0.1; done",
        traps.join("; ")
    );
    scene.script(pod, "one", &script)
}

async fn got(scene: &Scene<'_>, pod: &Pod, config: ContainerConfig, signal: &str) -> Verdict {
    let id = scene.run(pod, config.clone()).await?;
    scene.until_logged(pod, &config, "ready").await?;
    scene.stop(&id, 60).await?;
    let status = scene.status(&id).await?;
    ensure_eq!(status.state(), ContainerState::ContainerExited, "the state");
    ensure_eq!(
        scene.output(pod, &config)?,
        format!("ready\ngot {signal}\n"),
        "what it says"
    );
    ensure_eq!(status.exit_code, 0, "the exit code");
    Ok(())
}

async fn term(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    got(scene, &pod, listener(scene, &pod), "TERM").await
}

async fn image_with_signal(scene: &Scene<'_>) -> Verdict<String> {
    let image = scene.recipe("own").stop_signal("SIGUSR1").build();
    let image = scene.push("own", "1", &image);
    scene.pull(&image).await?;
    Ok(image)
}

async fn of_image(scene: &Scene<'_>) -> Verdict {
    let image = image_with_signal(scene).await?;
    let pod = scene.any_pod().await?;
    let mut config = listener(scene, &pod);
    config.image = Some(spec(&image));
    got(scene, &pod, config, "USR1").await
}

async fn of_request(scene: &Scene<'_>) -> Verdict {
    let image = image_with_signal(scene).await?;
    let pod = scene.any_pod().await?;
    let mut config = listener(scene, &pod);
    config.image = Some(spec(&image));
    config.set_stop_signal(Signal::Sigusr2);
    let id = scene.create(&pod, config.clone()).await?;
    knows(scene, &id).await?;
    scene.remove(&id).await?;
    got(scene, &pod, config, "USR2").await
}

/// Runtimes of before CRI 1.33 have no such field, and say so by leaving it out.
async fn knows(scene: &Scene<'_>, id: &str) -> Verdict<Signal> {
    match scene.status(id).await?.stop_signal() {
        Signal::RuntimeDefault => Err(Ended::Unimplemented("ContainerStatus.stop_signal")),
        signal => Ok(signal),
    }
}

async fn deaf(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let config = scene.script(
        &pod,
        "one",
        "trap 'echo heard' TERM; echo ready; while :; do sleep 0.1; done",
    );
    let id = scene.run(&pod, config.clone()).await?;
    scene.until_logged(&pod, &config, "ready").await?;
    // Long enough for a word on the busiest node.
    scene.stop(&id, 10).await?;
    let status = scene.status(&id).await?;
    ensure_eq!(status.state(), ContainerState::ContainerExited, "the state");
    ensure_eq!(status.exit_code, 137, "the exit code");
    ensure!(
        scene.output(&pod, &config)?.contains("heard"),
        "it was never asked to end"
    );
    Ok(())
}

async fn orphans(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let script = "(trap '' TERM HUP; while :; do date +%s%N >/shared/beat; sleep 0.1; done) & trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done";
    let mut config = scene.script(&pod, "one", script);
    let shared = scene.directory("shared")?;
    config.mounts = vec![cri::v1::Mount {
        host_path: shared.display().to_string(),
        container_path: "/shared".to_owned(),
        ..Default::default()
    }];
    let id = scene.run(&pod, config.clone()).await?;
    scene.until_logged(&pod, &config, "ready").await?;
    scene.stop(&id, 30).await?;
    let beat = || std::fs::read(shared.join("beat")).unwrap_or_default();
    let silent = async || {
        let before = beat();
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok((before == beat()).then_some(()))
    };
    let what = "silence of what the stopped container had begun";
    scene.until(what, silent).await
}

async fn told(scene: &Scene<'_>) -> Verdict {
    let image = image_with_signal(scene).await?;
    let pod = scene.any_pod().await?;
    let mut config = scene.sleeper(&pod, "one");
    config.image = Some(spec(&image));
    let id = scene.create(&pod, config.clone()).await?;
    ensure_eq!(knows(scene, &id).await?, Signal::Sigusr1, "the image's");
    scene.remove(&id).await?;
    config.set_stop_signal(Signal::Sigrtmin);
    let id = scene.create(&pod, config).await?;
    ensure_eq!(knows(scene, &id).await?, Signal::Sigrtmin, "the request's");
    Ok(())
}
