use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
};

use cri::v1::{ContainerState, VersionRequest};
use registry::image::Layer;

use crate::check::{
    case::{Case, Verdict, case, ensure, ensure_eq, skip},
    scene::Scene,
};

pub(super) const CASES: &[Case] = &[
    case!(alone "full disk", "what runs goes on, is listed, and runs commands", goes_on),
    case!(alone "full disk", "what is there is stopped and removed", removes),
    case!(alone "full disk", "a pull fails with words, leaves nothing, and comes once there is room", pull),
    case!(alone "full disk", "a pod and a container come, or fail with words and leave nothing", creates),
];

/// The file system of a directory, filled to its last byte until dropped.
struct Full(PathBuf);

impl Full {
    fn fill(scene: &Scene<'_>) -> Verdict<Self> {
        let Some(directory) = &scene.bed.settings.fill_directory else {
            skip!("no directory to fill is given");
        };
        let full =
            Self(directory.join(format!("longshore-check-{}-{}", scene.bed.run, scene.name)));
        let mut file = File::create(&full.0)?;
        // Smaller and smaller, to the last byte.
        for size in [1 << 20, 1 << 16, 4096, 512, 1] {
            let zeros = vec![0; size];
            loop {
                match file.write(&zeros) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
            // Blocks that are only promised may be given back by what is really written.
            if file.sync_all().is_err() {
                continue;
            }
        }
        Ok(full)
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

async fn goes_on(scene: &Scene<'_>) -> Verdict {
    let (pod, id) = scene.any_container().await?;
    let full = Full::fill(scene)?;
    ensure_eq!(
        scene.status(&id).await?.state(),
        ContainerState::ContainerRunning,
        "the container's state"
    );
    ensure_eq!(scene.own_pods().await?.len(), 1, "pods of this case");
    ensure_eq!(
        scene.sh(&id, "echo alive").await?,
        "alive",
        "what a command in it says"
    );
    drop(full);
    scene.run(&pod, scene.sleeper(&pod, "another")).await?;
    Ok(())
}

async fn removes(scene: &Scene<'_>) -> Verdict {
    let reference = scene.own_image("one");
    scene.pull(&reference).await?;
    let (pod, id) = scene.any_container().await?;
    let created = scene.create(&pod, scene.sleeper(&pod, "created")).await?;
    let _full = Full::fill(scene)?;
    scene.stop(&id, 30).await?;
    scene.remove(&id).await?;
    scene.remove(&created).await?;
    scene.stop_pod(&pod.id).await?;
    scene.remove_pod(&pod.id).await?;
    scene.remove_image(&reference).await?;
    ensure!(scene.own_pods().await?.is_empty(), "the pod is listed");
    ensure!(
        scene.image(&reference).await?.is_none(),
        "the image is there"
    );
    Ok(())
}

async fn pull(scene: &Scene<'_>) -> Verdict {
    let layer = Layer::new().file("noise", 0o644, registry::image::noise(4 << 20));
    let reference = scene.push("one", "1", &scene.recipe("one").layer(layer).build());
    let full = Full::fill(scene)?;
    match scene.pull(&reference).await {
        Ok(_) => ensure!(false, "it is pulled"),
        Err(refused) => ensure!(
            refused.to_string().to_lowercase().contains("space"),
            "the words say nothing of space: {refused}"
        ),
    }
    ensure!(scene.image(&reference).await?.is_none(), "it is there");
    drop(full);
    scene.pull(&reference).await?;
    Ok(())
}

async fn creates(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let full = Full::fill(scene)?;
    let config = scene.host_pod("late");
    if let Err(refused) = scene.try_pod(config.clone()).await {
        ensure!(!refused.status.message().is_empty(), "no words");
        ensure_eq!(
            scene.own_pods().await?.len(),
            1,
            "pods of this case after a refusal"
        );
    }
    let container = scene.sleeper(&pod, "late");
    if let Err(refused) = scene.try_create(&pod, container.clone()).await {
        ensure!(!refused.status.message().is_empty(), "no words");
        ensure_eq!(
            scene.own_containers().await?.len(),
            0,
            "containers after a refusal"
        );
    }
    scene.calls().version(VersionRequest::default()).await?;
    drop(full);
    scene.pod(scene.host_pod("afterwards")).await?;
    Ok(())
}
