//! Limits: `linux.resources` of the runtime specification as v1 and v2 files.

mod blkio;
mod controllers;
mod cpu;
mod cpuset;
mod devices;
mod hugetlb;
mod memory;
mod unified;

pub use blkio::blkio_weight_to_io_weight;
pub(crate) use controllers::enable as enable_controllers;
pub use cpu::shares_to_weight;
pub(crate) use cpuset::inherit;

use oci_plan::Resources;
use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::files;
use crate::hierarchy::{Controller, Hierarchies, Hierarchy};

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

/// Sets every limit that is given.
pub(crate) fn apply(cgroup: &Cgroup, resources: &Resources, scope: Scope) -> Result<(), Error> {
    let target = Target { cgroup, scope };
    cpuset::apply(&target, resources)?;
    cpu::apply(&target, resources)?;
    memory::apply(&target, resources)?;
    pids(&target, resources.pids_limit)?;
    hugetlb::apply(&target, &resources.hugepage_limits)?;
    blkio::apply(&target, resources.blkio_weight)?;
    devices::apply(&target, &resources.devices)?;
    unified::apply(&target, &resources.unified)
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
}

impl<'a> Target<'a> {
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

    fn has(&self, file: &str) -> bool {
        files::has_file(self.hierarchy, &self.path, file)
    }

    fn read(&self, file: &str) -> Result<String, Error> {
        files::read(self.hierarchy, &self.path, file)
    }

    fn write(&self, file: &str, value: &str) -> Result<(), Error> {
        files::write(self.hierarchy, &self.path, file, value)
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
