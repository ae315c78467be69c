use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use crate::changes::Comparison;
use crate::mount::{self, MountMethod, Stack, UserMapping};
use crate::projects::Projects;
use crate::trash::Trash;
use crate::{
    Change, ContainerError, LayerKey, MountError, NoLimits, OpenError, Shift, Usage, tree,
};

/// Marks a layer whose archive says nothing of its root directory: the root's owner and mode are then those of a layer below.
pub const IMPLIED_ROOT_XATTR: &str = "trusted.longshore.implied";

/// The directories of one root, and how overlays are mounted from them.
#[derive(Debug)]
pub struct Overlay {
    root: PathBuf,
    method: MountMethod,
    trash: Trash,
    /// Counts what containers write, where the file system does.
    projects: Option<Arc<Projects>>,
    /// Whether it limits that too, or why not.
    limits: Result<(), NoLimits>,
    /// Layers of other stores.
    elsewhere: BTreeMap<LayerKey, PathBuf>,
}

impl Overlay {
    /// Makes the layout under `root` where it is missing, and mounts one overlay to see that and how it works there.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        match Self::open_with(root, MountMethod::Fsconfig) {
            Err(OpenError::Overlay { .. }) => Self::open_with(root, MountMethod::PrivateNamespace),
            result => result,
        }
    }

    /// As [`Overlay::open`], with a method of mounting instead of the best one.
    pub fn open_with(root: &Path, method: MountMethod) -> Result<Self, OpenError> {
        let root = absolute(root)?;
        let mut overlay = Self {
            trash: Trash::new(root.join("trash")),
            root,
            method,
            projects: None,
            limits: Ok(()),
            elsewhere: BTreeMap::new(),
        };
        for (name, mode) in [
            // Anybody who can enter could run a set-uid file of an image, or of a container.
            ("layers", 0o700),
            ("ingest", 0o700),
            ("containers", 0o700),
            ("trash", 0o700),
            ("empty", 0o755),
            ("empty/lower", 0o755),
            ("empty/under", 0o755),
            ("empty/desk", 0o755),
        ] {
            let path = overlay.root.join(name);
            make_directory(&path, mode).map_err(|source| OpenError::Directory { path, source })?;
        }
        tree::spread(&overlay.root.join("ingest"));
        overlay.probe()?;
        overlay.open_projects();
        overlay
            .trash
            .empty()
            .map_err(|source| OpenError::Directory {
                path: overlay.root.join("trash"),
                source,
            })?;
        Ok(overlay)
    }

    fn open_projects(&mut self) {
        let trash = self.root.join("trash");
        let opened = Projects::open(&self.root, &[&self.root.join("containers"), &trash]);
        self.limits = match opened {
            Ok((projects, enforced)) => {
                let projects = Arc::new(projects);
                self.trash = Trash::with_projects(trash, Arc::clone(&projects));
                self.projects = Some(projects);
                match enforced {
                    true => Ok(()),
                    false => Err(NoLimits::NotEnforced {
                        root: self.root.display().to_string(),
                    }),
                }
            }
            Err(why) => Err(why),
        };
    }

    /// Whether writable layers can be limited, or why not.
    pub fn limits(&self) -> Result<(), &NoLimits> {
        self.limits.as_ref().copied()
    }

    /// Mounts the layers of other stores too, where this one has none of that name; `roots` are as [`Overlay::root`] is, and the first that
    /// has a layer counts. What is in them is looked for now, and only read.
    pub fn with_stores(mut self, roots: &[PathBuf]) -> Result<Self, OpenError> {
        for root in roots {
            let layers = root.join("layers");
            let failed = |source| OpenError::Directory {
                path: layers.clone(),
                source,
            };
            let stat = rustix::fs::stat(&layers).map_err(failed)?;
            // Whoever could write there could write what containers run.
            if stat.st_uid != 0 || stat.st_mode & 0o022 != 0 {
                return Err(OpenError::Writable { path: layers });
            }
            for name in list(&layers).map_err(failed)? {
                if let Ok(key) = LayerKey::parse(&name) {
                    let path = layers.join(name);
                    self.elsewhere.entry(key).or_insert(path);
                }
            }
        }
        Ok(self)
    }

    /// The layers of other stores.
    pub fn elsewhere(&self) -> impl Iterator<Item = &LayerKey> {
        self.elsewhere.keys()
    }

    /// How overlays are mounted here.
    pub fn method(&self) -> MountMethod {
        self.method
    }

    /// The root of all directories.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where complete layers are.
    pub fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// Where layers are unpacked before they are renamed into [`Overlay::layers_dir`].
    pub fn ingest_dir(&self) -> PathBuf {
        self.root.join("ingest")
    }

    /// Where one complete layer is found: in this store, or else in another one.
    pub fn found_dir(&self, key: &LayerKey) -> PathBuf {
        let own = self.layer_dir(key);
        match self.elsewhere.get(key) {
            Some(path) if !own.exists() => path.clone(),
            _ => own,
        }
    }

    /// Where one complete layer of this store is.
    pub fn layer_dir(&self, key: &LayerKey) -> PathBuf {
        self.layers_dir().join(key.as_str())
    }

    /// Where a container's writable layer is.
    pub fn container_dir(&self, container_id: &str) -> PathBuf {
        self.root.join("containers").join(container_id)
    }

    /// Makes the writable layer of a container. Repeating it changes nothing. `layers` are the image's, bottom first; their
    /// root directory's owner and mode become the container's. With `mapping` the writable layer belongs to the mapped root.
    pub fn create(
        &self,
        container_id: &str,
        layers: &[LayerKey],
        mapping: Option<&UserMapping<'_>>,
    ) -> Result<(), ContainerError> {
        self.create_limited(container_id, layers, mapping, None)
    }

    /// As [`Overlay::create`], for a writable layer that never takes more than `limit` bytes: writing fails with EDQUOT (ext4) or ENOSPC (xfs)
    /// then. Refused where [`Overlay::limits`] says that nothing can be limited.
    pub fn create_limited(
        &self,
        container_id: &str,
        layers: &[LayerKey],
        mapping: Option<&UserMapping<'_>>,
        limit: Option<u64>,
    ) -> Result<(), ContainerError> {
        let container = self.checked_dir(container_id)?;
        if let (Some(_), Err(why)) = (limit, &self.limits) {
            return Err(ContainerError::NoLimits {
                id: container_id.to_owned(),
                source: why.clone(),
            });
        }
        let (mode, uid, gid) = match self.root_of(container_id, layers)? {
            Some(stat) => (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid),
            None => (0o755, 0, 0),
        };
        // A lower root owner appears shifted through the mapping, so the upper one, which is not mapped, is shifted here.
        let (uid, gid) = match mapping {
            Some(mapping) => (
                mapping.root_uid.saturating_add(uid),
                mapping.root_gid.saturating_add(gid),
            ),
            None => (uid, gid),
        };
        let failed = |action, path: &Path| {
            let (id, path) = (container_id.to_owned(), path.to_owned());
            move |source| ContainerError::System {
                action,
                id,
                path,
                source,
            }
        };
        make_directory(&container, 0o700).map_err(failed("make the directory", &container))?;
        if let Some(projects) = &self.projects {
            // What is made in it from here on belongs to the project too.
            projects
                .assign(&container, limit)
                .map_err(failed("count and limit the writable layer", &container))?;
        }
        let upper = container.join("upper");
        make_directory(&upper, mode).map_err(failed("make the writable layer", &upper))?;
        rustix::fs::chownat(
            CWD,
            &upper,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(failed("set the owner of the writable layer", &upper))?;
        rustix::fs::chmodat(
            CWD,
            &upper,
            Mode::from_raw_mode(mode),
            rustix::fs::AtFlags::empty(),
        )
        .map_err(failed("set the mode of the writable layer", &upper))?;
        let work = container.join("work");
        make_directory(&work, 0o700).map_err(failed("make the work directory", &work))?;
        if let Some(mapping) = mapping {
            rustix::fs::chownat(
                CWD,
                &work,
                Some(Uid::from_raw(mapping.root_uid)),
                Some(Gid::from_raw(mapping.root_gid)),
                rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(failed("set the owner of the work directory", &work))?;
        }
        Ok(())
    }

    /// Mounts a container's root file system, detached; [`Overlay::create`] has made its writable layer. A container must not be
    /// mounted twice at a time. `label`: the SELinux label of all its files.
    pub fn mount(
        &self,
        container_id: &str,
        layers: &[LayerKey],
        mapping: Option<UserMapping<'_>>,
        label: Option<&str>,
    ) -> Result<OwnedFd, ContainerError> {
        let container = self.checked_dir(container_id)?;
        let stack = Stack {
            lowers: self.lowers(layers, true),
            writable: Some(&container),
            mapping,
            label,
            scratch: &self.root.join("empty/desk"),
        };
        stack
            .mount(self.method)
            .map_err(|source| match self.missing_layer(container_id, layers) {
                Some(missing) => missing,
                None => ContainerError::Mount {
                    id: container_id.to_owned(),
                    source,
                },
            })
    }

    /// Mounts layers, bottom first, read-only and detached: to look up a file of an image, or to use the image as a volume.
    pub fn view(&self, layers: &[LayerKey]) -> Result<OwnedFd, MountError> {
        let stack = Stack {
            lowers: self.lowers(layers, false),
            writable: None,
            mapping: None,
            label: None,
            scratch: &self.root.join("empty/desk"),
        };
        stack.mount(self.method)
    }

    /// As [`Overlay::view`], of a directory of the image, seen through a user namespace: an image as a container's volume. `sub_path` is
    /// relative, and resolved with the image's root for `/`: no link leads out. Empty, it is the root itself. `label` as for
    /// [`Overlay::mount`].
    pub fn volume(
        &self,
        layers: &[LayerKey],
        sub_path: &str,
        mapping: Option<UserMapping<'_>>,
        label: Option<&str>,
    ) -> Result<OwnedFd, MountError> {
        let scratch = self.root.join("empty/desk");
        let stack = Stack {
            lowers: self.lowers(layers, false),
            writable: None,
            mapping,
            label,
            scratch: &scratch,
        };
        let whole = stack.mount(self.method)?;
        match sub_path {
            "" => Ok(whole),
            sub_path => mount::subtree(whole, sub_path, &scratch),
        }
    }

    /// Removes a container's writable layer. Succeeds if there is none, and needs no space. The caller has let go of the mount.
    ///
    /// The layer is gone from where it was when this returns; what it takes on disk is freed by a thread in the background.
    pub fn remove(&self, container_id: &str) -> Result<(), ContainerError> {
        let container = self.checked_dir(container_id)?;
        self.trash
            .discard(&container)
            .map_err(|source| ContainerError::System {
                action: "remove the writable layer",
                id: container_id.to_owned(),
                path: container,
                source,
            })
    }

    /// What a container has written; nothing, if it has no writable layer. Where the file system counts it, with the few directories that
    /// overlayfs keeps beside it; else the layer is walked.
    pub fn usage(&self, container_id: &str) -> Result<Usage, ContainerError> {
        let container = self.checked_dir(container_id)?;
        if let Some(projects) = &self.projects
            && let Ok(Some(usage)) = projects.usage(&container)
        {
            return Ok(usage);
        }
        let upper = container.join("upper");
        match tree::measure(&upper) {
            Err(Errno::NOENT) => Ok(Usage::default()),
            Ok(usage) => Ok(usage),
            Err(source) => Err(ContainerError::System {
                action: "measure the writable layer",
                id: container_id.to_owned(),
                path: upper,
                source,
            }),
        }
    }

    /// Tells what a container has changed in its image, in the order of the paths, until it is told to stop. `mounts` are where something is
    /// mounted in the container: what is in the writable layer there is no change.
    pub fn changes(
        &self,
        container_id: &str,
        layers: &[LayerKey],
        shift: Shift,
        mounts: &[PathBuf],
        tell: impl FnMut(Change) -> bool,
    ) -> Result<(), ContainerError> {
        let upper = self.checked_dir(container_id)?.join("upper");
        let failed = |source| ContainerError::System {
            action: "compare the writable layer with its image",
            id: container_id.to_owned(),
            path: upper.clone(),
            source,
        };
        let image = self.view(layers).map_err(|source| ContainerError::Mount {
            id: container_id.to_owned(),
            source,
        })?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A detached mount is named by a descriptor that only names.
        let below = rustix::fs::openat(&image, ".", flags, Mode::empty()).map_err(failed)?;
        let above = rustix::fs::openat(CWD, &upper, flags, Mode::empty()).map_err(failed)?;
        Comparison::new(shift, &below, mounts, tell)
            .run(above, below)
            .map_err(failed)
    }

    /// The ids of all writable layers, for reconciliation.
    pub fn containers(&self) -> Result<Vec<String>, OpenError> {
        let path = self.root.join("containers");
        list(&path).map_err(|source| OpenError::Directory { path, source })
    }

    fn checked_dir(&self, container_id: &str) -> Result<PathBuf, ContainerError> {
        let valid = (1..=255).contains(&container_id.len())
            && !container_id.starts_with('.')
            && (container_id.bytes())
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if !valid {
            return Err(ContainerError::Id {
                id: container_id.to_owned(),
            });
        }
        Ok(self.container_dir(container_id))
    }

    /// The topmost layer that says something of its root directory.
    fn root_of(&self, id: &str, layers: &[LayerKey]) -> Result<Option<Stat>, ContainerError> {
        for key in layers.iter().rev() {
            let path = self.found_dir(key);
            let failed = |source| match source {
                Errno::NOENT => ContainerError::MissingLayer {
                    id: id.to_owned(),
                    key: key.to_string(),
                },
                source => ContainerError::System {
                    action: "look at a layer",
                    id: id.to_owned(),
                    path: path.clone(),
                    source,
                },
            };
            let layer = rustix::fs::openat(
                CWD,
                &path,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(failed)?;
            let mut value = [0_u8; 1];
            match rustix::fs::fgetxattr(layer.as_fd(), IMPLIED_ROOT_XATTR, &mut value) {
                Ok(_) | Err(Errno::RANGE) => {}
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {
                    return rustix::fs::fstat(&layer).map(Some).map_err(failed);
                }
                Err(source) => return Err(failed(source)),
            }
        }
        Ok(None)
    }

    /// Topmost first. Overlayfs refuses a layer that occurs twice; what a lower occurrence shows, the upper one shows as well.
    fn lowers(&self, layers: &[LayerKey], writable: bool) -> Vec<PathBuf> {
        let mut seen = BTreeSet::new();
        let mut lowers: Vec<PathBuf> = (layers.iter().rev())
            .filter(|key| seen.insert(*key))
            .map(|key| self.found_dir(key))
            .collect();
        // There must be a lower layer, and two where there is no upper one.
        if lowers.is_empty() || (lowers.len() == 1 && !writable) {
            lowers.push(self.root.join("empty/lower"));
        }
        if lowers.len() == 1 && !writable {
            lowers.push(self.root.join("empty/under"));
        }
        lowers
    }

    fn missing_layer(&self, id: &str, layers: &[LayerKey]) -> Option<ContainerError> {
        let key = layers.iter().find(|key| !self.found_dir(key).exists())?;
        Some(ContainerError::MissingLayer {
            id: id.to_owned(),
            key: key.to_string(),
        })
    }

    fn probe(&self) -> Result<(), OpenError> {
        let probe = tempfile_name(&self.root.join("ingest"));
        let result = match self.try_overlay(&probe) {
            // The daemon must start on a full disk. An overlay that is only read needs no room, and shows how one is mounted here.
            Err(error) if error.is_exhausted() => self.view(&[]).map(drop),
            result => result,
        };
        let removed = tree::remove_tree(&probe);
        result.map_err(|source| OpenError::Overlay {
            path: self.root.clone(),
            source,
        })?;
        removed.map_err(|source| OpenError::Directory {
            path: probe,
            source,
        })
    }

    fn try_overlay(&self, probe: &Path) -> Result<(), MountError> {
        for name in ["", "upper", "work", "lower"] {
            let path = probe.join(name);
            make_directory(&path, 0o700)
                .map_err(MountError::system("mkdir", path.display().to_string()))?;
        }
        let stack = Stack {
            // Two, so that `lowerdir+` is tried for what it is for.
            lowers: vec![probe.join("lower"), self.root.join("empty/lower")],
            writable: Some(probe),
            mapping: None,
            label: None,
            scratch: &self.root.join("empty/desk"),
        };
        stack.mount(self.method).map(drop)
    }
}

fn tempfile_name(parent: &Path) -> PathBuf {
    parent.join(format!("probe-{}", std::process::id()))
}

fn absolute(root: &Path) -> Result<PathBuf, OpenError> {
    let failed = |error: std::io::Error| OpenError::Directory {
        path: root.to_owned(),
        source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    };
    std::fs::create_dir_all(root).map_err(failed)?;
    // Overlayfs needs no links on the way, and errors are clearer without.
    let resolved = root.canonicalize().map_err(failed)?;
    // A directory that is mounted nowhere, reached by a descriptor, is said to be at `/`.
    let (meant, found) = (
        std::fs::metadata(root).map_err(failed)?,
        std::fs::metadata(&resolved).map_err(failed)?,
    );
    if (meant.dev(), meant.ino()) != (found.dev(), found.ino()) {
        return Err(OpenError::Directory {
            path: root.to_owned(),
            source: Errno::NOTDIR,
        });
    }
    Ok(resolved)
}

fn make_directory(path: &Path, mode: u32) -> Result<(), Errno> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

pub(crate) fn list(path: &Path) -> Result<Vec<String>, Errno> {
    let from_io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(from_io)? {
        if let Ok(name) = entry.map_err(from_io)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
