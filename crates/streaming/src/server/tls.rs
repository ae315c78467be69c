//! The server's certificate, read again when its files change.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

use super::config::TlsFiles;

/// Files are looked at this often at most: a certificate's renewal need not be noticed sooner.
const GLANCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Certificate {
    files: TlsFiles,
    state: Mutex<State>,
}

struct State {
    acceptor: TlsAcceptor,
    stamp: Stamp,
    looked: Instant,
    /// The last that could not be used: said once, however often it is tried.
    unusable: Option<Stamp>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("State").finish_non_exhaustive()
    }
}

/// What changes when a file is written or replaced.
type Stamp = [(u64, u64, i64, i64); 2];

/// Why a certificate cannot be served with.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read {path}")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path} has no {what} in PEM")]
    Pem {
        path: String,
        what: &'static str,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("the certificate and the key do not serve TLS")]
    Pair(#[source] rustls::Error),
}

impl Certificate {
    pub(super) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let stamp = stamp(&files)?;
        let acceptor = load(&files)?;
        let state = State {
            acceptor,
            stamp,
            looked: Instant::now(),
            unusable: None,
        };
        let state = Mutex::new(state);
        Ok(Self { files, state })
    }

    /// What serves the next client. Reads the files if they have changed: call it where that may block.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let (current, stamp_of_current) = {
            let mut state = self.lock();
            if state.looked.elapsed() < GLANCE {
                return state.acceptor.clone();
            }
            state.looked = Instant::now();
            (state.acceptor.clone(), state.stamp)
        };
        let Ok(found) = stamp(&self.files) else {
            return current;
        };
        if found == stamp_of_current {
            return current;
        }
        match load(&self.files) {
            Ok(acceptor) => {
                tracing::info!("the streaming certificate has changed");
                let mut state = self.lock();
                (state.acceptor, state.stamp) = (acceptor.clone(), found);
                acceptor
            }
            // Perhaps only one of the two has been replaced so far: the next glance tells.
            Err(error) => {
                let said = self.lock().unusable.replace(found) == Some(found);
                if !said {
                    let error = crate::chain(&error);
                    tracing::warn!(
                        error,
                        "the streaming certificate has changed and cannot be used: the old one stays"
                    );
                }
                current
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(files: &TlsFiles) -> Result<TlsAcceptor, TlsError> {
    let certificates = read(&files.certificate)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificates).collect();
    let pem = |path: &Path, what| {
        let path = path.display().to_string();
        move |source| TlsError::Pem { path, what, source }
    };
    let chain = chain.map_err(pem(&files.certificate, "certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?);
    let key = key.map_err(pem(&files.key, "key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Pair)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(unreadable(path))
}

fn stamp(files: &TlsFiles) -> Result<Stamp, TlsError> {
    let one = |path: &Path| {
        let found = fs::metadata(path).map_err(unreadable(path))?;
        Ok((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    };
    Ok([one(&files.certificate)?, one(&files.key)?])
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> TlsError {
    let path = path.display().to_string();
    move |source| TlsError::Read { path, source }
}
