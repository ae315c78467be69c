//! Exit records: one small file per container in the pod's state directory.
//!
//! Its space is reserved when the container is made, so that an exit can be recorded on a full file system as well.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use supervisor_api::{EXITS_DIRECTORY, ExitRecord};

/// More than a record's encoding ever takes; one page on tmpfs.
const RESERVED_BYTES: u64 = 4096;

#[derive(Debug)]
pub(crate) struct Exits {
    directory: OwnedFd,
}

impl Exits {
    /// Opens `exits` in the pod's state directory and makes it if needed.
    pub(crate) fn open(pod_directory: &OwnedFd) -> Result<Self, Errno> {
        match rustix::fs::mkdirat(pod_directory, EXITS_DIRECTORY, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let directory = rustix::fs::openat(
            pod_directory,
            EXITS_DIRECTORY,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        )?;
        Ok(Self { directory })
    }

    /// Makes room for the record of a container that is about to be made. A record of an earlier container of that id goes.
    pub(crate) fn reserve(&self, container: &str) -> Result<(), Errno> {
        self.remove(container)?;
        let file = rustix::fs::openat(
            &self.directory,
            reserved_name(container),
            OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::from_raw_mode(0o600),
        )?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVED_BYTES) {
            // Not every file system can.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => {
                // The first error is the one to tell.
                let _ = self.remove(container);
                Err(error)
            }
        }
    }

    /// Writes the record; afterwards it is there whole, or not at all.
    pub(crate) fn write(&self, container: &str, record: &ExitRecord) -> Result<(), Errno> {
        let bytes = postcard::to_stdvec(record).map_err(|_| Errno::INVAL)?;
        let reserved = reserved_name(container);
        let file = rustix::fs::openat(
            &self.directory,
            &reserved,
            OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::from_raw_mode(0o600),
        )?;
        let mut written = 0;
        while written < bytes.len() {
            match rustix::io::pwrite(&file, &bytes[written..], written as u64) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        rustix::fs::ftruncate(&file, bytes.len() as u64)?;
        rustix::fs::renameat(&self.directory, &reserved, &self.directory, container)
    }

    /// Forgets the record and its reservation; also what is not there.
    pub(crate) fn remove(&self, container: &str) -> Result<(), Errno> {
        for name in [container, &reserved_name(container)] {
            match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Container ids do not begin with a dot.
fn reserved_name(container: &str) -> String {
    format!(".{container}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    };

    #[test]
    fn a_record_is_written_over_its_reservation() {
        let directory = tempfile::tempdir().unwrap();
        let pod = rustix::fs::open(directory.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        let exits = Exits::open(&pod).unwrap();
        let record = ExitRecord {
            exit_code: 137,
            signal: Some(9),
            oom_killed: true,
            started_at_ns: 1,
            finished_at_ns: 2,
            message: Some("lost".repeat(100)),
        };
        exits.reserve("c1").unwrap();
        let names = || {
            let mut names: Vec<_> = std::fs::read_dir(directory.path().join("exits"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(), [".c1"]);
        exits.write("c1", &record).unwrap();
        assert_eq!(names(), ["c1"]);
        let bytes = std::fs::read(directory.path().join("exits/c1")).unwrap();
        assert_eq!(postcard::from_bytes::<ExitRecord>(&bytes).unwrap(), record);

        // Again over an old one, and removed twice.
        exits.reserve("c1").unwrap();
        assert_eq!(names(), [".c1"]);
        exits.remove("c1").unwrap();
        exits.remove("c1").unwrap();
        assert_eq!(names(), Vec::<String>::new());
    }

    #[test]
    fn an_exit_is_recorded_on_a_full_file_system() {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        fsconfig_set_string(context.as_fd(), "size", "16k").unwrap();
        fsconfig_create(context.as_fd()).unwrap();
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        let pod = fsmount(context.as_fd(), flags, MountAttrFlags::empty()).unwrap();
        let exits = Exits::open(&pod).unwrap();
        exits.reserve("c1").unwrap();
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let other = rustix::fs::openat(&pod, "other", flags, Mode::from_raw_mode(0o600)).unwrap();
        while rustix::io::write(&other, &[0; 4096]).is_ok() {}
        let record = ExitRecord {
            exit_code: 1,
            signal: None,
            oom_killed: false,
            started_at_ns: 0,
            finished_at_ns: 0,
            message: Some("why".repeat(500)),
        };
        exits.write("c1", &record).unwrap();
        let file = rustix::fs::openat(&pod, "exits/c1", OFlags::RDONLY, Mode::empty()).unwrap();
        let mut bytes = vec![0; 4096];
        let count = rustix::io::read(&file, &mut bytes).unwrap();
        let read: ExitRecord = postcard::from_bytes(&bytes[..count]).unwrap();
        assert_eq!(read, record);
        // A creation without room for its record is refused, and deleting needs none.
        assert_eq!(exits.reserve("c2"), Err(Errno::NOSPC));
        exits.remove("c1").unwrap();
        let left = rustix::fs::unlinkat(&pod, "exits", AtFlags::REMOVEDIR);
        assert_eq!(left, Ok(()));
    }
}
