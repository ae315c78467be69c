//! Images: pulled, found, removed.

use cri::v1::{AuthConfig, StreamImagesRequest};
use e2e::{Host, scenario};
use testkit::{
    image::{self, ImageBuilder, Layer},
    registry::{Auth, Fault, Rule},
};
use tonic::Code;

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
        assert!(used(host).await? > before);
        host.cri.remove_image(&reference).await?;
        Ok(())
    });
}

async fn used(host: &Host) -> anyhow::Result<u64> {
    let info = host.cri.image_fs_info().await?;
    let usage = info
        .image_filesystems
        .first()
        .and_then(|usage| usage.used_bytes);
    Ok(usage.map_or(0, |bytes| bytes.value))
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
