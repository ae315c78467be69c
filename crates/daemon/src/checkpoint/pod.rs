//! CheckpointPod: containers of one pod, in one cut, into a directory of the client's.
//!
//! Neither a client that goes away nor one whose deadline passes leaves a container frozen, or a file behind.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use super::{
    CheckpointError,
    criu::Criu,
    journal::{Artefact, Journal},
    manifest::{self, Manifest, Member},
    metadata, root,
    work::{Term, Work, freeze, thaw},
};
use crate::{
    flight::Crashed,
    id::{ContainerId, PodId},
    inventory::FindError,
    pod::Pod,
    runtime::{BlockingError, Runtime, blocking, now_ns},
};

/// How long CRIU may go on with what nobody wants any more: it takes its hands off processes better than the kernel does.
const GRACE: Duration = Duration::from_secs(5);

/// Why there is no checkpoint. The containers go on, and the directory is as empty as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodCheckpointError {
    #[error("container_ids is empty: name the containers to checkpoint")]
    NoContainers,
    #[error("container_ids names {0} twice")]
    Twice(ContainerId),
    #[error("container_ids has two containers of the name {0:?}, of which a pod restores one")]
    TwoOfAName(String),
    #[error("container_ids")]
    Find(#[from] FindError),
    #[error("container {id} is not in pod {pod}")]
    Elsewhere { id: ContainerId, pod: PodId },
    #[error("checkpoint pod {pod}: output_path {}", path.display())]
    Directory {
        pod: PodId,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("checkpoint pod {0}")]
    Container(PodId, #[source] CheckpointError),
    #[error("checkpoint pod {0}: whoever asked for it has gone")]
    Cancelled(PodId),
    #[error("checkpoint pod {0}")]
    Blocking(PodId, #[source] BlockingError),
    #[error(transparent)]
    Crashed(#[from] Crashed),
}

/// Writes the containers into `directory`, which is there and empty; they go on. `bound` is when the client gives up. Cancellation: what was
/// written is removed, and the containers go on.
pub(crate) async fn checkpoint_pod(
    runtime: &Arc<Runtime>,
    pod: &Arc<Pod>,
    directory: PathBuf,
    ids: &[String],
    bound: Option<Duration>,
) -> Result<(), PodCheckpointError> {
    let term = Term::new(bound);
    let all = select(runtime, pod, &directory, ids, term)?;
    // Dropped with this future.
    let (_wanted, unwanted) = watch::channel(());
    let checkpoint = PodCheckpoint {
        runtime: Arc::clone(runtime),
        pod: Arc::clone(pod),
        directory,
        all,
        unwanted,
    };
    let made = tokio::spawn(async move { checkpoint.make().await });
    made.await.map_err(|_panicked| Crashed)?
}

/// What the request names, judged before anything is done.
fn select(
    runtime: &Arc<Runtime>,
    pod: &Pod,
    directory: &Path,
    ids: &[String],
    term: Term,
) -> Result<Vec<Work>, PodCheckpointError> {
    if ids.is_empty() {
        return Err(PodCheckpointError::NoContainers);
    }
    let (mut seen, mut names) = (BTreeSet::new(), BTreeSet::new());
    let mut all = Vec::with_capacity(ids.len());
    for id in ids {
        let container = runtime.inventory.find_container(id)?;
        let id = container.id.clone();
        if container.pod.id != pod.id {
            let pod = pod.id.clone();
            return Err(PodCheckpointError::Elsewhere { id, pod });
        }
        if !seen.insert(id.clone()) {
            return Err(PodCheckpointError::Twice(id));
        }
        let name = &container.config.metadata.name;
        if !names.insert(name.clone()) {
            return Err(PodCheckpointError::TwoOfAName(name.clone()));
        }
        let work = Work::new(runtime, &container, manifest::part(directory, &id), term);
        all.push(work.map_err(|error| PodCheckpointError::Container(pod.id.clone(), error))?);
    }
    Ok(all)
}

struct PodCheckpoint {
    runtime: Arc<Runtime>,
    pod: Arc<Pod>,
    directory: PathBuf,
    all: Vec<Work>,
    /// Closed when nobody waits any more.
    unwanted: watch::Receiver<()>,
}

impl PodCheckpoint {
    async fn make(self) -> Result<(), PodCheckpointError> {
        let mut busy = Vec::with_capacity(self.all.len());
        for work in &self.all {
            let id = &work.container.id;
            let begun = self.runtime.checkpoints.begin(id);
            busy.push(begun.ok_or_else(|| self.failed(CheckpointError::Busy(id.clone())))?);
        }
        let criu = self
            .runtime
            .checkpoints
            .criu
            .get(&self.runtime.config)
            .await;
        let id = || self.all.first().map(|work| work.container.id.clone());
        let criu = criu.map_err(|error| match id() {
            Some(id) => self.failed(CheckpointError::Criu(id, error)),
            None => PodCheckpointError::NoContainers,
        })?;
        let journal = self.begin().await?;
        let mut written = self.write(&criu).await;
        if self.is_unwanted() {
            written = Err(PodCheckpointError::Cancelled(self.pod.id.clone()));
        }
        for work in &self.all {
            work.remove().await;
        }
        if written.is_err() {
            let directory = self.directory.clone();
            let cleared = blocking(Duration::from_secs(60), move || manifest::clear(&directory));
            match cleared.await {
                Ok(Ok(())) => {}
                trouble => {
                    tracing::warn!(
                        ?trouble,
                        directory = %self.directory.display(),
                        "an unfinished checkpoint is there until the daemon is started again"
                    );
                    // The note stays for the next daemon.
                    std::mem::forget(journal);
                    return written;
                }
            }
        }
        journal.done();
        written
    }

    /// Everything is noted before it is there.
    async fn begin(&self) -> Result<Journal, PodCheckpointError> {
        let (root, directory) = (root(&self.runtime), self.directory.clone());
        let begun = blocking(self.left(), move || {
            manifest::vacant(&directory)?;
            let journal = Journal::begin(&root, &Artefact::Pod(directory.clone()))?;
            manifest::begin(&directory)?;
            Ok(journal)
        });
        let begun = begun
            .await
            .map_err(|error| PodCheckpointError::Blocking(self.pod.id.clone(), error))?;
        begun.map_err(|source| self.directory(source))
    }

    async fn write(&self, criu: &Criu) -> Result<(), PodCheckpointError> {
        let mut specs = Vec::with_capacity(self.all.len());
        for work in &self.all {
            specs.push(work.spec().map_err(|error| self.failed(error))?);
            work.prepare().await.map_err(|error| self.failed(error))?;
        }
        let cut = async {
            freeze(&self.all).await?;
            for (work, spec) in self.all.iter().zip(&specs) {
                if self.is_unwanted() {
                    return Ok(());
                }
                work.cut(criu, spec).await?;
            }
            Ok(())
        };
        let cut = tokio::select! {
            cut = cut => cut,
            // What came of it is told by whoever looks whether it was wanted.
            () = self.until_unwanted() => Ok(()),
        };
        // Whatever came of it.
        let thawed = thaw(&self.all).await;
        cut.and(thawed).map_err(|error| self.failed(error))?;
        if self.is_unwanted() {
            return Ok(());
        }
        for (work, spec) in self.all.iter().zip(specs) {
            work.describe(spec)
                .await
                .map_err(|error| self.failed(error))?;
        }
        self.finish().await
    }

    async fn finish(&self) -> Result<(), PodCheckpointError> {
        let members = self.all.iter().map(|work| Member {
            id: work.container.id.clone(),
            name: work.container.config.metadata.name.clone(),
        });
        let manifest = Manifest::new(
            self.pod.id.clone(),
            self.pod.config.metadata.clone(),
            metadata::rfc3339(now_ns()),
            members.collect(),
        );
        let directory = self.directory.clone();
        blocking(self.left(), move || manifest.write(&directory))
            .await
            .map_err(|error| PodCheckpointError::Blocking(self.pod.id.clone(), error))?
            .map_err(|source| self.directory(source))
    }

    fn is_unwanted(&self) -> bool {
        self.unwanted.has_changed().is_err()
    }

    /// Returns some time after nobody waits any more.
    async fn until_unwanted(&self) {
        let mut unwanted = self.unwanted.clone();
        while unwanted.changed().await.is_ok() {}
        tokio::time::sleep(GRACE).await;
    }

    fn left(&self) -> Duration {
        let left = self.all.first().and_then(|work| work.left().ok());
        left.unwrap_or_default()
    }

    fn failed(&self, error: CheckpointError) -> PodCheckpointError {
        PodCheckpointError::Container(self.pod.id.clone(), error)
    }

    fn directory(&self, source: io::Error) -> PodCheckpointError {
        PodCheckpointError::Directory {
            pod: self.pod.id.clone(),
            path: self.directory.clone(),
            source,
        }
    }
}
