use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::Host;

/// A container's limits, as the kernel has them, in the words of cgroup v1 or v2, whichever this machine limits by.
#[derive(Debug)]
pub struct Limits {
    cgroup: String,
}

/// Whether this machine limits by cgroup v2.
#[must_use]
pub fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

impl Limits {
    /// # Errors
    /// The daemon does not say where the container's cgroup is.
    pub async fn of(host: &Host, container: &str) -> anyhow::Result<Self> {
        let status = host.cri.container_status_with(container, true).await?;
        let info = status.info.get("info").context("a verbose status")?;
        let info: serde_json::Value = serde_json::from_str(info)?;
        let cgroup = info["cgroup"].as_str().context("its cgroup")?;
        Ok(Self {
            cgroup: cgroup.trim_matches('/').to_owned(),
        })
    }

    /// Below the mount points, without slashes at its ends.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The trimmed text of a file: of `controller` on v1, or its counterpart on v2.
    ///
    /// # Errors
    /// There is none.
    pub fn read(&self, controller: &str, v1: &str, v2: &str) -> anyhow::Result<String> {
        let root = Path::new("/sys/fs/cgroup");
        let path = match is_v2() {
            true => root.join(&self.cgroup).join(v2),
            false => root.join(controller).join(&self.cgroup).join(v1),
        };
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// Bytes.
    ///
    /// # Errors
    /// As [`Limits::read`].
    pub fn memory(&self) -> anyhow::Result<String> {
        self.read("memory", "memory.limit_in_bytes", "memory.max")
    }

    /// Bytes that may be swapped, beside the memory.
    ///
    /// # Errors
    /// As [`Limits::read`].
    pub fn swap(&self) -> anyhow::Result<String> {
        match is_v2() {
            true => self.read("memory", "", "memory.swap.max"),
            false => {
                let both: u64 = self
                    .read("memory", "memory.memsw.limit_in_bytes", "")?
                    .parse()?;
                Ok((both - self.memory()?.parse::<u64>()?).to_string())
            }
        }
    }

    /// `QUOTA PERIOD`, microseconds.
    ///
    /// # Errors
    /// As [`Limits::read`].
    pub fn bandwidth(&self) -> anyhow::Result<String> {
        match is_v2() {
            true => self.read("cpu", "", "cpu.max"),
            false => {
                let quota = self.read("cpu", "cpu.cfs_quota_us", "")?;
                let period = self.read("cpu", "cpu.cfs_period_us", "")?;
                Ok(format!("{quota} {period}"))
            }
        }
    }

    /// The shares of 1024, which v2 has as a weight of 100.
    ///
    /// # Errors
    /// As [`Limits::read`].
    pub fn shares(&self) -> anyhow::Result<String> {
        self.read("cpu", "cpu.shares", "cpu.weight")
    }

    /// The file that limits pages of 2 MB, in whichever hierarchy it is; `None` where this machine has none.
    #[must_use]
    pub fn hugetlb(&self) -> Option<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let v1 = root.join("hugetlb");
        if v1.join("tasks").exists() {
            return Some(v1.join(&self.cgroup).join("hugetlb.2MB.limit_in_bytes"));
        }
        let unified = [root.to_owned(), root.join("unified")];
        let has = |root: &PathBuf| {
            fs::read_to_string(root.join("cgroup.controllers"))
                .is_ok_and(|list| list.split_whitespace().any(|name| name == "hugetlb"))
        };
        let root = unified.into_iter().find(has)?;
        Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB")
            .exists()
            .then(|| root.join(&self.cgroup).join("hugetlb.2MB.max"))
    }

    /// # Errors
    /// As [`Limits::read`].
    pub fn cpus(&self) -> anyhow::Result<String> {
        self.read("cpuset", "cpuset.cpus", "cpuset.cpus.effective")
    }

    /// # Errors
    /// As [`Limits::read`].
    pub fn memory_nodes(&self) -> anyhow::Result<String> {
        self.read("cpuset", "cpuset.mems", "cpuset.mems.effective")
    }
}
