//! A store in a temporary directory, and how to look into it.
#![allow(dead_code, unreachable_pub)]

pub mod docker_registry;

use longshore_image as image;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use image::{Auth, Image, Images, ImagesConfig, PullError, PullRequest};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat};
use snapshot::Overlay;
use testkit::image::{Compression, ImageBuilder, Layer};

pub struct Store {
    pub images: Images,
    pub overlay: Arc<Overlay>,
    config: ImagesConfig,
    directory: tempfile::TempDir,
}

impl Store {
    pub async fn open() -> Self {
        Self::open_with(|_| {}).await
    }

    pub async fn open_with(adjust: impl FnOnce(&mut ImagesConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = ImagesConfig::new(directory.path());
        config.timeouts.backoff = Duration::from_millis(5);
        config.timeouts.attempts = 4;
        config.timeouts.idle = Duration::from_millis(500);
        config.timeouts.rate_window = Duration::from_millis(500);
        adjust(&mut config);
        Self::start(directory, config, &[]).await
    }

    /// One that uses the layers of others as well.
    pub async fn open_beside(others: &[PathBuf]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = ImagesConfig::new(directory.path());
        Self::start(directory, config, others).await
    }

    async fn start(directory: tempfile::TempDir, config: ImagesConfig, others: &[PathBuf]) -> Self {
        let overlay = Overlay::open(directory.path()).unwrap();
        let overlay = Arc::new(overlay.with_stores(others).unwrap());
        // The store of the tests' last incarnation may still be syncing.
        let mut attempts = 0;
        let images = loop {
            match Images::open(config.clone(), Arc::clone(&overlay)).await {
                Ok(images) => break images,
                Err(error) if attempts == 200 => panic!("{}", text(&error)),
                Err(_) => {
                    attempts += 1;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        Self {
            images,
            overlay,
            config,
            directory,
        }
    }

    pub async fn reopen(self) -> Self {
        self.reopen_after(|| {}).await
    }

    pub async fn reopen_after(self, between: impl FnOnce()) -> Self {
        self.reopen_with(between, &[]).await
    }

    pub async fn reopen_beside(self, others: &[PathBuf]) -> Self {
        self.reopen_with(|| {}, others).await
    }

    async fn reopen_with(self, between: impl FnOnce(), others: &[PathBuf]) -> Self {
        let Self {
            images,
            config,
            directory,
            ..
        } = self;
        drop(images);
        between();
        Self::start(directory, config, others).await
    }

    pub async fn pull(&self, reference: &str) -> Result<Arc<Image>, PullError> {
        let request = PullRequest {
            reference: reference.to_owned(),
            ..PullRequest::default()
        };
        self.images.pull(request).await
    }

    pub async fn pull_as(&self, reference: &str, auth: Auth) -> Result<Arc<Image>, PullError> {
        let request = PullRequest {
            reference: reference.to_owned(),
            auth: Some(auth),
            ..PullRequest::default()
        };
        self.images.pull(request).await
    }

    /// A file of the image, as a container would see it.
    pub fn read(&self, image: &Image, path: &str) -> Vec<u8> {
        let view = self.overlay.view(&image.layers).unwrap();
        let file = rustix::fs::openat2(
            &view,
            path,
            OFlags::RDONLY,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        )
        .unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut bytes).unwrap();
        bytes
    }

    pub fn stat(&self, image: &Image, path: &str) -> Stat {
        let view = self.overlay.view(&image.layers).unwrap();
        rustix::fs::statat(&view, path, AtFlags::SYMLINK_NOFOLLOW).unwrap()
    }

    /// Directories among the layers.
    pub fn layers(&self) -> usize {
        count(&self.overlay.layers_dir())
    }

    /// Waits until no layer is left, whole or half.
    pub async fn settles_empty(&self) {
        for _ in 0..600 {
            if self.layers() + count(&self.overlay.ingest_dir()) == 0 {
                assert_eq!(self.images.usage(), snapshot::Usage::default());
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "layers are left behind in {}",
            self.directory.path().display()
        );
    }
}

fn count(path: &Path) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

/// An error with its causes.
pub fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

pub fn layer(name: &str) -> Layer {
    Layer::new().file(name, 0o644, name.repeat(50_000))
}

pub fn two_layers() -> testkit::image::Image {
    ImageBuilder::new()
        .layer(layer("one"))
        .layer(layer("two").compression(Compression::Zstd))
        .layer(layer("three").compression(Compression::None))
        .entrypoint(["/one"])
        .env(["A=b"])
        .user("1003:1004")
        .build()
}

/// Runs a program to its end; what it writes.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
