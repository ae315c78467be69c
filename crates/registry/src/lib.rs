//! Images made from given files ([`image`]), and a small registry for them: the pull side of the distribution specification 1.1, from memory, over plain HTTP.
//!
//! It runs on a thread and an async runtime of its own, so that blocking and async tests use it alike, and stops when dropped.
//! To serve in another network namespace, bind the listener there:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use registry::{Registry, image};
//!
//! let registry = Registry::serve(std::net::TcpListener::bind("127.0.0.1:5000")?)?;
//! registry.push("library/busybox", "latest", &image::busybox()?.build());
//! # Ok(())
//! # }
//! ```

mod answer;
mod fault;
pub mod image;
mod store;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

pub use fault::{Fault, Rule};
pub use store::Auth;

use crate::image::{Blob, Image};
use store::Store;

/// A registry that runs until it is dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a client asked, in the order in which requests arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedRequest {
    pub method: String,
    /// With the query.
    pub path: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The `Authorization` header: tests only have secrets of their own.
    pub authorization: Option<String>,
    /// All headers, by lower-case name.
    pub headers: Vec<(String, String)>,
    pub status: u16,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) address: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) auth: Auth,
    pub(crate) rules: Vec<Rule>,
    pub(crate) without_referrers: bool,
    pub(crate) log: Vec<LoggedRequest>,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A panic of a test elsewhere must not hide its own message behind a poisoned lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// Serves on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No socket or no thread can be had.
    pub fn start() -> io::Result<Self> {
        Self::serve(TcpListener::bind("127.0.0.1:0")?)
    }

    /// Serves on `listener`, in whichever network namespace it was bound.
    ///
    /// # Errors
    /// No thread or runtime can be had.
    pub fn serve(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            address,
            state: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let service = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("registry".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener, service) => {}
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(Self {
            address,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `127.0.0.1:PORT/repository:tag`.
    #[must_use]
    pub fn reference(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.address)
    }

    /// `127.0.0.1:PORT/repository@sha256:…`.
    #[must_use]
    pub fn digest_reference(&self, repository: &str, digest: &str) -> String {
        format!("{}/{repository}@{digest}", self.address)
    }

    /// Puts an image under `repository:tag`; returns that reference.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> String {
        let mut state = self.shared.state();
        state.store.image(repository, image);
        state.store.tag(repository, tag, image.digest());
        drop(state);
        self.reference(repository, tag)
    }

    /// Puts an index and the images it names under `repository:tag`; returns that reference.
    pub fn push_index(&self, repository: &str, tag: &str, images: &[&Image]) -> String {
        let index = crate::image::index(images.iter().copied());
        let mut state = self.shared.state();
        for image in images {
            state.store.image(repository, image);
        }
        state.store.manifest(repository, &index);
        state.store.tag(repository, tag, &index.digest);
        drop(state);
        self.reference(repository, tag)
    }

    /// Puts a manifest of the caller's making under `repository:tag`.
    pub fn push_manifest(&self, repository: &str, tag: &str, manifest: &Blob) -> String {
        let mut state = self.shared.state();
        state.store.manifest(repository, manifest);
        state.store.tag(repository, tag, &manifest.digest);
        drop(state);
        self.reference(repository, tag)
    }

    /// Puts blobs of the caller's making into a repository.
    pub fn push_blobs<'a>(&self, repository: &str, blobs: impl IntoIterator<Item = &'a Blob>) {
        let mut state = self.shared.state();
        for blob in blobs {
            state.store.blob(repository, blob);
        }
    }

    /// From now on the registry is one of before distribution-spec 1.1: it does not list referrers.
    pub fn without_referrers(&self) {
        self.shared.state().without_referrers = true;
    }

    /// Forgets a blob, whose manifest keeps naming it.
    pub fn remove_blob(&self, repository: &str, digest: &str) {
        self.shared.state().store.remove_blob(repository, digest);
    }

    /// What clients must show from now on.
    pub fn require(&self, auth: Auth) {
        self.shared.state().auth = auth;
    }

    /// Adds a rule; the first one that matches a request and has uses left applies.
    pub fn inject(&self, rule: Rule) {
        self.shared.state().rules.push(rule);
    }

    /// Forgets all rules.
    pub fn heal(&self) {
        self.shared.state().rules.clear();
    }

    /// Every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.shared.state().log.clone()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.shared.state().log.clear();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by the panicking thread.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    loop {
        // Out of descriptors, say: the client sees a refused connection or waits.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer::answer(Arc::clone(&shared), request));
            // An error here is a client that went away, or a fault that was asked for.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
