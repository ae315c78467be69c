use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::projects::Projects;
use crate::{overlay, tree};

/// Removes trees behind the caller's back: a rename now, the rest in the background.
///
/// To remove a directory that has been committed to ext4's journal was measured to take 3.5 ms, and a container's writable layer has at
/// least five: nobody should wait for that.
#[derive(Debug)]
pub(crate) struct Trash {
    directory: PathBuf,
    queue: Arc<Mutex<Queue>>,
    /// Those of the trees are free when the trees are gone.
    projects: Option<Arc<Projects>>,
}

#[derive(Debug, Default)]
struct Queue {
    trees: Vec<PathBuf>,
    /// A thread is at work; it ends when there is nothing left to do.
    busy: bool,
}

impl Trash {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            queue: Arc::default(),
            projects: None,
        }
    }

    pub(crate) fn with_projects(directory: PathBuf, projects: Arc<Projects>) -> Self {
        Self {
            projects: Some(projects),
            ..Self::new(directory)
        }
    }

    /// Takes a tree away. Succeeds if there is none.
    pub(crate) fn discard(&self, tree: &Path) -> Result<(), Errno> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let target = self
            .directory
            .join(format!("{}-{number}", std::process::id()));
        match rustix::fs::rename(tree, &target) {
            Ok(()) => {
                self.remove_behind(target);
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            // A full disk may have no room for the name, and what an earlier process left may have it.
            Err(_) => remove(tree, self.projects.as_deref()),
        }
    }

    /// Removes what an earlier process did not come to.
    pub(crate) fn empty(&self) -> Result<(), Errno> {
        for name in overlay::list(&self.directory)? {
            self.remove_behind(self.directory.join(name));
        }
        Ok(())
    }

    fn remove_behind(&self, tree: PathBuf) {
        {
            let mut queue = lock(&self.queue);
            queue.trees.push(tree);
            if std::mem::replace(&mut queue.busy, true) {
                return;
            }
        }
        let (queue, projects) = (Arc::clone(&self.queue), self.projects.clone());
        let thread = std::thread::Builder::new()
            .name("overlay-trash".into())
            .stack_size(128 * 1024)
            .spawn(move || work(&queue, projects.as_deref()));
        if thread.is_err() {
            work(&self.queue, self.projects.as_deref());
        }
    }
}

fn work(queue: &Mutex<Queue>, projects: Option<&Projects>) {
    loop {
        let tree = {
            let mut queue = lock(queue);
            match queue.trees.pop() {
                Some(tree) => tree,
                None => {
                    queue.busy = false;
                    return;
                }
            }
        };
        // What cannot be removed now is tried again when the root is opened.
        let _ = remove(&tree, projects);
    }
}

fn remove(tree: &Path, projects: Option<&Projects>) -> Result<(), Errno> {
    let project = projects.and_then(|projects| Some((projects, projects.of(tree)?)));
    tree::remove_tree(tree)?;
    if let Some((projects, project)) = project {
        projects.release(project);
    }
    Ok(())
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}
