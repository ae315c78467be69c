//! Figures for the metrics, read when they are asked for and then remembered for a little, by descriptors that stay open as long as somebody asks.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use cgroup::{Detail, DetailSampler};
use rustix::process::Pid;
use tokio::time::Instant;

use super::{PodSample, lock};
use crate::runtime::{Runtime, blocking};

/// How long figures are given again.
const FRESH: Duration = Duration::from_secs(5);

/// A node's worth of containers takes tens of milliseconds; where the kernel is stuck, figures are left out.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// Figures of a container with more are too low: nobody else is to wait for it.
const MOST_PROCESSES: usize = 1024;
const MOST_DESCRIPTORS: u64 = 65_536;

/// Of one cgroup.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) detail: Detail,
    /// `None` of a pod.
    pub(crate) processes: Option<Processes>,
}

/// What the processes of a container have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Processes {
    pub(crate) count: u64,
    pub(crate) threads: u64,
    pub(crate) descriptors: u64,
    pub(crate) sockets: u64,
    /// The soft limit on open files of its init; `None` without one.
    pub(crate) open_files_limit: Option<u64>,
}

/// The file system of the writable layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    /// As the mount table names it.
    pub(crate) device: String,
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) free_inodes: u64,
}

/// Of one cgroup.
#[derive(Debug, Default)]
pub(super) struct Known {
    sampler: Mutex<Option<DetailSampler>>,
    last: Mutex<Option<(Instant, Arc<Figures>)>>,
}

/// By the ids of containers, and of pods that have a cgroup to themselves.
pub(crate) type ById = BTreeMap<String, Arc<Figures>>;

impl Known {
    /// What is known, if that is fresh, and else what a reading says, with what `processes` are; `None` if it cannot be read. Blocks.
    fn get(
        &self,
        runtime: &Runtime,
        cgroup: &str,
        processes: impl FnOnce() -> Option<Processes>,
    ) -> Option<Arc<Figures>> {
        let known = lock(&self.last).clone();
        if let Some((at, figures)) = known
            && at.elapsed() < FRESH
        {
            return Some(figures);
        }
        let detail = self.read(runtime, cgroup)?;
        let figures = Arc::new(Figures {
            detail,
            processes: processes(),
        });
        *lock(&self.last) = Some((Instant::now(), Arc::clone(&figures)));
        Some(figures)
    }

    fn read(&self, runtime: &Runtime, cgroup: &str) -> Option<Detail> {
        let open = || runtime.hierarchies.open_cgroup(cgroup).ok();
        // Who reads at the same time opens files of its own: the other may be stuck.
        let Ok(mut kept) = self.sampler.try_lock() else {
            return open()?.detail_sampler().sample().ok();
        };
        if kept.is_none() {
            *kept = Some(open()?.detail_sampler());
        }
        let detail = kept.as_mut()?.sample();
        if detail.is_err() {
            *kept = None;
        }
        detail.ok()
    }

    /// Closes its descriptors, twenty and more; reading opens them again. Blocks while it is read.
    pub(super) fn close(&self) {
        *lock(&self.sampler) = None;
    }
}

/// What samples do not have, and the file system that the writable layers are on. What cannot be read within a bound is left out.
pub(crate) async fn detail(runtime: &Arc<Runtime>, pods: &[PodSample]) -> (ById, Disk) {
    let work = {
        let (runtime, pods) = (Arc::clone(runtime), pods.to_vec());
        move || {
            let disk = disk(&runtime.config.root).unwrap_or_default();
            let mut all = ById::new();
            let alone: Vec<_> = pods.iter().map(|pod| Arc::clone(&pod.pod)).collect();
            let alone = super::alone(&runtime, &alone);
            for (sample, alone) in pods.iter().zip(alone) {
                if alone {
                    let meter = runtime.stats.pod_meter(&sample.pod);
                    let known = &meter.detail;
                    let figures = known.get(&runtime, &sample.pod.cgroup_parent, || None);
                    all.extend(figures.map(|figures| (sample.pod.id.to_string(), figures)));
                }
                for container in &sample.containers {
                    let meter = runtime.stats.meter(&container.container);
                    let cgroup = container.container.cgroup();
                    let figures = meter.detail.get(&runtime, cgroup, || {
                        let pids = meter.gauge.processes(&runtime.hierarchies, cgroup)?;
                        Some(processes(&pids, container.cgroup.tasks))
                    });
                    let id = container.container.id.to_string();
                    all.extend(figures.map(|figures| (id, figures)));
                }
            }
            (all, disk)
        }
    };
    blocking(READ_WITHIN, work).await.unwrap_or_default()
}

/// `tasks`: processes and threads, where a cgroup counts them.
fn processes(pids: &[Pid], tasks: Option<u64>) -> Processes {
    let mut all = Processes {
        count: pids.len() as u64,
        ..Processes::default()
    };
    let mut threads = 0;
    for (index, pid) in pids.iter().take(MOST_PROCESSES).enumerate() {
        let directory = format!("/proc/{}", pid.as_raw_nonzero());
        let directory = Path::new(&directory);
        // One that has ended meanwhile has nothing.
        if let Ok(descriptors) = fs::read_dir(directory.join("fd")) {
            for descriptor in descriptors.flatten() {
                if all.descriptors >= MOST_DESCRIPTORS {
                    break;
                }
                all.descriptors += 1;
                let target = fs::read_link(descriptor.path());
                let is_socket = target
                    .is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
                all.sockets += u64::from(is_socket);
            }
        }
        if tasks.is_none() {
            threads += fs::read_dir(directory.join("task")).map_or(0, |tasks| tasks.count() as u64);
        }
        // The lowest pid is the first process, unless pids have come round.
        if index == 0 {
            let limits = fs::read_to_string(directory.join("limits")).unwrap_or_default();
            all.open_files_limit = open_files_limit(&limits);
        }
    }
    all.threads = tasks.unwrap_or(threads);
    all
}

/// `Max open files            1024                 4096                 files`
fn open_files_limit(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn disk(root: &Path) -> Option<Disk> {
    let space = rustix::fs::statvfs(root).ok()?;
    let number = rustix::fs::stat(root).ok()?.st_dev;
    let number = format!(
        "{}:{}",
        rustix::fs::major(number),
        rustix::fs::minor(number)
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    Some(Disk {
        device: device(&mounts, &number).unwrap_or(number),
        bytes: space.f_blocks.saturating_mul(space.f_frsize),
        inodes: space.f_files,
        free_inodes: space.f_ffree,
    })
}

/// The source of the first mount of a device: `36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw`.
fn device(mounts: &str, number: &str) -> Option<String> {
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let is_it = mount.split(' ').nth(2) == Some(number);
        let source = file_system.split(' ').nth(1)?;
        is_it.then(|| source.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_a_process_has_is_counted() {
        let own = [rustix::process::getpid()];
        let before = processes(&own, None);
        let _sockets = [
            TcpListener::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
        ];
        let after = processes(&own, Some(99));
        // Other tests of this process open and close theirs.
        assert!(
            before.count == 1 && before.threads >= 1 && after.sockets >= 2,
            "{before:?} {after:?}"
        );
        assert!(after.descriptors >= after.sockets && after.threads == 99);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!(after.open_files_limit, limit.current);
        assert_eq!(processes(&[], Some(0)), Processes::default());
    }

    #[test]
    fn a_device_by_its_number() {
        let mounts = "22 1 0:20 / /proc rw - proc proc rw\n36 35 98:0 / /mnt rw master:1 - ext3 /dev/root rw\n";
        assert_eq!(device(mounts, "98:0").as_deref(), Some("/dev/root"));
        assert_eq!(device(mounts, "98:1"), None);
        assert!(disk(Path::new("/")).unwrap().bytes > 0);
    }

    #[test]
    fn unlimited_is_no_limit() {
        let line = |value: &str| {
            format!("Limit  Soft  Hard\nMax open files            {value} 4096 files\n")
        };
        assert_eq!(open_files_limit(&line("1024")), Some(1024));
        assert_eq!(open_files_limit(&line("unlimited")), None);
        assert_eq!(open_files_limit(""), None);
    }
}
