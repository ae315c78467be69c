//! What the store does with pulls and images beside each other, and over time.

#![allow(clippy::unwrap_used)] // Helpers are no tests to clippy.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::{Store, two_layers};
use testkit::image::{ImageBuilder, Layer};
use testkit::registry::{Fault, Registry, Rule};

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
    // Another tag is another pull, but fetches no layer again.
    let other = registry.reference("app", "v2");
    let (watched, a, b, c) = tokio::join!(
        store.images.watch_pull(&reference),
        store.pull(&reference),
        store.pull(&reference),
        store.pull(&other)
    );
    let mut watched = watched.unwrap();
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
    assert!(watched.changed().await.is_ok(), "the last state is unseen");
    let shown = watched.borrow_and_update().clone();
    assert!(watched.changed().await.is_err(), "the pull has ended");
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
        Fault::Delay(Duration::from_secs(3)),
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

/// Everything below a directory, as it is on disk.
fn all_of(directory: &Path) -> Vec<(PathBuf, u64, i64, i64, u64)> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            left.extend(entries.map(|entry| entry.unwrap().path()));
        }
        found.push((
            path,
            stat.ino(),
            stat.ctime(),
            stat.ctime_nsec(),
            stat.size(),
        ));
    }
    found.sort();
    found
}

#[tokio::test]
async fn layers_of_another_store_are_used_and_never_touched() {
    let registry = Registry::start().unwrap();
    let built = two_layers();
    registry.push("app", "v1", &built);
    let reference = registry.reference("app", "v1");
    let filled = Store::open().await;
    filled.pull(&reference).await.unwrap();
    let other = filled.overlay.root().to_owned();
    let layers = other.join("layers");
    let before = all_of(&layers);
    let size = filled.images.list()[0].size_bytes;

    registry.clear_requests();
    let others = [other];
    let mut store = Store::open_beside(&others).await;
    let pulled = store.pull(&reference).await.unwrap();
    let fetched = |digest: &str| {
        let requests = registry.requests();
        requests.iter().any(|request| request.path.contains(digest))
    };
    assert!(built.layers.iter().all(|layer| !fetched(&layer.digest)));
    assert_eq!(
        (store.layers(), store.images.usage()),
        (0, Default::default())
    );
    // All but the indexes, which are the other store's as well.
    assert!(pulled.size_bytes > size / 2, "{} {size}", pulled.size_bytes);
    assert!(store.read(&pulled, "two").starts_with(b"twotwo"));
    let view = store.overlay.view(&pulled.layers).unwrap();
    assert!(rustix::fs::statat(&view, "three", rustix::fs::AtFlags::empty()).is_ok());

    // An image of which only some layers are there.
    let more = ImageBuilder::new()
        .layer(support::layer("one"))
        .layer(support::layer("own"))
        .build();
    registry.push("more", "v1", &more);
    let mixed = store.pull(&registry.reference("more", "v1")).await.unwrap();
    assert_eq!(store.layers(), 1);
    store = store.reopen_beside(&others).await;
    assert_eq!(store.images.list().len(), 2);
    for file in ["one", "own"] {
        assert!(store.read(&mixed, file).starts_with(file.as_bytes()));
    }
    for image in store.images.list() {
        store.images.remove(&image.id).await.unwrap();
    }
    store.settles_empty().await;
    assert_eq!(all_of(&layers), before);

    // What was there when the store was filled counts once it is not: the images are pulled again.
    store.pull(&reference).await.unwrap();
    store = store.reopen().await;
    assert!(store.images.list().is_empty());
    let pulled = store.pull(&reference).await.unwrap();
    assert_eq!(store.layers(), 3);
    assert!(store.read(&pulled, "one").starts_with(b"oneone"));
    drop(filled);
}

#[test]
fn another_store_that_others_may_write_is_refused() {
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = || {
        let overlay = snapshot::Overlay::open(own.path()).unwrap();
        overlay.with_stores(&[other.path().to_owned()])
    };
    assert!(matches!(open(), Err(snapshot::OpenError::Directory { .. })));
    let layers = other.path().join("layers");
    fs::create_dir(&layers).unwrap();
    fs::set_permissions(&layers, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(open(), Err(snapshot::OpenError::Writable { .. })));
    fs::set_permissions(&layers, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(open().is_ok());
}
