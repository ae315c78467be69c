use std::{
    net::TcpListener,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use cri::{
    client::Client,
    v1::{ImageSpec, PullImageRequest, StatusRequest, StatusResponse, VersionRequest},
};
use registry::{
    Registry,
    image::{BusyboxError, ImageBuilder, busybox_of, find_busybox},
};
use tempfile::TempDir;

use super::{CheckError, Settings, calls::Calls, calls::Refused};

/// How long a runtime may take to accept a connection.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// What all cases of a run share.
pub(super) struct Bed {
    pub(super) calls: Calls,
    pub(super) registry: Registry,
    /// Busybox, which the runtime has pulled.
    pub(super) image: String,
    pub(super) busybox: ImageBuilder,
    pub(super) scratch: TempDir,
    pub(super) settings: Settings,
    /// Name and version.
    pub(super) runtime: String,
    pub(super) status: StatusResponse,
    /// Tells this run's pods from others'.
    pub(super) run: String,
    next: AtomicU32,
}

impl Bed {
    pub(super) async fn make(settings: &Settings) -> Result<Self, CheckError> {
        let runtime = Client::connect(settings.endpoint.clone(), CONNECT_WITHIN).await?;
        let images = match settings.image_endpoint == settings.endpoint {
            true => runtime.clone(),
            false => Client::connect(settings.image_endpoint.clone(), CONNECT_WITHIN).await?,
        };
        let calls = Calls { runtime, images };
        let version = calls.version(VersionRequest::default()).await;
        let version = version.map_err(not_asked)?;
        let status = calls.status(StatusRequest { verbose: true }).await;
        let program = settings.busybox.clone().or_else(find_busybox);
        let program = program.ok_or(BusyboxError::Missing)?;
        let busybox = busybox_of(&program)?;
        let io = |operation: &str| {
            let operation = operation.to_owned();
            move |source| CheckError::Io { operation, source }
        };
        let listener = TcpListener::bind("127.0.0.1:0").map_err(io("bind a port of 127.0.0.1"))?;
        let registry = Registry::serve(listener).map_err(io("start a registry"))?;
        let run = std::process::id().to_string();
        // Another image than anybody's: removing it by its tag would remove theirs.
        let own = busybox.clone().label("longshore.check", &run).build();
        let image = registry.push("check/busybox", "1", &own);
        let bed = Self {
            scratch: tempfile::Builder::new()
                .prefix("longshore-check-")
                .tempdir_in(&settings.directory)
                .map_err(io(&format!(
                    "make a directory in {}",
                    settings.directory.display()
                )))?,
            runtime: format!("{} {}", version.runtime_name, version.runtime_version),
            status: status.map_err(not_asked)?,
            run,
            next: AtomicU32::new(0),
            settings: settings.clone(),
            calls,
            registry,
            image,
            busybox,
        };
        bed.pull_busybox().await.map_err(not_asked)?;
        Ok(bed)
    }

    /// Recovery and full disks may have cost it.
    pub(super) async fn pull_busybox(&self) -> Result<(), Refused> {
        let request = PullImageRequest {
            image: Some(ImageSpec {
                image: self.image.clone(),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.calls.pull_image(request).await.map(drop)
    }

    /// A number that no other scene of this run has.
    pub(super) fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn directory(&self, scene: &str) -> PathBuf {
        self.scratch.path().join(scene)
    }
}

fn not_asked(refused: Refused) -> CheckError {
    CheckError::Rpc {
        operation: refused.rpc.to_owned(),
        status: Box::new(refused.status),
    }
}
