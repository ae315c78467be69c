//! Limits: `linux.resources` of the runtime specification as v1 and v2 files.

mod blkio;
mod block_devices;
mod controllers;
mod cpu;
mod cpuset;
mod devices;
mod further;
mod hugetlb;
mod journal;
mod memory;
mod unified;

pub use blkio::blkio_weight_to_io_weight;
pub use block_devices::DeviceLimits;
pub(crate) use controllers::enable as enable_controllers;
pub use cpu::shares_to_weight;
pub(crate) use cpuset::inherit;

use oci_plan::Resources;
use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::files;
use crate::hierarchy::{Controller, Hierarchies, Hierarchy};
use journal::Journal;

/// Which directories limits are set in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those known to be made by this process: a pod's cgroup that its kubelet made has the kubelet's limits.
    Made,
    All,
}

/// Refuses what no machine could honour, before anything is touched.
pub(crate) fn check(hierarchies: &Hierarchies, resources: &Resources) -> Result<(), Error> {
    memory::check(resources)?;
    blkio::check(resources)?;
    hugetlb::check(resources)?;
    devices::check(hierarchies, &resources.devices)?;
    unified::check(&resources.unified)
}

/// Sets every limit that is given, in a new cgroup.
pub(crate) fn apply(cgroup: &Cgroup, resources: &Resources, scope: Scope) -> Result<(), Error> {
    let target = Target {
        cgroup,
        scope,
        journal: None,
    };
    target.apply(resources)
}

/// Changes the limits of a cgroup that is in use: all that are given, or, where the kernel refuses one, none. Device rules come last but
/// for the files of v2 that are given by name, and stay.
pub(crate) fn change(cgroup: &Cgroup, resources: &Resources) -> Result<(), Error> {
    let journal = Journal::new(&cgroup.hierarchies);
    let target = Target {
        cgroup,
        scope: Scope::All,
        journal: Some(&journal),
    };
    let changed = target.apply(resources);
    if changed.is_err() {
        journal.undo();
    }
    changed
}

fn pids(target: &Target<'_>, limit: Option<i64>) -> Result<(), Error> {
    let Some(limit) = limit else { return Ok(()) };
    let unlimited = limit < 0;
    match target.place(Controller::Pids) {
        Place::Here(place) if unlimited => place.write("pids.max", "max"),
        Place::Here(place) => place.write("pids.max", &limit.to_string()),
        Place::Nowhere if !unlimited => Err(no_hierarchy("pids_limit", limit, Controller::Pids)),
        Place::Nowhere | Place::Foreign => Ok(()),
    }
}

pub(crate) struct Target<'a> {
    cgroup: &'a Cgroup,
    scope: Scope,
    /// Where a change is noted, to be undone.
    journal: Option<&'a Journal>,
}

/// Where a controller limits the cgroup.
pub(crate) enum Place<'a> {
    Here(Directory<'a>),
    /// In a directory that somebody else made and limits.
    Foreign,
    /// No mounted hierarchy has the controller.
    Nowhere,
}

pub(crate) struct Directory<'a> {
    hierarchy: &'a Hierarchy,
    path: String,
    journal: Option<&'a Journal>,
}

impl<'a> Target<'a> {
    fn apply(&self, resources: &Resources) -> Result<(), Error> {
        cpuset::apply(self, resources)?;
        cpu::apply(self, resources)?;
        memory::apply(self, resources)?;
        pids(self, resources.pids_limit)?;
        hugetlb::apply(self, &resources.hugepage_limits)?;
        blkio::apply(self, resources.blkio_weight)?;
        further::apply(self, &resources.further)?;
        devices::apply(self, &resources.devices)?;
        unified::apply(self, &resources.unified)
    }

    fn place(&self, controller: Controller) -> Place<'a> {
        match self.cgroup.hierarchies.home(controller) {
            Some(hierarchy) => self.place_in(hierarchy),
            None => Place::Nowhere,
        }
    }

    fn place_in(&self, hierarchy: &'a Hierarchy) -> Place<'a> {
        if self.scope == Scope::Made && !self.cgroup.was_made_in(hierarchy) {
            return Place::Foreign;
        }
        Place::Here(Directory {
            hierarchy,
            path: self.cgroup.path_in(hierarchy),
            journal: self.journal,
        })
    }
}

impl Directory<'_> {
    fn v2(&self) -> bool {
        self.hierarchy.v2
    }

    fn label(&self) -> String {
        self.hierarchy.label(&self.path)
    }

    /// The root of the hierarchy for what is right below it.
    fn parent(&self) -> Self {
        let path = self.path.rsplit_once('/').map_or("", |(parent, _)| parent);
        Directory {
            hierarchy: self.hierarchy,
            path: path.to_owned(),
            journal: None,
        }
    }

    fn read_if_exists(&self, file: &str) -> Result<Option<String>, Error> {
        files::read_if_exists(self.hierarchy, &self.path, file)
    }

    fn has(&self, file: &str) -> bool {
        files::has_file(self.hierarchy, &self.path, file)
    }

    fn read(&self, file: &str) -> Result<String, Error> {
        files::read(self.hierarchy, &self.path, file)
    }

    fn write(&self, file: &str, value: &str) -> Result<(), Error> {
        let before = match self.journal {
            Some(_) => self.read(file).ok(),
            None => None,
        };
        files::write(self.hierarchy, &self.path, file, value)?;
        if let (Some(journal), Some(before)) = (self.journal, before) {
            journal.note(self.hierarchy, &self.path, file, before);
        }
        Ok(())
    }

    /// Whether processes may be living under the limits that are set.
    fn in_use(&self) -> bool {
        self.journal.is_some()
    }

    /// `false`: there is no such file.
    fn write_if_exists(&self, file: &str, value: &str) -> Result<bool, Error> {
        match self.write(file, value) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn parse_error(&self, file: &str, text: &str) -> Error {
        Error::Parse {
            file: self.hierarchy.label(&files::join(&self.path, file)),
            text: text.to_owned(),
        }
    }
}

fn no_hierarchy(field: &'static str, value: impl ToString, controller: Controller) -> Error {
    Error::Unsupported {
        field,
        value: value.to_string(),
        reason: format!(
            "no mounted cgroup hierarchy has the {} controller",
            controller.v1_name()
        ),
    }
}
