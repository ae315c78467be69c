use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use cgroup::Hierarchies;
use oci_plan::IdMappings;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::thread::CapabilitySet;

use crate::error::{Context, Error, Stage};
use crate::user_namespace;

/// What the core needs of the host, opened once, before the caller leaves the host's root.
#[derive(Debug)]
pub struct Host {
    hierarchies: Hierarchies,
    proc: OwnedFd,
    null: OwnedFd,
    own_pid_namespace: OwnedFd,
    bounding: u64,
    permitted: u64,
    last_capability: u32,
    oom_score_adj: i16,
    idmaps: RefCell<Vec<(IdMappings, Rc<OwnedFd>)>>,
}

impl Host {
    /// Opens the cgroup hierarchies, `/proc`, `/dev/null` and the caller's PID namespace, and reads its bounding set. The process becomes
    /// non-dumpable, and with it its children: a container that shares a PID namespace with one that is on its way cannot look into it.
    pub fn open() -> Result<Self, Error> {
        let hierarchies = Hierarchies::open()
            .map_err(|error| Error::refused("cgroup hierarchies", error.to_string()))?;
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .at(Stage::OpenHost, "dumpable flag")?;
        let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc", path, Mode::empty()).at(Stage::OpenHost, "/proc")?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .at(Stage::OpenHost, "/dev/null")?;
        let own_pid_namespace = rustix::fs::openat(
            &proc,
            "self/ns/pid",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .at(Stage::OpenHost, "/proc/self/ns/pid")?;
        let (bounding, last_capability) = bounding_set();
        let permitted = rustix::thread::capabilities(None)
            .at(Stage::OpenHost, "capabilities")?
            .permitted
            .bits();
        let oom_score_adj = read_small(proc.as_fd(), "self/oom_score_adj")
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        Ok(Self {
            hierarchies,
            proc,
            null,
            own_pid_namespace,
            bounding,
            permitted,
            last_capability,
            oom_score_adj,
            idmaps: RefCell::default(),
        })
    }

    /// The cgroup hierarchies of the machine, for the caller's own use.
    #[must_use]
    pub fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// The caller's bounding set: no container gets a capability outside of it. Bit `n` is capability `n`.
    #[must_use]
    pub fn bounding(&self) -> u64 {
        self.bounding
    }

    /// Whether rlimits may be raised and OOM scores lowered at will; without, they are clamped.
    #[must_use]
    pub fn may_raise_limits(&self) -> bool {
        self.permitted & CapabilitySet::SYS_RESOURCE.bits() != 0
    }

    /// The host's `/proc`, which a caller that has left the host's root cannot open any more.
    #[must_use]
    pub fn proc(&self) -> BorrowedFd<'_> {
        self.proc.as_fd()
    }

    /// The host's `/dev/null`, open for reading and writing.
    #[must_use]
    pub fn null(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    /// The pid of a pidfd's process in the caller's PID namespace; `ESRCH` if it has ended.
    pub fn pid_of(&self, pidfd: BorrowedFd<'_>) -> Result<i32, Errno> {
        let path = format!("self/fdinfo/{}", pidfd.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.proc, path.as_str(), flags, Mode::empty())?;
        let mut buffer = [0_u8; 512];
        let count = rustix::io::read(&file, &mut buffer)?;
        String::from_utf8_lossy(&buffer[..count])
            .lines()
            .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
            .filter(|pid| *pid > 0)
            .ok_or(Errno::SRCH)
    }

    pub(crate) fn permitted(&self) -> u64 {
        self.permitted
    }

    pub(crate) fn own_pid_namespace(&self) -> BorrowedFd<'_> {
        self.own_pid_namespace.as_fd()
    }

    pub(crate) fn last_capability(&self) -> u32 {
        self.last_capability
    }

    /// Writes the OOM score adjustment of a process, `self` or a pid, or the nearest that is permitted. Never fails: it is advice.
    pub fn write_oom_score(&self, process: &str, wanted: i16) {
        for value in [wanted, wanted.max(self.oom_score_adj)] {
            let path = format!("{process}/oom_score_adj");
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let written = rustix::fs::openat(&self.proc, path.as_str(), flags, Mode::empty())
                .and_then(|file| rustix::io::write(&file, value.to_string().as_bytes()));
            if written.is_ok() {
                return;
            }
        }
    }

    /// A user namespace with these mappings, for an idmapped mount. Made once for each set of mappings.
    pub(crate) fn idmap(&self, mappings: &IdMappings) -> Result<Rc<OwnedFd>, Error> {
        let known = self
            .idmaps
            .borrow()
            .iter()
            .find(|(known, _)| known == mappings)
            .map(|(_, namespace)| Rc::clone(namespace));
        if let Some(namespace) = known {
            return Ok(namespace);
        }
        let namespace = Rc::new(user_namespace::make(self, mappings)?);
        self.idmaps
            .borrow_mut()
            .push((mappings.clone(), Rc::clone(&namespace)));
        Ok(namespace)
    }
}

/// The set, and the highest capability that the kernel knows.
fn bounding_set() -> (u64, u32) {
    let mut set = 0;
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::capability_is_in_bounding_set(capability) {
            Ok(true) => set |= 1 << number,
            Ok(false) => {}
            Err(_) => return (set, u32::max(number, 1) - 1),
        }
    }
    (set, 63)
}

fn read_small(directory: BorrowedFd<'_>, path: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, path, flags, Mode::empty()).ok()?;
    let mut buffer = [0_u8; 64];
    let count = rustix::io::read(&file, &mut buffer).ok()?;
    String::from_utf8(buffer[..count].to_vec()).ok()
}
