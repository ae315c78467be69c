//! Quotas of projects: trees of files that carry the same number, counted and limited together (`quotactl(2)`, Linux 5.14 for its form with
//! a descriptor).

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::ioctl::opcode;

use crate::clone::check;

/// What a file system does for projects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectQuotas {
    /// It counts what each takes.
    pub counted: bool,
    /// It refuses what goes beyond a limit.
    pub enforced: bool,
}

/// What one project takes, and may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProjectUsage {
    /// Reserved ones among them.
    pub bytes: u64,
    pub inodes: u64,
    /// 0 is no limit.
    pub limit_bytes: u64,
}

/// `PRJQUOTA`
const PROJECTS: u32 = 2;
/// `Q_GETQUOTA`, `Q_SETQUOTA` and `Q_GETNEXTQUOTA`: the same for every file system.
const GET: u32 = 0x80_0007;
const SET: u32 = 0x80_0008;
const GET_NEXT: u32 = 0x80_0009;
/// `Q_XGETQSTATV`, which xfs has brought and others answer too.
const STATE: u32 = 0x5808;
/// `FS_QUOTA_PDQ_ACCT` and `FS_QUOTA_PDQ_ENFD`
const COUNTED: u16 = 1 << 4;
const ENFORCED: u16 = 1 << 5;
/// `QIF_BLIMITS`
const LIMITS_OF_BLOCKS: u32 = 1;
/// The unit of limits, `QIF_DQBLKSIZE`.
const LIMIT_UNIT: u64 = 1024;
/// `FS_XFLAG_PROJINHERIT`
const INHERITED: u32 = 0x200;

/// `struct if_nextdqblk`, which begins as `struct if_dqblk` does.
#[repr(C)]
#[derive(Default)]
struct Record {
    hard_blocks: u64,
    soft_blocks: u64,
    bytes: u64,
    hard_inodes: u64,
    soft_inodes: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
    id: u32,
}

impl Record {
    fn usage(&self) -> ProjectUsage {
        ProjectUsage {
            bytes: self.bytes,
            inodes: self.inodes,
            limit_bytes: self.hard_blocks.saturating_mul(LIMIT_UNIT),
        }
    }
}

/// `struct fs_quota_statv`, with more room than it takes.
#[repr(C)]
struct State {
    version: u8,
    padding: u8,
    flags: u16,
    rest: [u64; 40],
}

/// `struct fsxattr`
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// Whether the file system of `file` counts and limits projects. ENOSYS is among the ways in which it says that it does neither.
pub fn project_quotas(file: BorrowedFd<'_>) -> Result<ProjectQuotas, Errno> {
    let mut state = State {
        version: 1,
        padding: 0,
        flags: 0,
        rest: [0; 40],
    };
    // SAFETY: the kernel writes a `struct fs_quota_statv` of version 1 (160 bytes) to `state`, which is larger and outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_raw_fd(),
            command(STATE),
            0,
            &raw mut state,
        )
    })?;
    Ok(ProjectQuotas {
        counted: state.flags & COUNTED != 0,
        enforced: state.flags & ENFORCED != 0,
    })
}

/// What a project takes on the file system of `file`. One that was never heard of takes nothing.
pub fn project_usage(file: BorrowedFd<'_>, project: u32) -> Result<ProjectUsage, Errno> {
    let mut record = Record::default();
    // SAFETY: the kernel writes a `struct if_dqblk` to `record`, which is larger and outlives the call.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_raw_fd(),
            command(GET),
            project,
            &raw mut record,
        )
    });
    match result {
        // xfs; ext4 has zeros.
        Err(Errno::NOENT) => Ok(ProjectUsage::default()),
        result => result.map(|()| record.usage()),
    }
}

/// The first project from `project` on that takes something or has a limit.
pub fn next_project(
    file: BorrowedFd<'_>,
    project: u32,
) -> Result<Option<(u32, ProjectUsage)>, Errno> {
    let mut record = Record::default();
    // SAFETY: the kernel writes a `struct if_nextdqblk` to `record`, which has its layout and outlives the call.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_raw_fd(),
            command(GET_NEXT),
            project,
            &raw mut record,
        )
    });
    match result {
        Err(Errno::NOENT | Errno::SRCH) => Ok(None),
        result => result.map(|()| Some((record.id, record.usage()))),
    }
}

/// Limits a project to `bytes`, rounded up to the unit of 1 KiB that limits have; 0 lifts the limit.
pub fn limit_project(file: BorrowedFd<'_>, project: u32, bytes: u64) -> Result<(), Errno> {
    let mut record = Record {
        hard_blocks: bytes.div_ceil(LIMIT_UNIT),
        valid: LIMITS_OF_BLOCKS,
        ..Record::default()
    };
    // SAFETY: the kernel reads a `struct if_dqblk` from `record`, which begins as that does and outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_raw_fd(),
            command(SET),
            project,
            &raw mut record,
        )
    })
}

/// The project that a file belongs to; 0 is none.
pub fn project_of(file: BorrowedFd<'_>) -> Result<u32, Errno> {
    attributes(file).map(|attributes| attributes.project)
}

/// Puts a directory into a project, and what will be made in it.
pub fn set_project(directory: BorrowedFd<'_>, project: u32) -> Result<(), Errno> {
    let mut attributes = attributes(directory)?;
    attributes.project = project;
    attributes.flags |= INHERITED;
    let set = opcode::write::<Attributes>(b'X', 32);
    // SAFETY: FS_IOC_FSSETXATTR reads a `struct fsxattr`, whose layout `attributes` has, and which outlives the call.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), set as _, &raw mut attributes) };
    check(result.into())
}

fn attributes(file: BorrowedFd<'_>) -> Result<Attributes, Errno> {
    let mut attributes = Attributes::default();
    let get = opcode::read::<Attributes>(b'X', 31);
    // SAFETY: FS_IOC_FSGETXATTR writes a `struct fsxattr`, whose layout `attributes` has, and which outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), get as _, &raw mut attributes) };
    check(result.into())?;
    Ok(attributes)
}

/// `QCMD(command, PRJQUOTA)`
fn command(command: u32) -> u32 {
    command << 8 | PROJECTS
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn structures_and_numbers_are_the_kernel_s() {
        assert_eq!(size_of::<Record>(), 72);
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(command(GET), 0x8000_0702);
        if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
            assert_eq!(opcode::read::<Attributes>(b'X', 31), 0x801c_581f);
            assert_eq!(opcode::write::<Attributes>(b'X', 32), 0x401c_5820);
        }
    }

    #[test]
    fn what_has_no_projects_says_so() {
        let proc = std::fs::File::open("/proc").unwrap();
        assert!(project_quotas(proc.as_fd()).is_err());
        assert!(project_usage(proc.as_fd(), 1).is_err());
        assert!(limit_project(proc.as_fd(), 1, 1).is_err());
    }
}
