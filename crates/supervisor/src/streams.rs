use std::os::fd::{AsFd, OwnedFd};

use oci_runtime::ChildStdio;
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
    /// The child's side and ours. Ours of stdout and stderr are non-blocking; the child's never are, programs do not expect that.
    pub(crate) fn open(stdin: bool) -> Result<(Self, Self), Errno> {
        let mut child = Self::default();
        let mut ours = Self::default();
        if stdin {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
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

    pub(crate) fn as_child(&self) -> ChildStdio<'_> {
        ChildStdio {
            stdin: self.stdin.as_ref().map(AsFd::as_fd),
            stdout: self.stdout.as_ref().map(AsFd::as_fd),
            stderr: self.stderr.as_ref().map(AsFd::as_fd),
        }
    }
}
