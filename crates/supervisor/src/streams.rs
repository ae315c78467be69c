use std::os::fd::{AsFd, OwnedFd};

use oci_plan::IdMappings;
use oci_runtime::ChildStdio;
use rustix::fs::Uid;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

/// One side of a container's pipes.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

impl Streams {
    /// The child's side and ours. Ours are non-blocking; the child's never are, programs do not expect that.
    pub(crate) fn open(stdin: bool) -> Result<(Self, Self), Errno> {
        let mut child = Self::default();
        let mut ours = Self::default();
        if stdin {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&write, true)?;
            (child.stdin, ours.stdin) = (Some(read), Some(write));
        }
        for (child, ours) in [
            (&mut child.stdout, &mut ours.stdout),
            (&mut child.stderr, &mut ours.stderr),
        ] {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&read, true)?;
            (*child, *ours) = (Some(write), Some(read));
        }
        Ok((child, ours))
    }

    /// Gives the pipes to a user of the host: a program that is not root opens its own `/dev/stdout`, and that is a question of
    /// the pipe's mode.
    pub(crate) fn give_to(&self, user: u32) -> Result<(), Errno> {
        for pipe in [&self.stdin, &self.stdout, &self.stderr]
            .into_iter()
            .flatten()
        {
            rustix::fs::fchown(pipe, Some(Uid::from_raw(user)), None)?;
        }
        Ok(())
    }

    pub(crate) fn as_child(&self) -> ChildStdio<'_> {
        ChildStdio {
            stdin: self.stdin.as_ref().map(AsFd::as_fd),
            stdout: self.stdout.as_ref().map(AsFd::as_fd),
            stderr: self.stderr.as_ref().map(AsFd::as_fd),
        }
    }
}

/// The host's id of a container's user: as the mapping says, or the same without one.
pub(crate) fn host_user(user: u32, mappings: Option<&IdMappings>) -> u32 {
    let Some(mappings) = mappings else {
        return user;
    };
    let mapped = mappings.uids.iter().find_map(|map| {
        let offset = user.checked_sub(map.container_id)?;
        (offset < map.length).then(|| map.host_id.checked_add(offset))?
    });
    // One without a mapping is refused where its process is made.
    mapped.unwrap_or(user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_plan::IdMap;

    #[test]
    fn users_are_mapped() {
        let map = |container_id, host_id, length| IdMap {
            container_id,
            host_id,
            length,
        };
        let mappings = IdMappings {
            uids: vec![map(0, 100_000, 1000), map(5000, 1, 1)],
            gids: vec![],
        };
        assert_eq!(host_user(7, None), 7);
        assert_eq!(host_user(0, Some(&mappings)), 100_000);
        assert_eq!(host_user(999, Some(&mappings)), 100_999);
        assert_eq!(host_user(1000, Some(&mappings)), 1000);
        assert_eq!(host_user(5000, Some(&mappings)), 1);
    }
}
