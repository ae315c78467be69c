//! Pulls from an in-process registry: what is right, and what goes wrong.
#![allow(clippy::unwrap_used)] // Helpers are no tests to clippy.

mod support;

use longshore_image as image;
use std::time::Duration;

use image::{Auth, DocumentProblem, PullCause, PullErrorKind, PullRequest};
use support::Store;
use testkit::image::{Blob, Compression, ImageBuilder, Layer};
use testkit::registry::{Auth as Wanted, Fault, Registry, Rule};

fn layer(name: &str) -> Layer {
    Layer::new().file(name, 0o644, name.repeat(50_000))
}

fn two_layers() -> testkit::image::Image {
    ImageBuilder::new()
        .layer(layer("one"))
        .layer(layer("two").compression(Compression::Zstd))
        .layer(layer("three").compression(Compression::None))
        .entrypoint(["/one"])
        .env(["A=b"])
        .user("1003:1004")
        .build()
}

#[tokio::test]
async fn an_image_is_pulled_listed_found_and_removed() {
    let registry = Registry::start().unwrap();
    let built = two_layers();
    registry.push("team/app", "v1", &built);
    let store = Store::open().await;
    let reference = registry.reference("team/app", "v1");
    let pulled = store.pull(&reference).await.unwrap();

    assert_eq!(pulled.id, built.id());
    assert_eq!(pulled.repo_tags, [&*reference]);
    let by_digest = registry.digest_reference("team/app", built.digest());
    assert_eq!(pulled.repo_digests, [&*by_digest]);
    assert_eq!(pulled.config.entrypoint, ["/one"]);
    assert_eq!(pulled.config.env, ["A=b"]);
    assert_eq!(pulled.user, image::ImageUser::Uid(1003));
    assert!(pulled.size_bytes > 500_000);
    assert_eq!(pulled.layers.len(), 3);
    assert_eq!(store.images.usage().inodes, 6);
    let json = store.images.config_json(&pulled.id).unwrap().unwrap();
    assert_eq!(json, built.config.bytes);
    for name in ["one", "two", "three"] {
        assert!(store.read(&pulled, name).starts_with(name.as_bytes()));
    }

    for name in [&*reference, &by_digest, &pulled.id, &pulled.id[7..20]] {
        assert_eq!(
            store.images.find(name).unwrap().unwrap().id,
            pulled.id,
            "{name}"
        );
    }
    assert_eq!(store.images.list().len(), 1);

    // Only the manifest is asked for when the image is here.
    registry.clear_requests();
    store.pull(&by_digest).await.unwrap();
    let fetched = registry.requests();
    assert!(
        fetched
            .iter()
            .all(|request| !request.path.contains("/blobs/")),
        "{fetched:?}"
    );

    let (one, other) = tokio::join!(
        store.images.remove(&reference),
        store.images.remove(&pulled.id)
    );
    one.unwrap();
    other.unwrap();
    assert!(store.images.list().is_empty());
    assert!(store.images.find(&by_digest).unwrap().is_none());
    store.images.remove("nothing:here").await.unwrap();
    store.settles_empty().await;
}

#[tokio::test]
async fn an_image_without_layers_is_an_image() {
    let registry = Registry::start().unwrap();
    registry.push("scratch", "x", &ImageBuilder::new().build());
    let store = Store::open().await;
    let pulled = store
        .pull(&registry.reference("scratch", "x"))
        .await
        .unwrap();
    assert!(pulled.layers.is_empty() && pulled.size_bytes > 0);
    store.overlay.view(&pulled.layers).unwrap();
}

#[tokio::test]
async fn an_index_leads_to_this_platform() {
    let registry = Registry::start().unwrap();
    let wanted = ImageBuilder::new().layer(layer("here")).build();
    let other = ImageBuilder::new()
        .layer(layer("there"))
        .architecture("s390x")
        .build();
    registry.push_index("multi", "v1", &[&other, &wanted]);
    let index = testkit::image::index([&other, &wanted]).digest;
    let store = Store::open().await;
    let pulled = store
        .pull(&registry.reference("multi", "v1"))
        .await
        .unwrap();
    assert_eq!(pulled.id, wanted.id());
    assert_eq!(
        pulled.repo_digests,
        [registry.digest_reference("multi", &index)]
    );
    assert_eq!(pulled.manifest_digest, wanted.digest());

    registry.push_index("multi", "other", &[&other]);
    let error = store
        .pull(&registry.reference("multi", "other"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), PullErrorKind::NotFound);
    assert!(
        support::text(&error).contains("linux/s390x"),
        "{}",
        support::text(&error)
    );
}

#[tokio::test]
async fn docker_manifests_are_pulled_and_artifacts_refused() {
    let registry = Registry::start().unwrap();
    registry.push(
        "old",
        "v2",
        &ImageBuilder::new().layer(layer("x")).docker().build(),
    );
    let store = Store::open().await;
    store.pull(&registry.reference("old", "v2")).await.unwrap();

    let manifest = r#"{"schemaVersion":1,"name":"old","fsLayers":[]}"#;
    registry.push_manifest(
        "old",
        "v1",
        &Blob::new(
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            manifest,
        ),
    );
    let config = r#"{"mediaType":"application/vnd.cncf.helm.config.v1+json","size":2,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}"#;
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#);
    registry.push_manifest(
        "old",
        "chart",
        &Blob::new("application/vnd.oci.image.manifest.v1+json", manifest),
    );
    for tag in ["v1", "chart"] {
        let error = store
            .pull(&registry.reference("old", tag))
            .await
            .unwrap_err();
        assert_eq!(
            error.kind(),
            PullErrorKind::Unsupported,
            "{}",
            support::text(&error)
        );
    }
}

#[tokio::test]
async fn a_tag_that_moves_leaves_the_old_image_its_digest() {
    let registry = Registry::start().unwrap();
    let (old, new) = (
        ImageBuilder::new().layer(layer("a")).build(),
        ImageBuilder::new().layer(layer("b")).build(),
    );
    let store = Store::open().await;
    registry.push("app", "latest", &old);
    let reference = registry.reference("app", "latest");
    store.pull(&reference).await.unwrap();
    registry.push("app", "latest", &new);
    store.pull(&reference).await.unwrap();
    let old = store.images.find(old.id()).unwrap().unwrap();
    assert!(old.repo_tags.is_empty());
    assert_eq!(old.repo_digests.len(), 1);
    assert_eq!(store.images.find(&reference).unwrap().unwrap().id, new.id());

    // A second tag of one image is a second name.
    registry.push("app", "stable", &new_of("b"));
    let again = store
        .pull(&registry.reference("app", "stable"))
        .await
        .unwrap();
    assert_eq!(again.repo_tags.len(), 2);
    assert_eq!(store.images.list().len(), 2);
}

fn new_of(name: &str) -> testkit::image::Image {
    ImageBuilder::new().layer(layer(name)).build()
}

#[tokio::test]
async fn credentials_are_given_where_they_are_asked_for() {
    let registry = Registry::start().unwrap();
    registry.push("private", "v1", &two_layers());
    let reference = registry.reference("private", "v1");
    let auth = Auth {
        username: "me".into(),
        password: "hunter2-secret".into(),
        ..Auth::default()
    };
    let encoded = Auth {
        auth: "bWU6aHVudGVyMi1zZWNyZXQ=".into(),
        server_address: registry.address().to_string(),
        ..Auth::default()
    };
    let pair = |user: &str, password: &str| (user.to_owned(), password.to_owned());
    let (user, password) = pair("me", "hunter2-secret");
    for wanted in [
        Wanted::Basic {
            user: user.clone(),
            password: password.clone(),
        },
        Wanted::Bearer {
            user: user.clone(),
            password: password.clone(),
        },
    ] {
        registry.require(wanted);
        for auth in [&auth, &encoded] {
            let store = Store::open().await;
            store.pull_as(&reference, auth.clone()).await.unwrap();
        }
        let store = Store::open().await;
        let wrong = Auth {
            password: "wrong-secret".into(),
            ..auth.clone()
        };
        let elsewhere = Auth {
            server_address: "quay.io".into(),
            ..auth.clone()
        };
        registry.clear_requests();
        for auth in [None, Some(wrong), Some(elsewhere)] {
            let request = PullRequest {
                reference: reference.clone(),
                auth,
                progress: None,
            };
            let error = store.images.pull(request).await.unwrap_err();
            let text = format!("{} {error:?}", support::text(&error));
            assert_eq!(error.kind(), PullErrorKind::Unauthenticated, "{text}");
            assert!(
                text.contains("private") && text.contains(&registry.address().to_string()),
                "{text}"
            );
            assert!(!text.contains("secret") && !text.contains("bWU6"), "{text}");
        }
    }
    // Anybody may have a token, as from Docker Hub.
    registry.require(Wanted::Bearer {
        user: String::new(),
        password: String::new(),
    });
    Store::open().await.pull(&reference).await.unwrap();
}

#[tokio::test]
async fn redirects_are_followed_without_credentials() {
    let storage = Registry::start().unwrap();
    let registry = Registry::start().unwrap();
    let built = ImageBuilder::new().layer(layer("one")).build();
    for registry in [&storage, &registry] {
        registry.push("app", "v1", &built);
    }
    registry.require(Wanted::Basic {
        user: "me".into(),
        password: "pw".into(),
    });
    let blob = &built.layers[0].digest;
    let target = format!(
        "http://{}/v2/app/blobs/{blob}?signature=hidden",
        storage.address()
    );
    registry.inject(Rule::new(blob, Fault::Redirect(target)));
    let auth = Auth {
        username: "me".into(),
        password: "pw".into(),
        ..Auth::default()
    };
    let store = Store::open().await;
    store
        .pull_as(&registry.reference("app", "v1"), auth.clone())
        .await
        .unwrap();
    let asked = storage.requests();
    assert!(!asked.is_empty());
    assert!(
        asked.iter().all(|request| request.authorization.is_none()),
        "{asked:?}"
    );

    // Round in circles.
    let store = Store::open().await;
    registry.heal();
    let itself = format!("/v2/app/blobs/{blob}");
    registry.inject(Rule::new(blob, Fault::Redirect(itself)));
    let error = store
        .pull_as(&registry.reference("app", "v1"), auth)
        .await
        .unwrap_err();
    assert_eq!(
        error.kind(),
        PullErrorKind::Unavailable,
        "{}",
        support::text(&error)
    );
    store.settles_empty().await;
}

#[tokio::test]
async fn transient_failures_are_tried_again() {
    let registry = Registry::start().unwrap();
    let built = two_layers();
    registry.push("app", "v1", &built);
    let blob = &*built.layers[0].digest;
    registry.inject(Rule::new("/manifests/", Fault::Status(500)).times(1));
    registry.inject(Rule::new(blob, Fault::Status(429)).times(1));
    registry.inject(Rule::new(&built.layers[1].digest, Fault::Truncate(30)).times(2));
    registry.inject(Rule::new(&built.layers[2].digest, Fault::Truncate(100_000)).times(1));
    registry.inject(Rule::new(built.id(), Fault::Status(503)).times(1));
    let store = Store::open().await;
    let pulled = store.pull(&registry.reference("app", "v1")).await.unwrap();
    assert!(store.read(&pulled, "three").starts_with(b"three"));
    let ranges = registry.requests();
    let ranges: Vec<_> = ranges
        .iter()
        .filter_map(|request| request.range.clone())
        .collect();
    assert!(ranges.contains(&"bytes=100000-".to_owned()), "{ranges:?}");

    // A server without ranges sends all of it again.
    let store = Store::open().await;
    registry.heal();
    let last = &*built.layers[2].digest;
    registry.inject(Rule::new(last, Fault::Truncate(100_000)).times(1));
    registry.inject(Rule::new(last, Fault::NoRanges));
    let pulled = store.pull(&registry.reference("app", "v1")).await.unwrap();
    assert!(store.read(&pulled, "three").ends_with(b"three"));
}

#[tokio::test]
async fn failures_are_told_apart_and_leave_nothing() {
    let registry = Registry::start().unwrap();
    let built = two_layers();
    registry.push("app", "v1", &built);
    let blob = &*built.layers[0].digest;
    let reference = registry.reference("app", "v1");
    let cases = [
        ("/manifests/", Fault::Status(404), PullErrorKind::NotFound),
        (
            "/manifests/",
            Fault::Status(403),
            PullErrorKind::PermissionDenied,
        ),
        (
            "/manifests/",
            Fault::Status(500),
            PullErrorKind::Unavailable,
        ),
        (
            "/manifests/",
            Fault::Status(429),
            PullErrorKind::ResourceExhausted,
        ),
        (
            "/manifests/",
            Fault::Status(400),
            PullErrorKind::InvalidArgument,
        ),
        ("/manifests/", Fault::Corrupt, PullErrorKind::DataLoss),
        (built.id(), Fault::Corrupt, PullErrorKind::DataLoss),
        (built.id(), Fault::Status(404), PullErrorKind::NotFound),
        (blob, Fault::Status(404), PullErrorKind::NotFound),
        (blob, Fault::Corrupt, PullErrorKind::DataLoss),
        (
            &built.layers[1].digest,
            Fault::Corrupt,
            PullErrorKind::DataLoss,
        ),
        (
            &built.layers[2].digest,
            Fault::Corrupt,
            PullErrorKind::DataLoss,
        ),
        (blob, Fault::Truncate(100), PullErrorKind::DataLoss),
        (blob, Fault::Stall(100), PullErrorKind::Unavailable),
        (
            &built.layers[2].digest,
            Fault::Trickle(10),
            PullErrorKind::Unavailable,
        ),
    ];
    for (fragment, fault, kind) in cases {
        let store = Store::open().await;
        registry.heal();
        registry.inject(Rule::new(fragment, fault.clone()));
        // By digest, so that a manifest's bytes are checked as well.
        let reference = registry.digest_reference("app", built.digest());
        let error = store.pull(&reference).await.unwrap_err();
        assert_eq!(
            error.kind(),
            kind,
            "{fragment} {fault:?}: {}",
            support::text(&error)
        );
        assert!(store.images.list().is_empty());
        store.settles_empty().await;
        registry.heal();
        store.pull(&reference).await.unwrap();
    }
    let store = Store::open().await;
    registry.heal();
    registry.remove_blob("app", blob);
    let error = store.pull(&reference).await.unwrap_err();
    assert_eq!(error.kind(), PullErrorKind::NotFound);
    for unknown in [
        registry.reference("app", "v9"),
        registry.reference("nobody", "v1"),
    ] {
        let error = store.pull(&unknown).await.unwrap_err();
        assert_eq!(error.kind(), PullErrorKind::NotFound);
    }
    let error = store.pull("127.0.0.1:1/app").await.unwrap_err();
    assert_eq!(error.kind(), PullErrorKind::Unavailable);
    let error = store.pull("Not A Name").await.unwrap_err();
    assert_eq!(error.kind(), PullErrorKind::InvalidArgument);
    let error = store.pull(built.id()).await.unwrap_err();
    assert_eq!(error.kind(), PullErrorKind::InvalidArgument);
}

#[tokio::test]
async fn what_a_manifest_promises_is_checked() {
    let registry = Registry::start().unwrap();
    let built = ImageBuilder::new().layer(layer("one")).build();
    let other = ImageBuilder::new().layer(layer("two")).build();
    for image in [&built, &other] {
        registry.push("app", "v1", image);
    }
    let push = |tag: &str, manifest: String| {
        registry.push_manifest(
            "app",
            tag,
            &Blob::new(built.manifest.media_type.clone(), manifest),
        );
        registry.reference("app", tag)
    };
    let manifest = String::from_utf8(built.manifest.bytes.to_vec()).unwrap();
    let size = built.layers[0].bytes.len();
    let changed = |from: &str, to: &str| {
        assert!(manifest.contains(from), "{manifest}");
        manifest.replace(from, to)
    };
    let store = Store::open().await;
    // The configuration's diffID is that of another layer.
    let swapped = changed(&built.layers[0].digest, &other.layers[0].digest).replace(
        &format!(":{size}"),
        &format!(":{}", other.layers[0].bytes.len()),
    );
    for (tag, manifest) in [
        ("diffid", swapped),
        (
            "short",
            changed(&format!(":{size}"), &format!(":{}", size + 1)),
        ),
        (
            "long",
            changed(&format!(":{size}"), &format!(":{}", size - 1)),
        ),
        (
            "config",
            changed(&format!(":{}", built.config.bytes.len()), ":7"),
        ),
    ] {
        let error = store.pull(&push(tag, manifest)).await.unwrap_err();
        assert_eq!(
            error.kind(),
            PullErrorKind::DataLoss,
            "{tag}: {}",
            support::text(&error)
        );
        store.settles_empty().await;
    }
    let error = store.pull(&push("junk", "{}".into())).await.unwrap_err();
    let malformed = matches!(
        &*error.cause,
        PullCause::Document {
            problem: DocumentProblem::Malformed(_),
            ..
        }
    );
    assert!(malformed, "{}", support::text(&error));
}

#[tokio::test]
async fn a_layer_may_only_grow_so_far() {
    let registry = Registry::start().unwrap();
    registry.push(
        "app",
        "bomb",
        &ImageBuilder::new()
            .layer(Layer::new().file("zeros", 0o644, vec![0; 4 << 20]))
            .build(),
    );
    let store = Store::open_with(|config| config.max_layer_bytes = 1 << 20).await;
    let error = store
        .pull(&registry.reference("app", "bomb"))
        .await
        .unwrap_err();
    assert_eq!(
        error.kind(),
        PullErrorKind::ResourceExhausted,
        "{}",
        support::text(&error)
    );
    store.settles_empty().await;
}

#[tokio::test]
async fn simultaneous_pulls_of_one_image_are_one() {
    let registry = Registry::start().unwrap();
    let built = two_layers();
    registry.push("app", "v1", &built);
    registry.push("app", "v2", &built);
    registry.inject(Rule::new(
        "/manifests/",
        Fault::Delay(Duration::from_millis(200)),
    ));
    let store = Store::open().await;
    let reference = registry.reference("app", "v1");
    let (progress, watched) = tokio::sync::watch::channel(image::PullProgress::default());
    let request = PullRequest {
        reference: reference.clone(),
        auth: None,
        progress: Some(progress),
    };
    // Another tag is another pull, but fetches no layer again.
    let other = registry.reference("app", "v2");
    let (a, b, c) = tokio::join!(
        store.images.pull(request),
        store.pull(&reference),
        store.pull(&other)
    );
    assert_eq!(a.unwrap().id, b.unwrap().id);
    c.unwrap();
    let requests = registry.requests();
    let of = |fragment: &str| {
        requests
            .iter()
            .filter(|request| request.path.contains(fragment))
            .count()
    };
    assert_eq!(of("/manifests/v1"), 1);
    assert_eq!(of(&built.layers[0].digest), 1);
    let shown = watched.borrow();
    assert_eq!(shown.layers.len(), 3);
    assert!(
        shown
            .layers
            .iter()
            .all(|layer| layer.fetched_bytes == layer.total_bytes)
    );
}

#[tokio::test]
async fn a_pull_goes_on_without_its_caller_for_a_while() {
    let registry = Registry::start().unwrap();
    let built = two_layers();
    registry.push("app", "v1", &built);
    let reference = registry.reference("app", "v1");
    registry.inject(Rule::new(
        "/manifests/",
        Fault::Delay(Duration::from_millis(300)),
    ));
    let store = Store::open().await;
    let dropped = tokio::time::timeout(Duration::from_millis(50), store.pull(&reference)).await;
    assert!(dropped.is_err());
    store.pull(&reference).await.unwrap();
    let requests = registry.requests();
    assert_eq!(
        requests
            .iter()
            .filter(|request| request.path.contains("/manifests/"))
            .count(),
        1
    );

    // Nobody comes back: it is given up, and leaves nothing.
    registry.heal();
    registry.inject(Rule::new(&built.layers[0].digest, Fault::Stall(10)));
    let store = Store::open_with(|config| {
        config.timeouts.abandon = Duration::from_millis(100);
        config.timeouts.idle = Duration::from_secs(60);
    })
    .await;
    let dropped = tokio::time::timeout(Duration::from_millis(300), store.pull(&reference)).await;
    assert!(dropped.is_err());
    store.settles_empty().await;
    registry.heal();
    store.pull(&reference).await.unwrap();
}

#[tokio::test]
async fn a_pinned_image_keeps_its_layers_until_it_is_unpinned() {
    let registry = Registry::start().unwrap();
    let built = two_layers();
    registry.push("app", "v1", &built);
    let reference = registry.reference("app", "v1");
    let mut store = Store::open().await;
    let pulled = store.pull(&reference).await.unwrap();
    for container in ["c1", "c2"] {
        store.images.pin(container, &pulled.id).unwrap();
        store.images.pin(container, &pulled.id).unwrap();
    }
    assert!(store.images.pin("c3", "sha256:none").is_err());
    assert!(store.images.pin("../c3", &pulled.id).is_err());
    store.images.remove(&reference).await.unwrap();
    assert!(store.images.list().is_empty());
    assert!(store.images.find(&pulled.id).unwrap().is_none());
    assert_eq!(store.images.pinned_by("c1").unwrap().layers, pulled.layers);

    store = store.reopen().await;
    assert_eq!(store.images.pins().len(), 2);
    assert_eq!(store.layers(), 3);
    assert!(store.images.list().is_empty());
    assert!(store.read(&pulled, "one").starts_with(b"one"));

    // It comes back whole without its layers being fetched.
    registry.clear_requests();
    let again = store.pull(&reference).await.unwrap();
    assert_eq!((&again.id, again.repo_tags.len()), (&pulled.id, 1));
    assert!(
        registry
            .requests()
            .iter()
            .all(|request| !request.path.contains("/blobs/"))
    );
    store.images.remove(&reference).await.unwrap();

    store.images.unpin("c1").unwrap();
    store.images.unpin("c1").unwrap();
    assert_eq!(store.layers(), 3);
    store
        .images
        .reconcile(&std::collections::BTreeSet::new())
        .unwrap();
    assert!(store.images.pins().is_empty());
    store.settles_empty().await;
}

#[tokio::test]
async fn what_is_here_is_here_after_a_restart() {
    let registry = Registry::start().unwrap();
    registry.push("app", "v1", &two_layers());
    let reference = registry.reference("app", "v1");
    let store = Store::open().await;
    let pulled = store.pull(&reference).await.unwrap();
    let usage = store.images.usage();
    let mut store = store.reopen().await;
    assert_eq!(store.images.find(&reference).unwrap().unwrap(), pulled);
    assert_eq!(store.images.usage(), usage);

    // A layer that has gone takes its image along, not the store.
    let lost = store.overlay.layer_dir(&pulled.layers[1]);
    store = store
        .reopen_after(|| std::fs::remove_dir_all(&lost).unwrap())
        .await;
    assert!(store.images.list().is_empty());
    store.settles_empty().await;
    assert_eq!(store.pull(&reference).await.unwrap().id, pulled.id);
}

#[tokio::test]
async fn layers_that_lean_on_others_are_told_apart_by_what_is_below() {
    let registry = Registry::start().unwrap();
    // The same layer on two bases: it does not say what etc/ is, and links to a file that it does not have.
    let leaning = || {
        Layer::new()
            .file("etc/app.conf", 0o644, "conf")
            .file("lib/app.so", 0o644, "so")
            .hard_link("bin/copy", "bin/original")
    };
    let base = |mode: u32, text: &str| {
        Layer::new()
            .directory("etc", mode)
            .owned_by(7, 8)
            .directory("bin", 0o755)
            .file("bin/original", 0o4755, text)
            .directory("usr", 0o755)
            .directory("usr/lib", 0o711)
            .symlink("lib", "usr/lib")
    };
    let build = |base: Layer| ImageBuilder::new().layer(base).layer(leaning()).build();
    registry.push("lean", "one", &build(base(0o750, "one")));
    registry.push("lean", "two", &build(base(0o700, "two")));
    let store = Store::open().await;
    let one = store
        .pull(&registry.reference("lean", "one"))
        .await
        .unwrap();
    let two = store
        .pull(&registry.reference("lean", "two"))
        .await
        .unwrap();
    assert!(one.layers[1].is_chain() && two.layers[1].is_chain());
    assert_ne!(one.layers[1], two.layers[1]);
    for (image, mode, text) in [(&one, 0o750, "one"), (&two, 0o700, "two")] {
        let etc = store.stat(image, "etc");
        assert_eq!((etc.st_mode & 0o7777, etc.st_uid, etc.st_gid), (mode, 7, 8));
        assert_eq!(store.read(image, "bin/copy"), text.as_bytes());
        let (copy, original) = (
            store.stat(image, "bin/copy"),
            store.stat(image, "bin/original"),
        );
        assert_eq!(copy.st_ino, original.st_ino);
        assert_eq!(copy.st_mode & 0o7777, 0o4755);
        // The link of the base is still one, and what was put through it is behind it.
        assert_eq!(store.read(image, "usr/lib/app.so"), b"so");
        assert_eq!(store.stat(image, "usr/lib").st_mode & 0o7777, 0o711);
        assert_eq!(store.stat(image, "lib").st_mode & 0o170_000, 0o120_000);
        assert_eq!(store.read(image, "etc/app.conf"), b"conf");
    }
}
