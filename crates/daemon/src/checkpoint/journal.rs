//! What a checkpoint or a restore has begun where a later daemon would not look: noted before it is there, so that one that dies in the
//! middle leaves nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::manifest;
use crate::{
    id::random_hex,
    pod::{self, config::PodMetadata},
    runtime::Runtime,
};

/// How the files of the journal end; nothing else in their directory does.
const ENDING: &str = "journal";

/// What is not whole yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Artefact {
    /// A file that is to become an archive.
    Archive(PathBuf),
    /// A client's directory that a pod's checkpoint is written into.
    Pod(PathBuf),
    /// A pod that is being restored.
    Restore(PodMetadata),
}

/// A note of something that is under way, taken away when it is dropped.
#[derive(Debug)]
pub(super) struct Journal(PathBuf);

impl Journal {
    /// `root` is the directory of all checkpoints. Blocks.
    pub(super) fn begin(root: &Path, artefact: &Artefact) -> io::Result<Self> {
        let path = root.join(format!("{}.{ENDING}", random_hex()?));
        let journal = Self(path);
        fs::write(&journal.0, serde_json::to_vec(artefact)?)?;
        Ok(journal)
    }

    /// It is whole, or it is gone.
    pub(super) fn done(self) {}
}

impl Drop for Journal {
    fn drop(&mut self) {
        // It may never have been written.
        let _gone = fs::remove_file(&self.0);
    }
}

pub(super) fn is_journal(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == ENDING)
}

/// Undoes what an earlier daemon had begun. Where something cannot be undone, the next daemon tries again.
pub(crate) async fn settle(runtime: Arc<Runtime>) {
    let root = super::root(&runtime);
    let read = tokio::task::spawn_blocking(move || read(&root)).await;
    for (path, artefact) in read.unwrap_or_default() {
        let undone = match artefact {
            Artefact::Restore(name) => match runtime.inventory.pod_named(&name) {
                Some(pod) => {
                    let removed = pod::remove(&runtime, &pod).await;
                    removed.map_err(|error| crate::rpc::chain(&*error))
                }
                None => Ok(()),
            },
            // A client's path may hang.
            artefact => {
                let undone = tokio::task::spawn_blocking(move || undo(&artefact)).await;
                match undone {
                    Ok(undone) => undone.map_err(|error| error.to_string()),
                    Err(panicked) => Err(panicked.to_string()),
                }
            }
        };
        match undone {
            Ok(()) => Journal(path).done(),
            Err(error) => {
                tracing::warn!(
                    error,
                    "what an unfinished checkpoint or restore has left is still there"
                );
            }
        }
    }
}

/// Notes that make no sense are dropped: nothing is known that they could be about.
fn read(root: &Path) -> Vec<(PathBuf, Artefact)> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let paths = entries
        .map(|entry| entry.path())
        .filter(|path| is_journal(path));
    paths
        .filter_map(|path| {
            let decoded = serde_json::from_slice(&fs::read(&path).ok()?);
            match decoded {
                Ok(artefact) => Some((path, artefact)),
                Err(_cut_off) => {
                    Journal(path).done();
                    None
                }
            }
        })
        .collect()
}

fn undo(artefact: &Artefact) -> io::Result<()> {
    let undone = match artefact {
        Artefact::Archive(path) => fs::remove_file(path),
        Artefact::Pod(directory) => manifest::clear(directory),
        Artefact::Restore(_) => Ok(()),
    };
    match undone {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_found_and_undone() {
        let root = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        let partial = place.path().join(".c.tar.partial");
        fs::write(&partial, "half").unwrap();
        let note = Journal::begin(root.path(), &Artefact::Archive(partial.clone())).unwrap();
        fs::write(root.path().join("x.journal"), "{").unwrap();
        // As when the daemon is killed.
        std::mem::forget(note);

        let found = read(root.path());
        assert_eq!(found.len(), 1);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        for _again in 0..2 {
            undo(&found[0].1).unwrap();
            assert!(!partial.exists());
        }
        let note = Journal::begin(root.path(), &Artefact::Pod(PathBuf::new())).unwrap();
        drop(note);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
