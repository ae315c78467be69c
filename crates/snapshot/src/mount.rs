use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, mount, mount_change, move_mount, open_tree,
};

use crate::{MountError, tree};

/// The most layers that can be joined: OVL_MAX_STACK of the kernel.
pub const MAX_LAYERS: usize = 500;

/// The kernel copies at most this much of a parameter given to `fsconfig(2)`, its final NUL included.
const FSCONFIG_STRING_BYTES: usize = 256;

/// How overlays are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountMethod {
    /// `fsopen(2)` and one `lowerdir+` for each layer; since Linux 6.8.
    Fsconfig,
    /// `mount(2)` with short relative names, in a thread that has a mount namespace of its own; for older kernels and very
    /// long paths.
    PrivateNamespace,
}

/// The user namespace of a container. The lower layers are seen through its mappings; the upper one is not (overlayfs would then be
/// read-only without a word), and belongs to the mapped root instead.
#[derive(Debug, Clone, Copy)]
pub struct UserMapping<'a> {
    /// A user namespace with the mappings.
    pub namespace: BorrowedFd<'a>,
    /// Host uid of the container's uid 0.
    pub root_uid: u32,
    /// Host gid of the container's gid 0.
    pub root_gid: u32,
}

/// What is to be joined.
#[derive(Debug)]
pub(crate) struct Stack<'a> {
    /// Topmost first; at least one.
    pub(crate) lowers: Vec<PathBuf>,
    /// A directory that holds `upper` and `work`; none for a read-only view.
    pub(crate) writable: Option<&'a Path>,
    pub(crate) mapping: Option<UserMapping<'a>>,
    /// SELinux label of all files; `None` leaves each its own.
    pub(crate) label: Option<&'a str>,
    /// Any directory that exists, for the private namespace to work in.
    pub(crate) scratch: &'a Path,
}

impl Stack<'_> {
    pub(crate) fn mount(&self, method: MountMethod) -> Result<OwnedFd, MountError> {
        if self.lowers.len() > MAX_LAYERS {
            return Err(MountError::TooManyLayers {
                count: self.lowers.len(),
                limit: MAX_LAYERS,
            });
        }
        let fits = |path: &Path| path.as_os_str().len() + "/upper".len() < FSCONFIG_STRING_BYTES;
        let short = self.lowers.iter().all(|path| fits(path)) && self.writable.is_none_or(fits);
        let mounted = match method {
            MountMethod::Fsconfig if short => match self.mount_by_fsconfig() {
                // Before 6.15 a layer must be attached somewhere, and an idmapped one cannot be without a namespace to put it in.
                Err(_) if self.mapping.is_some() => self.mount_in_private_namespace(),
                result => result,
            },
            MountMethod::Fsconfig | MountMethod::PrivateNamespace => {
                self.mount_in_private_namespace()
            }
        };
        match mounted {
            Err(error) if self.mapping.is_some() && error.is_invalid() => {
                Err(MountError::Unmapped(Box::new(error)))
            }
            other => other,
        }
    }

    /// A volatile overlay leaves a mark behind, also one that could not be mounted after all, and refuses to be mounted where it finds
    /// it: after a power cut what was written may be incomplete. Within one boot it is not, and a container does not outlive the boot.
    fn forget_volatile(&self) -> Result<(), MountError> {
        let Some(writable) = self.writable else {
            return Ok(());
        };
        let mark = writable.join("work/work/incompat");
        tree::remove_tree(&mark).map_err(MountError::system("remove", mark.display().to_string()))
    }

    fn mount_by_fsconfig(&self) -> Result<OwnedFd, MountError> {
        self.forget_volatile()?;
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(MountError::system("fsopen", "overlay"))?;
        let set = |key: &'static str, value: &OsStr| {
            fsconfig_set_string(context.as_fd(), key, value)
                .map_err(|source| refused(&context, source))
        };
        set("source", OsStr::new("overlay"))?;
        // A detached mount is gone when its descriptor is closed; overlayfs takes its own only when it is created.
        let mut trees = Vec::new();
        for lower in &self.lowers {
            match &self.mapping {
                None => set("lowerdir+", lower.as_os_str())?,
                Some(mapping) => {
                    let tree = mapped_tree(lower, mapping)?;
                    fsconfig_set_fd(context.as_fd(), "lowerdir+", tree.as_fd())
                        .map_err(|source| refused(&context, source))?;
                    trees.push(tree);
                }
            }
        }
        if let Some(writable) = self.writable {
            // Unlike `lowerdir+` these take backslashes for escapes.
            set("upperdir", &escaped(&writable.join("upper")))?;
            set("workdir", &escaped(&writable.join("work")))?;
            // Without it, letting go of the last reference syncs the whole file system underneath. What a container has written need
            // not survive the machine: the container does not.
            fsconfig_set_flag(context.as_fd(), "volatile")
                .map_err(|source| refused(&context, source))?;
        }
        if let Some(label) = self.label {
            set("context", OsStr::new(label))?;
        }
        set("index", OsStr::new("off"))?;
        fsconfig_create(context.as_fd()).map_err(|source| refused(&context, source))?;
        fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            self.attributes(),
        )
        .map_err(MountError::system("fsmount", "overlay"))
    }

    fn attributes(&self) -> MountAttrFlags {
        match self.writable {
            Some(_) => MountAttrFlags::empty(),
            None => MountAttrFlags::MOUNT_ATTR_RDONLY,
        }
    }

    fn mount_in_private_namespace(&self) -> Result<OwnedFd, MountError> {
        self.forget_volatile()?;
        in_private_namespace(|| self.mount_in_this_thread())
    }

    fn mount_in_this_thread(&self) -> Result<OwnedFd, MountError> {
        // The directories are opened before anything is mounted over one of them, and outlive it by their descriptors.
        let writable = self.writable.map(cloned_tree).transpose()?;
        let mapped = match &self.mapping {
            None => Vec::new(),
            Some(mapping) => (self.lowers.iter())
                .map(|lower| mapped_tree(lower, mapping))
                .collect::<Result<Vec<_>, _>>()?,
        };
        mount("tmpfs", self.scratch, "tmpfs", MountFlags::empty(), None)
            .map_err(MountError::system("mount", "a tmpfs to name layers in"))?;
        let desk = openat(
            CWD,
            self.scratch,
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(MountError::system("open", "the tmpfs"))?;
        rustix::process::fchdir(&desk).map_err(MountError::system("fchdir", "the tmpfs"))?;

        let mut options = String::from("index=off,lowerdir=");
        for (index, lower) in self.lowers.iter().enumerate() {
            let name = short_name(index);
            match mapped.get(index) {
                Some(tree) => attach(tree, &name)?,
                None => symlinkat(lower, CWD, &*name)
                    .map_err(MountError::system("symlink", lower.display().to_string()))?,
            }
            options.push_str(if index == 0 { "" } else { ":" });
            options.push_str(&name);
        }
        if let Some(tree) = &writable {
            attach(tree, "_c")?;
            options.push_str(",upperdir=_c/upper,workdir=_c/work,volatile");
        }
        if let Some(label) = self.label {
            // Quoted: a level has commas.
            options.push_str(&format!(",context=\"{label}\""));
        }
        make_directory("_m")?;
        let flags = match self.writable {
            Some(_) => MountFlags::empty(),
            None => MountFlags::RDONLY,
        };
        let data = std::ffi::CString::new(options.clone()).unwrap_or_default();
        mount("overlay", "_m", "overlay", flags, Some(data.as_c_str())).map_err(
            MountError::system("mount", format!("overlay with {options}")),
        )?;
        cloned_tree(Path::new("_m"))
    }
}

/// A directory below a detached mount, as a detached mount of its own. Before 6.15 only what is attached somewhere can be cloned.
pub(crate) fn subtree(
    whole: OwnedFd,
    sub_path: &str,
    scratch: &Path,
) -> Result<OwnedFd, MountError> {
    in_private_namespace(|| {
        move_mount(
            &whole,
            "",
            CWD,
            scratch,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(MountError::system("move_mount", "the whole image"))?;
        let directory = openat2(
            &whole,
            sub_path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
        .map_err(|source| MountError::SubPath {
            path: sub_path.to_owned(),
            source,
        })?;
        open_tree(
            &directory,
            "",
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH,
        )
        .map_err(MountError::system("open_tree", sub_path.to_owned()))
    })
}

/// Works in a thread with a mount namespace and a working directory of its own; both vanish with it.
fn in_private_namespace(
    work: impl FnOnce() -> Result<OwnedFd, MountError> + Send,
) -> Result<OwnedFd, MountError> {
    let work = || {
        sys::unshare(sys::CloneFlags::NEWNS)
            .map_err(MountError::system("unshare", "the mount namespace"))?;
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .map_err(MountError::system("mount", "private propagation of /"))?;
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("overlay-mount".into())
            .stack_size(128 * 1024)
            .spawn_scoped(scope, work)
            .map_err(MountError::Thread)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(MountError::Thread(std::io::Error::other("it panicked"))))
    })
}

/// A detached copy of what is mounted at `path`, from there on down.
fn cloned_tree(path: &Path) -> Result<OwnedFd, MountError> {
    open_tree(
        CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .map_err(MountError::system("open_tree", path.display().to_string()))
}

fn mapped_tree(path: &Path, mapping: &UserMapping<'_>) -> Result<OwnedFd, MountError> {
    let tree = cloned_tree(path)?;
    let attributes = sys::MountAttributes {
        idmap: Some(mapping.namespace),
        ..sys::MountAttributes::none()
    };
    sys::set_mount_attributes(tree.as_fd(), attributes).map_err(MountError::system(
        "mount_setattr",
        format!("MOUNT_ATTR_IDMAP of {}", path.display()),
    ))?;
    Ok(tree)
}

fn make_directory(name: &str) -> Result<(), MountError> {
    mkdirat(CWD, name, Mode::from_raw_mode(0o700))
        .map_err(MountError::system("mkdir", name.to_owned()))
}

fn attach(tree: &OwnedFd, name: &str) -> Result<(), MountError> {
    make_directory(name)?;
    move_mount(tree, "", CWD, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(MountError::system("move_mount", name.to_owned()))
}

/// 500 names of at most two characters, which keep the options within the page that `mount(2)` copies.
fn short_name(index: usize) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let digit = |value: usize| char::from(DIGITS[value % 36]);
    match index {
        0..36 => digit(index).to_string(),
        _ => [digit(index / 36), digit(index)].iter().collect(),
    }
}

fn escaped(path: &Path) -> std::ffi::OsString {
    let mut bytes = Vec::with_capacity(path.as_os_str().len());
    for &byte in path.as_os_str().as_bytes() {
        if byte == b'\\' {
            bytes.push(byte);
        }
        bytes.push(byte);
    }
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

/// Reads why from the context: its messages come one a read, as `e overlay: …`.
fn refused(context: &OwnedFd, source: Errno) -> MountError {
    let mut said = String::new();
    let mut message = [0; 512];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut message) {
        let text = String::from_utf8_lossy(&message[..length]);
        if !said.is_empty() {
            said.push_str("; ");
        }
        said.push_str(text.trim_start_matches(['e', 'w', 'i', ' ']).trim_end());
        if said.len() > 2048 {
            break;
        }
    }
    MountError::Refused { said, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_has_a_short_name_of_its_own() {
        let names: std::collections::BTreeSet<String> = (0..MAX_LAYERS).map(short_name).collect();
        assert_eq!(names.len(), MAX_LAYERS);
        assert!(names.iter().map(|name| name.len() + 1).sum::<usize>() < 4096 - 128);
    }
}
