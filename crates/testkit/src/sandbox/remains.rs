//! Directories and cgroups, which outlive a keeper that was killed. Their names say whose they are: `PREFIX-PID-STARTTIME-COUNT`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::poll;

/// A name that is this process's own.
pub(crate) fn name(prefix: &str, count: u32) -> io::Result<String> {
    let pid = std::process::id();
    let start = start_time(pid).ok_or_else(|| io::Error::other("/proc has no start time"))?;
    Ok(format!("{prefix}-{pid}-{start}-{count}"))
}

/// Removes directories in `parent` and cgroups whose name has this prefix and whose process is gone. What cannot be removed stays for
/// the next time.
pub fn sweep(prefix: &str, parent: &Path) {
    let hierarchies = cgroup_hierarchies();
    for place in hierarchies.iter().map(PathBuf::as_path).chain([parent]) {
        let Ok(entries) = fs::read_dir(place) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if !is_orphan(prefix, name) {
                continue;
            }
            if place == parent {
                remove_directory(&entry.path());
            } else {
                remove_cgroup(&entry.path());
            }
        }
    }
}

fn is_orphan(prefix: &str, name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let [first, pid, start, count] = parts[..] else {
        return false;
    };
    let (Ok(pid), Ok(start), Ok(_)) = (
        pid.parse::<u32>(),
        start.parse::<u64>(),
        count.parse::<u32>(),
    ) else {
        return false;
    };
    first == prefix && start_time(pid) != Some(start)
}

/// Field 22 of `/proc/PID/stat`: with the PID it names a process for ever.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// Where this machine's cgroup hierarchies are mounted, v1 and v2.
#[must_use]
pub fn cgroup_hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut found = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(path), Some("cgroup" | "cgroup2")) = (fields.next(), fields.next()) {
            found.push(PathBuf::from(path));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The processes are dead; the kernel may still be letting go of them (EBUSY).
fn remove_cgroup(path: &Path) {
    let limit = Duration::from_secs(5);
    poll(limit, || {
        remove_cgroup_tree(path);
        (!path.exists()).then_some(())
    });
}

fn remove_cgroup_tree(path: &Path) {
    if let Ok(entries) = fs::read_dir(path) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_cgroup_tree(&entry.path());
            }
        }
    }
    // EBUSY is tried again, ENOENT is the aim.
    let _ = fs::remove_dir(path);
}

fn remove_directory(path: &Path) {
    let limit = Duration::from_secs(5);
    poll(limit, || {
        let _ = fs::remove_dir_all(path);
        (!path.exists()).then_some(())
    });
}
