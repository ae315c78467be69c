use std::collections::BTreeSet;

use oci_plan::Resources;

use super::{Directory, Place, Target, no_hierarchy};
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
            Place::Here(place) => {
                if place.v2() {
                    check_v2(&place, field, file, value)?;
                }
                place.write(file, value)?;
            }
            Place::Foreign => {}
            Place::Nowhere => return Err(no_hierarchy(field, value, Controller::Cpuset)),
        }
    }
    Ok(())
}

/// v1 refuses what the parent has not. v2 takes it, and gives what both have, or all that the parent has: whoever pins to processors
/// that are not there would not be pinned, and not be told.
fn check_v2(
    place: &Directory<'_>,
    field: &'static str,
    file: &str,
    wanted: &str,
) -> Result<(), Error> {
    let parent = place.parent();
    // The root's file has no effective form before 6.x; whatever is there says what may be had.
    let Some(text) = parent.read_if_exists(&format!("{file}.effective"))? else {
        return Ok(());
    };
    let (Some(wanted_set), Some(given)) = (numbers(wanted), numbers(&text)) else {
        return Ok(());
    };
    match wanted_set.iter().find(|number| !given.contains(number)) {
        None => Ok(()),
        Some(number) => Err(Error::Unsupported {
            field,
            value: wanted.to_owned(),
            reason: format!(
                "{number} is not among those of the parent cgroup, {}",
                text.trim()
            ),
        }),
    }
}

/// The kernel's list format, `0-3,8`; `None` for what is not one, which the kernel will say.
fn numbers(list: &str) -> Option<BTreeSet<u32>> {
    let mut numbers = BTreeSet::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 = first.trim().parse().ok()?;
        numbers.extend(first..=last.trim().parse().ok()?);
    }
    Some(numbers)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_kernel() {
        let set = |list: &str| numbers(list).map(|set| set.into_iter().collect::<Vec<_>>());
        assert_eq!(set("0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(set("\n"), Some(vec![]));
        assert_eq!(set("0-"), None);
    }
}
