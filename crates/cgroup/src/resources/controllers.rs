//! Making controllers available below, on v2: `cgroup.subtree_control` of every ancestor.

use oci_plan::Resources;

use crate::error::Error;
use crate::files;
use crate::hierarchy::{Controller, Hierarchies, Hierarchy, Mode};
use crate::path::CgroupPath;

/// Enables on the way to `path` what its limits need, and on a v2-only machine all that the root has, for accounting. One that
/// is not needed and cannot be enabled (a parent has processes of its own, say) is left out.
pub(crate) fn enable(
    hierarchies: &Hierarchies,
    path: &CgroupPath,
    resources: &Resources,
) -> Result<(), Error> {
    let Some(unified) = hierarchies.unified() else {
        return Ok(());
    };
    let needed = needed(unified, resources);
    let mut missing = needed.clone();
    if hierarchies.mode() == Mode::V2 {
        missing.extend(ACCOUNTING.iter().filter_map(|one| one.v2_name()));
    } else if !resources.hugepage_limits.is_empty() {
        missing.extend(Controller::Hugetlb.v2_name());
    }
    missing.retain(|name| unified.controllers.iter().any(|known| known == name));
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    // Usually the parent was prepared for an earlier pod or container.
    let text = files::read_if_exists(unified, path.as_str(), "cgroup.controllers")?;
    let present: Vec<&str> = text.as_deref().unwrap_or("").split_whitespace().collect();
    missing.retain(|name| !present.contains(name));
    if missing.is_empty() {
        return Ok(());
    }
    let ancestors = std::iter::once("").chain(path.prefixes().take(path.depth() - 1));
    for ancestor in ancestors {
        enable_in(unified, ancestor, &missing, &needed)?;
    }
    Ok(())
}

const ACCOUNTING: [Controller; 6] = [
    Controller::Cpu,
    Controller::Cpuset,
    Controller::Memory,
    Controller::Pids,
    Controller::Blkio,
    Controller::Hugetlb,
];

fn enable_in(
    unified: &Hierarchy,
    ancestor: &str,
    missing: &[&'static str],
    needed: &[&'static str],
) -> Result<(), Error> {
    let write = |value: &str| files::write(unified, ancestor, "cgroup.subtree_control", value);
    let all: Vec<String> = missing.iter().map(|name| format!("+{name}")).collect();
    if write(&all.join(" ")).is_ok() {
        return Ok(());
    }
    // The kernel takes all or none: one by one, then.
    for (name, value) in missing.iter().zip(&all) {
        match write(value) {
            Err(error) if needed.contains(name) => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// v2 names of the controllers without which a given limit cannot be set. A hugepage limit of 0 is not among them: where the
/// controller cannot be had, it is ignored.
fn needed(unified: &Hierarchy, resources: &Resources) -> Vec<&'static str> {
    let cpu = resources.cpu_shares.is_some()
        || resources.cpu_quota_us.is_some()
        || resources.cpu_period_us.is_some();
    let cpuset = resources.cpuset_cpus.is_some() || resources.cpuset_mems.is_some();
    let memory = resources.memory_limit_bytes.is_some() || resources.memory_swap_bytes.is_some();
    let hugetlb = resources
        .hugepage_limits
        .iter()
        .any(|one| one.limit_bytes > 0);
    [
        (cpu, Controller::Cpu),
        (cpuset, Controller::Cpuset),
        (memory, Controller::Memory),
        (resources.pids_limit.is_some(), Controller::Pids),
        (hugetlb, Controller::Hugetlb),
        (resources.blkio_weight.is_some(), Controller::Blkio),
    ]
    .into_iter()
    .filter_map(|(limited, controller)| Some((limited, controller.v2_name()?)))
    .filter(|(limited, name)| {
        let prefix = |file: &str| file.split('.').next() == Some(*name);
        *limited || resources.unified.iter().any(|(file, _)| prefix(file))
    })
    .map(|(_, name)| name)
    .filter(|name| unified.controllers.iter().any(|known| known == name))
    .collect()
}
