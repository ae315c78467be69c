//! What this node's kernel can do, as far as a specification depends on it.

use std::{ffi::CStr, fs, path::Path};

use super::SpecError;
use crate::{
    pod::config::SelinuxOptions,
    selinux::{Places, is_enabled},
};

/// Looked up once, when the daemon starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// The daemon's bounding set: bit `n` is capability `n`.
    pub(crate) capabilities: u64,
    pub(crate) apparmor: bool,
    pub(crate) selinux: bool,
    /// The daemon sets its labels.
    pub(crate) selinux_labels: bool,
    /// cgroup v2 alone, not a hybrid.
    pub(crate) cgroup_v2: bool,
    /// The kernel can limit swap by cgroup.
    pub(crate) swap_accounting: bool,
    /// That a cgroup can limit: `2MB`, `1GB`.
    pub(crate) hugepage_sizes: Vec<String>,
    /// An overlay takes layers that are seen through a user namespace: since Linux 5.19.
    pub(crate) maps_layers: bool,
}

impl Host {
    /// Reads /sys; what cannot be read is not there. `hugetlb`: some hierarchy of cgroups limits huge pages, on a hybrid often the v2 one.
    pub(crate) fn discover(capabilities: u64, hugetlb: bool) -> Self {
        let cgroup = Path::new("/sys/fs/cgroup");
        let controllers = fs::read_to_string(cgroup.join("cgroup.controllers")).ok();
        let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        Self {
            capabilities,
            apparmor: enabled.is_ok_and(|enabled| enabled.starts_with('Y')),
            selinux: is_enabled(&Places::default()),
            selinux_labels: false,
            cgroup_v2: controllers.is_some(),
            swap_accounting: match &controllers {
                // What the command line may have switched off is found when a container's limit is written: the root has no such
                // file to look for, and the daemon's own cgroup has one only if somebody limits memory there.
                Some(controllers) => {
                    controllers.split_whitespace().any(|one| one == "memory")
                        && Path::new("/proc/swaps").exists()
                }
                None => cgroup.join("memory/memory.memsw.limit_in_bytes").exists(),
            },
            hugepage_sizes: match hugetlb {
                true => hugepage_sizes(),
                false => Vec::new(),
            },
            maps_layers: version(rustix::system::uname().release()).is_some_and(|at| at >= (5, 19)),
        }
    }
}

/// Of `6.1.0-56-cloud-amd64`, the first two numbers.
fn version(release: &CStr) -> Option<(u32, u32)> {
    let mut parts = release.to_str().ok()?.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// `hugepages-2048kB` of the kernel's directory is `2MB` to cgroups.
fn hugepage_sizes() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut sizes: Vec<_> = names.filter_map(|name| page_size(&name)).collect();
    sizes.sort_unstable();
    sizes
}

fn page_size(directory: &str) -> Option<String> {
    let kilobytes = directory.strip_prefix("hugepages-")?.strip_suffix("kB")?;
    let kilobytes: u64 = kilobytes.parse().ok()?;
    Some(match kilobytes {
        gigabytes if gigabytes >= 1 << 20 && gigabytes % (1 << 20) == 0 => {
            format!("{}GB", gigabytes >> 20)
        }
        megabytes if megabytes >= 1 << 10 && megabytes % (1 << 10) == 0 => {
            format!("{}MB", megabytes >> 10)
        }
        kilobytes => format!("{kilobytes}KB"),
    })
}

/// Without SELinux no label is lost: users write them into charts that run everywhere.
pub(super) fn check_selinux(options: &SelinuxOptions, host: &Host) -> Result<(), SpecError> {
    if !host.selinux || host.selinux_labels || *options == SelinuxOptions::default() {
        return Ok(());
    }
    Err(SpecError::field(
        "config.linux.security_context.selinux_options",
        "a label",
        "SELinux is enabled on this node, and selinux = false in the configuration has this runtime set no labels: leave it out",
    ))
}
