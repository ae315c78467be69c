//! The image's /etc/passwd and /etc/group.
//!
//! They are foreign bytes: read without following anything out of the root file system, without waiting for a pipe's
//! writer, and up to a bound; a line that does not parse is no entry, as in the C libraries.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::BorrowedFd,
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Larger files are refused.
const BOUND: u64 = 8 * 1024 * 1024;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Accounts {
    users: Vec<Account>,
    groups: Vec<Group>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) gid: u32,
    pub(super) members: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AccountsError {
    #[error("read {file} of the image")]
    Read {
        file: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{file} of the image is not a regular file")]
    NotAFile { file: &'static str },
    #[error("{file} of the image is larger than {BOUND} bytes")]
    TooLarge { file: &'static str },
}

impl Accounts {
    /// Reads both files below the directory or detached mount `root`; a missing one is empty.
    pub(crate) fn read(root: BorrowedFd<'_>) -> Result<Self, AccountsError> {
        Ok(Self::parse(
            &read_file(root, "etc/passwd")?,
            &read_file(root, "etc/group")?,
        ))
    }

    pub(crate) fn parse(passwd: &[u8], group: &[u8]) -> Self {
        Self {
            users: lines(passwd).filter_map(|line| account(&line)).collect(),
            groups: lines(group).filter_map(|line| self::group(&line)).collect(),
        }
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Account> {
        self.users.iter().find(|account| account.name == name)
    }

    pub(super) fn by_uid(&self, uid: u32) -> Option<&Account> {
        self.users.iter().find(|account| account.uid == uid)
    }

    pub(super) fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// The groups whose lists name the user.
    pub(super) fn groups_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u32> + 'a {
        let listing = self
            .groups
            .iter()
            .filter(move |group| group.members.iter().any(|member| member == name));
        listing.map(|group| group.gid)
    }
}

fn read_file(root: BorrowedFd<'_>, file: &'static str) -> Result<Vec<u8>, AccountsError> {
    let failed = |source: io::Error| AccountsError::Read { file, source };
    // Without NONBLOCK, a pipe in the file's place would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let opened = loop {
        match rustix::fs::openat2(root, file, flags, Mode::empty(), resolve) {
            // The kernel could not rule out that a rename raced the path.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            other => break other,
        }
    };
    let opened = match opened {
        Ok(opened) => File::from(opened),
        // A path through something that is no directory is as good as no file; so is a dangling or circular link.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            return Ok(Vec::new());
        }
        Err(errno) => return Err(failed(errno.into())),
    };
    if !opened.metadata().map_err(failed)?.is_file() {
        return Err(AccountsError::NotAFile { file });
    }
    let mut bytes = Vec::new();
    opened
        .take(BOUND + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > BOUND {
        return Err(AccountsError::TooLarge { file });
    }
    Ok(bytes)
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = String> {
    let lines = bytes.split(|byte| *byte == b'\n');
    lines.map(|line| String::from_utf8_lossy(line).trim().to_owned())
}

/// `name:password:uid:gid:comment:home:shell`
fn account(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let _password = fields.next()?;
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let _comment = fields.next();
    let home = fields.next().unwrap_or_default();
    Some(Account {
        name: name.to_owned(),
        uid,
        gid,
        home: home.to_owned(),
    })
}

/// `name:password:gid:member,member`
fn group(line: &str) -> Option<Group> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let _password = fields.next()?;
    let gid = fields.next()?.parse().ok()?;
    let members = fields.next().unwrap_or_default().split(',');
    Some(Group {
        name: name.to_owned(),
        gid,
        members: members
            .map(str::trim)
            .filter(|member| !member.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}
