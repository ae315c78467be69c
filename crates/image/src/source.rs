use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::registry::{FetchError, Session};

/// Where the bytes of layers come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Registry(Arc<Session>),
}

impl Source {
    /// Streams a blob of `size` bytes to `sink`; `progress` is told how many have come.
    pub(crate) async fn blob(
        &self,
        digest: &str,
        size: u64,
        sink: mpsc::Sender<Bytes>,
        progress: impl Fn(u64),
    ) -> Result<(), FetchError> {
        match self {
            Self::Registry(session) => session.blob(digest, size, sink, progress).await,
        }
    }

    /// Whether there is somebody else to ask for a blob whose bytes were wrong.
    pub(crate) fn distrust(&self, digest: &str) -> bool {
        match self {
            Self::Registry(session) => session.distrust(digest),
        }
    }
}
