//! A CRI server with canned answers that remembers what it was asked.

mod data;
mod services;

pub(crate) use data::{BARE, BUSYBOX, CLIENT, DB_POD, SERVER, SERVER2, WEB_POD};

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cri::progress::progress_server::ProgressServer;
use cri::v1::{
    ContainerState, image_service_server::ImageServiceServer,
    runtime_service_server::RuntimeServiceServer,
};
use tokio::sync::Notify;

use crate::serving::Serving;

/// It serves until this is dropped.
pub(crate) struct Fake {
    shared: Arc<Shared>,
    _serving: Serving,
}

struct Shared {
    /// Where containers' logs are.
    directory: PathBuf,
    calls: Mutex<Vec<String>>,
    server_state: Mutex<ContainerState>,
    /// Ends the pull of the image "slow".
    pulled: Notify,
}

/// Which services a fake has beside CRI's.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Extras {
    None,
    Progress,
}

#[derive(Clone)]
struct Service(Arc<Shared>);

impl Fake {
    pub(crate) fn start(socket: &Path, directory: &Path, extras: Extras) -> Self {
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            calls: Mutex::default(),
            server_state: Mutex::new(ContainerState::ContainerRunning),
            pulled: Notify::new(),
        });
        let service = Service(shared.clone());
        let serving = Serving::start(socket, move |clients| {
            let progress =
                (extras == Extras::Progress).then(|| ProgressServer::new(service.clone()));
            tonic::transport::Server::builder()
                .add_optional_service(progress)
                .add_service(RuntimeServiceServer::new(service.clone()))
                .add_service(ImageServiceServer::new(service))
                .serve_with_incoming(clients)
        });
        Self {
            shared,
            _serving: serving,
        }
    }

    /// What was asked for and changes something, or is filtered, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.calls.lock().unwrap())
    }

    /// Lets the pull of the image "slow" come to its end.
    pub(crate) fn finish_pull(&self) {
        self.shared.pulled.notify_one();
    }

    /// Makes container `SERVER` exit.
    pub(crate) fn exit_server(&self) {
        *self.shared.server_state.lock().unwrap() = ContainerState::ContainerExited;
    }
}
