//! The store of images as the operator sees it: whether it is whole, and what it takes.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, ensure};
use e2e::{ContainerSettings, Host, PodSettings, scenario};
use testkit::{
    daemon::binary,
    image::{self, ImageBuilder, Layer},
};

/// What a command of the operator's writes, and whether it is content.
fn longshore(host: &Host, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
    let mut command = host.sandbox.command(binary("longshore")?);
    // Inside, the daemon's socket is where it is by default.
    let output = command.args(arguments).output();
    let output = output.context("run longshore")?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), text))
}

/// Where a file of busybox is in the layer.
fn in_a_layer(host: &Host, path: &str) -> anyhow::Result<PathBuf> {
    let layers = host.sandbox.directory().join("lib/layers");
    for layer in fs::read_dir(layers)? {
        let file = layer?.path().join(path);
        if file.symlink_metadata().is_ok() {
            return Ok(file);
        }
    }
    anyhow::bail!("no layer has {path}")
}

#[test]
fn a_damaged_layer_is_repaired_while_containers_run() {
    scenario(async |host| {
        let built = image::busybox()?.label("of", "this story").build();
        let reference = host.registry.push("whole", "1", &built);
        host.cri.pull(&reference).await?;
        let pod = PodSettings::new("store");
        let pod_id = host.run_pod(&pod).await?;
        let before = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("before"))
            .await?;
        let (sound, said) = longshore(host, &["fsck"])?;
        ensure!(sound && said.contains(" 0 damaged"), "{said}");

        let passwd = in_a_layer(host, "etc/passwd")?;
        fs::write(&passwd, "vandal:x:0:0::/:/bin/sh\n")?;
        let (sound, said) = longshore(host, &["fsck"])?;
        ensure!(!sound, "{said}");
        ensure!(said.contains("/etc/passwd has other contents"), "{said}");
        let (mended, said) = longshore(host, &["fsck", "--repair"])?;
        ensure!(mended && said.contains("repaired from http://"), "{said}");
        ensure!(said.contains(&format!("container {before} ")), "{said}");

        // What is mounted stays as it is, whatever the daemon goes through; what is new is whole.
        host.restart_daemon().await?;
        let first = "head -n 1 /etc/passwd | cut -d : -f 1";
        assert_eq!(host.cri.sh(&before, first).await?, "vandal\n");
        let after = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("after"))
            .await?;
        assert_eq!(host.cri.sh(&after, first).await?, "root\n");
        let (sound, said) = longshore(host, &["fsck", "--verbose"])?;
        ensure!(sound && said.contains("sound"), "{said}");
        Ok(())
    });
}

#[test]
fn every_byte_on_disk_is_somebodys() {
    scenario(async |host| {
        let base = Layer::new().file("base", 0o644, vec![7; 1 << 20]);
        for name in ["one", "two"] {
            let layer = Layer::new()
                .file(name, 0o644, vec![1; 300_000])
                .hard_link("again", name);
            let built = ImageBuilder::new().layer(base.clone()).layer(layer).build();
            host.cri
                .pull(&host.registry.push(name, "1", &built))
                .await?;
        }
        let pod = PodSettings::new("disk");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("writer"))
            .await?;
        host.cri
            .sh(
                &id,
                "dd if=/dev/zero of=/written bs=1M count=2; ln /written /again",
            )
            .await?;
        let root = host.sandbox.directory().join("lib");
        fs::create_dir(root.join("trash/left"))?;
        fs::write(root.join("stranger"), "not ours")?;

        // Background work of the daemon may change something between one look and the other.
        for attempt in 0.. {
            let before = snapshot_of(&root)?;
            let (content, said) = longshore(host, &["du", "--explain", "--bytes"])?;
            ensure!(content, "{said}");
            let total = said.lines().last().unwrap_or_default();
            let total: Vec<&str> = total.split_whitespace().collect();
            if total == [&*before.0.to_string(), &*before.1.to_string(), "total"] {
                for row in [
                    "writable layer",
                    "shared by",
                    "garbage",
                    "foreign",
                    "/disk/writer",
                ] {
                    ensure!(said.contains(row), "{row}: {said}");
                }
                break;
            }
            ensure!(attempt < 20, "{before:?}: {said}");
        }
        let (content, said) = longshore(host, &["du"])?;
        ensure!(
            content && said.contains("image 127.0.0.1:5000/one:1"),
            "{said}"
        );
        fs::remove_dir(root.join("trash/left"))?;
        fs::remove_file(root.join("stranger"))?;
        Ok(())
    });
}

/// What GNU du says of a directory: bytes and inodes.
fn snapshot_of(root: &std::path::Path) -> anyhow::Result<(u64, u64)> {
    let du = |option: &str| {
        let output = Command::new("du").args(["-s", option]).arg(root).output()?;
        let text = String::from_utf8(output.stdout)?;
        let first = text.split_whitespace().next().context("no number")?;
        Ok::<u64, anyhow::Error>(first.parse()?)
    };
    // In blocks, since it counts those.
    Ok((du("--block-size=1")?, du("--inodes")?))
}

/// What follows the settings that the host began with.
fn configure(host: &Host, text: &str) -> anyhow::Result<()> {
    let directory = host.sandbox.directory().join("conf.d");
    fs::create_dir_all(&directory)?;
    Ok(fs::write(directory.join("10-test.toml"), text)?)
}

#[test]
fn pinned_images_follow_the_configuration() {
    scenario(async |host| {
        let mut references = Vec::new();
        for name in ["kept/app", "other/app"] {
            let layer = Layer::new().file("name", 0o644, name);
            let built = ImageBuilder::new().layer(layer).build();
            references.push(host.registry.push(name, "1", &built));
            host.cri.pull(&references[references.len() - 1]).await?;
        }
        for (pinned, expected) in [
            (r#"["127.0.0.1:5000/kept/*"]"#.to_owned(), [true, false]),
            (format!("[{:?}]", references[1]), [false, true]),
            ("[]".to_owned(), [false, false]),
        ] {
            configure(host, &format!("images.pinned = {pinned}\n"))?;
            let pid = host.daemon.pid().context("the daemon runs")?;
            rustix::process::kill_process(pid, rustix::process::Signal::HUP)?;
            let end = tokio::time::Instant::now() + Duration::from_secs(60);
            loop {
                let images = host.cri.images().await?;
                let found = [0, 1].map(|index: usize| {
                    let has = |tag: &String| *tag == references[index];
                    images
                        .iter()
                        .any(|image| image.repo_tags.iter().any(has) && image.pinned)
                });
                if found == expected {
                    break;
                }
                ensure!(tokio::time::Instant::now() < end, "{pinned}: {found:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // The same after a restart.
            host.restart_daemon().await?;
            for (reference, expected) in references.iter().zip(expected) {
                let image = host.cri.image(reference).await?.context("it is listed")?;
                assert_eq!(image.pinned, expected, "{pinned}: {reference}");
            }
        }
        Ok(())
    });
}

#[test]
fn containers_run_on_layers_of_a_read_only_store() {
    scenario(async |host| {
        let own = Layer::new().file("own", 0o644, "of another store\n");
        let built = image::busybox()?.layer(own).build();
        let reference = host.registry.push("shared", "1", &built);
        host.cri.pull(&reference).await?;
        let here = host.sandbox.directory().to_owned();
        // Another node's store, from where nobody can write.
        let other = host.sandbox.view("/run/other-store");
        host.sandbox.sh(&format!(
            "mkdir -p {0}/other /run/other-store; cp -a {0}/lib/layers {0}/lib/indexes {0}/other; \
             mount --bind {0}/other /run/other-store; mount -o remount,ro,bind /run/other-store",
            here.display()
        ))?;
        host.cri.remove_image(&reference).await?;
        configure(host, "images.additional_stores = [\"/run/other-store\"]\n")?;
        host.restart_daemon().await?;
        host.registry.clear_requests();
        host.cri.pull(&reference).await?;
        let asked = host.registry.requests();
        for layer in &built.layers {
            let fetched = asked.iter().any(|one| one.path.contains(&layer.digest));
            ensure!(!fetched, "{asked:?}");
        }
        let pod = PodSettings::new("shared");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sleeper("main").image(&reference);
        let id = host.run(&pod_id, &pod, &settings).await?;
        assert_eq!(
            host.cri.sh(&id, "cat /own; echo new > /own").await?,
            "of another store\n"
        );
        host.restart_daemon().await?;
        assert_eq!(host.cri.sh(&id, "cat /own").await?, "new\n");
        let (sound, said) = longshore(host, &["fsck", "--repair"])?;
        ensure!(sound, "{said}");
        host.remove_all_pods().await?;
        host.cri.remove_image(&reference).await?;
        ensure!(
            fs::read_dir(other.join("layers"))?.count() >= 2,
            "layers are gone"
        );

        // Without it, and with one that is not there.
        configure(host, "images.additional_stores = [\"/run/no-store\"]\n")?;
        host.daemon.kill();
        ensure!(
            host.start_daemon().await.is_err(),
            "it starts without the store"
        );
        ensure!(
            host.daemon.log().contains("/run/no-store/layers"),
            "{}",
            host.daemon.log_tail()
        );
        configure(host, "")?;
        host.start_daemon().await?;
        host.sandbox.sh(&format!(
            "umount /run/other-store; rmdir /run/other-store; rm -rf {}/other",
            here.display()
        ))?;
        Ok(())
    });
}
