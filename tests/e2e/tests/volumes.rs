//! What a container mounts: of the node, and of images.

use std::fs;

use cri::v1::{ContainerConfig, IdMapping, ImageSpec, Mount, MountPropagation, UserNamespace};
use e2e::{ContainerSettings, Host, PodSettings, scenario, scenario_with};
use testkit::image;
use tonic::Code;

fn mounting(mounts: Vec<Mount>) -> impl Fn(&mut ContainerConfig) + Send + Sync + 'static {
    move |config| config.mounts.clone_from(&mounts)
}

fn bind(host: impl Into<String>, container: &str) -> Mount {
    Mount {
        host_path: host.into(),
        container_path: container.into(),
        ..Default::default()
    }
}

fn of_image(image: &str, container: &str, sub_path: &str) -> Mount {
    Mount {
        container_path: container.into(),
        readonly: true,
        image: Some(ImageSpec {
            image: image.into(),
            ..Default::default()
        }),
        image_sub_path: sub_path.into(),
        ..Default::default()
    }
}

#[test]
fn a_host_path_may_be_missing_a_link_a_file_or_a_socket() {
    scenario_with(
        "reject_missing_mounts = [\"/run/never-made\"]",
        async |host| {
            let base = host.sandbox.directory().join("paths");
            fs::create_dir_all(base.join("real"))?;
            fs::write(base.join("real/file"), "of the node\n")?;
            std::os::unix::fs::symlink("real", base.join("link"))?;
            std::os::unix::fs::symlink("link/file", base.join("to-file"))?;
            let _listener = std::os::unix::net::UnixListener::bind(base.join("socket"))?;
            let at = |name: &str| base.join(name).display().to_string();
            let pod = PodSettings::new("paths");
            let pod_id = host.run_pod(&pod).await?;
            let settings = ContainerSettings::sleeper("main").edited(mounting(vec![
                bind(at("link"), "/link"),
                bind(at("to-file"), "/etc/the-file"),
                bind(at("socket"), "/run/the.sock"),
                bind(at("not/yet/there"), "/made"),
            ]));
            let id = host.run(&pod_id, &pod, &settings).await?;
            let seen = "cat /link/file /etc/the-file; test -S /run/the.sock; touch /made/x";
            assert_eq!(host.cri.sh(&id, seen).await?, "of the node\n".repeat(2));
            assert!(base.join("not/yet/there/x").exists());

            let excepted = ContainerSettings::sleeper("excepted")
                .edited(mounting(vec![bind("/run/never-made", "/x")]));
            let error = host.create(&pod_id, &pod, &excepted).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
            assert!(error.message().contains("/run/never-made"), "{error}");
            Ok(())
        },
    );
}

#[test]
fn a_place_may_be_behind_links_of_the_image_and_never_outside() {
    scenario(async |host| {
        let layer = image::Layer::new()
            .symlink("var-link", "/var")
            .symlink("out", "../../../../../../etc/outside")
            .directory("var", 0o755);
        let built = image::busybox()?.layer(layer).build();
        let reference = host.registry.push("linked", "1", &built);
        host.cri.pull(&reference).await?;
        let base = host.sandbox.directory().join("linked");
        fs::create_dir_all(base.join("outer/inner"))?;
        fs::create_dir_all(base.join("other"))?;
        fs::write(base.join("other/mine"), "")?;
        let at = |name: &str| base.join(name).display().to_string();
        let pod = PodSettings::new("linked");
        let pod_id = host.run_pod(&pod).await?;
        // The deeper one is named first, and lies on the other all the same.
        let settings = ContainerSettings::sleeper("main")
            .image(&reference)
            .edited(mounting(vec![
                bind(at("other"), "/tree/inner"),
                bind(at("outer"), "/tree"),
                bind(at("other"), "/var-link/data"),
                bind(at("other"), "/out"),
            ]));
        let id = host.run(&pod_id, &pod, &settings).await?;
        for path in ["/tree/inner", "/var/data", "/etc/outside"] {
            assert_eq!(
                host.cri.sh(&id, &format!("ls {path}")).await?,
                "mine\n",
                "{path}"
            );
        }
        assert!(!std::path::Path::new("/etc/outside").exists());
        for refused in ["/", "/.", "/proc", "/proc/sys"] {
            let settings = ContainerSettings::sleeper("refused")
                .edited(mounting(vec![bind(at("other"), refused)]));
            let error = host.create(&pod_id, &pod, &settings).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{refused}: {error}");
        }
        Ok(())
    });
}

#[test]
fn mounts_are_restricted_as_asked() {
    scenario(async |host| {
        let base = host.sandbox.directory().join("restricted");
        fs::create_dir_all(&base)?;
        let path = base.display().to_string();
        let pod = PodSettings::new("restricted");
        let pod_id = host.run_pod(&pod).await?;
        let options = |options: &[&str]| Mount {
            mount_options: options.iter().map(|&option| option.into()).collect(),
            ..bind(path.clone(), "/data")
        };
        let settings = ContainerSettings::sleeper("main").edited(mounting(vec![options(&[
            "noexec", "nosuid", "nodev", "noatime",
        ])]));
        let id = host.run(&pod_id, &pod, &settings).await?;
        let line = host.cri.sh(&id, "grep ' /data ' /proc/mounts").await?;
        let set = line.split(' ').nth(3).unwrap_or("");
        for option in ["rw", "noexec", "nosuid", "nodev", "noatime"] {
            assert!(set.split(',').any(|one| one == option), "{option}: {line}");
        }
        host.cri
            .sh(&id, "cp /bin/true /data/true; ! /data/true")
            .await?;
        for refused in ["exec", "size=1m", "rbind"] {
            let settings =
                ContainerSettings::sleeper("refused").edited(mounting(vec![options(&[refused])]));
            let error = host.create(&pod_id, &pod, &settings).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
            assert!(
                error.message().contains("mounts[0].mount_options[0]"),
                "{error}"
            );
        }
        Ok(())
    });
}

#[test]
fn what_a_container_mounts_comes_to_the_node_if_asked() {
    scenario(async |host| {
        let shared = host.sandbox.directory().join("bidirectional");
        fs::create_dir_all(shared.join("point"))?;
        let source = shared.display().to_string();
        let privileged = |config: &mut cri::v1::LinuxSandboxSecurityContext| {
            config.privileged = true;
        };
        let pod = PodSettings::edited("both-ways", move |config| {
            let linux = config.linux.get_or_insert_default();
            privileged(linux.security_context.get_or_insert_default());
        });
        let pod_id = host.run_pod(&pod).await?;
        let mount = Mount {
            propagation: MountPropagation::PropagationBidirectional.into(),
            ..bind(source.clone(), "/shared")
        };
        let settings = ContainerSettings::sleeper("main").edited(move |config| {
            config.mounts = vec![mount.clone()];
            let linux = config.linux.get_or_insert_default();
            linux.security_context.get_or_insert_default().privileged = true;
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        let made = "mount -t tmpfs none /shared/point && touch /shared/point/seen";
        host.cri.sh(&id, made).await?;
        assert_eq!(
            host.sandbox.sh(&format!("ls {source}/point"))?,
            "seen\n",
            "the node sees it"
        );
        host.cri.sh(&id, "umount /shared/point").await?;
        assert_eq!(host.sandbox.sh(&format!("ls {source}/point"))?, "");
        Ok(())
    });
}

async fn artifact(host: &Host) -> anyhow::Result<(String, String)> {
    let lower = image::Layer::new()
        .directory("models", 0o755)
        .directory("models/v1", 0o755)
        .file("models/v1/weights", 0o644, "first\n")
        .file("models/gone", 0o644, "")
        .file("run", 0o755, "#!/bin/sh\necho ran\n")
        .symlink("latest", "/models/v1")
        .symlink("escape", "../../../../../../../etc");
    let upper = image::Layer::new().whiteout("models/gone");
    let built = image::Image::clone(&image::ImageBuilder::new().layer(lower).layer(upper).build());
    let reference = host.registry.push("artifact", "1", &built);
    let id = host.cri.pull(&reference).await?;
    Ok((reference, id))
}

#[test]
fn an_image_is_a_read_only_volume() {
    scenario(async |host| {
        let (reference, image_id) = artifact(host).await?;
        let pod = PodSettings::new("image-volume");
        let pod_id = host.run_pod(&pod).await?;
        let noexec = Mount {
            mount_options: vec!["noexec".into()],
            ..of_image(&reference, "/fixed", "")
        };
        let settings = ContainerSettings::sleeper("main").edited(mounting(vec![
            of_image(&reference, "/whole", ""),
            of_image(&image_id, "/part", "models/v1"),
            of_image(&image_id, "/linked", "latest"),
            noexec,
        ]));
        let id = host.run(&pod_id, &pod, &settings).await?;
        let files = "cat /whole/models/v1/weights /part/weights /linked/weights; ls /whole/models";
        assert_eq!(
            host.cri.sh(&id, files).await?,
            format!("{}v1\n", "first\n".repeat(3))
        );
        assert_eq!(host.cri.sh(&id, "/whole/run").await?, "ran\n");
        for refused in ["touch /whole/x", "touch /part/x", "/fixed/run"] {
            assert!(host.cri.sh(&id, refused).await.is_err(), "{refused}");
        }
        let told = host.cri.container_status(&id).await?.mounts;
        for mount in &told {
            let image = mount.image.as_ref().expect("every mount is of an image");
            assert_eq!(image.image_ref, image_id, "{mount:?}");
        }

        // Its files stay while they are in use, whatever becomes of the image and the daemon.
        host.cri.remove_image(&reference).await?;
        host.restart_daemon().await?;
        assert_eq!(host.cri.container_status(&id).await?.mounts, told);
        assert_eq!(host.cri.sh(&id, "cat /part/weights").await?, "first\n");
        let again = settings.clone().attempt(1);
        let error = host.create(&pod_id, &pod, &again).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{error}");
        let layers = || fs::read_dir(host.sandbox.directory().join("lib/layers"));
        let with_artifact = layers()?.count();
        host.cri.remove(&id).await?;
        let gone = testkit::sandbox::poll(std::time::Duration::from_secs(60), || {
            (layers().ok()?.count() == with_artifact - 2).then_some(())
        });
        assert!(gone.is_some(), "layers that nobody needs any more stay");
        Ok(())
    });
}

#[test]
fn an_image_volume_that_cannot_be_is_refused() {
    scenario(async |host| {
        let (reference, _) = artifact(host).await?;
        let pod = PodSettings::new("refused");
        let pod_id = host.run_pod(&pod).await?;
        let image = |sub_path: &str| of_image(&reference, "/x", sub_path);
        let writable = Mount {
            readonly: false,
            ..image("")
        };
        let both = Mount {
            host_path: "/tmp".into(),
            ..image("")
        };
        let shared = Mount {
            propagation: MountPropagation::PropagationHostToContainer.into(),
            ..image("")
        };
        let mapped = Mount {
            uid_mappings: vec![map(1000)],
            gid_mappings: vec![map(1000)],
            ..image("")
        };
        let missing = of_image("example.invalid/none:1", "/x", "");
        for (mount, code, word) in [
            (writable, Code::InvalidArgument, "readonly"),
            (both, Code::InvalidArgument, "host_path"),
            (shared, Code::InvalidArgument, "propagation"),
            (mapped, Code::InvalidArgument, "uidMappings"),
            (missing, Code::NotFound, "config.mounts[0].image.image"),
            (image("../etc"), Code::InvalidArgument, "image_sub_path"),
            (image("/models"), Code::InvalidArgument, "image_sub_path"),
            (image("no-such"), Code::InvalidArgument, "no-such"),
            (image("models/v1/weights"), Code::InvalidArgument, "weights"),
            // Inside the image it leads to an /etc that is not there.
            (image("escape"), Code::InvalidArgument, "escape"),
        ] {
            let settings = ContainerSettings::sleeper("main").edited(mounting(vec![mount.clone()]));
            let error = host.create(&pod_id, &pod, &settings).await.unwrap_err();
            assert_eq!(error.code(), code, "{mount:?}: {error}");
            assert!(error.message().contains(word), "{error}");
        }
        Ok(())
    });
}

fn map(host_id: u32) -> IdMapping {
    IdMapping {
        host_id,
        container_id: 0,
        length: 65_536,
    }
}

#[test]
fn in_a_user_namespace_volumes_belong_to_its_users() {
    scenario(async |host| {
        let (reference, _) = artifact(host).await?;
        let base = host.sandbox.directory().join("mapped");
        fs::create_dir_all(&base)?;
        fs::write(base.join("file"), "")?;
        let base = base.display().to_string();
        let pod = PodSettings::edited("mapped", |config| {
            let linux = config.linux.get_or_insert_default();
            let context = linux.security_context.get_or_insert_default();
            let options = context.namespace_options.get_or_insert_default();
            options.userns_options = Some(UserNamespace {
                mode: cri::v1::NamespaceMode::Pod.into(),
                uids: vec![map(200_000)],
                gids: vec![map(200_000)],
            });
        });
        let pod_id = host.run_pod(&pod).await?;
        // As a kubelet sends them: every mount has the pod's mappings.
        let with_maps = |mount: Mount| Mount {
            uid_mappings: vec![map(200_000)],
            gid_mappings: vec![map(200_000)],
            ..mount
        };
        let settings = ContainerSettings::sleeper("main").edited(mounting(vec![
            with_maps(of_image(&reference, "/whole", "")),
            of_image(&reference, "/part", "models/v1"),
            with_maps(bind(base.clone(), "/data")),
        ]));
        let id = host.run(&pod_id, &pod, &settings).await?;
        let owners = "stat -c %u:%g /whole/run /part/weights /data/file";
        assert_eq!(host.cri.sh(&id, owners).await?, "0:0\n".repeat(3));
        host.cri.sh(&id, "touch /data/made").await?;
        let made = fs::metadata(format!("{base}/made"))?;
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 0);
        Ok(())
    });
}
