//! Images from archives of others, and archives of ours for others; and from registry to registry.

#![allow(clippy::unwrap_used)] // Helpers are no tests to clippy.

mod support;

use longshore_image as image;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use image::{Auth, Image, LoadError, LoadRequest, PushRequest, SaveError, SaveRequest};
use support::docker_registry::DockerRegistry;
use support::{Store, run, text, two_layers};
use testkit::image::Layer;
use testkit::registry::Registry;
use tokio::sync::mpsc;

impl Store {
    async fn load(
        &self,
        request: LoadRequest,
        archive: Vec<u8>,
    ) -> Result<Vec<Arc<Image>>, LoadError> {
        let (sender, chunks) = mpsc::channel(1);
        let send = async move {
            for piece in archive.chunks(10_000) {
                if sender
                    .send(bytes::Bytes::copy_from_slice(piece))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        };
        let (loaded, ()) = tokio::join!(self.images.load(request, chunks), send);
        loaded
    }

    async fn save(&self, images: &[&str]) -> Result<Vec<u8>, SaveError> {
        let request = SaveRequest {
            images: images.iter().map(|&image| image.to_owned()).collect(),
            auth: None,
        };
        let (sink, mut pieces) = mpsc::channel::<bytes::Bytes>(1);
        let collect = async {
            let mut archive = Vec::new();
            while let Some(piece) = pieces.recv().await {
                archive.extend_from_slice(&piece);
            }
            archive
        };
        let (saved, archive) = tokio::join!(self.images.save(request, sink), collect);
        saved.map(|()| archive)
    }

    /// Waits until so many compressed layers are kept.
    async fn has_blobs(&self, count: usize) {
        let blobs = self.overlay.root().join("blobs");
        for _ in 0..600 {
            if fs::read_dir(&blobs).unwrap().count() == count {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{} blobs are kept", fs::read_dir(&blobs).unwrap().count());
    }
}

/// A layout of umoci's with one image of one layer, and the layer's bytes.
fn layout(directory: &Path) -> String {
    let layout = directory.join("layout");
    let image = format!("{}:v1", layout.display());
    let root = directory.join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/motd"), "from umoci\n").unwrap();
    run("umoci", &["init", "--layout", layout.to_str().unwrap()]);
    run("umoci", &["new", "--image", &image]);
    let root = root.to_str().unwrap();
    run("umoci", &["insert", "--image", &image, root, "/srv"]);
    run(
        "umoci",
        &["config", "--image", &image, "--config.cmd", "sh"],
    );
    image
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_of_others_are_loaded_and_read_by_others_again() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let layout = layout(directory.path());
    let source = format!("oci:{layout}");
    for form in ["oci-archive", "docker-archive"] {
        let target = format!("{form}:{}:r.io/team/{form}:v1", at(form));
        run("skopeo", &["copy", "-q", &source, &target]);
    }
    run(
        "tar",
        &["-C", &at("layout"), "-czf", &at("layout.tgz"), "."],
    );

    let mut store = Store::open().await;
    for (file, name, expected) in [
        ("oci-archive", None, "r.io/team/oci-archive:v1"),
        ("docker-archive", None, "r.io/team/docker-archive:v1"),
        ("layout.tgz", Some("r.io/team/named"), "r.io/team/named:v1"),
        ("layout.tgz", Some("mine:2"), "docker.io/library/mine:2"),
    ] {
        let request = LoadRequest {
            name: name.map(str::to_owned),
            root: None,
        };
        let loaded = store
            .load(request, fs::read(at(file)).unwrap())
            .await
            .unwrap();
        assert!(
            loaded[0].repo_tags.contains(&expected.to_owned()),
            "{file}: {loaded:?}"
        );
        assert_eq!(loaded[0].config.cmd, ["sh"]);
        assert_eq!(store.read(&loaded[0], "srv/etc/motd"), b"from umoci\n");
    }
    assert!(
        fs::read_dir(store.overlay.ingest_dir())
            .unwrap()
            .next()
            .is_none()
    );

    // After a restart too: what came from no registry is kept.
    store = store.reopen().await;
    let name = "r.io/team/named:v1";
    let saved = store
        .save(&[name, "r.io/team/oci-archive:v1"])
        .await
        .unwrap();
    fs::write(at("saved"), saved).unwrap();
    let id = store.images.find(name).unwrap().unwrap().id.clone();
    let read = format!("docker-archive:{}:{name}", at("saved"));
    let config = run("skopeo", &["inspect", "--raw", "--config", &read]);
    assert_eq!(image::Digest::of(config.as_bytes()).as_str(), id);
    let one = store.save(&["docker.io/library/mine:2"]).await.unwrap();
    fs::write(at("one"), one).unwrap();
    for (number, source) in [
        "docker-archive:ONE:docker.io/library/mine:2",
        "oci-archive:ONE:2",
    ]
    .into_iter()
    .enumerate()
    {
        let source = source.replace("ONE", &at("one"));
        let target = format!("dir:{}", at(&format!("copied-{number}")));
        run("skopeo", &["copy", "-q", &source, &target]);
    }

    // Its blobs go with the last image that has them.
    for image in store.images.list() {
        store.images.remove(&image.id).await.unwrap();
    }
    store.settles_empty().await;
    store.has_blobs(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_file_system_becomes_an_image_that_can_be_pushed() {
    let registry = Registry::start().unwrap();
    registry.push("app", "v1", &two_layers());
    let store = Store::open().await;
    let archive = Layer::new().file("hello", 0o755, "hello").tar();
    let request = LoadRequest {
        name: Some(registry.reference("made", "1")),
        root: Some(vec!["CMD [\"/hello\"]".into(), "ENV A=b".into()]),
    };
    let made = store.load(request.clone(), archive.clone()).await.unwrap();
    let compressed = zstd::encode_all(&*archive, 1).unwrap();
    // The same once more is the same image.
    let again = store.load(request.clone(), archive).await.unwrap();
    assert_eq!(made[0].id, again[0].id);
    assert_eq!(made[0].config.cmd, ["/hello"]);
    assert_eq!(store.read(&made[0], "hello"), b"hello");
    let small = store
        .load(
            LoadRequest {
                name: None,
                ..request
            },
            compressed,
        )
        .await
        .unwrap();
    assert_eq!(small[0].layers, made[0].layers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_kept_is_fetched_again_or_says_so() {
    let registry = Registry::start().unwrap();
    registry.push("app", "v1", &two_layers());
    let reference = registry.reference("app", "v1");
    let store = Store::open_with(|config| config.timeouts.attempts = 1).await;
    store.pull(&reference).await.unwrap();
    registry.clear_requests();
    let fetched = store.save(&[&reference]).await.unwrap();
    assert_eq!(
        registry
            .requests()
            .iter()
            .filter(|request| request.path.contains("/blobs/"))
            .count(),
        3
    );
    let keeping = Store::open_with(|config| {
        config.timeouts.attempts = 1;
        config.keep_blobs = true;
    })
    .await;
    let pulled = keeping.pull(&reference).await.unwrap();
    drop(registry);
    assert!(matches!(
        store.save(&[&reference]).await,
        Err(SaveError::Fetch { .. })
    ));
    assert_eq!(keeping.save(&[&reference]).await.unwrap(), fetched);
    assert!(matches!(
        store.save(&["nobody:1"]).await,
        Err(SaveError::Unknown { .. })
    ));

    // What was saved is the same image elsewhere, with its names.
    let other = Store::open().await;
    let loaded = other.load(LoadRequest::default(), fetched).await.unwrap();
    assert_eq!(loaded[0].id, pulled.id);
    assert_eq!(loaded[0].repo_tags, pulled.repo_tags);
    assert_eq!(loaded[0].layers, pulled.layers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_that_are_none_leave_nothing() {
    let store = Store::open().await;
    let tar = |name: &str, text: &str| Layer::new().file(name, 0o644, text).tar();
    let digest = image::Digest::of(b"x");
    let missing = format!(r#"{{"manifests":[{{"digest":"{digest}"}}]}}"#);
    for archive in [
        Vec::new(),
        b"no archive".to_vec(),
        tar("index.json", "{"),
        tar("index.json", r#"{"manifests":[]}"#),
        tar("index.json", &missing),
        tar(
            "manifest.json",
            r#"[{"Config":"../../etc/passwd","Layers":[]}]"#,
        ),
        tar("manifest.json", "[]"),
        tar("manifest.json", "x")[..700].to_vec(),
    ] {
        let refused = store
            .load(LoadRequest::default(), archive)
            .await
            .unwrap_err();
        assert_eq!(
            refused.kind(),
            image::PullErrorKind::InvalidArgument,
            "{refused:?}"
        );
    }
    let change = LoadRequest {
        name: None,
        root: Some(vec!["RUN x".into()]),
    };
    let refused = store.load(change, tar("a", "b")).await;
    assert!(matches!(refused, Err(LoadError::Change { .. })));
    store.settles_empty().await;
}

/// The archive of a layout after something has been done to it.
fn spoiled(directory: &Path, spoil: impl FnOnce(&Path)) -> Vec<u8> {
    let at = |name: &str| directory.join(name).display().to_string();
    run("cp", &["-a", &at("layout"), &at("spoiled")]);
    spoil(&directory.join("spoiled"));
    run(
        "tar",
        &["-C", &at("spoiled"), "-cf", &at("spoiled.tar"), "."],
    );
    fs::remove_dir_all(at("spoiled")).unwrap();
    fs::read(at("spoiled.tar")).unwrap()
}

/// The blob of a layout that is gzip: its only layer.
fn layer_of(layout: &Path) -> std::path::PathBuf {
    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let mut paths = blobs.map(|blob| blob.unwrap().path());
    paths
        .find(|path| fs::read(path).unwrap().starts_with(&[0x1f, 0x8b]))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_archives_say_what_is_wrong_and_leave_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let image = layout(directory.path());
    let at = |name: &str| directory.path().join(name).display().to_string();
    run(
        "skopeo",
        &[
            "copy",
            "-q",
            &format!("oci:{image}"),
            &format!("docker-archive:{}:r.io/a:1", at("docker")),
        ],
    );
    let docker = fs::read(at("docker")).unwrap();
    let whole = spoiled(directory.path(), |_| {});
    let wrong_layer = spoiled(directory.path(), |layout| {
        let path = layer_of(layout);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    });
    let short_layer = spoiled(directory.path(), |layout| {
        fs::write(layer_of(layout), "short").unwrap();
    });
    let no_layer = spoiled(directory.path(), |layout| {
        fs::remove_file(layer_of(layout)).unwrap();
    });
    let wrong_documents = spoiled(directory.path(), |layout| {
        for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
            let path = blob.unwrap().path();
            if path != layer_of(layout) {
                fs::write(path, "{}").unwrap();
            }
        }
    });
    let linked = spoiled(directory.path(), |layout| {
        let path = layer_of(layout);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
    });
    let digest = image::Digest::of(b"nothing");
    let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#);
    let other_diff_id = Layer::new()
        .file("c.json", 0o644, config)
        .file("l.tar", 0o644, Layer::new().file("x", 0o644, "x").tar())
        .file(
            "manifest.json",
            0o644,
            r#"[{"Config":"c.json","Layers":["l.tar"]}]"#,
        )
        .tar();
    let outside = Layer::new()
        .file("../../../evil", 0o644, "x")
        .file("/manifest.json", 0o644, r#"[{"Config":"../../../evil"}]"#)
        .tar();
    let gone = Layer::new()
        .symlink("manifest.json", "manifest.json")
        .symlink("index.json", "/etc/passwd")
        .tar();

    use image::PullErrorKind::{DataLoss, InvalidArgument};
    let store = Store::open().await;
    // Both before the layer is here and after, when its bytes would not be needed.
    for there in [false, true] {
        if there {
            store
                .load(LoadRequest::default(), whole.clone())
                .await
                .unwrap();
        }
        for (archive, kind, says) in [
            (&whole[..whole.len() / 2], InvalidArgument, "damaged"),
            (&docker[..docker.len() / 2], InvalidArgument, "damaged"),
            (&wrong_layer, DataLoss, "sha256:"),
            (&short_layer, DataLoss, "bytes"),
            (&no_layer, InvalidArgument, "misses layer sha256:"),
            (&linked, InvalidArgument, "misses layer sha256:"),
            (&wrong_documents, DataLoss, "manifest sha256:"),
            (&other_diff_id, DataLoss, "diffID"),
            (&outside, InvalidArgument, "configuration"),
            (&gone, InvalidArgument, "neither"),
        ] {
            let request = LoadRequest::default();
            let refused = store.load(request, archive.to_vec()).await.unwrap_err();
            let said = text(&refused);
            assert_eq!(refused.kind(), kind, "{said}");
            assert!(said.contains(says), "{says}: {said}");
            assert!(said.len() < 1024, "{said}");
        }
    }
    for image in store.images.list() {
        store.images.remove(&image.id).await.unwrap();
    }
    store.settles_empty().await;

    // What is larger than a layer may be is not even kept for a while.
    let small = Store::open_with(|config| config.max_layer_bytes = 2_000).await;
    let big = Layer::new().file("big", 0o644, vec![0; 100_000]).tar();
    let packed = zstd::encode_all(&*big, 3).unwrap();
    for root in [None, Some(Vec::new())] {
        let archive = if root.is_some() {
            big.clone()
        } else {
            packed.clone()
        };
        let request = LoadRequest { name: None, root };
        let refused = small.load(request, archive).await.unwrap_err();
        assert!(matches!(refused, LoadError::TooLarge { .. }), "{refused:?}");
    }
    small.settles_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_of_one_archive_share_their_layers() {
    let registry = Registry::start().unwrap();
    let names = ["one", "two"].map(|name| {
        let built = testkit::image::ImageBuilder::new()
            .layer(support::layer("same"))
            .layer(support::layer("same"))
            .layer(support::layer(name))
            .build();
        registry.push(name, "v1", &built);
        registry.reference(name, "v1")
    });
    let store = Store::open().await;
    for name in &names {
        store.pull(name).await.unwrap();
    }
    let saved = store.save(&[&names[0], &names[1]]).await.unwrap();
    drop(registry);
    let mut other = Store::open().await;
    let loaded = other
        .load(LoadRequest::default(), saved.clone())
        .await
        .unwrap();
    assert_eq!(loaded.len(), 2);
    other = other.reopen().await;
    assert_eq!(other.save(&[&names[0], &names[1]]).await.unwrap(), saved);
    // What one image has alone goes with it, and nothing else.
    other.has_blobs(3).await;
    other.images.remove(&names[0]).await.unwrap();
    other.has_blobs(2).await;
    other.save(&[&names[1]]).await.unwrap();
}

#[tokio::test]
async fn what_is_pushed_is_read_by_others() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    // "me" with the password "pw", by bcrypt.
    let hash = "me:$2b$05$UWo1.0f7fvKgwVabFh1YgeWXKqQ8TfSGsFQgCDXLDrAKinwpRH7HG";
    fs::write(at("htpasswd"), hash).unwrap();
    let extra = format!(
        "}}\nauth: {{htpasswd: {{realm: here, path: '{}'}}",
        at("htpasswd")
    );
    let registry = DockerRegistry::start(directory.path(), &extra);
    let store = Store::open_with(|config| config.timeouts.attempts = 1).await;
    let archive = directory.path().join("archive");
    let built = Layer::new()
        .file("hello", 0o755, "hello")
        // More than one chunk.
        .file("noise", 0o644, testkit::image::noise(20 << 20))
        .tar();
    let request = LoadRequest {
        name: Some("made:1".into()),
        root: Some(vec!["CMD [\"/hello\"]".into()]),
    };
    let made = store.load(request, built).await.unwrap().remove(0);
    let push = async |target: &str, auth: Option<Auth>| {
        let request = PushRequest {
            image: "made:1".into(),
            target: Some(format!("{}/{target}", registry.address)),
            auth,
        };
        store.images.push(request).await
    };
    let me = Auth {
        username: "me".into(),
        password: "pw".into(),
        ..Auth::default()
    };
    let wrong = Auth {
        password: "s3cret".into(),
        ..me.clone()
    };
    for refused in [None, Some(wrong)] {
        let refused = push("team/app:1", refused).await.unwrap_err();
        let said = text(&refused);
        assert_eq!(
            refused.kind(),
            image::PullErrorKind::Unauthenticated,
            "{said}"
        );
        assert!(
            said.contains(&registry.address) && !said.contains("s3cret"),
            "{said}"
        );
    }
    let first = push("team/app:1", Some(me.clone())).await.unwrap();
    assert_eq!((first.sent, first.mounted), (1, 0));
    let again = push("team/app:2", Some(me.clone())).await.unwrap();
    assert_eq!((again.sent, again.mounted), (0, 0));
    assert_eq!(again.digest, first.digest);

    let source = format!("docker://{}/team/app:1", registry.address);
    let secure = ["--tls-verify=false", "--creds", "me:pw"];
    let inspect = [&["inspect", "--raw", "--config"][..], &secure, &[&source]].concat();
    let config = run("skopeo", &inspect);
    assert_eq!(image::Digest::of(config.as_bytes()).as_str(), made.id);
    let target = format!("oci:{}:1", archive.display());
    run(
        "skopeo",
        &[
            "copy",
            "-q",
            "--src-tls-verify=false",
            "--src-creds",
            "me:pw",
            &source,
            &target,
        ],
    );
    let other = Store::open().await;
    let name = format!("{}/team/app:2", registry.address);
    let pulled = other.pull_as(&name, me.clone()).await.unwrap();
    assert_eq!(pulled.id, made.id);
    assert_eq!(
        other.read(&pulled, "noise"),
        testkit::image::noise(20 << 20)
    );

    // From one repository to another the registry moves the layers itself.
    let request = PushRequest {
        image: name,
        target: Some(format!("{}/else/app:1", registry.address)),
        auth: Some(me),
    };
    let moved = other.images.push(request.clone()).await.unwrap();
    assert_eq!((moved.sent, moved.mounted), (0, 1));
    drop(registry);
    let refused = other.images.push(request).await.unwrap_err();
    assert_eq!(
        refused.kind(),
        image::PullErrorKind::Unavailable,
        "{}",
        text(&refused)
    );
}
