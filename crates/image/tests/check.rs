//! Layers are compared with what was unpacked, and repaired, while the store is used.

#![allow(clippy::unwrap_used)] // Helpers are no tests to clippy.

mod support;

use longshore_image as image;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use image::{CheckError, CheckOutcome, CheckRequest, DamageKind, Finding};
use support::{Store, two_layers};
use testkit::image::{ImageBuilder, Layer};
use testkit::registry::Registry;
use tokio::sync::mpsc;

impl Store {
    /// What a check finds, and the outcome of each layer.
    async fn check(&self, repair: bool) -> (Vec<Finding>, Vec<CheckOutcome>) {
        let request = CheckRequest {
            repair,
            ..CheckRequest::default()
        };
        self.check_with(request).await.unwrap()
    }

    async fn check_with(
        &self,
        request: CheckRequest,
    ) -> Result<(Vec<Finding>, Vec<CheckOutcome>), CheckError> {
        let (sender, mut receiver) = mpsc::channel(1);
        let collect = async {
            let mut findings = Vec::new();
            while let Some(finding) = receiver.recv().await {
                findings.push(finding);
            }
            findings
        };
        let (checked, findings) = tokio::join!(self.images.check(request, sender), collect);
        checked?;
        let outcomes = findings.iter().filter_map(|finding| match finding {
            Finding::Done { outcome, .. } => Some(outcome.clone()),
            Finding::Layer { .. } | Finding::Damage(_) | Finding::Record { .. } => None,
        });
        let outcomes = outcomes.collect();
        Ok((findings, outcomes))
    }

    fn file(&self, image: &image::Image, layer: usize, path: &str) -> PathBuf {
        self.overlay.layer_dir(&image.layers[layer]).join(path)
    }

    fn index(&self, image: &image::Image, layer: usize) -> PathBuf {
        let indexes = self.overlay.root().join("indexes");
        indexes.join(image.layers[layer].as_str())
    }

    fn retired(&self) -> usize {
        let retired = self.overlay.root().join("retired");
        fs::read_dir(retired).unwrap().count()
    }
}

fn damages(findings: &[Finding]) -> Vec<(&str, &DamageKind)> {
    let damages = findings.iter().filter_map(|finding| match finding {
        Finding::Damage(damage) if damage.kind != DamageKind::Time => {
            Some((&*damage.path, &damage.kind))
        }
        _ => None,
    });
    damages.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_and_mended_from_the_registry() {
    let registry = Registry::start().unwrap();
    registry.push("app", "v1", &two_layers());
    let store = Store::open().await;
    let pulled = store.pull(&registry.reference("app", "v1")).await.unwrap();
    let (_, outcomes) = store.check(true).await;
    assert_eq!(outcomes, vec![CheckOutcome::Sound; 3]);

    fs::write(store.file(&pulled, 1, "two"), "vandal").unwrap();
    fs::remove_file(store.index(&pulled, 2)).unwrap();
    let (findings, outcomes) = store.check(false).await;
    let expected = [("/two", &DamageKind::Contents), ("/", &DamageKind::NoIndex)];
    assert_eq!(damages(&findings), expected);
    use CheckOutcome::{Damaged, Sound};
    assert_eq!(outcomes, [Sound, Damaged, Damaged]);

    let (_, outcomes) = store.check(true).await;
    let origin = format!("http://{}", registry.address());
    let repaired = CheckOutcome::Repaired {
        origin,
        containers: Vec::new(),
    };
    assert_eq!(outcomes, [Sound, repaired.clone(), repaired]);
    let (_, outcomes) = store.check(false).await;
    assert_eq!(outcomes, vec![Sound; 3]);
    assert!(store.read(&pulled, "two").starts_with(b"twotwo"));

    // A directory that is not there at all.
    fs::remove_dir_all(store.file(&pulled, 0, "")).unwrap();
    let (findings, _) = store.check(true).await;
    assert_eq!(damages(&findings), [("/", &DamageKind::Missing)]);
    assert!(store.read(&pulled, "one").starts_with(b"oneone"));
    store.images.remove(&pulled.id).await.unwrap();
    store.settles_empty().await;
    assert_eq!(store.retired(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_keeps_what_it_is_mounted_on() {
    let registry = Registry::start().unwrap();
    registry.push("app", "v1", &two_layers());
    let mut store = Store::open().await;
    let pulled = store.pull(&registry.reference("app", "v1")).await.unwrap();
    store.images.pin("c1", &pulled.id).unwrap();
    let view: OwnedFd = store.overlay.view(&pulled.layers).unwrap();
    fs::write(store.file(&pulled, 1, "two"), "vandal").unwrap();
    let (_, outcomes) = store.check(true).await;
    let CheckOutcome::Repaired { containers, .. } = &outcomes[1] else {
        panic!("{outcomes:?}");
    };
    assert_eq!(containers, &["c1"]);
    let seen = |view: &OwnedFd| {
        use rustix::fs::{Mode, OFlags};
        let file = rustix::fs::openat(view, "two", OFlags::RDONLY, Mode::empty()).unwrap();
        std::io::read_to_string(fs::File::from(file)).unwrap()
    };
    assert_eq!(seen(&view), "vandal");
    assert!(store.read(&pulled, "two").starts_with(b"twotwo"));
    // The daemon's restart takes nothing from the container.
    store = store.reopen().await;
    assert_eq!((seen(&view), store.retired()), ("vandal".to_owned(), 1));
    drop(view);
    store.images.unpin("c1").unwrap();
    for _ in 0..600 {
        if store.retired() == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(store.retired(), 0);
    assert!(store.read(&pulled, "two").starts_with(b"twotwo"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_leans_on_others_is_mended_upon_them() {
    let registry = Registry::start().unwrap();
    let base = Layer::new()
        .directory("etc", 0o750)
        .file("etc/original", 0o4755, "original");
    let leaning = Layer::new()
        .file("etc/conf", 0o644, "conf")
        .hard_link("etc/copy", "etc/original");
    let built = ImageBuilder::new().layer(base).layer(leaning).build();
    registry.push("lean", "v1", &built);
    let store = Store::open().await;
    let pulled = store.pull(&registry.reference("lean", "v1")).await.unwrap();
    assert!(pulled.layers[1].is_chain());
    for (layer, path) in [(0, "etc/original"), (1, "etc/copy")] {
        fs::remove_file(store.file(&pulled, layer, path)).unwrap();
    }
    let (_, outcomes) = store.check(true).await;
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, CheckOutcome::Repaired { .. })),
        "{outcomes:?}"
    );
    assert_eq!(store.read(&pulled, "etc/copy"), b"original");
    assert_eq!(store.stat(&pulled, "etc/copy").st_mode & 0o7777, 0o4755);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_mended_stays_and_says_why() {
    let registry = Registry::start().unwrap();
    registry.push("app", "v1", &two_layers());
    let store = Store::open_with(|config| config.timeouts.attempts = 1).await;
    let pulled = store.pull(&registry.reference("app", "v1")).await.unwrap();
    drop(registry);
    fs::write(store.file(&pulled, 0, "one"), "vandal").unwrap();
    let (_, outcomes) = store.check(true).await;
    assert!(
        matches!(&outcomes[0], CheckOutcome::Unrepaired { reason } if !reason.is_empty()),
        "{outcomes:?}"
    );
    assert_eq!(store.read(&pulled, "one"), b"vandal");
    let unknown = CheckRequest {
        layers: vec!["xyz".into()],
        ..CheckRequest::default()
    };
    let refused = store.check_with(unknown).await;
    assert!(matches!(refused, Err(CheckError::UnknownLayer { .. })));
    let one = CheckRequest {
        layers: vec![pulled.layers[2].as_str()[..8].to_owned()],
        ..CheckRequest::default()
    };
    let (_, outcomes) = store.check_with(one).await.unwrap();
    assert_eq!(outcomes, [CheckOutcome::Sound]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_says_nothing_takes_nothing_along() {
    let registry = Registry::start().unwrap();
    registry.push("app", "v1", &two_layers());
    let reference = registry.reference("app", "v1");
    let store = Store::open().await;
    let pulled = store.pull(&reference).await.unwrap();
    store.images.pin("c1", &pulled.id).unwrap();
    let meta = store.overlay.root().join("meta.redb");
    let (id, key) = (pulled.id.clone(), pulled.layers[1].to_string());
    let store = store
        .reopen_after(move || {
            // The store of before lets go of the file in the background.
            let database = loop {
                match redb::Database::open(&meta) {
                    Ok(database) => break database,
                    Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
                }
            };
            let table = |name| redb::TableDefinition::<&str, &[u8]>::new(name);
            let transaction = database.begin_write().unwrap();
            for (name, subject) in [("images", &id), ("layers", &key)] {
                let mut rows = transaction.open_table(table(name)).unwrap();
                rows.insert(&**subject, &b"{\"damaged"[..]).unwrap();
            }
            transaction.commit().unwrap();
        })
        .await;
    // A container may be mounted on its layers.
    assert!(store.images.list().is_empty());
    assert_eq!(store.layers(), 3);
    assert_eq!(store.images.pins().len(), 1);
    let (findings, outcomes) = store.check(true).await;
    assert!(
        matches!(&findings[0], Finding::Record { id, dropped: true, .. } if *id == pulled.id),
        "{findings:?}"
    );
    assert!(
        outcomes
            .iter()
            .all(|outcome| *outcome == CheckOutcome::Sound)
    );
    store.pull(&reference).await.unwrap();
    let store = store.reopen().await;
    assert_eq!(store.images.list().len(), 1);
    assert_eq!(store.layers(), 3);
}
