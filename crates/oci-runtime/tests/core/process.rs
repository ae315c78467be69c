//! Programs, their environment, directories, limits and cgroups.

use oci_plan::{Mount, MountFlags, MountSource, OomScoreAdj, Rlimit};

use crate::bench::{Bench, bind, chown, plan, process, rootfs, tree, write_file};

pub(crate) const CASES: &[crate::Case] = &[
    ("process::runs_to_its_end", runs_to_its_end),
    ("process::nothing_is_inherited", nothing_is_inherited),
    ("process::path_is_searched", path_is_searched),
    ("process::home_comes_from_passwd", home_comes_from_passwd),
    (
        "process::directories_are_made_for_the_user",
        directories_are_made_for_the_user,
    ),
    (
        "process::limits_are_set_and_clamped",
        limits_are_set_and_clamped,
    ),
    ("process::oom_score_is_advice", oom_score_is_advice),
    (
        "process::cgroups_are_entered_and_shown",
        cgroups_are_entered_and_shown,
    ),
];

fn runs_to_its_end() {
    let outcome = Bench::new().shell("echo out; echo err >&2; exit 7", |_| {});
    assert_eq!(
        (
            outcome.output.as_str(),
            outcome.errors.as_str(),
            outcome.code
        ),
        ("out\n", "err\n", 7)
    );
}

fn nothing_is_inherited() {
    // A descriptor that would be inherited, an ignored signal and a blocked one.
    let leak = std::fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let blocked = sys::Signals::of(&[10, 17]);
    sys::block_signals(blocked).unwrap();
    let outcome = Bench::new().shell(
        "ls /proc/self/fd | tr '\\n' ' '; grep -E '^Sig(Blk|Ign)' /proc/self/status; readlink /proc/self/fd/0; echo $$ ; cut -d' ' -f6 /proc/self/stat; umask; pwd",
        |_| {},
    );
    assert_eq!(
        outcome.lines(),
        // `ls` has its directory open as 3.
        [
            "0 1 2 3 SigBlk:\t0000000000000000",
            "SigIgn:\t0000000000000000",
            "/dev/null",
            "1",
            "1",
            "0022",
            "/"
        ]
    );
}

fn path_is_searched() {
    let bench = Bench::new();
    let mut plan = plan(&["echo", "found"]);
    let root = rootfs();
    write_file(&root, "tmp/echo", b"not a program", 0o644);
    plan.process.env = vec!["PATH=/none:/tmp::/bin".to_owned()];
    assert_eq!(bench.run(&plan, &[root]).unwrap().output, "found\n");

    plan.process.env.clear();
    assert_eq!(bench.run(&plan, &[rootfs()]).unwrap().output, "found\n");

    plan.process.args = vec!["./bin/echo".to_owned(), "relative".to_owned()];
    assert_eq!(bench.run(&plan, &[rootfs()]).unwrap().output, "relative\n");
}

fn home_comes_from_passwd() {
    let bench = Bench::new();
    let home = |uid, env: &[&str]| {
        let outcome = bench.shell("echo $HOME", |plan| {
            plan.process.user.uid = uid;
            plan.process
                .env
                .extend(env.iter().map(|one| (*one).to_owned()));
        });
        outcome.lines().concat()
    };
    assert_eq!(home(0, &[]), "/root");
    assert_eq!(home(1000, &[]), "/home/user");
    assert_eq!(home(4711, &[]), "/");
    assert_eq!(home(1000, &["HOME=/mine"]), "/mine");
}

fn directories_are_made_for_the_user() {
    let bench = Bench::new();
    let outcome = bench.shell(
        "pwd; stat -c '%u:%g %a' . ..; touch mine && umask",
        |plan| {
            plan.process.cwd = "/srv/app/work".to_owned();
            plan.process.user.uid = 1000;
            plan.process.user.gid = 2000;
            plan.process.user.umask = Some(0o027);
            plan.rootfs.readonly = false;
        },
    );
    assert_eq!(
        outcome.lines(),
        ["/srv/app/work", "1000:2000 755", "1000:2000 755", "0027"]
    );

    // Made although the root is read-only: before it becomes so.
    let outcome = bench.shell("pwd; touch /x 2>/dev/null || echo read-only", |plan| {
        plan.process.cwd = "/new".to_owned();
        plan.rootfs.readonly = true;
    });
    assert_eq!(outcome.lines(), ["/new", "read-only"]);

    let mut plan = plan(&["/bin/pwd"]);
    plan.process.cwd = "/tmp/secret".to_owned();
    plan.process.user.uid = 1000;
    let root = rootfs();
    rustix::fs::mkdirat(
        &root,
        "tmp/secret",
        rustix::fs::Mode::from_bits_truncate(0o700),
    )
    .unwrap();
    let error = bench.run(&plan, &[root]).unwrap_err();
    assert_eq!(error.to_string(), "enter the working directory /tmp/secret");
    assert_eq!(error.kind(), oci_runtime::Kind::InvalidArgument);
    let root = rootfs();
    rustix::fs::mkdirat(
        &root,
        "tmp/secret",
        rustix::fs::Mode::from_bits_truncate(0o700),
    )
    .unwrap();
    chown(&root, "tmp/secret", 1000);
    assert_eq!(bench.run(&plan, &[root]).unwrap().output, "/tmp/secret\n");
}

fn limits_are_set_and_clamped() {
    let bench = Bench::new();
    let now = sys::get_limit(0, 7).unwrap();
    let nofile = |soft, hard| Rlimit {
        resource: 7,
        soft,
        hard,
    };
    let script = "ulimit -Sn; ulimit -Hn";
    let outcome = bench.shell(script, |plan| plan.process.rlimits = vec![nofile(16, 99)]);
    assert_eq!(outcome.lines(), ["16", "99"]);
    // Lower than what the making of a container needs, which it does not hamper.
    let outcome = bench.shell(script, |plan| plan.process.rlimits = vec![nofile(4, 4)]);
    assert_eq!(outcome.lines(), ["4", "4"]);
    if !bench.host.may_raise_limits() {
        let more = vec![nofile(now.hard + 5, now.hard + 10)];
        let outcome = bench.shell(script, |plan| plan.process.rlimits = more);
        let hard = now.hard.to_string();
        assert_eq!(outcome.lines(), [hard.as_str(), hard.as_str()]);
    }
}

fn oom_score_is_advice() {
    let bench = Bench::new();
    let score = |wanted| {
        let outcome = bench.shell("cat /proc/self/oom_score_adj", |plan| {
            plan.process.oom_score_adj = Some(OomScoreAdj(wanted));
        });
        outcome.lines().concat().parse::<i16>().unwrap()
    };
    assert_eq!(score(987), 987);
    let low = score(-900);
    match bench.host.may_raise_limits() {
        true => assert_eq!(low, -900),
        false => assert_eq!(low, score(0)),
    }
}

fn cgroups_are_entered_and_shown() {
    let bench = Bench::new().with_cgroup();
    let name = format!("longshore-core-{}", std::process::id());
    let script = "cat /proc/1/cgroup; ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/memory/x 2>/dev/null || echo read-only";
    let mount = Mount {
        target: "/sys/fs/cgroup".to_owned(),
        source: MountSource::Cgroup,
        flags: MountFlags {
            readonly: true,
            nosuid: true,
            nodev: true,
            noexec: true,
            ..MountFlags::default()
        },
        propagation: None,
        idmap: None,
    };
    let host_view = tree("/proc");
    let outcome = bench.shell(script, |plan| plan.mounts.push(mount.clone()));
    assert!(
        outcome
            .output
            .lines()
            .filter(|line| line.contains(":/"))
            .all(|line| line.ends_with(":/")),
        "the root of a cgroup namespace is the container's: {}",
        outcome.output
    );
    assert!(outcome.lines().ends_with(&["read-only"]), "{outcome:?}");
    // With v2 alone its one tree is at the top.
    let hierarchies = bench.host.hierarchies();
    let expected: Vec<&str> = match hierarchies.mode() {
        cgroup::Mode::V2 => vec!["cgroup.procs"],
        _ => hierarchies.views().map(|view| view.directory).collect(),
    };
    for name in expected {
        assert!(outcome.lines().contains(&name), "{outcome:?}");
    }

    // Without a namespace of its own it sees where it is.
    let mut plan = plan(&["/bin/cat", "/proc/self/cgroup"]);
    plan.namespaces.cgroup = oci_plan::NamespaceSource::Host;
    plan.process = process(&["/bin/cat", "/proc/self/cgroup"]);
    plan.mounts.push(bind(1, "/host-proc"));
    let outcome = bench.run(&plan, &[rootfs(), host_view]).unwrap();
    assert!(
        outcome.lines().iter().all(|line| line.contains(&name)),
        "{outcome:?}"
    );
}
