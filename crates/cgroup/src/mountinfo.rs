//! The cgroup lines of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CgroupMount {
    pub(crate) mount_point: PathBuf,
    pub(crate) kind: MountKind,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MountKind {
    /// The super block's options, among them the controllers and `name=…`.
    V1(Vec<String>),
    V2,
}

/// Lines that do not look like a mount are skipped: a kernel may add fields, never remove these.
pub(crate) fn parse(mountinfo: &str) -> Vec<CgroupMount> {
    mountinfo.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<CgroupMount> {
    // A variable number of optional fields ends at a lone hyphen.
    let (mount, filesystem) = line.split_once(" - ")?;
    let mount_point = mount.split(' ').nth(4)?;
    let mut filesystem = filesystem.split(' ');
    let kind = match filesystem.next()? {
        "cgroup" => {
            let options = filesystem.nth(1)?;
            MountKind::V1(options.split(',').map(str::to_owned).collect())
        }
        "cgroup2" => MountKind::V2,
        _ => return None,
    };
    Some(CgroupMount {
        mount_point: unescape(mount_point),
        kind,
    })
}

/// A path of `mountinfo`: there blanks, tabs, newlines and backslashes are written as three octal digits.
#[must_use]
pub fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                path.push(byte);
                at += 4;
            }
            None => {
                path.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_lines_are_found_among_others() {
        let text = "\
23 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu\\040x rw,relatime shared:3 master:2 - cgroup cgroup rw,cpu,cpuacct
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
nonsense
";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].mount_point, PathBuf::from("/sys/fs/cgroup/cpu x"));
        assert_eq!(
            mounts[0].kind,
            MountKind::V1(vec!["rw".into(), "cpu".into(), "cpuacct".into()])
        );
        assert_eq!(mounts[1].kind, MountKind::V2);
    }
}
