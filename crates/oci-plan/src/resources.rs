use serde::{Deserialize, Serialize};

/// Limits of one cgroup, in the terms of the runtime specification's `linux.resources`. `None` leaves the kernel's
/// value. The `cgroup` crate turns them into v1 or v2 files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// v1 `cpu.shares`; 2 to 262144. Converted to `cpu.weight` on v2.
    pub cpu_shares: Option<u64>,
    /// Microseconds per period; −1 is unlimited.
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// Bytes; −1 is unlimited.
    pub memory_limit_bytes: Option<i64>,
    /// Memory and swap together, bytes; −1 is unlimited.
    pub memory_swap_bytes: Option<i64>,
    /// −1 is unlimited.
    pub pids_limit: Option<i64>,
    pub hugepage_limits: Vec<HugepageLimit>,
    pub blkio_weight: Option<BlockIoWeight>,
    /// In order; the last match wins. Empty: no device policy is set.
    pub devices: Vec<DeviceRule>,
    /// cgroup v2 files by name.
    pub unified: Vec<(String, String)>,
    /// Only of a plan that is executed where it was made.
    #[serde(skip)]
    pub further: Vec<FurtherLimit>,
}

/// A limit that has a file and no other meaning here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FurtherLimit {
    /// As `config.json` calls it.
    pub field: &'static str,
    /// By its name in v1.
    pub controller: &'static str,
    /// File and text of either version; `None`: it has no such limit.
    pub v1: Option<(&'static str, String)>,
    pub v2: Option<(&'static str, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// As the kernel writes it: `2MB`, `1GB`.
    pub page_size: String,
    pub limit_bytes: u64,
}

/// 10 to 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockIoWeight(pub u16);

/// `node_type`: `a` (all), `b`, `c`; `None` numbers are wildcards; `access` is a subset of `rwm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    pub allow: bool,
    pub node_type: char,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: String,
}
