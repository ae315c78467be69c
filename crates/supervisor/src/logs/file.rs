use std::os::fd::OwnedFd;

use rustix::io::Errno;

/// A container's log file. Writing to it may block, which is why it lives in a process of its own; it never fails: what cannot
/// be written is counted and dropped, since a container must not stop for want of disk space.
#[derive(Debug)]
pub(super) struct LogFile {
    /// Opened for appending by the daemon.
    file: OwnedFd,
    /// The file ends in the middle of an entry.
    torn: bool,
    lost_bytes: u64,
    last_error: Option<Errno>,
}

impl LogFile {
    pub(super) fn new(file: OwnedFd) -> Self {
        Self {
            file,
            torn: false,
            lost_bytes: 0,
            last_error: None,
        }
    }

    /// Appends whole entries.
    pub(super) fn append(&mut self, entries: &[u8]) {
        // A reader skips a damaged entry, but only if the next begins on a line of its own.
        if self.torn {
            match self.write(b"\n") {
                Ok(()) => self.torn = false,
                Err((_, error)) => return self.lose(entries.len(), error),
            }
        }
        if let Err((written, error)) = self.write(entries) {
            self.torn = written > 0 && entries[written - 1] != b'\n';
            self.lose(entries.len() - written, error);
        }
    }

    /// Continues in another file; from here on nothing goes to the old one.
    pub(super) fn replace(&mut self, file: OwnedFd) {
        self.file = file;
        self.torn = false;
    }

    /// For the exit record: how much was lost and why, if anything was.
    pub(super) fn loss(&self) -> Option<String> {
        let error = self.last_error?;
        Some(format!(
            "{} bytes of its log were not written: {error}",
            self.lost_bytes
        ))
    }

    fn lose(&mut self, bytes: usize, error: Errno) {
        self.lost_bytes += bytes as u64;
        self.last_error = Some(error);
    }

    /// A short write says nothing about its cause: only the next one does (ENOSPC, EDQUOT, EFBIG, EIO).
    fn write(&self, bytes: &[u8]) -> Result<(), (usize, Errno)> {
        let mut written = 0;
        while written < bytes.len() {
            match rustix::io::write(&self.file, &bytes[written..]) {
                Ok(0) => return Err((written, Errno::IO)),
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err((written, error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    use rustix::fs::{MemfdFlags, Mode, OFlags};
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    };

    fn text(file: &OwnedFd) -> String {
        let mut bytes = vec![0; 4096];
        let count = rustix::io::pread(file, &mut bytes, 0).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    #[test]
    fn a_full_disk_is_counted_and_the_file_stays_readable() {
        let full = rustix::fs::open("/dev/full", OFlags::WRONLY, Mode::empty()).unwrap();
        let mut log = LogFile::new(full);
        log.append(b"one\n");
        log.append(b"two\n");
        assert_eq!(
            log.loss().unwrap(),
            "8 bytes of its log were not written: No space left on device (os error 28)"
        );

        let memfd = rustix::fs::memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
        log.replace(memfd.try_clone().unwrap());
        log.append(b"three\n");
        assert_eq!(text(&memfd), "three\n");
        assert!(log.loss().unwrap().starts_with("8 bytes"));
    }

    #[test]
    fn an_entry_after_a_torn_one_begins_on_its_own_line() {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        fsconfig_set_string(context.as_fd(), "size", "4k").unwrap();
        fsconfig_create(context.as_fd()).unwrap();
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        let mount = fsmount(context.as_fd(), flags, MountAttrFlags::empty()).unwrap();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND;
        let file = rustix::fs::openat(&mount, "log", flags, Mode::from_raw_mode(0o600)).unwrap();

        let mut log = LogFile::new(file.try_clone().unwrap());
        log.append(&[b'x'; 5000]);
        assert!(log.torn);
        assert!(log.loss().unwrap().starts_with("904 bytes"));
        log.append(b"lost\n");
        assert!(log.loss().unwrap().starts_with("909 bytes"));
        rustix::fs::ftruncate(&file, 3).unwrap();
        log.append(b"next\n");
        assert!(!log.torn);
        assert_eq!(text(&file), "xxx\nnext\n");
    }
}
