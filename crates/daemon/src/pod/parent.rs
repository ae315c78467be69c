//! Where a pod's cgroups are, by the driver and by what the request says.

use cgroup::{CgroupPath, PathError, Slice, SliceError};

use super::config::PodConfig;
use crate::{config::CgroupDriver, id::PodId, runtime::Runtime, systemd::Scope};

/// Why no cgroup can be below that parent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParentError {
    #[error("config.linux.cgroup_parent")]
    Path(#[from] PathError),
    #[error("config.linux.cgroup_parent")]
    Slice(#[from] SliceError),
    /// Kubelet and runtime must be of one mind, or two write the same tree.
    #[error(
        "config.linux.cgroup_parent: {0:?} is a slice of systemd, and this daemon has cgroup_driver = \"cgroupfs\": set it to \"systemd\", or \
         the kubelet's cgroupDriver to \"cgroupfs\""
    )]
    Unexpected(String),
}

/// The cgroup that holds the pod's and its containers' own.
pub(super) fn of_pod(
    runtime: &Runtime,
    config: &PodConfig,
    id: &PodId,
) -> Result<String, ParentError> {
    let parent = match config.linux.cgroup_parent.as_str() {
        "" => &runtime.config.cgroup_parent,
        parent => parent,
    };
    below(runtime.config.cgroup_driver, parent, id)
}

fn below(driver: CgroupDriver, parent: &str, id: &PodId) -> Result<String, ParentError> {
    match driver {
        CgroupDriver::Systemd => Ok(Scope::of_pod(&Slice::parse(parent)?, id)?.1),
        CgroupDriver::Cgroupfs => match CgroupPath::parse(parent)?.name().ends_with(".slice") {
            true => Err(ParentError::Unexpected(parent.to_owned())),
            false => Ok(parent.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_driver_takes_its_own_parents_only() {
        let id = PodId::generate().unwrap();
        let under = |driver, parent: &str| below(driver, parent, &id);
        let path = "/kubepods.slice/kubepods-podu1.slice";
        let scope = format!("{path}/longshore-{id}.scope");
        for parent in ["kubepods-podu1.slice", path] {
            assert_eq!(under(CgroupDriver::Systemd, parent).unwrap(), scope);
            let refused = under(CgroupDriver::Cgroupfs, parent).unwrap_err();
            assert!(refused.to_string().contains("cgroup_driver"), "{refused}");
        }
        assert!(Scope::at(&scope).is_some());
        assert!(Scope::at(path).is_none());
        let parent = "/kubepods/besteffort/podu1";
        assert_eq!(under(CgroupDriver::Cgroupfs, parent).unwrap(), parent);
        assert!(under(CgroupDriver::Systemd, parent).is_err());
        for escape in [
            "/a/../../b",
            "..",
            "/",
            "//a",
            "/a.slice/../b.slice",
            "../b.slice",
        ] {
            assert!(under(CgroupDriver::Cgroupfs, escape).is_err(), "{escape}");
            assert!(under(CgroupDriver::Systemd, escape).is_err(), "{escape}");
        }
    }
}
