//! Which images may be here, and which may run: a policy of the operator's, and sigstore signatures where it wants them.
//!
//! ```text
//! pull    name, namespace ──► rule ──► accept │ reject │ signed ──► signatures in the registry ──► verified ──► kept beside the image
//! create  name, namespace ──► rule ──► accept │ reject │ signed ──► those that were kept ────────► verified
//! ```
//!
//! The second look asks no registry: what was found at the pull is kept, and verified again by the policy as it is then. A policy that
//! cannot be read, or an image of which nothing was kept, is a refusal.

mod admit;
mod collect;
mod crypto;
mod error;
mod evidence;
mod pattern;
mod policy;
mod verify;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use admit::{Admission, admit, united};
use collect::collect;
pub use error::SignatureError;
pub(crate) use evidence::Evidence;
use policy::Action;
pub(crate) use policy::Policy;
use verify::verify;

use crate::{ConfigurationError, Digest, StoreError};

/// The policy's file, read again when it or one that it names has changed.
#[derive(Debug)]
pub(crate) struct PolicyFile {
    path: Option<PathBuf>,
    last: Mutex<Option<Arc<Policy>>>,
}

impl PolicyFile {
    pub(crate) fn new(path: Option<PathBuf>) -> Self {
        Self {
            path,
            last: Mutex::default(),
        }
    }

    /// The policy as it is now; none where none is configured.
    pub(crate) async fn current(self: &Arc<Self>) -> Result<Option<Arc<Policy>>, PolicyUnread> {
        if self.path.is_none() {
            return Ok(None);
        }
        let file = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || file.read());
        let policy = read.await.map_err(|source| StoreError::Task {
            action: "read the policy for signatures",
            source,
        })?;
        Ok(policy?)
    }

    fn read(&self) -> Result<Option<Arc<Policy>>, ConfigurationError> {
        let Some(path) = &self.path else {
            return Ok(None);
        };
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last().clone();
        if let Some(policy) = known
            && policy.is_fresh()
        {
            return Ok(Some(policy));
        }
        let policy = Arc::new(Policy::read(path)?);
        *last() = Some(Arc::clone(&policy));
        Ok(Some(policy))
    }
}

/// Why there is no policy to go by.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyUnread {
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who wants an image, and what the registry calls it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) repository: &'a str,
    pub(crate) namespace: &'a str,
    /// Of what the name means, and of the manifest for this machine; a signature on either is one on the image.
    pub(crate) digests: &'a [Digest],
}
