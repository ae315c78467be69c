//! What a real process in a cgroup may do with some devices.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use longshore_cgroup::{Cgroup, Error, Hierarchies, Root, Version};
use oci_plan::{DeviceRule, Resources};

/// A parent of a test's own, in one hierarchy only.
pub(crate) struct Pod {
    hierarchies: Hierarchies,
    cgroup: Cgroup,
}

impl Pod {
    pub(crate) fn v2() -> Pod {
        let root = mount_point("cgroup2", "").expect("a cgroup2 file system is mounted");
        Pod::below(Root {
            path: root,
            version: Version::V2,
        })
    }

    /// `None` where v1's controller is not mounted.
    pub(crate) fn v1() -> Option<Pod> {
        mount_point("cgroup", "devices").map(|path| {
            Pod::below(Root {
                path,
                version: Version::V1(vec!["devices".to_owned()]),
            })
        })
    }

    fn below(root: Root) -> Pod {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = format!("longshore-test-{}-devices-{number}", std::process::id());
        let hierarchies = Hierarchies::from_roots(&[root]).unwrap();
        let cgroup = hierarchies.create(&path, &Resources::default()).unwrap();
        Pod {
            hierarchies,
            cgroup,
        }
    }

    pub(crate) fn create(&self, name: &str, resources: &Resources) -> Result<Cgroup, Error> {
        self.hierarchies.create(&self.path(name), resources)
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.hierarchies.exists(&self.path(name)).unwrap()
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.cgroup.path())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let removed = self.cgroup.remove();
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

fn mount_point(kind: &str, option: &str) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().find_map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        let found = fields[2] == kind
            && (option.is_empty() || fields[3].split(',').any(|one| one == option));
        found.then(|| PathBuf::from(fields[1]))
    })
}

/// Rules like `allow c 1:* rw`.
pub(crate) fn resources<T: AsRef<str>>(rules: &[T]) -> Resources {
    Resources {
        devices: rules.iter().map(|rule| parse(rule.as_ref())).collect(),
        ..Resources::default()
    }
}

fn parse(text: &str) -> DeviceRule {
    let mut words = text.split([' ', ':']);
    let mut next = || words.next().unwrap();
    let number = |text: &str| (text != "*").then(|| text.parse().unwrap());
    DeviceRule {
        allow: next() == "allow",
        node_type: next().chars().next().unwrap(),
        major: number(next()),
        minor: number(next()),
        access: next().to_owned(),
    }
}

/// Opens these nodes of `/dev` in three ways, and makes these nodes anew. Only builtins open, so the shell itself needs no device.
const SCRIPT: &str = r#"
read go
for name in null zero full urandom loop0; do
    # Without the driver there is no loop0, and the second line would make a file of that name.
    [ -e "/dev/$name" ] || continue
    true <"/dev/$name" && echo "$name r"
    true >>"/dev/$name" && echo "$name w"
    true <>"/dev/$name" && echo "$name rw"
done
for node in c:1:3 c:1:5 c:10:229 b:7:0; do
    mknod "$1/node" $(echo $node | tr : ' ') && echo "$node m" && rm "$1/node"
done
echo done
"#;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdicts(BTreeSet<String>);

impl Verdicts {
    pub(crate) fn of(cgroup: &Cgroup) -> Verdicts {
        let directory = tempfile::tempdir().unwrap();
        let (allowed, ok) = run(cgroup, directory.path());
        assert!(ok, "the shell came to its end");
        Verdicts(allowed)
    }

    pub(crate) fn may(&self, device: &str, how: &str) -> bool {
        self.0.contains(&format!("{device} {how}"))
    }

    pub(crate) fn allowed(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }

    /// Without what may be made.
    pub(crate) fn of_opens(&self) -> Vec<&str> {
        let opens = self.0.iter().filter(|line| !line.ends_with('m'));
        opens.map(String::as_str).collect()
    }

    /// Lines that only one of the two has.
    pub(crate) fn differences<'a>(&'a self, other: &'a Verdicts) -> Vec<&'a str> {
        let lines = self.0.symmetric_difference(&other.0);
        lines.map(String::as_str).collect()
    }
}

fn run(cgroup: &Cgroup, directory: &Path) -> (BTreeSet<String>, bool) {
    let mut child = Command::new("/bin/sh")
        .args(["-c", SCRIPT, "sh"])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let attached = cgroup.attach(rustix::process::Pid::from_child(&child));
    // Without the word the shell ends at once, so it is waited for in any case.
    let mut input = child.stdin.take().unwrap();
    if attached.is_ok() {
        input.write_all(b"go\n").unwrap();
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    attached.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    let ok = lines.remove("done");
    (lines, ok)
}
