//! Images: pulled, found, removed.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use cri::{
    progress::{
        ExplainPullRequest, LayerStage, PullCredentials, PullProgress, PullStage, WatchPullRequest,
    },
    v1::{
        AuthConfig, ImageFilter, ImageSpec, ImageStatusRequest, ListImagesRequest, Mount,
        StreamImagesRequest, UInt64Value,
    },
};
use e2e::{Host, scenario, scenario_with};
use testkit::{
    image::{self, ImageBuilder, Layer, noise},
    registry::{Auth, Fault, Rule},
};
use tonic::{Code, Response};

const HANG_GUARD: Duration = Duration::from_secs(120);

#[test]
fn an_image_is_pulled_found_and_removed() {
    scenario(async |host| {
        let built = small("found");
        let reference = host.registry.push("team/app", "1", &built);
        let by_digest = host.registry.digest_reference("team/app", built.digest());
        assert!(host.cri.image(&reference).await?.is_none());
        let pulled = host.cri.pull(&reference).await?;
        for name in [&*reference, &*by_digest, &*pulled, built.id()] {
            let found = host.cri.image(name).await?.unwrap();
            assert_eq!(found.id, built.id(), "{name}");
            assert_eq!(found.repo_tags, std::slice::from_ref(&reference));
            assert_eq!(found.repo_digests, std::slice::from_ref(&by_digest));
            assert!(found.size > 0);
        }
        let mut rpc = host.cri.client.image_service();
        let mut stream = rpc
            .stream_images(StreamImagesRequest::default())
            .await?
            .into_inner();
        let mut streamed = Vec::new();
        while let Some(batch) = stream.message().await? {
            streamed.extend(batch.images.into_iter().map(|image| image.id));
        }
        assert_eq!(streamed.len(), host.cri.images().await?.len());

        host.cri.remove_image(&reference).await?;
        host.cri.remove_image(&reference).await?;
        assert!(host.cri.image(built.id()).await?.is_none());
        Ok(())
    });
}

#[test]
fn an_index_gives_this_machines_image() {
    scenario(async |host| {
        let (ours, other) = (small("ours"), foreign());
        let reference = host.registry.push_index("many", "1", &[&other, &ours]);
        host.cri.pull(&reference).await?;
        assert_eq!(host.cri.image(&reference).await?.unwrap().id, ours.id());
        host.cri.remove_image(&reference).await?;
        Ok(())
    });
}

#[test]
fn an_image_is_one_by_whichever_name_in_every_call() {
    scenario(async |host| {
        let built = image::busybox()?
            .label("of", "many names")
            .user("1003:1004")
            .build();
        let tags = ["1", "stable"].map(|tag| host.registry.push("team/app", tag, &built));
        let copy = host.registry.push("copy/app", "1", &built);
        for reference in tags.iter().chain([&copy]) {
            host.cri.pull(reference).await?;
        }
        let by_digest =
            |repository: &str| host.registry.digest_reference(repository, built.digest());
        let digests = [by_digest("copy/app"), by_digest("team/app")];
        let tag_and_digest = format!("{}@{}", tags[0], built.digest());
        let id = built.id();
        let mut names = vec![id, &id[7..], &id[..20], &id[7..19], &tag_and_digest];
        names.extend(
            tags.iter()
                .chain(&digests)
                .chain([&copy])
                .map(String::as_str),
        );
        let pod = e2e::PodSettings::new("names");
        let pod_id = host.run_pod(&pod).await?;
        let mut rpc = host.cri.client.image_service();
        for (index, &name) in names.iter().enumerate() {
            let found = host.cri.image(name).await?.unwrap();
            assert_eq!(found.id, id, "{name}");
            assert_eq!(found.repo_tags, [&*copy, &*tags[0], &*tags[1]], "{name}");
            assert_eq!(found.repo_digests, digests, "{name}");
            assert_eq!(found.uid.map(|uid| uid.value), Some(1003), "{name}");
            let spec = || {
                Some(ImageSpec {
                    image: name.to_owned(),
                    ..Default::default()
                })
            };
            let filter = Some(ImageFilter { image: spec() });
            let listed = rpc
                .list_images(ListImagesRequest { filter })
                .await?
                .into_inner();
            assert_eq!(listed.images, [found], "{name}");
            // Also as what a container is made of, and as what it mounts; each form once.
            if ![2, 4, 5, 7].contains(&index) {
                continue;
            }
            let mount = Mount {
                container_path: "/volume".to_owned(),
                image: spec(),
                readonly: true,
                ..Default::default()
            };
            let settings = e2e::ContainerSettings::sleeper(&format!("c{index}"))
                .image(name)
                .edited(move |config| config.mounts.push(mount.clone()));
            let container = host.create(&pod_id, &pod, &settings).await?;
            assert_eq!(
                host.cri.container_status(&container).await?.image_id,
                id,
                "{name}"
            );
            host.cri.remove(&container).await?;
        }
        let verbose = ImageStatusRequest {
            image: Some(ImageSpec {
                image: copy.clone(),
                ..Default::default()
            }),
            verbose: true,
        };
        let info = rpc.image_status(verbose).await?.into_inner().info;
        let info: serde_json::Value = serde_json::from_str(&info["info"])?;
        assert_eq!(info["manifestDigest"], built.digest());
        assert_eq!(info["chainID"], built.diff_ids[0]);
        assert_eq!(
            info["origin"],
            format!("http://{}", host.registry.address())
        );
        assert_eq!(info["imageSpec"]["config"]["Labels"]["of"], "many names");

        // Whatever name it is removed by, and by however many at once, all names go.
        for &name in names.iter().step_by(2) {
            for reference in tags.iter().chain([&copy]) {
                host.cri.pull(reference).await?;
            }
            let removals = [name, id, &*copy].map(|name| host.cri.remove_image(name));
            for removed in futures_util::future::join_all(removals).await {
                removed?;
            }
            for name in &names {
                assert!(host.cri.image(name).await?.is_none(), "{name}");
            }
            let left = host.cri.images().await?;
            assert!(left.iter().all(|image| image.id != id), "{left:?}");
        }
        Ok(())
    });
}

#[test]
fn no_secret_is_in_any_log_error_or_record() {
    let directory = tempfile::tempdir().unwrap();
    // What the node itself shows comes from a program, whose output is nobody's business either.
    let program = directory.path().join("docker-credential-vault");
    let says = r#"#!/bin/sh
echo '{"Username":"node","Secret":"s3cret-of-the-node"}'
"#;
    std::fs::write(&program, says).unwrap();
    std::fs::set_permissions(
        &program,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let file = directory.path().join("credentials.json");
    let helpers = r#"{"credHelpers": {"127.0.0.1:5000": "vault"}}"#;
    std::fs::write(&file, helpers).unwrap();
    let settings = format!(
        "[registries]\ncredentials = {file:?}\ncredential_programs = {:?}\n",
        directory.path()
    );
    scenario_with(&settings, async |host| {
        let reference = host.registry.push("private", "1", &small("private"));
        let user = AuthConfig {
            username: "me".into(),
            password: "s3cret-password".into(),
            ..Default::default()
        };
        let identity = AuthConfig {
            identity_token: "s3cret-identity".into(),
            ..Default::default()
        };
        let token = AuthConfig {
            registry_token: "s3cret-token".into(),
            ..Default::default()
        };
        let basic = |user: &str, password: &str| Auth::Basic {
            user: user.into(),
            password: password.into(),
        };
        let bearer = |user: &str, password: &str| Auth::Bearer {
            user: user.into(),
            password: password.into(),
        };
        let refresh = Auth::Refresh {
            token: "s3cret-identity".into(),
        };
        let exact = Auth::Token {
            token: "s3cret-token".into(),
        };
        let mut said = String::new();
        for (wanted, shown) in [
            (basic("me", "s3cret-password"), Some(&user)),
            (bearer("me", "s3cret-password"), Some(&user)),
            (refresh, Some(&identity)),
            (exact, Some(&token)),
            (basic("node", "s3cret-of-the-node"), None),
        ] {
            host.registry.require(wanted);
            host.cri.pull_with(&reference, shown.cloned()).await?;
            host.cri.remove_image(&reference).await?;
            // Where they do not do, which is where something is said.
            host.registry.require(basic("other", "s3cret-other"));
            let refused = host
                .cri
                .pull_with(&reference, shown.cloned())
                .await
                .unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
            said.push_str(&format!("{refused:?}"));
            let mut rpc = host.cri.client.images_service();
            let request = ExplainPullRequest {
                image: reference.clone(),
                auth: shown.map(|auth| PullCredentials {
                    username: auth.username.clone(),
                    password: auth.password.clone(),
                    identity_token: auth.identity_token.clone(),
                    registry_token: auth.registry_token.clone(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            said.push_str(&format!("{:?}", rpc.explain_pull(request).await?));
        }
        assert!(
            said.contains("credHelpers") && said.contains("the identity token of the request"),
            "{said}"
        );
        said.push_str(&host.daemon.log());
        assert!(
            said.contains("asking") || said.contains("private"),
            "{said}"
        );
        let secrets = [
            "s3cret",
            // Base64 of the pairs.
            "bWU6czNjcmV0LXBhc3N3b3Jk",
            "bm9kZTpzM2NyZXQtb2YtdGhlLW5vZGU",
        ];
        for secret in secrets {
            assert!(!said.contains(secret), "{secret}: {said}");
            let found = host.sandbox.sh(&format!(
                "grep -rlaF {secret} /var/lib/longshore /run/longshore || true"
            ))?;
            assert_eq!(found, "", "{secret}");
        }
        host.registry.require(Auth::None);
        Ok(())
    });
}

#[test]
fn credentials_are_shown_where_they_are_asked_for() {
    scenario(async |host| {
        let reference = host.registry.push("private", "1", &small("private"));
        host.registry.require(Auth::Bearer {
            user: "me".into(),
            password: "secret".into(),
        });
        let refused = host.cri.pull(&reference).await.unwrap_err();
        assert!(
            [Code::Unauthenticated, Code::PermissionDenied].contains(&refused.code()),
            "{refused}"
        );
        let auth = AuthConfig {
            username: "me".into(),
            password: "secret".into(),
            ..Default::default()
        };
        host.cri.pull_with(&reference, Some(auth)).await?;
        host.cri.remove_image(&reference).await?;
        assert!(!host.daemon.log().contains("secret"));
        Ok(())
    });
}

#[test]
fn a_registry_that_stumbles_is_asked_again() {
    scenario(async |host| {
        let reference = host.registry.push("shaky", "1", &small("shaky"));
        host.registry
            .inject(Rule::new("/shaky/manifests/", Fault::Status(503)).times(1));
        host.registry
            .inject(Rule::new("/shaky/blobs/", Fault::Truncate(20)).times(1));
        host.cri.pull(&reference).await?;
        host.cri.remove_image(&reference).await?;

        let reference = host.registry.push("wrong", "1", &small("wrong"));
        host.registry
            .inject(Rule::new("/wrong/blobs/", Fault::Corrupt));
        let refused = host.cri.pull(&reference).await.unwrap_err();
        assert!(refused.message().contains("sha256:"), "{refused}");
        assert!(host.cri.image(&reference).await?.is_none());
        Ok(())
    });
}

#[test]
fn whoever_watches_a_pull_sees_its_bytes_and_its_end() {
    scenario(async |host| {
        let layer = Layer::new().file("noise", 0o644, noise(3 << 20));
        let built = ImageBuilder::new().layer(layer).build();
        let reference = host.registry.push("slow", "1", &built);
        // Of the layer; the configuration is smaller than one step.
        host.registry
            .inject(Rule::new("/slow/blobs/", Fault::Trickle(300 << 10)));
        let cri = &host.cri;
        let open = async || {
            let mut rpc = cri.client.progress_service();
            let request = WatchPullRequest {
                image: reference.clone(),
            };
            rpc.watch_pull(request).await.map(Response::into_inner)
        };
        let watch = async || {
            let mut updates = open().await?;
            let mut seen = Vec::new();
            while let Some(update) = updates.message().await? {
                seen.push(update);
            }
            Ok::<Vec<PullProgress>, tonic::Status>(seen)
        };
        // Who looks once and goes away is no hindrance to anybody.
        let glance = async || open().await?.message().await;
        let (one, other, glanced, first, second) = tokio::join!(
            watch(),
            watch(),
            glance(),
            cri.pull(&reference),
            cri.pull(&reference)
        );
        assert_eq!(first?, second?);
        assert!(glanced?.is_some());
        for seen in [one?, other?] {
            let bytes: Vec<u64> = (seen.iter())
                .filter_map(|update| Some(update.layers.first()?.done_bytes))
                .collect();
            assert!(bytes.is_sorted(), "{bytes:?}");
            let last = seen.last().unwrap();
            let total = last.layers[0].total_bytes;
            let partly = |&bytes: &u64| 0 < bytes && bytes < total;
            assert!(
                bytes.iter().copied().filter(partly).count() > 2,
                "{bytes:?}"
            );
            assert_eq!(last.stage(), PullStage::Recording);
            assert_eq!(last.layers[0].stage(), LayerStage::Complete);
            assert_eq!(last.layers[0].done_bytes, total);
        }
        let mut rpc = cri.client.progress_service();
        let refused = rpc.watch_pull(WatchPullRequest::default()).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
        // Nobody pulls it any more.
        let refused = watch().await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
        cri.remove_image(&reference).await?;
        Ok(())
    });
}

#[test]
fn what_cannot_be_pulled_says_why() {
    scenario(async |host| {
        let missing = host.registry.reference("nobody/nothing", "1");
        let refused = host.cri.pull(&missing).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
        assert!(refused.message().contains("nobody/nothing"), "{refused}");
        let only_other = host.registry.push_index("other", "1", &[&foreign()]);
        let refused = host.cri.pull(&only_other).await.unwrap_err();
        assert!(refused.message().contains("amd64"), "{refused}");
        for malformed in ["", "library/UPPER", "a b", "x@sha256:123"] {
            let refused = host.cri.pull(malformed).await.unwrap_err();
            assert_eq!(
                refused.code(),
                Code::InvalidArgument,
                "{malformed:?}: {refused}"
            );
        }
        // Nobody listens there.
        let refused = host.cri.pull("127.0.0.1:1/x:1").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        Ok(())
    });
}

#[test]
fn an_image_in_use_serves_its_containers_to_the_end() {
    scenario(async |host| {
        let built = image::busybox()?.label("of", "a container").build();
        let reference = host.registry.push("used", "1", &built);
        host.cri.pull(&reference).await?;
        let pod = e2e::PodSettings::new("user");
        let pod_id = host.run_pod(&pod).await?;
        let settings = e2e::ContainerSettings::sleeper("main").image(&reference);
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.cri.remove_image(&reference).await?;
        assert_eq!(
            host.cri
                .sh(&id, "cat /etc/passwd | head -n 1 | cut -c 1-4")
                .await?,
            "root\n"
        );
        host.restart_daemon().await?;
        assert_eq!(host.cri.sh(&id, "echo on").await?, "on\n");
        Ok(())
    });
}

#[test]
fn filesystem_usage_grows_with_an_image() {
    scenario(async |host| {
        let before = used(host).await?;
        let big = Layer::new().file("big", 0o644, vec![7; 4 << 20]);
        let reference = host
            .registry
            .push("big", "1", &ImageBuilder::new().layer(big).build());
        host.cri.pull(&reference).await?;
        let with = used(host).await?;
        assert!(with.0 >= before.0 + (4 << 20), "{before:?} {with:?}");
        // The layer's root, its file, and its index.
        assert_eq!(with.1, before.1 + 3);
        host.cri.remove_image(&reference).await?;
        // Layers that nobody needs are looked for after the answer; what is in the trash counts no more.
        let end = Instant::now() + HANG_GUARD;
        while used(host).await? != before {
            ensure!(Instant::now() < end, "it still counts");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    });
}

/// Bytes and inodes of images, which containers' have no part in.
async fn used(host: &Host) -> anyhow::Result<(u64, u64)> {
    let info = host.cri.image_fs_info().await?;
    let ([images], [containers]) = (&*info.image_filesystems, &*info.container_filesystems) else {
        bail!("one of each: {info:?}");
    };
    assert_ne!(images.fs_id, containers.fs_id);
    let number = |value: Option<UInt64Value>| value.map(|value| value.value);
    let bytes = number(images.used_bytes).context("bytes")?;
    Ok((bytes, number(images.inodes_used).context("inodes")?))
}

fn small(text: &str) -> image::Image {
    ImageBuilder::new()
        .layer(Layer::new().file("text", 0o644, text.repeat(100)))
        .command(["/text"])
        .build()
}

fn foreign() -> image::Image {
    ImageBuilder::new()
        .layer(Layer::new().file("s390x", 0o644, ""))
        .architecture("s390x")
        .build()
}
