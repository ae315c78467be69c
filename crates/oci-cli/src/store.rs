//! Where containers are known: a directory each below `--root`.
//!
//! | file | |
//! |---|---|
//! | `lock` | held by a command that changes the container |
//! | `record.json` | what was made, before and after it was made |
//! | `config.json` | its specification, as it was when the container was made |
//! | `gate` | a socket on which init waits for its start; there until then |

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use oci_spec::runtime::Spec;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::record::Record;

const RECORD: &str = "record.json";
const CONFIG: &str = "config.json";
pub(crate) const GATE: &str = "gate";

/// How long another command may hold a container; each has bounds of its own, but for hooks without a timeout.
const PATIENCE: Duration = Duration::from_secs(30);

/// As long as runc's.
const LONGEST_ID: usize = 1024;

#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

/// A container's directory.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) id: String,
    path: PathBuf,
}

/// Nobody else changes the container while this is held.
#[derive(Debug)]
pub(crate) struct Held {
    _lock: File,
}

impl Store {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// A place for a container that does not exist, held.
    pub(crate) fn make(&self, id: &str) -> anyhow::Result<(Place, Held)> {
        check(id)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .with_context(|| format!("make {}", self.root.display()))?;
        let place = self.place(id);
        match DirBuilder::new().mode(0o700).create(&place.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("container {id} exists already")
            }
            Err(error) => {
                return Err(error).with_context(|| format!("make {}", place.path.display()));
            }
        }
        let held = place.hold()?;
        Ok((place, held))
    }

    /// Of a container that exists.
    pub(crate) fn find(&self, id: &str) -> anyhow::Result<Place> {
        self.look(id)?
            .with_context(|| format!("container {id} does not exist"))
    }

    pub(crate) fn look(&self, id: &str) -> anyhow::Result<Option<Place>> {
        check(id)?;
        let place = self.place(id);
        Ok(place.path.is_dir().then_some(place))
    }

    /// All, by their identifiers in order.
    pub(crate) fn all(&self) -> anyhow::Result<Vec<Place>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error).with_context(|| format!("read {}", self.root.display()));
            }
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| check(name).is_ok())
            .collect();
        names.sort_unstable();
        let places = names.iter().map(|name| self.place(name));
        Ok(places.filter(|place| place.path.is_dir()).collect())
    }

    fn place(&self, id: &str) -> Place {
        Place {
            id: id.to_owned(),
            path: self.root.join(id),
        }
    }
}

/// An identifier is a name of a directory, and nothing that leads elsewhere.
fn check(id: &str) -> anyhow::Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    ensure!(
        !id.is_empty()
            && id.len() <= LONGEST_ID
            && id.chars().all(plain)
            && ![".", ".."].contains(&id),
        "container ID {id:?}: use letters, digits and _ + - ."
    );
    Ok(())
}

impl Place {
    /// Waits for whoever holds it, some seconds.
    pub(crate) fn hold(&self) -> anyhow::Result<Held> {
        let name = self.path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&name)
            .with_context(|| format!("open {}", name.display()))?;
        let end = Instant::now() + PATIENCE;
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Held { _lock: lock }),
                Err(Errno::WOULDBLOCK) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(Errno::WOULDBLOCK) => bail!(
                    "another command has held container {} for {} s",
                    self.id,
                    PATIENCE.as_secs()
                ),
                Err(error) => {
                    return Err(error).with_context(|| format!("lock {}", name.display()));
                }
            }
        }
    }

    /// `None` before anything was made.
    pub(crate) fn record(&self) -> anyhow::Result<Option<Record>> {
        let path = self.path.join(RECORD);
        match fs::read(&path) {
            Ok(text) => {
                Ok(Some(serde_json::from_slice(&text).with_context(|| {
                    format!("understand {}", path.display())
                })?))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Of a container that was made.
    pub(crate) fn made(&self) -> anyhow::Result<Record> {
        self.record()?
            .with_context(|| format!("container {} is not made yet", self.id))
    }

    pub(crate) fn keep(&self, record: &Record) -> anyhow::Result<()> {
        self.replace(RECORD, &serde_json::to_vec(record)?)
    }

    pub(crate) fn keep_spec(&self, spec: &Spec) -> anyhow::Result<()> {
        self.replace(CONFIG, &serde_json::to_vec(spec)?)
    }

    pub(crate) fn spec(&self) -> anyhow::Result<Spec> {
        let path = self.path.join(CONFIG);
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))
    }

    fn replace(&self, name: &str, text: &[u8]) -> anyhow::Result<()> {
        let directory = self.open()?;
        sys::replace_file(
            directory.as_fd(),
            name,
            text,
            0o600,
            sys::Durability::Process,
        )
        .with_context(|| format!("write {}", self.path.join(name).display()))
    }

    pub(crate) fn open(&self) -> anyhow::Result<OwnedFd> {
        File::open(&self.path)
            .map(OwnedFd::from)
            .with_context(|| format!("open {}", self.path.display()))
    }

    /// Whether init waits for its start.
    pub(crate) fn has_gate(&self) -> bool {
        self.path.join(GATE).exists()
    }

    pub(crate) fn remove_gate(&self) {
        // It is a mark only: one that stays goes with the container.
        let _ = fs::remove_file(self.path.join(GATE));
    }

    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn identifiers_are_names() {
        for good in ["a", "a.b", "A_1+2-3", "..."] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "../a",
            "a b",
            "a\n",
            "ä",
            &"x".repeat(1025),
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
