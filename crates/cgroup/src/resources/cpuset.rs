use oci_plan::Resources;

use super::{Place, Target, no_hierarchy};
use crate::error::Error;
use crate::files;
use crate::hierarchy::{Controller, Hierarchy};
use crate::path::CgroupPath;

pub(super) fn apply(target: &Target<'_>, resources: &Resources) -> Result<(), Error> {
    let files = [
        ("cpuset_cpus", "cpuset.cpus", &resources.cpuset_cpus),
        ("cpuset_mems", "cpuset.mems", &resources.cpuset_mems),
    ];
    for (field, file, value) in files {
        let Some(value) = value else { continue };
        match target.place(Controller::Cpuset) {
            Place::Here(place) => place.write(file, value)?,
            Place::Foreign => {}
            Place::Nowhere => return Err(no_hierarchy(field, value, Controller::Cpuset)),
        }
    }
    Ok(())
}

/// On v1 a new cpuset is empty and takes no process: fills those of the components after the first `from` from the nearest
/// ancestor that has one, and those between. Other hierarchies are left alone.
pub(crate) fn inherit(hierarchy: &Hierarchy, path: &CgroupPath, from: usize) -> Result<(), Error> {
    let cpuset = Controller::Cpuset.v1_name();
    if hierarchy.v2 || !hierarchy.controllers.iter().any(|name| name == cpuset) {
        return Ok(());
    }
    let levels: Vec<&str> = std::iter::once("").chain(path.prefixes()).collect();
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let mut at = from.min(levels.len() - 1);
        let mut value = files::read(hierarchy, levels[at], file)?;
        while value.trim().is_empty() && at > 0 {
            at -= 1;
            value = files::read(hierarchy, levels[at], file)?;
        }
        for level in &levels[at + 1..] {
            files::write(hierarchy, level, file, value.trim())?;
        }
    }
    Ok(())
}
