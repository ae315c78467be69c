//! CheckpointContainer: one container, into an archive.

use std::{fs::File, io, path::Path, path::PathBuf, sync::Arc, time::Duration};

use super::{
    CheckpointError,
    archive::{Partial, add_all},
    journal::{Artefact, Journal},
    root,
    work::{Term, Work, freeze, thaw},
};
use crate::{container::Container, flight::Crashed, runtime::Runtime};

/// Writes a running container into an archive at `location`; it goes on. Zero is the default of two minutes, less what a kubelet needs to hear
/// of it. Cancellation: the checkpoint is made to its end.
pub(crate) async fn checkpoint(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    location: PathBuf,
    bound: Duration,
) -> Result<(), CheckpointError> {
    let bound = (!bound.is_zero()).then_some(bound);
    let (runtime, container) = (Arc::clone(runtime), Arc::clone(container));
    let made = tokio::spawn(async move {
        let id = container.id.clone();
        let _busy = runtime
            .checkpoints
            .begin(&id)
            .ok_or_else(|| CheckpointError::Busy(id.clone()))?;
        let directory = root(&runtime).join(id.as_str());
        let work = Work::new(&runtime, &container, directory, Term::new(bound))?;
        let criu = runtime.checkpoints.criu.get(&runtime.config).await;
        let criu = criu.map_err(|error| CheckpointError::Criu(id, error))?;
        let written = async {
            let spec = work.spec()?;
            let (journal, partial) = open(&work, location.clone()).await?;
            let frozen = match freeze(std::slice::from_ref(&work)).await {
                Ok(()) => work.cut(&criu, &spec).await,
                Err(error) => Err(error),
            };
            // Whatever came of it; the supervisor would do it by itself when the time is over.
            let thawed = thaw(std::slice::from_ref(&work)).await;
            let written = match frozen.and(thawed) {
                Ok(()) => {
                    work.describe(spec).await?;
                    put_together(&work, partial, location).await
                }
                Err(error) => Err(error),
            };
            journal.done();
            written
        };
        let written = written.await;
        work.remove().await;
        written
    });
    made.await.map_err(|_panicked| Crashed)?
}

/// The archive's file, before a process is held still for nothing, and an empty directory to work in.
async fn open(
    work: &Work,
    location: PathBuf,
) -> Result<(Journal, (Partial, File)), CheckpointError> {
    work.prepare().await?;
    let place = location.clone();
    let root = root(&work.runtime);
    let opened = work.blocking(move || {
        let partial = Partial::beside(&place)?;
        let journal = Journal::begin(&root, &Artefact::Archive(partial.clone()))?;
        Ok((journal, Partial::create(partial, &place)?))
    });
    opened.await?.map_err(|source| CheckpointError::Location {
        id: work.container.id.clone(),
        path: location,
        source,
    })
}

async fn put_together(
    work: &Work,
    (partial, file): (Partial, File),
    location: PathBuf,
) -> Result<(), CheckpointError> {
    let (directory, until) = (work.directory.clone(), work.term.until);
    let written = work.blocking(move || {
        let mut archive = tar::Builder::new(&file);
        add_all(&mut archive, &directory, Path::new(""), until)?;
        archive.finish()?;
        drop(archive);
        partial.put(&file)
    });
    written.await?.map_err(|source| match source.kind() {
        io::ErrorKind::TimedOut => work.late(),
        _ => CheckpointError::Location {
            id: work.container.id.clone(),
            path: location,
            source,
        },
    })
}
