//! Against this machine's own hierarchies, under one parent per test, which is removed again. What a machine lacks (a v1 memory
//! hierarchy, say) is not expected of it.
#![allow(clippy::unwrap_used)] // the lint's exemption ends at the helpers of tests

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use longshore_cgroup::{Cgroup, Controller, Error, Hierarchies, Mode};
use oci_plan::{BlockIoWeight, DeviceRule, HugepageLimit, Resources};

const BOUND: Duration = Duration::from_secs(60);

/// A pod's cgroup of a test's own.
struct Pod {
    hierarchies: Hierarchies,
    cgroup: Cgroup,
}

impl Pod {
    fn new(resources: &Resources) -> Pod {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = format!("longshore-test-{}-{number}/pod", std::process::id());
        let hierarchies = Hierarchies::open().unwrap();
        let cgroup = hierarchies.ensure(&path, resources).unwrap();
        Pod {
            hierarchies,
            cgroup,
        }
    }

    fn container(&self, name: &str, resources: &Resources) -> Result<Cgroup, Error> {
        let path = format!("{}/{name}", self.cgroup.path());
        self.hierarchies.create(&path, resources)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.cgroup.kill_all();
        let removed = self.cgroup.remove();
        if !std::thread::panicking() {
            removed.unwrap();
            let parent = self.cgroup.path().split('/').next().unwrap();
            assert!(
                !self.hierarchies.exists(parent).unwrap(),
                "{parent} is left"
            );
        }
    }
}

/// A shell that is in the cgroup before it does anything, and runs `script` once told to.
struct Shell {
    child: Child,
}

impl Shell {
    fn new(cgroup: &Cgroup, script: &str) -> Shell {
        let script = format!("read go; {script}");
        let mut child = Command::new("/bin/sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        cgroup.attach(pid).unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        Shell { child }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn v1_file(controller: &str, cgroup: &Cgroup, file: &str) -> Option<PathBuf> {
    let path = Path::new("/sys/fs/cgroup")
        .join(controller)
        .join(cgroup.path())
        .join(file);
    path.exists().then_some(path)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

/// What a v1 file holds; `None` where this machine has no such file.
fn v1(controller: &str, cgroup: &Cgroup, file: &str) -> Option<String> {
    v1_file(controller, cgroup, file).map(|path| read(&path))
}

#[track_caller]
fn expect(found: Option<String>, wanted: &str) {
    if let Some(found) = found {
        assert_eq!(found, wanted);
    }
}

#[test]
fn made_limited_and_removed() {
    let pod = Pod::new(&Resources::default());
    let v1_cpu = pod.hierarchies.mode() != Mode::V2;
    let resources = Resources {
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        memory_limit_bytes: Some(64 << 20),
        memory_swap_bytes: Some(64 << 20),
        pids_limit: Some(17),
        ..Resources::default()
    };
    let container = pod.container("c", &resources).unwrap();
    assert!(container.is_ours());
    if v1_cpu {
        expect(v1("cpu", &container, "cpu.shares"), "512");
        expect(v1("cpu", &container, "cpu.cfs_quota_us"), "50000");
        expect(
            v1("memory", &container, "memory.limit_in_bytes"),
            "67108864",
        );
        expect(
            v1("memory", &container, "memory.memsw.limit_in_bytes"),
            "67108864",
        );
        expect(v1("pids", &container, "pids.max"), "17");
        let parent = v1("cpuset", &pod.cgroup, "cpuset.cpus");
        assert_eq!(v1("cpuset", &container, "cpuset.cpus"), parent);
        assert_ne!(parent.as_deref(), Some(""));
    }
    let again = pod.container("c", &resources).unwrap_err();
    assert!(matches!(again, Error::Exists { .. }), "{again}");
    let everywhere = container.directories().unwrap().len();
    assert_eq!(everywhere, pod.cgroup.directories().unwrap().len());
    container.remove().unwrap();
    container.remove().unwrap();
    let left = pod.cgroup.directories().unwrap().len();
    assert_eq!(left, everywhere, "the pod's own cgroup stays");
    assert!(!pod.hierarchies.exists(container.path()).unwrap());
}

#[test]
fn memory_goes_up_and_down_with_swap() {
    let pod = Pod::new(&Resources::default());
    let container = pod.container("c", &Resources::default()).unwrap();
    let both = |bytes: i64| Resources {
        memory_limit_bytes: Some(bytes),
        memory_swap_bytes: Some(bytes),
        ..Resources::default()
    };
    for bytes in [32 << 20, 128 << 20, 16 << 20, -1, 64 << 20] {
        container.update(&both(bytes)).unwrap();
    }
    expect(
        v1("memory", &container, "memory.limit_in_bytes"),
        "67108864",
    );
    let lifted = Resources {
        memory_limit_bytes: Some(-1),
        ..Resources::default()
    };
    container.update(&lifted).unwrap();
    container.remove().unwrap();
}

#[test]
fn a_refused_change_changes_nothing() {
    let pod = Pod::new(&Resources::default());
    let container = pod.container("c", &Resources::default()).unwrap();
    let before = v1("cpu", &container, "cpu.shares");
    let refused = container.update(&Resources {
        cpu_shares: Some(2048),
        memory_limit_bytes: Some(64 << 20),
        // More than there can be.
        pids_limit: Some(1 << 40),
        ..Resources::default()
    });
    assert!(refused.unwrap_err().to_string().contains("pids.max"));
    assert_eq!(v1("cpu", &container, "cpu.shares"), before);
    let unlimited = v1("memory", &pod.cgroup, "memory.limit_in_bytes");
    assert_eq!(v1("memory", &container, "memory.limit_in_bytes"), unlimited);
}

#[test]
fn quota_and_period_change_in_either_direction_below_a_limited_parent() {
    let limited = |quota, period| Resources {
        cpu_quota_us: Some(quota),
        cpu_period_us: Some(period),
        ..Resources::default()
    };
    let pod = Pod::new(&limited(100_000, 100_000));
    let container = pod.container("c", &limited(100_000, 100_000)).unwrap();
    container.update(&limited(10_000, 10_000)).unwrap();
    container.update(&limited(100_000, 100_000)).unwrap();
    expect(v1("cpu", &container, "cpu.cfs_quota_us"), "100000");
    expect(v1("cpu", &container, "cpu.cfs_period_us"), "100000");
    container.update(&limited(-1, 50_000)).unwrap();
    container.remove().unwrap();
}

#[test]
fn block_weight_and_devices() {
    let pod = Pod::new(&Resources::default());
    let rule = |allow, node_type, major, minor, access: &str| DeviceRule {
        allow,
        node_type,
        major,
        minor,
        access: access.to_owned(),
    };
    let has_devices = pod.hierarchies.has(Controller::Devices);
    let resources = Resources {
        blkio_weight: Some(BlockIoWeight(300)),
        devices: vec![
            rule(false, 'a', None, None, "rwm"),
            rule(true, 'c', None, None, "m"),
            rule(true, 'c', Some(1), Some(3), "rwm"),
        ],
        ..Resources::default()
    };
    match pod.container("c", &resources) {
        Ok(container) => {
            expect(
                v1("devices", &container, "devices.list"),
                "c *:* m\nc 1:3 rwm",
            );
            expect(v1("blkio", &container, "blkio.bfq.weight"), "300");
            let script =
                "cat /dev/null && ! cat /dev/zero 2>/dev/null | head -c1 | grep -q . && exit 7";
            let mut shell = Shell::new(&container, script);
            assert_eq!(shell.child.wait().unwrap().code(), Some(7));
            container.remove().unwrap();
        }
        Err(error) => {
            assert!(
                !has_devices || matches!(error, Error::Unsupported { .. }),
                "{error}"
            );
            assert!(
                !pod.hierarchies
                    .exists(&format!("{}/c", pod.cgroup.path()))
                    .unwrap()
            );
        }
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_and_leaves_nothing() {
    let pod = Pod::new(&Resources::default());
    let refused = |resources: Resources| {
        let error = pod.container("c", &resources).unwrap_err();
        let path = format!("{}/c", pod.cgroup.path());
        assert!(!pod.hierarchies.exists(&path).unwrap(), "{error}");
        error.to_string()
    };
    let page = |page_size: &str, limit_bytes| Resources {
        hugepage_limits: vec![HugepageLimit {
            page_size: page_size.to_owned(),
            limit_bytes,
        }],
        ..Resources::default()
    };
    let text = refused(page("3MB", 3 << 20));
    assert!(text.contains("3MB"), "{text}");
    let unified = |file: &str| Resources {
        unified: vec![(file.to_owned(), "1".to_owned())],
        ..Resources::default()
    };
    assert!(refused(unified("no.such")).contains("no.such"));
    assert!(refused(unified("../x.y")).contains("x.y"));
    assert!(refused(unified("cgroup.procs")).contains("cgroup.procs"));
    let text = refused(Resources {
        cpuset_cpus: Some("4096".to_owned()),
        ..Resources::default()
    });
    assert!(text.contains("cpuset") && text.contains("4096"), "{text}");

    let ignored = pod.container("c", &page("3MB", 0)).unwrap();
    ignored.remove().unwrap();
}

#[test]
fn kills_all_below_and_removes_what_they_made() {
    let pod = Pod::new(&Resources::default());
    let container = pod.container("c", &Resources::default()).unwrap();
    let unified = container.directories().unwrap().pop().unwrap();
    rustix::fs::mkdirat(&unified.dir, "nested", rustix::fs::Mode::RWXU).unwrap();
    let mut shell = Shell::new(&container, "sleep 1000 & setsid sleep 1000 & wait");
    let started = std::time::Instant::now();
    while container.processes(true).unwrap().len() < 3 {
        assert!(started.elapsed() < BOUND);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(container.is_populated().unwrap());
    assert!(!container.wait_empty(Duration::from_millis(5)).unwrap());
    let busy = container.remove_within(Duration::ZERO).unwrap_err();
    assert!(matches!(busy, Error::InUse { .. }), "{busy}");
    container.kill_all().unwrap();
    shell.child.wait().unwrap();
    assert!(container.wait_empty(BOUND).unwrap());
    container.remove().unwrap();
    container.kill_all().unwrap();
    assert!(container.processes(true).unwrap().is_empty());
    assert!(!container.is_populated().unwrap());
}

#[test]
fn an_exec_is_killed_without_its_container() {
    let pod = Pod::new(&Resources::default());
    let container = pod.container("c", &Resources::default()).unwrap();
    let exec = container.create_exec("exec-1").unwrap();
    let inside = Shell::new(&exec, "sleep 1000");
    let beside = Shell::new(&container, "sleep 1000");
    let pids = exec.processes(true).unwrap();
    assert!(pids.contains(&rustix::process::Pid::from_child(&inside.child)));
    assert!(!pids.contains(&rustix::process::Pid::from_child(&beside.child)));
    exec.kill_all().unwrap();
    drop(inside);
    assert!(exec.wait_empty(BOUND).unwrap());
    exec.remove().unwrap();
    exec.remove().unwrap();
    assert!(container.is_populated().unwrap());
    container.kill_all().unwrap();
    drop(beside);
    container.remove().unwrap();
}

#[test]
fn frozen_processes_are_thawed_and_killed() {
    let pod = Pod::new(&Resources::default());
    let container = pod.container("c", &Resources::default()).unwrap();
    let mut shell = Shell::new(&container, "while :; do sleep 0.01; done");
    container.freeze().unwrap();
    container.thaw().unwrap();
    container.thaw().unwrap();
    container.freeze().unwrap();
    if let Some(state) = v1_file("freezer", &container, "freezer.state") {
        std::fs::write(state, "FROZEN").unwrap();
    }
    container.kill_all().unwrap();
    shell.child.wait().unwrap();
    assert!(container.wait_empty(BOUND).unwrap());
    container.remove().unwrap();
    container.thaw().unwrap();
}

#[test]
fn the_freezer_kills_where_there_is_no_v2_tree() {
    let roots: Vec<_> = ["freezer", "pids"]
        .into_iter()
        .map(|name| longshore_cgroup::Root {
            path: Path::new("/sys/fs/cgroup").join(name),
            version: longshore_cgroup::Version::V1(vec![name.to_owned()]),
        })
        .filter(|root| root.path.exists())
        .collect();
    if roots.len() < 2 {
        // A v2-only machine has nothing to show here.
        return;
    }
    let hierarchies = Hierarchies::from_roots(&roots).unwrap();
    assert_eq!(hierarchies.mode(), Mode::V1);
    let path = format!("longshore-test-{}-freezer/c", std::process::id());
    let cgroup = hierarchies.create(&path, &Resources::default()).unwrap();
    let exec = cgroup.create_exec("e").unwrap();
    let mut inside = Shell::new(&exec, "sleep 1000 & wait");
    let mut beside = Shell::new(&cgroup, "while :; do sleep 0.001; done");
    exec.kill_all().unwrap();
    inside.child.wait().unwrap();
    assert!(exec.wait_empty(BOUND).unwrap());
    exec.remove().unwrap();
    assert!(beside.child.try_wait().unwrap().is_none());
    cgroup.kill_all().unwrap();
    beside.child.wait().unwrap();
    assert!(cgroup.wait_empty(BOUND).unwrap());
    cgroup.remove().unwrap();
    assert!(!hierarchies.exists(path.split('/').next().unwrap()).unwrap());
}

#[test]
fn out_of_memory_is_counted() {
    let pod = Pod::new(&Resources::default());
    if !pod.hierarchies.has(Controller::Memory) {
        return;
    }
    let resources = Resources {
        memory_limit_bytes: Some(8 << 20),
        memory_swap_bytes: Some(8 << 20),
        ..Resources::default()
    };
    let container = pod.container("c", &resources).unwrap();
    assert_eq!(container.oom_kills().unwrap(), 0);
    // tail keeps what it reads until a line ends.
    let mut shell = Shell::new(&container, "exec tail -n1 /dev/zero");
    let status = shell.child.wait().unwrap();
    assert!(!status.success());
    assert_eq!(container.oom_kills().unwrap(), 1);
    container.remove().unwrap();
}

#[test]
fn statistics_are_read_again_from_open_files() {
    let pod = Pod::new(&Resources::default());
    let resources = Resources {
        memory_limit_bytes: Some(64 << 20),
        ..Resources::default()
    };
    let container = pod.container("c", &resources).unwrap();
    let mut sampler = container.sampler().unwrap();
    let before = sampler.sample().unwrap();
    let mut shell = Shell::new(
        &container,
        "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; exec sleep 1000",
    );
    let mut line = [0u8; 5];
    std::io::Read::read_exact(shell.child.stdout.as_mut().unwrap(), &mut line).unwrap();
    let after = sampler.sample().unwrap();
    let (cpu, earlier) = (after.cpu.unwrap(), before.cpu.unwrap());
    assert!(cpu.usage_ns > earlier.usage_ns);
    assert!(cpu.timestamp_ns > earlier.timestamp_ns);
    if let Some(memory) = after.memory {
        assert!(memory.usage_bytes > 0);
        assert!(memory.working_set_bytes <= memory.usage_bytes);
        let available = memory.available_bytes.unwrap();
        assert_eq!(available, (64 << 20) - memory.working_set_bytes);
    }
    let census = container.census().unwrap().unwrap();
    let processes = census.processes().unwrap();
    assert_eq!(processes, container.processes(true).unwrap());
    if let Some(pids) = after.pids {
        assert_eq!(pids, processes.len() as u64);
    }
    // Execs have cgroups below their container's.
    let exec = container.create_exec("exec-1").unwrap();
    let inside = Shell::new(&exec, "exec sleep 1000");
    let pid = rustix::process::Pid::from_child(&inside.child);
    assert!(!processes.contains(&pid) && census.processes().unwrap().contains(&pid));
    let mut details = container.detail_sampler();
    let detail = details.sample().unwrap();
    assert_eq!(details.sample().unwrap().pids_limit, detail.pids_limit);
    if let Some(memory) = detail.memory {
        assert_eq!(memory.limit_bytes, Some(64 << 20));
    }
    container.kill_all().unwrap();
    shell.child.wait().unwrap();
    drop(inside);
    assert!(exec.wait_empty(BOUND).unwrap());
    assert_eq!(census.processes().unwrap(), []);
    exec.remove().unwrap();
    container.remove().unwrap();
    assert_eq!(census.processes().unwrap(), []);
    assert!(details.sample().is_err());
    let gone = sampler.sample().unwrap_err();
    assert!(
        matches!(gone, longshore_cgroup::SampleError::Gone { .. }),
        "{gone}"
    );
}

#[test]
fn what_somebody_else_made_stays_and_keeps_its_limits() {
    let pod = Pod::new(&Resources::default());
    let path = format!("{}/kubelet", pod.cgroup.path());
    let foreign: Vec<OwnedFd> = pod
        .cgroup
        .directories()
        .unwrap()
        .into_iter()
        .filter(|directory| !directory.v2)
        .map(|directory| {
            rustix::fs::mkdirat(&directory.dir, "kubelet", rustix::fs::Mode::RWXU).unwrap();
            directory.dir
        })
        .collect();
    let resources = Resources {
        pids_limit: Some(5),
        ..Resources::default()
    };
    let ensured = pod.hierarchies.ensure(&path, &resources).unwrap();
    expect(v1("pids", &ensured, "pids.max"), "max");
    ensured.remove().unwrap();
    let reopened = pod.hierarchies.open_cgroup(&path).ok();
    assert_eq!(reopened.is_some(), !foreign.is_empty());
    if let Some(reopened) = reopened {
        assert!(!reopened.is_ours());
        reopened.remove().unwrap();
        assert!(pod.hierarchies.exists(&path).unwrap());
    }
    for dir in foreign {
        rustix::fs::unlinkat(dir, "kubelet", rustix::fs::AtFlags::REMOVEDIR).unwrap();
    }
}

#[test]
fn another_process_finds_what_is_ours_by_its_mark() {
    let pod = Pod::new(&Resources::default());
    let container = pod.container("deep/er/c", &Resources::default()).unwrap();
    let path = container.path().to_owned();
    drop(container);
    let reopened = Hierarchies::open().unwrap().open_cgroup(&path).unwrap();
    assert!(reopened.is_ours());
    reopened.remove().unwrap();
    let parent = format!("{}/deep", pod.cgroup.path());
    assert!(!pod.hierarchies.exists(&parent).unwrap());
    assert!(matches!(
        pod.hierarchies.open_cgroup(&path),
        Err(Error::NotFound { .. })
    ));
}

#[test]
fn a_shared_parent_goes_with_its_last_child() {
    let pod = Pod::new(&Resources::default());
    let first = pod.container("shared/a", &Resources::default()).unwrap();
    let second = pod.container("shared/b", &Resources::default()).unwrap();
    first.remove().unwrap();
    assert!(pod.hierarchies.exists(second.path()).unwrap());
    second.remove().unwrap();
    let parent = format!("{}/shared", pod.cgroup.path());
    assert!(!pod.hierarchies.exists(&parent).unwrap());
}
