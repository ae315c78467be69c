//! The store dies at every step, and what is found afterwards is whole.

use std::sync::Arc;
use std::time::Duration;

use snapshot::{Overlay, Usage};
use testkit::image::{ImageBuilder, Layer};
use testkit::registry::Registry;

use crate::{Image, Images, ImagesConfig, PullError, PullRequest};

async fn open(root: &std::path::Path) -> (Images, Arc<Overlay>) {
    let overlay = Arc::new(Overlay::open(root).unwrap());
    let mut config = ImagesConfig::new(root);
    config.timeouts.backoff = Duration::from_millis(1);
    // Background work of the store that has just died may still hold the metadata for a moment.
    for _ in 0..500 {
        if let Ok(images) = Images::open(config.clone(), Arc::clone(&overlay)).await {
            return (images, overlay);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the store does not open");
}

async fn pull(images: &Images, reference: &str) -> Result<Arc<Image>, PullError> {
    let request = PullRequest {
        reference: reference.to_owned(),
        ..PullRequest::default()
    };
    images.pull(request).await
}

fn names(path: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Every directory among the layers belongs to a listed image, and the sums agree with the disk.
fn consistent(images: &Images, overlay: &Overlay) {
    let mut expected: Vec<String> = (images.list().iter())
        .flat_map(|image| image.layers.iter().map(ToString::to_string))
        .collect();
    expected.sort();
    expected.dedup();
    assert_eq!(names(&overlay.layers_dir()), expected);
    assert!(names(&overlay.ingest_dir()).is_empty());
    let indexes = overlay.root().join("indexes");
    assert_eq!(names(&indexes), expected);
    let measure = |path: std::path::PathBuf| {
        let stat = std::fs::symlink_metadata(&path).unwrap();
        match stat.is_dir() {
            true => snapshot::measure(&path).unwrap(),
            false => Usage {
                bytes: std::os::unix::fs::MetadataExt::blocks(&stat) * 512,
                inodes: 1,
            },
        }
    };
    let measured: Usage = (expected.iter())
        .flat_map(|key| [overlay.layers_dir().join(key), indexes.join(key)])
        .map(measure)
        .sum();
    assert_eq!(images.usage(), measured);
}

fn images_of(registry: &Registry) -> (String, String) {
    let shared = Layer::new().file("shared", 0o644, "s".repeat(10_000));
    let build = |name: &str| {
        ImageBuilder::new()
            .layer(shared.clone())
            .layer(Layer::new().file(name, 0o644, name.repeat(10_000)))
            .build()
    };
    registry.push("app", "one", &build("one"));
    registry.push("app", "two", &build("two"));
    (
        registry.reference("app", "one"),
        registry.reference("app", "two"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_dies_leaves_nothing_half_made() {
    let registry = Registry::start().unwrap();
    let (one, two) = images_of(&registry);
    let steps = [
        "layer-verified",
        "layer-published",
        "layers-placed",
        "before-commit",
        "image-recorded",
        "layers-synced",
    ];
    for step in steps {
        let root = tempfile::tempdir().unwrap();
        let (images, _) = open(root.path()).await;
        pull(&images, &one).await.unwrap();
        until_settled(&images).await;
        images.failpoints().arm(step);
        // The step after the record may come after the answer.
        let outcome = pull(&images, &two).await;
        let recorded = matches!(step, "image-recorded" | "layers-synced");
        assert!(outcome.is_err() || recorded, "{step}");
        drop(images);

        let (images, overlay) = open(root.path()).await;
        consistent(&images, &overlay);
        assert_eq!(images.list().len(), 1 + usize::from(recorded), "{step}");
        pull(&images, &two).await.unwrap();
        consistent(&images, &overlay);
        assert_eq!(images.list().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_dies_is_done_or_not_done() {
    let registry = Registry::start().unwrap();
    let (one, two) = images_of(&registry);
    for step in [
        "before-commit",
        "image-unrecorded",
        "layers-moved",
        "layers-unrecorded",
    ] {
        let root = tempfile::tempdir().unwrap();
        let (images, overlay) = open(root.path()).await;
        pull(&images, &one).await.unwrap();
        pull(&images, &two).await.unwrap();
        // Until nothing else is going on that could reach the step.
        until_settled(&images).await;
        images.failpoints().arm(step);
        let outcome = images.remove(&two).await;
        for _ in 0..500 {
            if images.failpoints().crashed() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(images.failpoints().crashed(), "{step}");
        drop((images, overlay));

        let (images, overlay) = open(root.path()).await;
        consistent(&images, &overlay);
        let left = images.list().len();
        let done = step != "before-commit";
        assert_eq!(left, 2 - usize::from(done), "{step}");
        assert!(done || outcome.is_err());
        images.remove(&one).await.unwrap();
        images.remove(&two).await.unwrap();
        assert!(images.list().is_empty());
    }
}

async fn until_settled(images: &Images) {
    for _ in 0..2000 {
        if images.layers_synced() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("layers are never synced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_of_another_boot_count_only_if_they_were_synced() {
    let registry = Registry::start().unwrap();
    let (one, two) = images_of(&registry);
    let root = tempfile::tempdir().unwrap();
    let (images, overlay) = open(root.path()).await;
    pull(&images, &one).await.unwrap();
    until_settled(&images).await;
    // Dies before the sync of the second image's layer is noted.
    images.failpoints().arm("before-commit-of-sync");
    pull(&images, &two).await.unwrap();
    for _ in 0..1000 {
        if images.failpoints().crashed() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(images.failpoints().crashed());
    drop((images, overlay));
    crate::recovery::pretend_boot(root.path(), "another");
    let (images, overlay) = open(root.path()).await;
    consistent(&images, &overlay);
    assert!(images.find(&one).unwrap().is_some());
    assert!(images.find(&two).unwrap().is_none());
}

#[test]
fn a_removal_works_on_a_full_disk() {
    let registry = Registry::start().unwrap();
    let (one, two) = images_of(&registry);
    // Threads inherit the mount namespace of the one that starts them: the runtime's, and those of the layers.
    let checked = std::thread::spawn(move || {
        use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
        #[allow(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        let root = tempfile::tempdir().unwrap();
        rustix::mount::mount(
            "tmpfs",
            root.path(),
            "tmpfs",
            MountFlags::empty(),
            c"size=32m",
        )
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(full_disk(root.path(), &one, &two));
        drop(runtime);
        rustix::mount::unmount(root.path(), UnmountFlags::DETACH).unwrap();
    });
    checked.join().unwrap();
}

async fn full_disk(root: &std::path::Path, one: &str, two: &str) {
    use std::io::Write;
    let (images, overlay) = open(root).await;
    pull(&images, one).await.unwrap();
    until_settled(&images).await;
    let mut filler = std::fs::File::create(root.join("filler")).unwrap();
    let mut written = 0;
    while filler.write_all(&[1; 4096]).is_ok() {
        written += 4096;
        assert!(written < 40 << 20, "this is another file system");
    }
    let error = pull(&images, two).await.unwrap_err();
    assert_eq!(
        error.kind(),
        crate::PullErrorKind::ResourceExhausted,
        "{error:?}"
    );
    assert_eq!(images.list().len(), 1);

    images.remove(one).await.unwrap();
    for _ in 0..1000 {
        if names(&overlay.layers_dir()).is_empty() && names(&overlay.ingest_dir()).is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    consistent(&images, &overlay);
    drop((images, overlay));
    let (images, overlay) = open(root).await;
    consistent(&images, &overlay);
    assert!(images.list().is_empty());

    drop(filler);
    std::fs::remove_file(root.join("filler")).unwrap();
    pull(&images, two).await.unwrap();
    consistent(&images, &overlay);
}
