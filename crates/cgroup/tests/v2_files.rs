//! The v2 side against a plain directory tree with the kernel's file names: which files are written, with what. Kernels with v2
//! controllers are not to be had everywhere.
#![allow(clippy::unwrap_used)] // the lint's exemption ends at the helpers of tests

use std::fs;
use std::path::{Path, PathBuf};

use longshore_cgroup::{Cgroup, Error, Hierarchies, Mode, Root, Version};
use oci_plan::{BlockIoWeight, DeviceRule, HugepageLimit, Resources};
use tempfile::TempDir;

const CONTROLLERS: &str = "cpuset cpu io memory hugetlb pids";

struct Tree {
    dir: TempDir,
    hierarchies: Hierarchies,
}

impl Tree {
    fn new() -> Tree {
        let dir = TempDir::new().unwrap();
        put(&dir.path().join("cgroup.controllers"), CONTROLLERS);
        put(&dir.path().join("cgroup.subtree_control"), "");
        let hierarchies = Hierarchies::from_roots(&[Root {
            path: dir.path().to_owned(),
            version: Version::V2,
        }])
        .unwrap();
        Tree { dir, hierarchies }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    fn read(&self, relative: &str) -> String {
        fs::read_to_string(self.path(relative)).unwrap()
    }

    /// A cgroup as the kernel would show it.
    fn cgroup(&self, path: &str, files: &[(&str, &str)]) -> Cgroup {
        fs::create_dir_all(self.path(path)).unwrap();
        put(&self.path(path).join("cgroup.controllers"), CONTROLLERS);
        for (file, text) in files {
            put(&self.path(path).join(file), text);
        }
        self.hierarchies.open_owned(path).unwrap()
    }
}

fn put(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

#[test]
fn every_limit_has_its_file() {
    let tree = Tree::new();
    let cgroup = tree.cgroup(
        "p/c",
        &[
            ("cpu.weight", ""),
            ("cpu.max", "max 100000\n"),
            ("cpuset.cpus", ""),
            ("cpuset.mems", ""),
            ("memory.max", "max\n"),
            ("memory.swap.max", ""),
            ("memory.high", ""),
            ("pids.max", ""),
            ("io.weight", ""),
            ("hugetlb.2MB.max", ""),
            ("hugetlb.2MB.rsvd.max", ""),
        ],
    );
    assert_eq!(tree.hierarchies.mode(), Mode::V2);
    let resources = Resources {
        cpu_shares: Some(1024),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        cpuset_cpus: Some("0-1".to_owned()),
        cpuset_mems: Some("0".to_owned()),
        memory_limit_bytes: Some(100),
        memory_swap_bytes: Some(150),
        pids_limit: Some(7),
        hugepage_limits: vec![HugepageLimit {
            page_size: "2MB".to_owned(),
            limit_bytes: 4 << 20,
        }],
        blkio_weight: Some(BlockIoWeight(1000)),
        devices: Vec::new(),
        unified: vec![("memory.high".to_owned(), "90".to_owned())],
        further: Vec::new(),
    };
    cgroup.update(&resources).unwrap();
    let read = |file: &str| tree.read(&format!("p/c/{file}"));
    assert_eq!(read("cpu.weight"), "100");
    assert_eq!(read("cpu.max"), "50000 100000");
    assert_eq!(read("cpuset.cpus"), "0-1");
    assert_eq!(read("cpuset.mems"), "0");
    assert_eq!(read("memory.max"), "100");
    assert_eq!(read("memory.swap.max"), "50");
    assert_eq!(read("pids.max"), "7");
    assert_eq!(read("io.weight"), "10000");
    assert_eq!(read("hugetlb.2MB.max"), "4194304");
    assert_eq!(read("hugetlb.2MB.rsvd.max"), "4194304");
    assert_eq!(read("memory.high"), "90");

    let unlimited = Resources {
        cpu_quota_us: Some(-1),
        memory_limit_bytes: Some(-1),
        pids_limit: Some(-1),
        ..Resources::default()
    };
    cgroup.update(&unlimited).unwrap();
    assert_eq!(read("cpu.max"), "max");
    assert_eq!(read("memory.max"), "max");
    assert_eq!(read("memory.swap.max"), "max");
    assert_eq!(read("pids.max"), "max");
}

#[test]
fn a_change_is_whole_or_nothing() {
    let tree = Tree::new();
    let files = [("cpu.weight", "100\n"), ("memory.max", "4096\n")];
    let cgroup = tree.cgroup("p/c", &files);
    let refused = cgroup.update(&Resources {
        cpu_shares: Some(262_144),
        memory_limit_bytes: Some(8192),
        // There is no pids.max.
        pids_limit: Some(1),
        ..Resources::default()
    });
    assert!(refused.unwrap_err().to_string().contains("pids.max"));
    assert_eq!(tree.read("p/c/cpu.weight"), "100");
    assert_eq!(tree.read("p/c/memory.max"), "4096");
}

#[test]
fn a_limit_below_what_is_used_is_refused() {
    let tree = Tree::new();
    let files = [
        ("memory.max", "8192\n"),
        ("memory.high", "max\n"),
        ("memory.current", "4096\n"),
    ];
    let cgroup = tree.cgroup("p/c", &files);
    let limited = |bytes| Resources {
        memory_limit_bytes: Some(bytes),
        ..Resources::default()
    };
    let error = cgroup.update(&limited(4095)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::BelowUsage {
                limit: 4095,
                usage: 4096,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(tree.read("p/c/memory.max"), "8192\n");
    assert_eq!(tree.read("p/c/memory.high"), "max");
    cgroup.update(&limited(4096)).unwrap();
    assert_eq!(tree.read("p/c/memory.max"), "4096");
}

#[test]
fn processors_that_the_parent_has_not_are_refused() {
    let tree = Tree::new();
    put(&tree.path("cpuset.cpus.effective"), "0-7\n");
    let _parent = tree.cgroup("p", &[("cpuset.cpus.effective", "0-3\n")]);
    let cgroup = tree.cgroup("p/c", &[("cpuset.cpus", "\n")]);
    let pinned = |cpus: &str| Resources {
        cpuset_cpus: Some(cpus.to_owned()),
        ..Resources::default()
    };
    let error = cgroup.update(&pinned("2-4")).unwrap_err().to_string();
    assert!(
        error.contains("4 is not among") && error.contains("0-3"),
        "{error}"
    );
    assert_eq!(tree.read("p/c/cpuset.cpus"), "\n");
    cgroup.update(&pinned("1,3")).unwrap();
    assert_eq!(tree.read("p/c/cpuset.cpus"), "1,3");
}

#[test]
fn a_period_alone_keeps_the_quota() {
    let tree = Tree::new();
    let cgroup = tree.cgroup("c", &[("cpu.max", "7000 100000\n")]);
    let resources = Resources {
        cpu_period_us: Some(50_000),
        ..Resources::default()
    };
    cgroup.update(&resources).unwrap();
    assert_eq!(tree.read("c/cpu.max"), "7000 50000");
}

#[test]
fn swap_is_what_is_left_of_both() {
    let tree = Tree::new();
    let cgroup = tree.cgroup("c", &[("memory.max", "100\n"), ("memory.swap.max", "")]);
    let swap = |bytes| Resources {
        memory_swap_bytes: Some(bytes),
        ..Resources::default()
    };
    cgroup.update(&swap(130)).unwrap();
    assert_eq!(tree.read("c/memory.swap.max"), "30");
    let less = cgroup.update(&swap(90)).unwrap_err();
    assert!(
        matches!(
            less,
            Error::Unsupported {
                field: "memory_swap_bytes",
                ..
            }
        ),
        "{less}"
    );
    put(&tree.path("c/memory.max"), "max\n");
    let unlimited = cgroup.update(&swap(90)).unwrap_err();
    assert!(
        unlimited.to_string().contains("memory_swap_bytes"),
        "{unlimited}"
    );
}

#[test]
fn without_swap_accounting_only_an_amount_is_refused() {
    let tree = Tree::new();
    let cgroup = tree.cgroup("c", &[("memory.max", "max\n")]);
    let both = |memory, swap| Resources {
        memory_limit_bytes: Some(memory),
        memory_swap_bytes: Some(swap),
        ..Resources::default()
    };
    cgroup.update(&both(100, 100)).unwrap();
    cgroup.update(&both(100, -1)).unwrap();
    assert!(cgroup.update(&both(100, 200)).is_err());
}

#[test]
fn controllers_are_enabled_on_the_way() {
    let tree = Tree::new();
    fs::create_dir_all(tree.path("p/q")).unwrap();
    put(&tree.path("p/cgroup.subtree_control"), "");
    put(&tree.path("p/q/cgroup.subtree_control"), "");
    let cgroup = tree
        .hierarchies
        .create("p/q/c", &Resources::default())
        .unwrap();
    let wanted = "+cpu +cpuset +hugetlb +io +memory +pids";
    for directory in ["", "p/", "p/q/"] {
        assert_eq!(
            tree.read(&format!("{directory}cgroup.subtree_control")),
            wanted
        );
    }
    cgroup.remove().unwrap();
    assert!(tree.path("p/q").exists());
    assert!(!tree.path("p/q/c").exists());
}

#[test]
fn a_needed_controller_that_cannot_be_enabled_is_an_error_and_leaves_nothing() {
    let tree = Tree::new();
    fs::create_dir_all(tree.path("p")).unwrap();
    let resources = Resources {
        pids_limit: Some(1),
        ..Resources::default()
    };
    let error = tree.hierarchies.create("p/c", &resources).unwrap_err();
    assert_eq!(
        error.to_string(),
        "write \"+pids\" to unified:/p/cgroup.subtree_control"
    );
    assert!(!tree.path("p/c").exists());
}

#[test]
fn a_device_policy_that_denies_nothing_needs_no_program() {
    let tree = Tree::new();
    let cgroup = tree.cgroup("c", &[]);
    let all = |allow| Resources {
        devices: vec![DeviceRule {
            allow,
            node_type: 'a',
            major: None,
            minor: None,
            access: "rwm".to_owned(),
        }],
        ..Resources::default()
    };
    cgroup.update(&all(true)).unwrap();
    let error = cgroup.update(&all(false)).unwrap_err();
    // A plain directory takes no program.
    assert!(matches!(error, Error::Devices { .. }), "{error}");
    assert_eq!(error.errno(), Some(rustix::io::Errno::BADF));
}

#[test]
fn statistics_of_v2_files() {
    let tree = Tree::new();
    let cgroup = tree.cgroup(
        "c",
        &[
            ("cpu.stat", "usage_usec 12\nuser_usec 5\n"),
            ("memory.current", "1000\n"),
            (
                "memory.stat",
                "anon 300\nactive_file 50\ninactive_file 200\npgfault 4\npgmajfault 1\n",
            ),
            ("memory.max", "2000\n"),
            ("memory.swap.current", "10\n"),
            ("memory.swap.max", "max\n"),
            ("memory.events", "low 0\noom 3\noom_kill 2\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
        ],
    );
    let stats = cgroup.stats().unwrap();
    assert_eq!(stats.cpu.unwrap().usage_ns, 12_000);
    let memory = stats.memory.unwrap();
    assert_eq!(memory.usage_bytes, 1000);
    assert_eq!(memory.working_set_bytes, 800);
    assert_eq!(memory.rss_bytes, 300);
    assert_eq!(memory.available_bytes, Some(1200));
    assert_eq!((memory.page_faults, memory.major_page_faults), (4, 1));
    assert_eq!(memory.swap_usage_bytes, 10);
    assert_eq!(memory.swap_available_bytes, None);
    assert_eq!(stats.pids, Some(3));
    assert_eq!(cgroup.oom_kills().unwrap(), 2);
    let mut details = cgroup.detail_sampler();
    for limit in [None, Some(7)] {
        // Its files stay open: what they say is read again.
        let detail = details.sample().unwrap();
        let memory = detail.memory.unwrap();
        assert_eq!(
            (memory.active_file_bytes, memory.inactive_file_bytes),
            (50, 200)
        );
        assert_eq!((memory.limit_bytes, memory.oom_kills), (Some(2000), 2));
        assert_eq!(detail.cpu.unwrap().user_ns, 5_000);
        assert_eq!(detail.pids_limit, limit);
        put(&tree.path("c/pids.max"), "7\n");
    }
}

#[test]
fn a_v2_tree_is_killed_and_frozen_by_one_write() {
    let tree = Tree::new();
    let cgroup = tree.cgroup(
        "c",
        &[
            ("cgroup.kill", ""),
            ("cgroup.freeze", "0"),
            ("cgroup.events", "populated 0\nfrozen 1\n"),
        ],
    );
    cgroup.kill_all().unwrap();
    assert_eq!(tree.read("c/cgroup.kill"), "1");
    cgroup.freeze().unwrap();
    assert_eq!(tree.read("c/cgroup.freeze"), "1");
    cgroup.thaw().unwrap();
    assert_eq!(tree.read("c/cgroup.freeze"), "0");
    assert!(!cgroup.is_populated().unwrap());
    assert!(cgroup.attach_fds().unwrap().is_empty());
    assert!(cgroup.unified_dir().unwrap().is_some());
}
