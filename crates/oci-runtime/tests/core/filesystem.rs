//! Roots, mounts, devices, masks.

use std::os::fd::AsFd;

use oci_plan::{DeviceNode, MountFlags, MountSource, NodeType, PodNamespaces, Propagation};
use oci_runtime::Kind;
use rustix::fs::{CWD, Mode, mkdirat, symlinkat};
use rustix::mount::{MountPropagationFlags, MoveMountFlags, move_mount};

use crate::bench::{Bench, bind, filesystem, mappings, plan, rootfs, tree, write_file};

pub(crate) const CASES: &[crate::Case] = &[
    (
        "filesystem::nothing_of_the_host_is_in_sight",
        nothing_of_the_host_is_in_sight,
    ),
    ("filesystem::default_devices", default_devices),
    ("filesystem::devices_of_the_plan", devices_of_the_plan),
    ("filesystem::trees_and_their_flags", trees_and_their_flags),
    ("filesystem::recursive_read_only", recursive_read_only),
    ("filesystem::mount_points_are_made", mount_points_are_made),
    ("filesystem::links_do_not_lead_out", links_do_not_lead_out),
    (
        "filesystem::proc_is_not_covered_or_redirected",
        proc_is_not_covered_or_redirected,
    ),
    (
        "filesystem::masked_and_read_only_paths",
        masked_and_read_only_paths,
    ),
    ("filesystem::propagation", propagation),
    (
        "filesystem::a_root_copied_from_a_shared_mount",
        a_root_copied_from_a_shared_mount,
    ),
    ("filesystem::idmapped", idmapped),
    ("filesystem::the_pods_shm", the_pods_shm),
    ("filesystem::bad_mounts_say_why", bad_mounts_say_why),
];

fn nothing_of_the_host_is_in_sight() {
    let bench = Bench::new();
    let outcome = bench.shell(
        "ls / | tr '\\n' ' '; cut -d' ' -f5 /proc/self/mountinfo | sort",
        |_| {},
    );
    assert_eq!(
        outcome.lines(),
        [
            "bin data dev etc proc sys tmp /",
            "/dev",
            "/dev/mqueue",
            "/dev/pts",
            "/dev/shm",
            "/proc",
            "/sys"
        ]
    );
    let outcome = bench.shell(
        "touch /x 2>&1; touch /tmp/x 2>&1; touch /dev/shm/x && echo ok",
        |plan| {
            plan.rootfs.readonly = true;
        },
    );
    let shared = bench.shell(
        "grep -c ' / / .* shared:' /proc/self/mountinfo; touch /dev/x 2>&1; ls /dev/null",
        |plan| {
            plan.rootfs.propagation = Propagation::Shared;
            plan.mounts[1].flags.readonly = true;
        },
    );
    let dev = "touch: /dev/x: Read-only file system";
    assert_eq!(shared.lines(), ["1", dev, "/dev/null"]);
    let readonly = "touch: /x: Read-only file system";
    assert_eq!(outcome.lines()[0], readonly);
    assert_eq!(outcome.lines()[2], "ok");
}

fn default_devices() {
    let outcome = Bench::new().shell(
        "cd /dev; stat -c '%n %F %t:%T %a %u:%g' null zero full random urandom tty; for l in fd stdin stdout stderr ptmx core; do readlink $l; done; \
         echo x >null && head -c 3 zero | wc -c && echo x >full 2>/dev/null || echo full",
        |_| {},
    );
    assert_eq!(
        outcome.lines(),
        [
            "null character special file 1:3 666 0:0",
            "zero character special file 1:5 666 0:0",
            "full character special file 1:7 666 0:0",
            "random character special file 1:8 666 0:0",
            "urandom character special file 1:9 666 0:0",
            "tty character special file 5:0 666 0:0",
            "/proc/self/fd",
            "/proc/self/fd/0",
            "/proc/self/fd/1",
            "/proc/self/fd/2",
            "pts/ptmx",
            "/proc/kcore",
            "3",
            "full"
        ]
    );
}

fn devices_of_the_plan() {
    let node = |path: &str, mode, gid| DeviceNode {
        path: path.to_owned(),
        node_type: NodeType::Char,
        major: 1,
        minor: 3,
        mode,
        uid: 0,
        gid,
    };
    let bench = Bench::new();
    let show = "stat -c '%n %t:%T %a %u:%g' /dev/mine/null /dev/null /opt/null; [ -c /dev/ptmx ] && readlink /dev/ptmx";
    let outcome = bench.shell(show, |plan| {
        plan.devices = vec![
            node("/dev/mine/null", 0o640, 7),
            node("/dev/null", 0o600, 0),
            node("/dev/ptmx", 0o600, 0),
            node("/opt/null", 0o604, 8),
        ];
    });
    assert_eq!(
        outcome.lines(),
        [
            "/dev/mine/null 1:3 640 0:7",
            "/dev/null 1:3 600 0:0",
            "/opt/null 1:3 604 0:8",
            "pts/ptmx"
        ]
    );
    // The host's /dev as the container's stays as it is.
    let before = std::fs::read_dir("/dev").unwrap().count();
    let mut plan = plan(&["/bin/ls", "/dev/full"]);
    plan.mounts
        .retain(|mount| !mount.target.starts_with("/dev"));
    plan.mounts.push(bind(1, "/dev"));
    plan.devices = vec![node("/dev/longshore-test", 0o600, 0)];
    let outcome = bench.run(&plan, &[rootfs(), tree("/dev")]).unwrap();
    assert_eq!(outcome.lines(), ["/dev/full"]);
    assert_eq!(std::fs::read_dir("/dev").unwrap().count(), before);
    // A plan without a word about /dev gets one.
    let outcome = bench.shell("ls /dev/null /dev/fd", |plan| plan.mounts.truncate(1));
    assert_eq!(outcome.code, 0);
}

/// A directory of the host's that is gone with the case.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(this.path("below")).unwrap();
        std::fs::write(this.path("file"), "content\n").unwrap();
        this
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

fn trees_and_their_flags() {
    let scratch = Scratch::new();
    let bench = Bench::new();
    let script = "cat /data/file /etc/one; touch /data/new && echo wrote; touch /ro/new 2>/dev/null || echo read-only; \
                  grep -E ' (/ro|/data|/etc/one) ' /proc/self/mountinfo | cut -d' ' -f5,6";
    let mut plan = plan(&["/bin/sh", "-c", script]);
    plan.mounts.push(bind(1, "/data"));
    plan.mounts.push(bind(2, "/etc/one"));
    plan.mounts.push(bind(3, "/ro"));
    plan.mounts.last_mut().unwrap().flags = MountFlags {
        readonly: true,
        nosuid: true,
        nodev: true,
        noexec: true,
        noatime: true,
        nodiratime: true,
        nosymfollow: true,
        ..MountFlags::default()
    };
    let fds = [
        rootfs(),
        tree(&scratch.path("")),
        tree(&scratch.path("file")),
        tree(&scratch.path("")),
    ];
    let outcome = bench.run(&plan, &fds).unwrap();
    assert_eq!(
        outcome.lines(),
        [
            "content",
            "content",
            "wrote",
            "read-only",
            "/data rw,relatime",
            "/etc/one rw,relatime",
            "/ro ro,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow"
        ]
    );
    assert!(std::fs::exists(scratch.path("new")).unwrap());
}

fn recursive_read_only() {
    let scratch = Scratch::new();
    let below = scratch.path("below");
    rustix::mount::mount(
        "tmpfs",
        &below,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        None,
    )
    .unwrap();
    let bench = Bench::new();
    let script = "touch /data/below/x 2>/dev/null && echo wrote || echo read-only";
    let shown = |recursive| {
        let mut plan = plan(&["/bin/sh", "-c", script]);
        plan.mounts.push(bind(1, "/data"));
        plan.mounts.last_mut().unwrap().flags = MountFlags {
            readonly: true,
            recursive_readonly: recursive,
            ..MountFlags::default()
        };
        let outcome = bench
            .run(&plan, &[rootfs(), tree(&scratch.path(""))])
            .unwrap();
        outcome.lines().concat()
    };
    assert_eq!(
        (shown(false), shown(true)),
        ("wrote".to_owned(), "read-only".to_owned())
    );
    rustix::mount::unmount(&below, rustix::mount::UnmountFlags::empty()).unwrap();
}

fn mount_points_are_made() {
    let scratch = Scratch::new();
    let root = rootfs();
    // As images with systemd have it.
    symlinkat("../run/resolve/stub.conf", &root, "etc/resolv.conf").unwrap();
    let mut plan = plan(&[
        "/bin/sh",
        "-c",
        "cat /etc/resolv.conf /a/b/../c/file; cat /run/resolve/stub.conf; stat -c %F /etc/resolv.conf",
    ]);
    plan.mounts.push(bind(1, "/etc/resolv.conf"));
    plan.mounts.push(bind(2, "/a/b/../c/file"));
    let fds = [
        root,
        tree(&scratch.path("file")),
        tree(&scratch.path("file")),
    ];
    let outcome = Bench::new().run(&plan, &fds).unwrap();
    assert_eq!(
        outcome.lines(),
        ["content", "content", "content", "symbolic link"]
    );
}

fn links_do_not_lead_out() {
    let scratch = Scratch::new();
    let bench = Bench::new();
    let root = rootfs();
    let outside = scratch.path("");
    symlinkat("../../../../../../..", &root, "up").unwrap();
    symlinkat(&outside, &root, "absolute").unwrap();
    let mut plan = plan(&[
        "/bin/sh",
        "-c",
        &format!(
            "cat /up/new/file {outside}made/file /up/etc/here; ls /proc/self/root/ >/dev/null"
        ),
    ]);
    plan.mounts.push(bind(1, "/up/new/file"));
    plan.mounts.push(bind(2, "/absolute/made/file"));
    plan.mounts.push(bind(3, "/up/etc/here"));
    let file = || tree(&scratch.path("file"));
    let outcome = bench.run(&plan, &[root, file(), file(), file()]).unwrap();
    assert_eq!(outcome.lines(), ["content", "content", "content"]);
    assert!(!std::fs::exists("/new").unwrap() && !std::fs::exists("/etc/here").unwrap());
    assert!(!std::fs::exists(scratch.path("made")).unwrap());

    // The root itself, however it is spelt, is no mount point.
    for target in ["/", "/up", "/etc/../"] {
        let root = rootfs();
        symlinkat("../..", &root, "up").unwrap();
        plan.mounts.truncate(6);
        plan.mounts.push(bind(1, target));
        let error = bench
            .run(&plan, &[root, tree(&scratch.path(""))])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("mounts: {target} is the container's root")
        );
    }
    // A link that goes in circles.
    let root = rootfs();
    symlinkat("loop", &root, "loop").unwrap();
    plan.mounts.truncate(6);
    plan.mounts.push(bind(1, "/loop/x"));
    let error = bench
        .run(&plan, &[root, tree(&scratch.path(""))])
        .unwrap_err();
    assert_eq!(error.to_string(), "make the mount point /loop/x");
    assert_eq!(error.kind(), Kind::InvalidArgument);
}

fn proc_is_not_covered_or_redirected() {
    let scratch = Scratch::new();
    let bench = Bench::new();
    for target in ["/proc/sys/kernel", "/proc/self/attr", "/proc"] {
        let mut plan = plan(&["/bin/true"]);
        plan.mounts.push(bind(1, target));
        let error = bench
            .run(&plan, &[rootfs(), tree(&scratch.path(""))])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("mounts: {target} lies in the container's /proc")
        );
    }
    let mut plan = plan(&["/bin/cat", "/proc/uptime"]);
    plan.mounts.push(bind(1, "/proc/uptime"));
    let outcome = bench
        .run(&plan, &[rootfs(), tree(&scratch.path("file"))])
        .unwrap();
    assert_eq!(outcome.lines(), ["content"]);

    // An image whose /proc is a link to what it would like the masks to hit.
    let root = rootfs();
    symlinkat("data", &root, "proc").unwrap();
    plan.mounts.pop();
    plan.masked_paths = vec!["/proc/kcore".to_owned()];
    let error = bench.run(&plan, &[root]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "make the mount point /proc (no symbolic link may lead there)"
    );

    // And a plan without a proc file system, where the image has files of that name.
    let root = rootfs();
    mkdirat(&root, "proc", Mode::from_bits_truncate(0o755)).unwrap();
    write_file(&root, "proc/kcore", b"not it", 0o644);
    plan.mounts.remove(0);
    let error = bench.run(&plan, &[root]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "mask /proc/kcore (it is not in a proc file system)"
    );
}

fn masked_and_read_only_paths() {
    let paths = |paths: &[&str]| {
        paths
            .iter()
            .map(|path| (*path).to_owned())
            .collect::<Vec<_>>()
    };
    let script = "cat /proc/timer_list /proc/version /proc/keys; ls /proc/fs /sys/firmware /etc/hidden; touch /sys/firmware/x 2>/dev/null || echo masked; \
                  echo 0 > /proc/sys/kernel/domainname || echo read-only; stat -c '%t:%T' /proc/version";
    let outcome = Bench::new().shell(script, |plan| {
        plan.masked_paths = paths(&[
            "/proc/timer_list",
            "/proc/version",
            "/proc/keys",
            "/proc/fs",
            "/sys/firmware",
            "/no/such/path",
            "/etc/passwd/below",
        ]);
        plan.readonly_paths = paths(&["/proc/sys", "/proc/none", "/proc/bus"]);
    });
    let shown: Vec<&str> = outcome.lines();
    assert_eq!(
        shown[shown.len() - 3..],
        ["masked", "read-only", "1:3"],
        "{outcome:?}"
    );
    assert!(!outcome.output.contains("Linux"), "{outcome:?}");
}

fn propagation() {
    let scratch = Scratch::new();
    let whole = scratch.path("");
    rustix::mount::mount_bind(&whole, &whole).unwrap();
    rustix::mount::mount_change(&whole, MountPropagationFlags::SHARED).unwrap();
    let bench = Bench::new();
    let script = "echo ready; for i in 1 2 3 4 5 6 7 8 9 10; do grep -q tmpfs-late /proc/self/mountinfo && echo seen && exit; sleep 0.1; done; echo unseen";
    let shown = |propagation| {
        let mut plan = plan(&["/bin/sh", "-c", script]);
        plan.mounts.push(bind(1, "/data"));
        plan.mounts.last_mut().unwrap().propagation = propagation;
        let mut running = bench.launch(&plan, &[rootfs(), tree(&whole)]).unwrap();
        running.line();
        let below = scratch.path("below");
        rustix::mount::mount(
            "tmpfs-late",
            &below,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            None,
        )
        .unwrap();
        let outcome = running.wait();
        rustix::mount::unmount(&below, rustix::mount::UnmountFlags::empty()).unwrap();
        outcome.lines().concat()
    };
    assert_eq!(shown(Some(Propagation::Slave)), "seen");
    assert_eq!(shown(Some(Propagation::Shared)), "seen");
    assert_eq!(shown(Some(Propagation::Private)), "unseen");
    // The other way round: only what is shared reaches the host.
    for (propagation, expected) in [(Propagation::Shared, true), (Propagation::Slave, false)] {
        let mut plan = plan(&[
            "/bin/sh",
            "-c",
            "mount -t tmpfs tmpfs-inner /data/below; exec sleep 100",
        ]);
        plan.process.capabilities.permitted |= 1 << 21;
        plan.process.capabilities.effective |= 1 << 21;
        plan.process.capabilities.bounding |= 1 << 21;
        plan.process.args[2] =
            "mount -t tmpfs tmpfs-inner /data/below && echo mounted; exec sleep 100".to_owned();
        plan.mounts.push(bind(1, "/data"));
        plan.mounts.last_mut().unwrap().propagation = Some(propagation);
        let mut running = bench.launch(&plan, &[rootfs(), tree(&whole)]).unwrap();
        assert_eq!(running.line(), "mounted");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert_eq!(mounts.contains("tmpfs-inner"), expected);
        running.kill();
        if expected {
            rustix::mount::unmount(scratch.path("below"), rustix::mount::UnmountFlags::empty())
                .unwrap();
        }
    }
    rustix::mount::unmount(&whole, rustix::mount::UnmountFlags::DETACH).unwrap();
}

/// Where systemd runs every mount is shared, and a copy of one is its peer.
fn a_root_copied_from_a_shared_mount() {
    let scratch = Scratch::new();
    let whole = scratch.path("");
    rustix::mount::mount_bind_recursive(&whole, &whole).unwrap();
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(rootfs(), "", CWD, &whole, flags).unwrap();
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", shared).unwrap();
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let bench = Bench::new();
    for propagation in [
        Propagation::Private,
        Propagation::Slave,
        Propagation::Shared,
    ] {
        let mut plan = plan(&["/bin/sh", "-c", "echo ready; exec sleep 100"]);
        plan.rootfs.propagation = propagation;
        let mut running = bench.launch(&plan, &[tree(&whole)]).unwrap();
        assert_eq!(running.line(), "ready");
        assert_eq!(
            mounts(),
            before,
            "{propagation:?}: a mount of the container's is the host's"
        );
        running.kill();
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    for _ in 0..2 {
        rustix::mount::unmount(&whole, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

fn idmapped() {
    let scratch = Scratch::new();
    let bench = Bench::new();
    let show = |idmap| {
        let mut plan = plan(&["/bin/stat", "-c", "%u:%g", "/data/file"]);
        plan.mounts.push(bind(1, "/data"));
        plan.mounts.last_mut().unwrap().idmap = idmap;
        bench
            .run(&plan, &[rootfs(), tree(&scratch.path(""))])
            .unwrap()
            .lines()
            .concat()
    };
    assert_eq!(show(Some(mappings())), "100000:100000");
    assert_eq!(show(Some(mappings())), "100000:100000");
    assert_eq!(show(None), "0:0");

    let mut plan = plan(&["/bin/true"]);
    plan.mounts[1].idmap = Some(mappings());
    let error = bench.run(&plan, &[rootfs()]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "mounts[1].idmap: needs a source on the host"
    );
}

fn the_pods_shm() {
    let own = PodNamespaces {
        net: false,
        ipc: true,
        uts: false,
        pid: false,
    };
    let bench = Bench::pod(own, None);
    let shell = |script: &str| {
        bench.shell(script, |plan| {
            plan.mounts.retain(|mount| mount.target != "/dev/shm");
            plan.mounts.push(oci_plan::Mount {
                source: MountSource::PodShm,
                ..filesystem("", "/dev/shm", &[])
            });
        })
    };
    shell("echo shared >/dev/shm/x").lines();
    assert_eq!(
        shell("cat /dev/shm/x; stat -c %a /dev/shm").lines(),
        ["shared", "1777"]
    );
    assert!(
        bench
            .pod
            .shm
            .as_ref()
            .unwrap()
            .as_fd()
            .try_clone_to_owned()
            .is_ok()
    );
}

fn bad_mounts_say_why() {
    let bench = Bench::new();
    let fail = |mount| {
        let mut plan = plan(&["/bin/true"]);
        plan.mounts.push(mount);
        let error = bench.run(&plan, &[rootfs()]).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error:?}");
        error.to_string()
    };
    assert_eq!(
        fail(filesystem("tmpfs", "/data", &[("size", "many")])),
        "mount tmpfs on /data (tmpfs: Bad value for 'size')"
    );
    assert_eq!(
        fail(filesystem("nofs", "/data", &[])),
        "mount nofs on /data (unknown type of file system)"
    );
    assert_eq!(
        fail(filesystem("tmpfs", "data", &[])),
        "mounts[6].target: \"data\" is not absolute"
    );
    assert_eq!(
        fail(bind(9, "/data")),
        "mounts[6].source: slot 9 of 1 descriptors"
    );
    assert_eq!(
        fail(filesystem("tmpfs", "/etc/passwd", &[])),
        "mount tmpfs on /etc/passwd"
    );
    assert_eq!(
        fail(filesystem("tmpfs", "/etc/passwd/x", &[])),
        "make the mount point /etc/passwd/x"
    );
}
