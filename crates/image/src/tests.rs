//! The store dies at every step, and what is found afterwards is whole.

use std::sync::Arc;
use std::time::Duration;

use snapshot::{Overlay, Usage};
use testkit::image::{ImageBuilder, Layer};
use testkit::registry::Registry;

use crate::{Image, Images, ImagesConfig, PullError, PullRequest};

async fn open(root: &std::path::Path) -> (Images, Arc<Overlay>) {
    open_with(root, ImagesConfig::new(root)).await
}

/// Compressed layers stay too.
async fn open_keeping(root: &std::path::Path) -> (Images, Arc<Overlay>) {
    let mut config = ImagesConfig::new(root);
    config.keep_blobs = true;
    open_with(root, config).await
}

async fn open_with(root: &std::path::Path, mut config: ImagesConfig) -> (Images, Arc<Overlay>) {
    let overlay = Arc::new(Overlay::open(root).unwrap());
    config.timeouts.backoff = Duration::from_millis(1);
    config.timeouts.sync_after = Duration::ZERO;
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
    let blobs = overlay.root().join("blobs");
    let kept = names(&blobs);
    assert!(kept.is_empty() || kept.len() == expected.len(), "{kept:?}");
    let of_layers =
        (expected.iter()).flat_map(|key| [overlay.layers_dir().join(key), indexes.join(key)]);
    let measured: Usage = of_layers
        .chain(kept.iter().map(|name| blobs.join(name)))
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

/// A disk that is never waited for: what it forgets is simulated.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// How the daemon ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Killed,
    /// And what had not been synced is lost.
    PowerCut,
}

const ENDS: [End; 2] = [End::Killed, End::PowerCut];

async fn until_crashed(images: &Images, step: &str) {
    for _ in 0..2000 {
        if images.failpoints().crashed() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{step} is never reached");
}

/// What a power cut leaves of files that were written and not synced: their names.
fn empty_files(directory: &std::path::Path, but: &[String]) {
    for name in names(directory).iter().filter(|name| !but.contains(name)) {
        let path = directory.join(name);
        let stat = std::fs::symlink_metadata(&path).unwrap();
        match stat.is_dir() {
            true => empty_files(&path, &[]),
            false if stat.is_file() => std::fs::write(&path, "").unwrap(),
            false => {}
        }
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = std::process::Command::new("cp")
        .args(["-a", "--no-clobber"])
        .arg(from.join("."))
        .arg(to)
        .status();
    assert!(copied.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_dies_leaves_nothing_half_made() {
    let registry = Registry::start().unwrap();
    let (one, two) = images_of(&registry);
    let steps = [
        "ingest-made",
        "layer-made",
        "blob-kept",
        "layer-verified",
        "index-placed",
        "layer-published",
        "layers-placed",
        "before-commit",
        "image-recorded",
        "before-commit-of-sync",
        "layers-synced",
    ];
    for (step, end) in steps.iter().flat_map(|step| ENDS.map(|end| (*step, end))) {
        let root = in_memory();
        let (images, overlay) = open_keeping(root.path()).await;
        pull(&images, &one).await.unwrap();
        until_settled(&images).await;
        let synced = names(&overlay.layers_dir());
        images.failpoints().arm(step);
        // The step after the record may come after the answer.
        let outcome = pull(&images, &two).await;
        let recorded = matches!(
            step,
            "image-recorded" | "before-commit-of-sync" | "layers-synced"
        );
        assert!(outcome.is_err() || recorded, "{step}");
        until_crashed(&images, step).await;
        drop((images, overlay));

        if end == End::PowerCut {
            crate::recovery::pretend_boot(root.path(), "another");
            if step != "layers-synced" {
                empty_files(&root.path().join("layers"), &synced);
                empty_files(&root.path().join("indexes"), &synced);
            }
        }
        let (images, overlay) = open_keeping(root.path()).await;
        consistent(&images, &overlay);
        let survives = match end {
            End::Killed => recorded,
            End::PowerCut => step == "layers-synced",
        };
        let left = images.list().len();
        assert_eq!(left, 1 + usize::from(survives), "{step} {end:?}");
        pull(&images, &two).await.unwrap();
        consistent(&images, &overlay);
        assert_eq!(images.list().len(), 2);
        nothing_leaks(&images, &overlay, &[&one, &two]).await;
    }
}

/// The last images go, and all that was theirs.
async fn nothing_leaks(images: &Images, overlay: &Overlay, left: &[&str]) {
    for image in left {
        images.remove(image).await.unwrap();
    }
    assert!(images.list().is_empty());
    let all = ["layers", "indexes", "blobs", "ingest", "retired"];
    for _ in 0..2000 {
        let mut held = all.iter().map(|name| names(&overlay.root().join(name)));
        if held.all(|names| names.is_empty()) {
            assert_eq!(images.usage(), Usage::default());
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("something stays");
}

/// A store that has died at a step, opened again.
struct Survivor<T> {
    images: Images,
    overlay: Arc<Overlay>,
    /// What was answered before.
    outcome: T,
    _root: tempfile::TempDir,
}

/// Two images are there and on the disk, and what `prepare` has done; then the store dies in the midst of `act`, at `step`.
async fn survivor<T>(
    (step, end): (&'static str, End),
    (one, two): (&str, &str),
    prepare: impl AsyncFnOnce(&Images),
    act: impl AsyncFnOnce(&Images) -> T,
) -> Survivor<T> {
    let root = in_memory();
    let (images, overlay) = open_keeping(root.path()).await;
    pull(&images, one).await.unwrap();
    pull(&images, two).await.unwrap();
    // Until nothing else is going on that could reach the step.
    until_settled(&images).await;
    prepare(&images).await;
    assert_eq!(names(&overlay.layers_dir()).len(), 3);
    let before = in_memory();
    copy(root.path(), before.path());
    images.failpoints().arm(step);
    let outcome = act(&images).await;
    until_crashed(&images, step).await;
    drop((images, overlay));

    if end == End::PowerCut {
        undo_renames(before.path(), root.path());
    }
    let (images, overlay) = open_keeping(root.path()).await;
    consistent(&images, &overlay);
    Survivor {
        images,
        overlay,
        outcome,
        _root: root,
    }
}

/// The records are on the disk, and what was renamed or removed since is back: nobody has synced the directories.
fn undo_renames(before: &std::path::Path, root: &std::path::Path) {
    crate::recovery::pretend_boot(root, "another");
    for name in ["layers", "indexes", "blobs"] {
        copy(&before.join(name), &root.join(name));
    }
}

/// A commit that drops records, and what goes on behind it.
fn steps_of_dropping(recorded: &'static str) -> impl Iterator<Item = (&'static str, End)> {
    let steps = [
        "before-commit",
        recorded,
        "sweep",
        "garbage-moving",
        "garbage-moved",
        "garbage-removed",
    ];
    steps
        .into_iter()
        .flat_map(|step| ENDS.map(|end| (step, end)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_dies_is_done_or_not_done() {
    let registry = Registry::start().unwrap();
    let (one, two) = images_of(&registry);
    for (step, end) in steps_of_dropping("image-unrecorded") {
        let removal = async |images: &Images| images.remove(&two).await;
        let survivor = survivor((step, end), (&one, &two), async |_| {}, removal).await;
        let left = survivor.images.list().len();
        let done = step != "before-commit";
        assert_eq!(left, 2 - usize::from(done), "{step} {end:?}");
        assert!(done || survivor.outcome.is_err());
        nothing_leaks(&survivor.images, &survivor.overlay, &[&one, &two]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_last_container_that_dies_is_taken_up_again() {
    let registry = Registry::start().unwrap();
    let (one, two) = images_of(&registry);
    for (step, end) in steps_of_dropping("image-forgotten") {
        let removed_in_use = async |images: &Images| {
            let id = images.find(&two).unwrap().unwrap().id.clone();
            images.pin("c", &id).unwrap();
            images.remove(&two).await.unwrap();
        };
        let its_end = async |images: &Images| images.unpin("c").unwrap();
        let survivor = survivor((step, end), (&one, &two), removed_in_use, its_end).await;
        assert_eq!(survivor.images.list().len(), 1, "{step} {end:?}");
        nothing_leaks(&survivor.images, &survivor.overlay, &[&one]).await;
    }
}

/// What a pull has reserved while the last image of it was being removed is recorded again with the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_is_wanted_again_while_its_record_goes_is_recorded_again() {
    let registry = Registry::start().unwrap();
    let (one, two) = images_of(&registry);
    let root = in_memory();
    let (images, overlay) = open(root.path()).await;
    for _ in 0..20 {
        pull(&images, &one).await.unwrap();
        let (removed, pulled) = tokio::join!(images.remove(&one), pull(&images, &two));
        removed.unwrap();
        pulled.unwrap();
        until_settled(&images).await;
        images.remove(&two).await.unwrap();
    }
    pull(&images, &one).await.unwrap();
    let (removed, pulled) = tokio::join!(images.remove(&one), pull(&images, &two));
    removed.unwrap();
    pulled.unwrap();
    until_settled(&images).await;
    drop((images, overlay));
    let (images, overlay) = open(root.path()).await;
    consistent(&images, &overlay);
    assert!(images.find(&two).unwrap().is_some());
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
    until_crashed(&images, "before-commit-of-sync").await;
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
