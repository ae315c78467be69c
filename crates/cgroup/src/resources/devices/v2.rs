//! v2 asks eBPF programs: those of the cgroup and those of its parents must all agree, so a container's can take away only.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::rule::Rules;
use super::{FIELD, program};
use crate::error::Error;
use crate::files;
use crate::resources::{Directory, Scope};

/// By which ours are told from others' (systemd attaches some to its units).
const NAME: &CStr = c"longshore_dev";

pub(super) fn apply(place: &Directory<'_>, rules: &Rules, scope: Scope) -> Result<(), Error> {
    match scope {
        // New directories have no program yet.
        Scope::Made if !rules.deny_anything() => Ok(()),
        Scope::Made => Policed::open(place)?.attach(rules, None),
        Scope::All => Policed::open(place)?.replace(rules),
    }
}

/// A cgroup whose devices are limited.
struct Policed<'a> {
    place: &'a Directory<'a>,
    dir: OwnedFd,
}

impl Policed<'_> {
    fn open<'a>(place: &'a Directory<'a>) -> Result<Policed<'a>, Error> {
        let dir = files::open_dir(place.hierarchy, &place.path);
        let dir = dir.map_err(|source| Error::Open {
            cgroup: place.label(),
            source,
        })?;
        Ok(Policed { place, dir })
    }

    fn replace(&self, rules: &Rules) -> Result<(), Error> {
        let before = match self.ours() {
            Ok(before) => before,
            // What cannot be listed could not have been attached.
            Err(_) if !rules.deny_anything() => return Ok(()),
            Err(error) => return Err(error),
        };
        // v1 would add such rules to those in force. Here they would replace them, and lift whatever they do not name.
        if rules.default.is_none() && !before.is_empty() {
            return Err(Error::Unsupported {
                field: FIELD,
                value: format!("{} rules", rules.given),
                reason: "on cgroup v2 rules take the place of those in force, so one of them must be for all devices (type a)"
                    .to_owned(),
            });
        }
        let mut rest = before.iter().map(AsFd::as_fd);
        if rules.deny_anything() {
            self.attach(rules, rest.next())?;
        }
        // More than one only where two updates ran at once: each is asked, so nothing was let through.
        rest.try_for_each(|old| self.detach(old))
    }

    fn attach(&self, rules: &Rules, replaced: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        let instructions = program::compile(rules)?;
        let program = sys::load_device_program(NAME, &instructions).map_err(|source| {
            Error::DeviceProgram {
                cgroup: self.place.label(),
                source,
            }
        })?;
        sys::attach_device_program(self.dir.as_fd(), program.as_fd(), replaced)
            .map_err(|source| self.failed("attach the device program", source))
    }

    fn detach(&self, program: BorrowedFd<'_>) -> Result<(), Error> {
        match sys::detach_device_program(self.dir.as_fd(), program) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(source) => Err(self.failed("detach the device program", source)),
        }
    }

    fn ours(&self) -> Result<Vec<OwnedFd>, Error> {
        let failed = |source| self.failed("list the device programs", source);
        let mut ours = Vec::new();
        for id in sys::device_programs(self.dir.as_fd()).map_err(failed)? {
            let program = match sys::open_program(id) {
                Ok(program) => program,
                // Detached since.
                Err(Errno::NOENT) => continue,
                Err(source) => return Err(failed(source)),
            };
            if sys::program_name(program.as_fd()).map_err(failed)? == NAME.to_bytes() {
                ours.push(program);
            }
        }
        Ok(ours)
    }

    fn failed(&self, what: &'static str, source: Errno) -> Error {
        Error::Devices {
            what,
            cgroup: self.place.label(),
            source,
        }
    }
}
