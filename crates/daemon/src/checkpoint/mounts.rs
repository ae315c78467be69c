//! Which mounts of a container CRIU is to leave out: what lies on them belongs to the node, the pod or a volume, and a restored container
//! gets its own.
//!
//! CRIU calls such a mount external and asks for its name in the archive; that is its place in the container, as runc has it.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};

/// A line of `/proc/PID/mountinfo`, as far as it matters here.
pub(super) struct Line {
    /// `MAJOR:MINOR` of the file system.
    pub(super) device: String,
    pub(super) root: String,
    pub(super) point: PathBuf,
    pub(super) kind: String,
}

/// The external mounts among those of a container, by their places, in the order of the table.
pub(super) fn external(mountinfo: &str, spec: &Spec) -> Vec<PathBuf> {
    let linux = spec.linux().as_ref();
    let masked = linux.and_then(|linux| linux.masked_paths().as_deref());
    let masked = masked.unwrap_or_default();
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let is_external = |line: &Line| {
        let is_cgroup = matches!(line.kind.as_str(), "cgroup" | "cgroup2");
        let hides_file =
            line.root != "/" && masked.iter().any(|path| Path::new(path) == line.point);
        is_cgroup || hides_file || holder(mounts, &line.point).is_some_and(is_bind)
    };
    table(mountinfo)
        .filter(|line| line.point != Path::new("/"))
        .filter(is_external)
        .map(|line| line.point)
        .collect()
}

/// The lines that make sense.
pub(super) fn table(mountinfo: &str) -> impl Iterator<Item = Line> {
    mountinfo.lines().filter_map(parse)
}

/// The mount of the specification that made a mount: the nearest above it. Those below a recursive bind came with it.
fn holder<'a>(mounts: &'a [Mount], point: &Path) -> Option<&'a Mount> {
    mounts
        .iter()
        .filter(|mount| point.starts_with(mount.destination()))
        // The later of two in one place covers the other.
        .max_by_key(|mount| mount.destination().components().count())
        .filter(|mount| mount.destination() == point || !has_own_mounts(mount))
}

/// Its mounts below are made by the kernel or by the core: `/proc` with its masks, `/dev` with its own.
fn has_own_mounts(mount: &Mount) -> bool {
    !is_bind(mount)
}

pub(super) fn is_bind(mount: &Mount) -> bool {
    let options = mount.options().as_deref().unwrap_or_default();
    mount.typ().as_deref() == Some("bind")
        || options
            .iter()
            .any(|option| option == "bind" || option == "rbind")
}

fn parse(line: &str) -> Option<Line> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(2);
    let device = fields.next()?.to_owned();
    let root = unescape(fields.next()?);
    let point = PathBuf::from(unescape(fields.next()?));
    let kind = after.split(' ').next()?.to_owned();
    Some(Line {
        device,
        root,
        point,
        kind,
    })
}

/// The kernel writes space, tab, newline and backslash as `\040` and the like.
fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4);
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(code) => {
                text.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                text.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
70 76 0:45 / / rw,relatime - overlay overlay rw
71 70 0:39 /pods/p/hosts /etc/hosts rw,relatime - tmpfs tmpfs rw
74 70 0:47 / /dev rw,nosuid - tmpfs tmpfs rw
75 74 0:44 / /dev/shm rw,nosuid - tmpfs shm rw
81 70 0:48 / /proc rw,nosuid - proc proc rw
84 70 0:50 / /sys ro,nosuid - sysfs sysfs rw
85 84 0:51 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw
99 81 0:52 / /proc/acpi ro,nosuid - tmpfs tmpfs rw
101 81 0:47 /null /proc/keys rw,nosuid - tmpfs tmpfs rw
107 81 0:48 /sys /proc/sys ro,nosuid - proc proc rw
110 70 8:1 / /data\\040one rw - ext4 /dev/sda rw
111 110 8:2 / /data\\040one/below rw - ext4 /dev/sdb rw
112 70 0:60 / /scratch rw - tmpfs tmpfs rw
";

    fn spec() -> Spec {
        serde_json::from_value(serde_json::json!({
            "ociVersion": "1.2.0",
            "root": { "path": "rootfs" },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
                { "destination": "/dev/shm", "type": "bind", "source": "/x", "options": ["rbind"] },
                { "destination": "/sys", "type": "sysfs", "source": "sysfs" },
                { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup" },
                { "destination": "/etc/hosts", "type": "bind", "source": "/x", "options": ["rbind"] },
                { "destination": "/data one", "source": "/x", "options": ["rbind", "rw"] },
                { "destination": "/scratch", "type": "tmpfs", "source": "tmpfs" },
            ],
            "linux": { "maskedPaths": ["/proc/acpi", "/proc/keys"] },
        }))
        .unwrap()
    }

    #[test]
    fn what_belongs_to_others_is_external() {
        let found = external(TABLE, &spec());
        let found: Vec<_> = found.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(
            found,
            [
                "/etc/hosts",
                "/dev/shm",
                "/sys/fs/cgroup",
                "/proc/keys",
                "/data one",
                "/data one/below",
            ]
        );
    }

    #[test]
    fn lines_that_make_no_sense_are_passed_over() {
        assert!(external("nonsense\n1 2 3 - x\n", &spec()).is_empty());
        assert_eq!(unescape("a\\134b\\04"), "a\\b\\04");
    }
}
