//! A restored container is as confined as the request says, or it is none: what CRIU has made is looked at while it is still stopped. The
//! archive says what a process may do, and whoever wrote it may have wanted more than the pod gives.

use std::{
    io,
    path::{Path, PathBuf},
};

use oci_plan::ContainerPlan;

/// What is wrong with a process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Excess {
    #[error("look at process {pid}")]
    Look {
        pid: i32,
        #[source]
        source: io::Error,
    },
    #[error("the checkpoint asks for more than the container gets: process {pid} {what}")]
    More { pid: i32, what: String },
}

/// What the container's processes must have and must not have.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// Bits of the capabilities.
    pub(super) capabilities: u64,
    pub(super) no_new_privileges: bool,
    pub(super) seccomp: bool,
    /// The pod's network namespace, as `/proc` shows it.
    pub(super) network: Option<PathBuf>,
    /// `MAJOR:MINOR` of the container's root file system.
    pub(super) root: String,
    /// Places that must be hidden or read-only.
    pub(super) covered: Vec<PathBuf>,
    /// Places of mounts that are the request's.
    pub(super) mounted: Vec<PathBuf>,
}

/// File systems that a container makes for itself.
const OWN: [&str; 7] = [
    "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2",
];

impl Bounds {
    pub(super) fn of(plan: &ContainerPlan, network: Option<PathBuf>, root: String) -> Self {
        let masked = plan.masked_paths.iter();
        let mounts = plan.mounts.iter();
        Self {
            capabilities: plan.process.capabilities.bounding,
            no_new_privileges: plan.process.no_new_privileges,
            seccomp: plan.process.seccomp.is_some(),
            network,
            root,
            covered: masked
                .chain(&plan.readonly_paths)
                .map(PathBuf::from)
                .collect(),
            mounted: mounts.map(|mount| mount.target.clone().into()).collect(),
        }
    }

    /// Blocks.
    pub(super) fn check(&self, pid: i32) -> Result<(), Excess> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let read = |name: &str| {
            std::fs::read_to_string(process.join(name))
                .map_err(|source| Excess::Look { pid, source })
        };
        let more = |what: String| Excess::More { pid, what };
        self.status(&read("status")?).map_err(more)?;
        self.mounts(&read("mountinfo")?, &process.join("root"))
            .map_err(more)?;
        let namespace = |of: &Path, name: &str| {
            std::fs::read_link(of.join("ns").join(name))
                .map_err(|source| Excess::Look { pid, source })
        };
        let own = Path::new("/proc/self");
        for name in ["mnt", "pid", "cgroup"] {
            if namespace(&process, name)? == namespace(own, name)? {
                return Err(more(format!("has the node's {name} namespace")));
            }
        }
        if namespace(&process, "user")? != namespace(own, "user")? {
            return Err(more("has a user namespace of its own".to_owned()));
        }
        if let Some(network) = &self.network
            && namespace(&process, "net")? != *network
        {
            return Err(more("is not in its pod's network".to_owned()));
        }
        Ok(())
    }

    fn status(&self, status: &str) -> Result<(), String> {
        let field = |name: &str| {
            let mut lines = status.lines();
            let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim)
                .ok_or_else(|| format!("shows no {name}"))
        };
        for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let text = field(name)?;
            let has = u64::from_str_radix(text, 16).map_err(|_| format!("has {name} {text}"))?;
            let excess = has & !self.capabilities;
            if excess != 0 {
                return Err(format!("has capabilities {excess:#x} in {name}"));
            }
        }
        if self.no_new_privileges && field("NoNewPrivs")? != "1" {
            return Err("may gain privileges".to_owned());
        }
        if self.seccomp && field("Seccomp")? != "2" {
            return Err("has no seccomp filter".to_owned());
        }
        Ok(())
    }

    fn mounts(&self, table: &str, root: &Path) -> Result<(), String> {
        let mut points = Vec::new();
        for line in super::mounts::table(table) {
            let point = line.point.clone();
            let shown = point.display().to_string();
            if point == Path::new("/") {
                if line.device != self.root || line.root != "/" {
                    return Err("has another root".to_owned());
                }
            } else if !OWN.contains(&line.kind.as_str())
                && !self.mounted.iter().any(|place| point.starts_with(place))
                && !self.covered.contains(&point)
            {
                return Err(format!("has a mount of {} at {shown}", line.kind));
            }
            points.push(point);
        }
        for place in &self.covered {
            let inside = place.strip_prefix("/").unwrap_or(place);
            let is_there = root.join(inside).symlink_metadata().is_ok();
            // A mount above may be hidden as a whole.
            if is_there && !points.contains(place) {
                return Err(format!("sees {}", place.display()));
            }
        }
        Ok(())
    }
}
