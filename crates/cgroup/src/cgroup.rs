use std::os::fd::OwnedFd;

use oci_plan::Resources;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::Pid;

use crate::error::Error;
use crate::files;
use crate::hierarchy::{Hierarchies, Hierarchy};
use crate::mark::{self, Mark};
use crate::path::CgroupPath;
use crate::resources::{self, Scope};

/// How often a path is made again when another pod's clean-up removes a parent under our feet.
const MAKE_ATTEMPTS: usize = 8;

/// One path in every hierarchy, or, for [`Cgroup::create_exec`], a child of it in the tracking hierarchy only.
#[derive(Debug, Clone)]
pub struct Cgroup {
    pub(crate) hierarchies: Hierarchies,
    pub(crate) path: CgroupPath,
    /// The child's name, in the tracking hierarchy.
    exec: Option<String>,
    owned: Owned,
}

/// A cgroup's directory in one hierarchy, for showing it inside a container.
#[derive(Debug)]
pub struct Directory {
    /// The last component of the hierarchy's mount point: `memory`, `cpu,cpuacct`, `unified`; for the only v2 tree whatever it is
    /// mounted at.
    pub name: String,
    /// `memory`, `cpu,cpuacct`, `name=systemd`; empty for v2.
    pub controllers: String,
    pub v2: bool,
    pub dir: OwnedFd,
}

impl Hierarchies {
    /// Makes a cgroup that must not exist yet in any hierarchy, and its missing parents, and limits it. On failure everything
    /// made is removed again.
    pub fn create(&self, path: &str, resources: &Resources) -> Result<Cgroup, Error> {
        self.make(CgroupPath::parse(path)?, resources, true)
    }

    /// Makes a cgroup in those hierarchies where it is missing, for the pod: a kubelet names the pod's cgroup, and on hybrid
    /// machines makes it in v1 only. Limits are set only where it was made here. On failure everything made is removed again.
    pub fn ensure(&self, path: &str, resources: &Resources) -> Result<Cgroup, Error> {
        self.make(CgroupPath::parse(path)?, resources, false)
    }

    /// A cgroup that exists, in some hierarchy at least. Removing it later removes the directories that bear our mark, made in
    /// whichever process.
    pub fn open_cgroup(&self, path: &str) -> Result<Cgroup, Error> {
        self.open_knowing(path, Owned::NOWHERE)
    }

    /// A cgroup whose making by [`Hierarchies::create`] the caller has on record: ours also where this process may not read marks
    /// (which takes CAP_SYS_ADMIN).
    pub fn open_owned(&self, path: &str) -> Result<Cgroup, Error> {
        self.open_knowing(path, Owned::EVERYWHERE)
    }

    fn open_knowing(&self, path: &str, owned: Owned) -> Result<Cgroup, Error> {
        let path = CgroupPath::parse(path)?;
        let exists = |hierarchy| files::exists(hierarchy, path.as_str());
        if !self.all().iter().any(exists) {
            return Err(Error::NotFound {
                path: path.to_string(),
            });
        }
        Ok(Cgroup {
            hierarchies: self.clone(),
            path,
            exec: None,
            owned,
        })
    }

    fn make(&self, path: CgroupPath, resources: &Resources, fresh: bool) -> Result<Cgroup, Error> {
        resources::check(self, resources)?;
        let mut cgroup = Cgroup {
            hierarchies: self.clone(),
            path,
            exec: None,
            owned: Owned::NOWHERE,
        };
        match cgroup.make_everywhere(resources, fresh) {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                // What cannot be removed now is empty, and the first error is the one to tell.
                let _ = cgroup.remove_made();
                Err(error)
            }
        }
    }
}

impl Cgroup {
    fn make_everywhere(&mut self, resources: &Resources, fresh: bool) -> Result<(), Error> {
        let hierarchies = self.hierarchies.clone();
        for (index, hierarchy) in hierarchies.all().iter().enumerate() {
            match make_path(hierarchy, &self.path)? {
                Some(from) => {
                    self.owned.add(index);
                    resources::inherit(hierarchy, &self.path, from)?;
                }
                None if fresh => {
                    return Err(Error::Exists {
                        cgroup: hierarchy.label(self.path.as_str()),
                    });
                }
                None => {
                    // Made on the way to something below; from now on it is asked for itself.
                    if mark::get(hierarchy, self.path.as_str()) == Some(Mark::Implied) {
                        mark::set(hierarchy, self.path.as_str(), Mark::Asked);
                    }
                }
            }
        }
        resources::enable_controllers(&hierarchies, &self.path, resources)?;
        resources::apply(self, resources, Scope::Made)
    }

    /// Relative to the root of each hierarchy.
    pub fn path(&self) -> &str {
        self.path.as_str()
    }

    /// Whether any of its directories is ours to remove.
    pub fn is_ours(&self) -> bool {
        let all = self.hierarchies.all().iter().enumerate();
        all.into_iter()
            .any(|(index, hierarchy)| self.is_ours_in(index, hierarchy))
    }

    pub(crate) fn is_ours_in(&self, index: usize, hierarchy: &Hierarchy) -> bool {
        // Where an exec has no directory of its own it lives in its container's, which is not the exec's to remove.
        if self.is_exec() && !self.is_tracking(hierarchy) {
            return false;
        }
        self.owned.has(index) || mark::get(hierarchy, &self.path_in(hierarchy)).is_some()
    }

    /// Known to be ours without asking the kernel.
    pub(crate) fn was_made_in(&self, hierarchy: &Hierarchy) -> bool {
        let index = self.hierarchies.position(hierarchy);
        index.is_some_and(|index| self.owned.has(index))
    }

    pub fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// Changes limits: all of them, or, where the kernel refuses one, none; the error names it. Device rules, if there are any, take the
    /// place of those in force on v2; v1 adds them unless one is for all devices.
    pub fn update(&self, resources: &Resources) -> Result<(), Error> {
        resources::check(&self.hierarchies, resources)?;
        resources::enable_controllers(&self.hierarchies, &self.path, resources)?;
        resources::change(self, resources)
    }

    /// A child cgroup for an exec, to list and kill its processes apart from the container's. It exists in the tracking hierarchy
    /// only; the container's limits hold for it.
    pub fn create_exec(&self, name: &str) -> Result<Cgroup, Error> {
        let Some(tracking) = self.hierarchies.tracking() else {
            return Err(Error::NoTracking {
                path: self.path.to_string(),
                what: "track an exec",
            });
        };
        let child = self.path.join(name)?;
        match rustix::fs::mkdirat(tracking.dir(), child.as_str(), DIRECTORY_MODE) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return Err(Error::Exists {
                    cgroup: tracking.label(child.as_str()),
                });
            }
            Err(source) => {
                return Err(Error::Create {
                    cgroup: tracking.label(child.as_str()),
                    source,
                });
            }
        }
        resources::inherit(tracking, &child, child.depth() - 1)?;
        let mut owned = Owned::NOWHERE;
        if let Some(index) = self.hierarchies.position(tracking) {
            owned.add(index);
        }
        Ok(Cgroup {
            hierarchies: self.hierarchies.clone(),
            path: self.path.clone(),
            exec: Some(name.to_owned()),
            owned,
        })
    }

    /// The cgroup's directory in the v2 tree, for `clone3(2)` with CLONE_INTO_CGROUP. `None` without a v2 tree.
    pub fn unified_dir(&self) -> Result<Option<OwnedFd>, Error> {
        let Some(unified) = self.hierarchies.unified() else {
            return Ok(None);
        };
        self.open_in(unified).map(Some)
    }

    /// One descriptor for each v1 hierarchy: a single-threaded process that writes `0` to each is in the cgroup. Empty with v2
    /// only.
    pub fn attach_fds(&self) -> Result<Vec<OwnedFd>, Error> {
        let v1 = self.hierarchies.all().iter().filter(|one| !one.v2);
        v1.map(|hierarchy| {
            let file = files::join(&self.path_in(hierarchy), "tasks");
            files::open_for_writing(hierarchy.dir(), &file).map_err(|source| Error::Open {
                cgroup: hierarchy.label(&file),
                source,
            })
        })
        .collect()
    }

    /// Moves a whole process, in every hierarchy. Slow (milliseconds on v1); see [`Cgroup::attach_fds`].
    pub fn attach(&self, pid: Pid) -> Result<(), Error> {
        let pid = pid.as_raw_nonzero().to_string();
        self.hierarchies.all().iter().try_for_each(|hierarchy| {
            files::write(hierarchy, &self.path_in(hierarchy), "cgroup.procs", &pid)
        })
    }

    /// The cgroup's directories where it exists, in the order of the mounts.
    pub fn directories(&self) -> Result<Vec<Directory>, Error> {
        let mut directories = Vec::with_capacity(self.hierarchies.all().len());
        for hierarchy in self.hierarchies.all() {
            match self.open_in(hierarchy) {
                Ok(dir) => directories.push(Directory {
                    name: hierarchy.directory.clone(),
                    controllers: match hierarchy.v2 {
                        true => String::new(),
                        false => hierarchy.name.clone(),
                    },
                    v2: hierarchy.v2,
                    dir,
                }),
                Err(error) if error.errno() == Some(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(directories)
    }

    pub(crate) fn open_in(&self, hierarchy: &Hierarchy) -> Result<OwnedFd, Error> {
        let path = self.path_in(hierarchy);
        files::open_dir(hierarchy, &path).map_err(|source| Error::Open {
            cgroup: hierarchy.label(&path),
            source,
        })
    }

    /// An exec's child is there in the tracking hierarchy only; elsewhere it is its container.
    pub(crate) fn path_in(&self, hierarchy: &Hierarchy) -> String {
        match &self.exec {
            Some(name) if self.is_tracking(hierarchy) => files::join(self.path.as_str(), name),
            _ => self.path.to_string(),
        }
    }

    fn is_tracking(&self, hierarchy: &Hierarchy) -> bool {
        self.hierarchies
            .tracking()
            .is_some_and(|tracking| tracking.name == hierarchy.name)
    }

    pub(crate) fn is_exec(&self) -> bool {
        self.exec.is_some()
    }
}

const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);

/// In which hierarchies the directory is known to be ours: bit `n` for the `n`th. The kernel has no more than a dozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owned(u64);

impl Owned {
    const NOWHERE: Owned = Owned(0);
    const EVERYWHERE: Owned = Owned(u64::MAX);

    fn add(&mut self, index: usize) {
        self.0 |= 1u64.checked_shl(index as u32).unwrap_or(0);
    }

    fn has(self, index: usize) -> bool {
        self.0 & 1u64.checked_shl(index as u32).unwrap_or(0) != 0
    }
}

/// Makes the path in one hierarchy and marks what it made: the number of components that were there before, `None` if all were.
fn make_path(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<Option<usize>, Error> {
    let make = |path: &str, why| {
        rustix::fs::mkdirat(hierarchy.dir(), path, DIRECTORY_MODE)?;
        mark::set(hierarchy, path, why);
        Ok(())
    };
    let failed = |path: &str, source| Error::Create {
        cgroup: hierarchy.label(path),
        source,
    };
    let parents = path.depth() - 1;
    let mut before = parents;
    for _ in 0..MAKE_ATTEMPTS {
        // Parents mostly exist, so the leaf is tried first.
        match make(path.as_str(), Mark::Asked) {
            Ok(()) => return Ok(Some(before)),
            Err(Errno::EXIST) => return Ok(None),
            Err(Errno::NOENT) => {}
            Err(source) => {
                mark::remove_implied_parents(hierarchy, path.as_str());
                return Err(failed(path.as_str(), source));
            }
        }
        before = 0;
        for (index, prefix) in path.prefixes().take(parents).enumerate() {
            match make(prefix, Mark::Implied) {
                Ok(()) => {}
                Err(Errno::EXIST) => before = index + 1,
                // Another pod's clean-up took the parent away again.
                Err(Errno::NOENT) => break,
                Err(source) => {
                    mark::remove_implied_parents(hierarchy, prefix);
                    return Err(failed(prefix, source));
                }
            }
        }
    }
    Err(failed(path.as_str(), Errno::NOENT))
}
