//! Pulls from an in-process registry: what is right, and what goes wrong.
#![allow(clippy::unwrap_used)] // Helpers are no tests to clippy.

mod support;

use longshore_image as image;

use image::{Auth, DocumentProblem, PullCause, PullErrorKind, PullRequest};
use support::{Store, layer, two_layers};
use testkit::image::{Blob, ImageBuilder, Layer};
use testkit::registry::{Auth as Wanted, Fault, Registry, Rule};

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
    // Each layer is a directory with a file in it, and has an index.
    assert_eq!(store.images.usage().inodes, 9);
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
                ..PullRequest::default()
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
async fn tokens_are_credentials_too() {
    let registry = Registry::start().unwrap();
    registry.push("private", "v1", &two_layers());
    let reference = registry.reference("private", "v1");
    registry.require(Wanted::Bearer {
        user: "me".into(),
        password: "identity-secret".into(),
    });
    // One is exchanged for a token of the registry's; the other is one, and no token server is asked.
    let identity = |token: &str| Auth {
        identity_token: token.into(),
        ..Auth::default()
    };
    let own = |token: &str| Auth {
        registry_token: token.into(),
        ..Auth::default()
    };
    for (auth, exchanged) in [
        (identity("identity-secret"), true),
        (own("testkit-token-of-me"), false),
    ] {
        registry.clear_requests();
        let store = Store::open().await;
        store.pull_as(&reference, auth).await.unwrap();
        let asked = registry.requests();
        let tokens = asked.iter().filter(|one| one.path.starts_with("/token"));
        assert_eq!(
            tokens
                .map(|one| &*one.method)
                .any(|method| method == "POST"),
            exchanged
        );
    }
    for auth in [identity("wrong-secret"), own("wrong-secret")] {
        let store = Store::open().await;
        let error = store.pull_as(&reference, auth).await.unwrap_err();
        let text = format!("{} {error:?}", support::text(&error));
        assert_eq!(error.kind(), PullErrorKind::Unauthenticated, "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
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
async fn a_registry_that_asks_for_patience_has_it() {
    let registry = Registry::start().unwrap();
    let built = two_layers();
    registry.push("app", "v1", &built);
    // With the attempts that are left, nobody who came earlier would have the image.
    registry.inject(Rule::new("/manifests/", Fault::Busy(1)));
    registry.inject(Rule::new(&built.layers[0].digest, Fault::Busy(1)));
    let store = Store::open_with(|config| config.timeouts.attempts = 2).await;
    store.pull(&registry.reference("app", "v1")).await.unwrap();
}

#[tokio::test]
async fn a_registry_may_have_an_ipv6_address() {
    let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
    let registry = Registry::serve(listener).unwrap();
    let built = two_layers();
    registry.push("team/app", "v1", &built);
    let store = Store::open().await;
    let reference = registry.reference("team/app", "v1");
    assert!(reference.starts_with("[::1]:"), "{reference}");
    let pulled = store.pull(&reference).await.unwrap();
    assert_eq!(pulled.repo_tags, [&*reference]);
    let by_digest = registry.digest_reference("team/app", built.digest());
    assert_eq!(pulled.repo_digests, [&*by_digest]);
    assert_eq!(pulled.origin, format!("http://{}", registry.address()));
    store.images.remove(&by_digest).await.unwrap();
    store.settles_empty().await;
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
