use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode as FileMode, OFlags};

use crate::error::{Error, OpenError};
use crate::mountinfo::{self, MountKind};
use crate::{files, path::CgroupPath};

/// Where distributions mount cgroups.
const DEFAULT_ROOT: &str = "/sys/fs/cgroup";

/// Every cgroup hierarchy of the machine, by a descriptor of its root. Cheap to clone; the descriptors are close-on-exec.
#[derive(Debug, Clone)]
pub struct Hierarchies {
    all: Arc<[Hierarchy]>,
}

/// Which kind of machine this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// v1 hierarchies only.
    V1,
    /// v1 hierarchies, and a v2 tree with the controllers that they leave, often none.
    Hybrid,
    /// The v2 tree only.
    V2,
}

/// A hierarchy to open, for [`Hierarchies::from_roots`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    pub path: PathBuf,
    pub version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// With its controllers, or `name=…` for one without.
    V1(Vec<String>),
    V2,
}

/// What limits or accounts a resource. The names are v1's; v2 calls `Blkio` `io` and has `Cpuacct` in its core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    Cpu,
    Cpuacct,
    Cpuset,
    Memory,
    Pids,
    Blkio,
    Devices,
    Freezer,
    Hugetlb,
}

impl Controller {
    pub fn v1_name(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::Cpuacct => "cpuacct",
            Controller::Cpuset => "cpuset",
            Controller::Memory => "memory",
            Controller::Pids => "pids",
            Controller::Blkio => "blkio",
            Controller::Devices => "devices",
            Controller::Freezer => "freezer",
            Controller::Hugetlb => "hugetlb",
        }
    }

    /// `None`: not a controller there (devices are an eBPF program, freezing and accounting are in the core).
    pub fn v2_name(self) -> Option<&'static str> {
        match self {
            Controller::Cpu => Some("cpu"),
            Controller::Cpuset => Some("cpuset"),
            Controller::Memory => Some("memory"),
            Controller::Pids => Some("pids"),
            Controller::Blkio => Some("io"),
            Controller::Hugetlb => Some("hugetlb"),
            Controller::Cpuacct | Controller::Devices | Controller::Freezer => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Hierarchy {
    /// `memory`, `cpu,cpuacct`, `name=systemd`, `unified`.
    pub(crate) name: String,
    /// The last component of its mount point.
    pub(crate) directory: String,
    pub(crate) mount_point: PathBuf,
    pub(crate) v2: bool,
    /// Available at the root; v1 or v2 names.
    pub(crate) controllers: Vec<String>,
    pub(crate) root: OwnedFd,
}

impl Hierarchy {
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// For messages.
    pub(crate) fn label(&self, path: &str) -> String {
        format!("{}:/{path}", self.name)
    }
}

impl Hierarchies {
    /// Those mounted at or below `/sys/fs/cgroup`.
    pub fn open() -> Result<Hierarchies, OpenError> {
        Hierarchies::open_below(Path::new(DEFAULT_ROOT))
    }

    /// Those that `/proc/self/mountinfo` lists at or below `root`. Where one hierarchy is mounted twice the first counts.
    pub fn open_below(root: &Path) -> Result<Hierarchies, OpenError> {
        let text = std::fs::read_to_string("/proc/self/mountinfo").map_err(OpenError::Mountinfo)?;
        let mut roots: Vec<Root> = Vec::new();
        for mount in mountinfo::parse(&text) {
            if !mount.mount_point.starts_with(root) {
                continue;
            }
            let version = match mount.kind {
                MountKind::V2 => Version::V2,
                MountKind::V1(options) => Version::V1(controllers_of(options)),
            };
            if !roots.iter().any(|known| known.version == version) {
                roots.push(Root {
                    path: mount.mount_point,
                    version,
                });
            }
        }
        if roots.is_empty() {
            return Err(OpenError::NoHierarchy(root.to_owned()));
        }
        Hierarchies::from_roots(&roots)
    }

    /// Hierarchies at given mount points, which need not be cgroup file systems: tests point this at plain directories.
    pub fn from_roots(roots: &[Root]) -> Result<Hierarchies, OpenError> {
        let mut unified = roots.iter().filter(|root| root.version == Version::V2);
        if let (Some(first), Some(second)) = (unified.next(), unified.next()) {
            return Err(OpenError::TwoUnified(
                first.path.clone(),
                second.path.clone(),
            ));
        }
        let all = roots.iter().map(open_root).collect::<Result<Arc<_>, _>>()?;
        Ok(Hierarchies { all })
    }

    pub fn mode(&self) -> Mode {
        match (self.unified().is_some(), self.all.iter().any(|one| !one.v2)) {
            (true, false) => Mode::V2,
            (true, true) => Mode::Hybrid,
            (false, _) => Mode::V1,
        }
    }

    /// Where v2 is mounted beside v1, when these were opened.
    pub fn hybrid_mount_point(&self) -> Option<&Path> {
        let unified = self.unified().filter(|_| self.mode() == Mode::Hybrid)?;
        Some(&unified.mount_point)
    }

    /// Where a cgroup's directories are or would be, each with the last component of its tree's mount point.
    ///
    /// # Errors
    /// The path is none of a cgroup's.
    pub fn paths_of(&self, path: &str) -> Result<Vec<(String, PathBuf)>, Error> {
        let path = crate::path::CgroupPath::parse(path)?;
        let all = self.all().iter();
        Ok(all
            .map(|hierarchy| {
                let relative = path.to_string();
                let place = hierarchy.mount_point.join(relative.trim_start_matches('/'));
                (hierarchy.directory.clone(), place)
            })
            .collect())
    }

    /// Whether some hierarchy has the controller. [`Controller::Cpuacct`], [`Controller::Devices`] and [`Controller::Freezer`] are always
    /// there with v2.
    pub fn has(&self, controller: Controller) -> bool {
        match controller {
            Controller::Cpuacct | Controller::Devices | Controller::Freezer
                if self.unified().is_some() =>
            {
                true
            }
            _ => self.home(controller).is_some(),
        }
    }

    /// Whether `path` exists in any hierarchy.
    pub fn exists(&self, path: &str) -> Result<bool, Error> {
        let path = CgroupPath::parse(path)?;
        Ok(self
            .all
            .iter()
            .any(|hierarchy| files::exists(hierarchy, path.as_str())))
    }

    pub(crate) fn all(&self) -> &[Hierarchy] {
        &self.all
    }

    pub(crate) fn position(&self, hierarchy: &Hierarchy) -> Option<usize> {
        self.all.iter().position(|one| std::ptr::eq(one, hierarchy))
    }

    pub(crate) fn unified(&self) -> Option<&Hierarchy> {
        self.all.iter().find(|hierarchy| hierarchy.v2)
    }

    /// The hierarchy that limits by this controller. The kernel has a controller in one hierarchy at a time.
    pub(crate) fn home(&self, controller: Controller) -> Option<&Hierarchy> {
        self.all.iter().find(|hierarchy| {
            let name = match hierarchy.v2 {
                true => controller.v2_name(),
                false => Some(controller.v1_name()),
            };
            name.is_some_and(|name| hierarchy.controllers.iter().any(|known| known == name))
        })
    }

    /// The hierarchy where processes are listed, frozen and killed.
    pub(crate) fn tracking(&self) -> Option<&Hierarchy> {
        self.unified()
            .or_else(|| self.home(Controller::Freezer))
            .or_else(|| self.all.first())
    }
}

fn open_root(root: &Root) -> Result<Hierarchy, OpenError> {
    let dir = rustix::fs::open(
        &root.path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        FileMode::empty(),
    )
    .map_err(|source| OpenError::Root {
        path: root.path.clone(),
        source,
    })?;
    let (name, v2, controllers) = match &root.version {
        Version::V1(controllers) => (controllers.join(","), false, controllers.clone()),
        Version::V2 => {
            let text = files::read_at(dir.as_fd(), "cgroup.controllers").map_err(|source| {
                OpenError::Controllers {
                    path: root.path.clone(),
                    source,
                }
            })?;
            let controllers = text.split_whitespace().map(str::to_owned).collect();
            ("unified".to_owned(), true, controllers)
        }
    };
    let directory = root
        .path
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok(Hierarchy {
        name,
        directory,
        mount_point: root.path.clone(),
        v2,
        controllers,
        root: dir,
    })
}

/// The super block's options less those that are no controllers.
fn controllers_of(options: Vec<String>) -> Vec<String> {
    const OPTIONS: [&str; 8] = [
        "rw",
        "ro",
        "clone_children",
        "noprefix",
        "xattr",
        "cpuset_v2_mode",
        "none",
        "favordynmods",
    ];
    options
        .into_iter()
        .filter(|option| {
            !OPTIONS.contains(&option.as_str()) && !option.starts_with("release_agent=")
        })
        .collect()
}
