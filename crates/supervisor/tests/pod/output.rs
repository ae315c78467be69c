use std::fs;
use std::os::fd::OwnedFd;

use super::PATIENCE;

/// The reading end of what a process writes.
pub(crate) struct Output(pub(crate) OwnedFd);

pub(crate) struct Attached {
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) terminal: bool,
    pub(crate) input: bool,
    pub(crate) descriptor: Option<OwnedFd>,
}

impl Attached {
    pub(crate) fn write(&self, text: &str) {
        let input = self.descriptor.as_ref().unwrap();
        assert_eq!(
            rustix::io::write(input, text.as_bytes()),
            Ok(text.len()),
            "{text}"
        );
    }
}

impl Output {
    /// Reads until that has been said; returns all that was read.
    pub(crate) fn read_until(&self, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            let mut buffer = [0; 4096];
            let mut poll = [rustix::event::PollFd::new(
                &self.0,
                rustix::event::PollFlags::IN,
            )];
            let patience = rustix::event::Timespec::try_from(PATIENCE).unwrap();
            assert_ne!(
                rustix::event::poll(&mut poll, Some(&patience)),
                Ok(0),
                "only {text:?}"
            );
            let count = rustix::io::read(&self.0, &mut buffer).unwrap();
            assert_ne!(count, 0, "ended after {text:?}");
            text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
        text
    }

    /// Of a terminal's master: to the end that EIO says.
    pub(crate) fn read_terminal(self) -> String {
        rustix::io::ioctl_fionbio(&self.0, false).unwrap();
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count) = rustix::io::read(&self.0, &mut buffer)
            && count > 0
        {
            bytes.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8(bytes).unwrap()
    }

    pub(crate) fn read_to_end(self) -> String {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut fs::File::from(self.0), &mut text).unwrap();
        text
    }
}
