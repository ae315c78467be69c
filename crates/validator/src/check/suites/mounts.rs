use std::{fs, os::unix::fs::symlink, path::Path};

use cri::v1::*;
use registry::image::Layer;

use crate::check::{
    case::{Case, Ended, Verdict, case, ensure, ensure_eq, skip},
    scene::{Pod, Scene, pod_security, security, spec},
};

pub(super) const CASES: &[Case] = &[
    case!(
        "mounts",
        "a directory of the node is there, and written to",
        directory
    ),
    case!("mounts", "a file of the node is there", file),
    case!(
        "mounts",
        "a link of the node leads to what it leads to",
        link
    ),
    case!(
        "mounts",
        "one that is read-only cannot be written",
        read_only
    ),
    case!(
        "mounts",
        "one that is read-only throughout cannot be written below either",
        read_only_throughout
    ),
    case!(
        "mounts",
        "read-only throughout and writable at once is refused",
        read_only_nonsense
    ),
    case!(
        "mounts",
        "read-only throughout and propagated is refused",
        read_only_propagated
    ),
    case!("mounts", "they are told", told),
    case!(
        "mounts",
        "what is mounted on the node later is there only where that is asked for",
        propagation
    ),
    case!(
        "mounts",
        "two of one image share nothing that they write",
        own_layers
    ),
    case!("mounts", "an image is mounted, read-only", image),
    case!(
        "mounts",
        "a directory of an image is mounted",
        image_directory
    ),
    case!(
        "mounts",
        "a directory that the image does not have is refused",
        image_without_directory
    ),
    case!(
        "mounts",
        "an image to be written is refused",
        image_writable
    ),
];

fn mount(host: &Path, container: &str) -> Mount {
    Mount {
        host_path: host.display().to_string(),
        container_path: container.to_owned(),
        ..Default::default()
    }
}

fn with(
    scene: &Scene<'_>,
    pod: &Pod,
    name: &str,
    script: &str,
    mounts: Vec<Mount>,
) -> ContainerConfig {
    let mut config = scene.script(pod, name, script);
    config.mounts = mounts;
    config
}

async fn directory(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let host = scene.directory("volume")?;
    fs::write(host.join("in"), "from the node")?;
    let config = with(
        scene,
        &pod,
        "one",
        "cat /data/in; echo from the container >/data/out",
        vec![mount(&host, "/data")],
    );
    ensure_eq!(
        scene.written_by(&pod, config).await?.trim(),
        "from the node",
        "what is read"
    );
    ensure_eq!(
        fs::read_to_string(host.join("out"))?,
        "from the container\n",
        "what is written"
    );
    Ok(())
}

async fn file(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let host = scene.directory("volume")?.join("file");
    fs::write(&host, "from the node")?;
    let config = with(
        scene,
        &pod,
        "one",
        "cat /etc/new/file",
        vec![mount(&host, "/etc/new/file")],
    );
    ensure_eq!(
        scene.written_by(&pod, config).await?.trim(),
        "from the node",
        "what is read"
    );
    Ok(())
}

async fn link(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let (real, links) = (scene.directory("real")?, scene.directory("links")?);
    fs::write(real.join("in"), "behind the link")?;
    symlink(&real, links.join("link"))?;
    let config = with(
        scene,
        &pod,
        "one",
        "cat /data/in",
        vec![mount(&links.join("link"), "/data")],
    );
    ensure_eq!(
        scene.written_by(&pod, config).await?.trim(),
        "behind the link",
        "what is read"
    );
    Ok(())
}

const TRY: &str = "(echo x >$d/file) 2>/dev/null && echo written || echo refused";

async fn read_only(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let host = scene.directory("volume")?;
    let mut mounted = mount(&host, "/data");
    mounted.readonly = true;
    let config = with(
        scene,
        &pod,
        "one",
        &format!("d=/data; {TRY}"),
        vec![mounted],
    );
    ensure_eq!(
        scene.written_by(&pod, config).await?.trim(),
        "refused",
        "a write"
    );
    Ok(())
}

fn has_recursive(scene: &Scene<'_>) -> Verdict {
    if scene.handler_features().recursive_read_only_mounts {
        return Ok(());
    }
    let handler = &scene.bed.settings.handler;
    skip!("the runtime says that its handler {handler:?} has no recursive read-only mounts")
}

/// A mount of the node's below another, where this process may make one that the runtime sees.
struct Below(std::path::PathBuf);

impl Below {
    fn mount(path: &Path) -> Verdict<Self> {
        let none = rustix::mount::MountFlags::empty();
        match rustix::mount::mount("none", path, "tmpfs", none, None) {
            Ok(()) => Ok(Self(path.to_owned())),
            Err(errno) => skip!("a tmpfs cannot be mounted from here: {errno}"),
        }
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

async fn read_only_throughout(scene: &Scene<'_>) -> Verdict {
    has_recursive(scene)?;
    let host = scene.directory("volume")?;
    let _below = Below::mount(&scene.directory("volume/below")?)?;
    fs::write(host.join("below/mark"), "")?;
    let pod = scene.any_pod().await?;
    for (name, recursive, wanted) in [("throughout", true, "refused"), ("top", false, "written")] {
        let mut mounted = mount(&host, "/data");
        (mounted.readonly, mounted.recursive_read_only) = (true, recursive);
        let script = format!("ls /data/below | grep -q mark || exit 9; d=/data/below; {TRY}");
        let config = with(scene, &pod, name, &script, vec![mounted]);
        let (status, output) = scene.run_to_end(&pod, config).await?;
        if status.exit_code == 9 {
            skip!("what this process mounts does not reach the runtime");
        }
        ensure_eq!(
            output.trim(),
            wanted,
            "a write below, with recursive_read_only {recursive}"
        );
    }
    Ok(())
}

async fn refused(scene: &Scene<'_>, edit: impl FnOnce(&mut Mount)) -> Verdict {
    let host = scene.directory("volume")?;
    let pod = scene.any_pod().await?;
    let mut mounted = mount(&host, "/data");
    mounted.recursive_read_only = true;
    edit(&mut mounted);
    let config = with(scene, &pod, "one", "true", vec![mounted]);
    ensure!(
        scene.try_create(&pod, config).await.is_err(),
        "it is created"
    );
    Ok(())
}

async fn read_only_nonsense(scene: &Scene<'_>) -> Verdict {
    has_recursive(scene)?;
    refused(scene, |it| it.readonly = false).await
}

async fn read_only_propagated(scene: &Scene<'_>) -> Verdict {
    has_recursive(scene)?;
    for way in [
        MountPropagation::PropagationHostToContainer,
        MountPropagation::PropagationBidirectional,
    ] {
        let host = scene.directory("volume")?;
        let name = if way == MountPropagation::PropagationBidirectional {
            "both"
        } else {
            "one"
        };
        let pod = scene.pod(scene.host_pod(name)).await?;
        let mut mounted = mount(&host, "/data");
        (mounted.readonly, mounted.recursive_read_only) = (true, true);
        mounted.propagation = way.into();
        let config = with(scene, &pod, "one", "true", vec![mounted]);
        ensure!(
            scene.try_create(&pod, config).await.is_err(),
            "it is created with {way:?}"
        );
    }
    Ok(())
}

async fn told(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let host = scene.directory("volume")?;
    let mut mounted = mount(&host, "/data");
    mounted.readonly = true;
    let mut config = scene.sleeper(&pod, "one");
    config.mounts = vec![mounted];
    let id = scene.create(&pod, config).await?;
    let mounts = scene.status(&id).await?.mounts;
    let Some(told) = mounts.iter().find(|it| it.container_path == "/data") else {
        return Err(Ended::Failed(format!("no mount at /data: {mounts:?}")));
    };
    ensure_eq!(
        (told.host_path.clone(), told.readonly),
        (host.display().to_string(), true),
        "host_path and readonly"
    );
    Ok(())
}

async fn propagation(scene: &Scene<'_>) -> Verdict {
    let mut config = scene.host_pod("pod");
    pod_security(&mut config).privileged = true;
    let pod = scene.pod(config).await?;
    let top = scene.directory("volume")?;
    // A mount of its own that is shared, whatever the file system around it is.
    let volume = Below::mount(&top)?;
    let shared = rustix::mount::MountPropagationFlags::SHARED;
    rustix::mount::mount_change(&volume.0, shared).map_err(std::io::Error::from)?;
    let mut ids = Vec::new();
    for (name, way) in [
        ("private", MountPropagation::PropagationPrivate),
        ("slave", MountPropagation::PropagationHostToContainer),
        ("shared", MountPropagation::PropagationBidirectional),
    ] {
        let mut mounted = mount(&top, "/data");
        mounted.propagation = way.into();
        let mut config = scene.sleeper(&pod, name);
        config.mounts = vec![mounted];
        security(&mut config).privileged = true;
        ids.push((name, scene.run(&pod, config).await?));
    }
    fs::create_dir(top.join("later"))?;
    if scene.sh(&ids[2].1, "ls /data").await? != "later" {
        skip!("what this process mounts does not reach the runtime");
    }
    let later = Below::mount(&top.join("later"))?;
    fs::write(later.0.join("mark"), "")?;
    for (name, id) in &ids {
        let seen = scene.sh(id, "ls /data/later").await?;
        ensure_eq!(
            seen,
            if *name == "private" { "" } else { "mark" },
            "what a {name} mount shows of the node's later mount"
        );
    }
    for (name, id) in &ids {
        let path = format!("by-{name}");
        fs::create_dir(top.join(&path))?;
        scene
            .sh(
                id,
                &format!("mount -t tmpfs none /data/{path} && touch /data/{path}/mark"),
            )
            .await?;
        let there = top.join(&path).join("mark").exists();
        ensure_eq!(
            there,
            *name == "shared",
            "whether the node sees what is mounted in a {name} mount"
        );
    }
    scene.sh(&ids[2].1, "umount /data/by-shared").await?;
    Ok(())
}

async fn own_layers(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let one = scene.run(&pod, scene.sleeper(&pod, "one")).await?;
    scene
        .sh(&one, "echo mine >/tmp/file; rm /etc/group")
        .await?;
    let two = scene.run(&pod, scene.sleeper(&pod, "two")).await?;
    ensure_eq!(
        scene.sh(&two, "ls /tmp; ls /etc/group").await?,
        "/etc/group",
        "what the other sees"
    );
    Ok(())
}

async fn data_image(scene: &Scene<'_>) -> Verdict<String> {
    let files = Layer::new()
        .directory("top", 0o755)
        .file("top/file", 0o644, "of the image")
        .directory("top/sub", 0o755)
        .file("top/sub/deep", 0o644, "deep");
    let image = scene.push("data", "1", &scene.recipe("data").layer(files).build());
    scene.pull(&image).await?;
    Ok(image)
}

fn image_mount(image: &str) -> Mount {
    Mount {
        container_path: "/data".to_owned(),
        image: Some(spec(image)),
        readonly: true,
        ..Default::default()
    }
}

/// A runtime that does not know the field sees a mount of nothing, and refuses it in its own words; a newer one refuses nothing of this.
async fn mounted(scene: &Scene<'_>, mounted: Mount, script: &str) -> Verdict<String> {
    let pod = scene.any_pod().await?;
    let config = with(scene, &pod, "one", script, vec![mounted]);
    let id = match scene.try_create(&pod, config.clone()).await {
        Ok(id) => id,
        Err(refused) if scene.bed.status.features.is_none() => {
            let _ = refused;
            return Err(Ended::Unimplemented("mounts of images"));
        }
        Err(refused) => return Err(refused.into()),
    };
    scene.start(&id).await?;
    scene.until_exited(&id).await?;
    scene.output(&pod, &config)
}

async fn image(scene: &Scene<'_>) -> Verdict {
    let image = data_image(scene).await?;
    let output = mounted(
        scene,
        image_mount(&image),
        &format!("cat /data/top/file; echo; d=/data/top; {TRY}"),
    )
    .await?;
    ensure_eq!(
        output,
        "of the image\nrefused\n",
        "a file of it, and a write"
    );
    Ok(())
}

async fn image_directory(scene: &Scene<'_>) -> Verdict {
    let image = data_image(scene).await?;
    let mut mount = image_mount(&image);
    mount.image_sub_path = "top/sub".to_owned();
    ensure_eq!(
        mounted(scene, mount, "ls /data").await?,
        "deep\n",
        "what is there"
    );
    Ok(())
}

async fn image_refused(scene: &Scene<'_>, edit: impl FnOnce(&mut Mount)) -> Verdict {
    if scene.bed.status.features.is_none() {
        return Err(Ended::Unimplemented("mounts of images"));
    }
    let image = data_image(scene).await?;
    let mut mount = image_mount(&image);
    edit(&mut mount);
    let pod = scene.any_pod().await?;
    let config = with(scene, &pod, "one", "true", vec![mount]);
    let Ok(id) = scene.try_create(&pod, config).await else {
        return Ok(());
    };
    ensure!(scene.start(&id).await.is_err(), "it runs");
    Ok(())
}

async fn image_without_directory(scene: &Scene<'_>) -> Verdict {
    image_refused(scene, |it| it.image_sub_path = "none".to_owned()).await
}

async fn image_writable(scene: &Scene<'_>) -> Verdict {
    image_refused(scene, |it| it.readonly = false).await
}
