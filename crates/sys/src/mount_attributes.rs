use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags};

use crate::clone::check;

/// What to change of a mount (`mount_setattr(2)`).
#[derive(Debug, Clone, Copy)]
pub struct MountAttributes<'a> {
    pub set: MountAttrFlags,
    pub clear: MountAttrFlags,
    /// One of SHARED, PRIVATE, DOWNSTREAM and UNBINDABLE, or empty to leave it.
    pub propagation: MountPropagationFlags,
    /// Maps the ids of the mount by those of this user namespace.
    pub idmap: Option<BorrowedFd<'a>>,
    /// The mounts below as well.
    pub recursive: bool,
}

impl MountAttributes<'_> {
    /// Changes nothing; for struct update syntax.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            set: MountAttrFlags::empty(),
            clear: MountAttrFlags::empty(),
            propagation: MountPropagationFlags::empty(),
            idmap: None,
            recursive: false,
        }
    }
}

/// `struct mount_attr`, version 0.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes the mount whose root `mount` is. Linux 5.12.
pub fn set_mount_attributes(
    mount: BorrowedFd<'_>,
    attributes: MountAttributes<'_>,
) -> Result<(), Errno> {
    let mut attr = MountAttr {
        attr_set: u64::from(attributes.set.bits()),
        attr_clr: u64::from(attributes.clear.bits()),
        propagation: u64::from(attributes.propagation.bits()),
        userns_fd: 0,
    };
    if let Some(user) = attributes.idmap {
        attr.attr_set |= u64::from(MountAttrFlags::MOUNT_ATTR_IDMAP.bits());
        attr.userns_fd = user.as_raw_fd() as u64;
    }
    let flags = match attributes.recursive {
        true => libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
        false => libc::AT_EMPTY_PATH,
    };
    // SAFETY: the path is an empty C string, and `attr` is a `struct mount_attr` of the size given that outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw mut attr,
            std::mem::size_of::<MountAttr>(),
        )
    })
}
