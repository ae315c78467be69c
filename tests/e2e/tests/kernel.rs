//! Kernels that lack something: what there is a fallback for works as well, and what the floor has is asked for by name.

use std::fs;

use anyhow::ensure;
use cri::v1::LinuxContainerResources;
use e2e::{ContainerSettings, Host, Limits, PodSettings, is_v2, scenario};
use tonic::Code;

/// The last system call of Linux 5.15 is 448.
const NEWER_THAN_THE_FLOOR: &[&str] = &["449-"];

/// A pod's whole life.
async fn live(host: &Host, name: &str) -> anyhow::Result<()> {
    let pod = PodSettings::new(name);
    let pod_id = host.run_pod(&pod).await?;
    let sleeper = ContainerSettings::sleeper("main").edited(|config| {
        config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            cpu_period: 100_000,
            cpu_quota: 50_000,
            ..Default::default()
        });
    });
    let id = host.run(&pod_id, &pod, &sleeper).await?;
    let script =
        "echo x >/file; cat /file; mknod /dev/d b 7 0 2>/dev/null; cat /dev/d 2>&1 || true";
    let said = host.cri.sh(&id, script).await?;
    ensure!(said.starts_with("x\n"), "{said}");
    let limits = Limits::of(host, &id).await?;
    assert_eq!(limits.memory()?, (64 << 20).to_string());
    assert_eq!(limits.bandwidth()?, "50000 100000");
    host.cri.stop(&id, 0).await?;
    // The kernel's word that the child wanted too much is told, and trees of processes go.
    let settings = ContainerSettings::sh("greedy", "sleep 1000 & head -c 64m /dev/zero | tail")
        .edited(|config| {
            config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
                memory_limit_in_bytes: 16 << 20,
                ..Default::default()
            });
        });
    let (status, _) = host.run_to_end(&pod_id, &pod, &settings).await?;
    assert_eq!(status.reason, "OOMKilled");
    host.remove_all_pods().await
}

/// A pod with a user namespace.
async fn live_mapped(host: &Host, name: &str) -> anyhow::Result<()> {
    let pod = mapped(name);
    let pod_id = host.run_pod(&pod).await?;
    let settings = ContainerSettings::sleeper("main");
    let id = host.run(&pod_id, &pod, &settings).await?;
    let owner = host.cri.sh(&id, "echo x >/file; stat -c %u /file /bin/sh");
    assert_eq!(owner.await?, "0\n0\n");
    host.remove_all_pods().await
}

fn mapped(name: &str) -> PodSettings {
    PodSettings::edited(name, |config| {
        let linux = config.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        let options = security.namespace_options.get_or_insert_default();
        let mapping = || cri::v1::IdMapping {
            host_id: 200_000,
            container_id: 0,
            length: 65_536,
        };
        options.userns_options = Some(cri::v1::UserNamespace {
            mode: cri::v1::NamespaceMode::Pod.into(),
            uids: vec![mapping()],
            gids: vec![mapping()],
        });
    })
}

async fn start_without(host: &mut Host, calls: &[&str]) -> anyhow::Result<()> {
    host.daemon.kill();
    host.daemon.without(calls)?;
    host.start_daemon().await
}

#[test]
fn nothing_newer_than_the_oldest_kernel_is_needed() {
    scenario(async |host| {
        start_without(host, NEWER_THAN_THE_FLOOR).await?;
        live(host, "old").await?;
        live_mapped(host, "old-mapped").await?;
        start_without(host, &[]).await
    });
}

/// `lowerdir+` takes no path as long as these.
#[test]
fn layers_are_mounted_by_the_old_call_where_the_new_one_cannot() {
    scenario(async |host| {
        let root = host.sandbox.directory().join("r".repeat(200));
        fs::create_dir(&root)?;
        host.daemon.kill();
        host.daemon
            .set_flag(&format!("--root={}", root.join("lib").display()));
        host.start_daemon().await?;
        host.cri.pull(&host.image).await?;
        live(host, "deep").await?;
        live_mapped(host, "deep-mapped").await?;
        host.daemon.kill();
        let root = host.sandbox.directory().join("lib");
        host.daemon.set_flag(&format!("--root={}", root.display()));
        host.start_daemon().await
    });
}

/// Before 6.15 layers cannot be given as descriptors (FSCONFIG_SET_FD is 5).
#[test]
fn mapped_layers_are_attached_where_they_cannot_be_detached() {
    scenario(async |host| {
        start_without(host, &["431:1=5"]).await?;
        live_mapped(host, "attached").await?;
        start_without(host, &[]).await
    });
}

/// Before 5.19 no overlay takes layers that are seen through a user namespace. This kernel says that it is 2.6.
#[test]
fn where_layers_cannot_be_mapped_there_are_no_user_namespaces() {
    scenario(async |host| {
        host.daemon.kill();
        host.daemon.launched_by(&["setarch", "--uname-2.6"]);
        host.start_daemon().await?;
        let says = async || {
            let status = host.cri.status(false).await?;
            let mut handlers = status.runtime_handlers.into_iter();
            let native = handlers.find(|handler| handler.name == "native");
            let features = native.and_then(|native| native.features);
            anyhow::Ok(features.unwrap_or_default().user_namespaces)
        };
        ensure!(!says().await?);
        let error = host.run_pod(&mapped("mapped")).await.unwrap_err();
        let status = error.downcast::<tonic::Status>()?;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        ensure!(status.message().contains("userns_options"), "{status}");
        live(host, "unmapped").await?;
        host.daemon.kill();
        host.daemon.launched_by(&[]);
        host.start_daemon().await
    });
}

/// Before 6.3 tmpfs is one of those.
#[test]
fn a_file_system_whose_owners_cannot_be_mapped_is_named() {
    scenario(async |host| {
        let root = host.sandbox.directory().join("unmapped");
        fs::create_dir(&root)?;
        let root = root.display().to_string();
        host.sandbox.sh(&format!("mount -t tmpfs none {root}"))?;
        host.daemon.kill();
        host.daemon.set_flag(&format!("--root={root}/lib"));
        host.start_daemon().await?;
        host.cri.pull(&host.image).await?;
        live(host, "unmapped").await?;
        if release() >= (6, 3) {
            live_mapped(host, "mapped").await?;
        } else {
            let pod = mapped("mapped");
            let id = host.run_pod(&pod).await?;
            let settings = ContainerSettings::sleeper("main");
            let status = host.create(&id, &pod, &settings).await.unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
            ensure!(status.message().contains("user namespace"), "{status}");
            host.remove_all_pods().await?;
        }
        host.daemon.kill();
        let own = host.sandbox.directory().join("lib");
        host.daemon.set_flag(&format!("--root={}", own.display()));
        host.sandbox.sh(&format!("umount {root}; rmdir {root}"))?;
        host.start_daemon().await
    });
}

fn release() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = text.split(['.', '-']).map_while(|part| part.parse().ok());
    let mut next = || numbers.next().expect("two numbers");
    (next(), next())
}

/// The v1 trees limit, freeze, count and kill; nobody is born in a cgroup. Where v2 is all there is, nothing is left without it.
#[test]
fn where_there_is_no_v2_tree_v1_does_it_all() {
    scenario(async |host| {
        host.daemon.kill();
        let tree = match is_v2() {
            true => "/sys/fs/cgroup",
            false => "/sys/fs/cgroup/unified",
        };
        host.sandbox.sh(&format!("umount {tree}"))?;
        let started = host.start_daemon().await;
        if is_v2() {
            let error = format!("{:#}", started.unwrap_err());
            ensure!(error.contains("cgroup"), "{error}");
        } else {
            started?;
            live(host, "v1").await?;
            live_mapped(host, "v1-mapped").await?;
            host.daemon.kill();
        }
        host.sandbox
            .sh(&format!("mount -t cgroup2 cgroup2 {tree}"))?;
        host.start_daemon().await
    });
}

/// What every kernel that we support has: without it nothing is begun.
#[test]
fn a_missing_system_call_is_named() {
    scenario(async |host| {
        for (call, number) in [
            ("open_tree", "428"),
            ("move_mount", "429"),
            ("fsopen", "430"),
            ("fsconfig", "431"),
            ("fsmount", "432"),
            ("clone3", "435"),
            ("close_range", "436"),
            ("openat2", "437"),
            ("mount_setattr", "442"),
        ] {
            let error = start_without(host, &[number]).await.unwrap_err();
            let named = format!("the kernel has no {call}(2), which is in Linux since 5.");
            ensure!(format!("{error:#}").contains(&named), "{call}: {error:#}");
        }
        // Older than the floor too, and yet there is another way.
        start_without(host, &["434"]).await?;
        live(host, "no-pidfd-open").await?;
        start_without(host, &[]).await
    });
}

/// An ext4 of its own for the daemon, with quotas where the kernel has any; says whether it has.
fn mount_with_quotas(host: &Host, place: &str) -> anyhow::Result<bool> {
    let said = host.sandbox.sh(&format!(
        "mkdir {place}; truncate -s 128M {place}.disk
         mkfs.ext4 -q -m 0 -O quota,project -E quotatype=prjquota {place}.disk
         if mount -o loop,prjquota {place}.disk {place} 2>/dev/null; then echo quotas; else
             mkfs.ext4 -q -F -m 0 {place}.disk; mount -o loop {place}.disk {place}
         fi"
    ))?;
    Ok(said.trim() == "quotas")
}

fn asking_for(limit: &'static str) -> ContainerSettings {
    ContainerSettings::sleeper("asking").edited(move |config| {
        let name = "longshore.io/writable-layer-limit".to_owned();
        config.annotations.insert(name, limit.to_owned());
    })
}

async fn restart_with(host: &mut Host, settings: &str) -> anyhow::Result<()> {
    host.daemon.kill();
    let directory = host.sandbox.directory().join("conf.d");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("10-limit.toml"), settings)?;
    host.start_daemon().await
}

const NODE_S_LIMIT: &str = "containers.writable_layer_limit = \"8Mi\"\n";

#[test]
fn writable_layers_are_limited_where_the_file_system_can() {
    scenario(async |host| {
        let place = host.sandbox.directory().join("limited");
        let place = place.display().to_string();
        let can = mount_with_quotas(host, &place)?;
        host.daemon.set_flag(&format!("--root={place}/lib"));
        match can {
            true => limited(host).await?,
            false => unlimited(host).await?,
        }
        host.remove_all_pods().await?;
        host.daemon.kill();
        fs::remove_dir_all(host.sandbox.directory().join("conf.d"))?;
        let own = host.sandbox.directory().join("lib");
        host.daemon.set_flag(&format!("--root={}", own.display()));
        host.sandbox
            .sh(&format!("umount {place}; rmdir {place}; rm {place}.disk"))?;
        host.start_daemon().await
    });
}

/// Nothing that wants a limit is run without one, and the reason is there to be read.
async fn unlimited(host: &mut Host) -> anyhow::Result<()> {
    let started = restart_with(host, NODE_S_LIMIT).await;
    ensure!(started.is_err(), "it starts");
    let log = host.daemon.log_tail();
    for said in ["containers.writable_layer_limit", "prjquota"] {
        ensure!(log.contains(said), "{log}");
    }
    restart_with(host, "").await?;
    host.cri.pull(&host.image).await?;
    let info = &host.cri.status(true).await?.info["info"];
    ensure!(info.contains("\"quota\":false"), "{info}");
    ensure!(info.contains("has no project quotas"), "{info}");
    let pod = PodSettings::new("unlimited");
    let pod_id = host.run_pod(&pod).await?;
    let refused = host.create(&pod_id, &pod, &asking_for("1Mi")).await;
    let refused = refused.expect_err("it is refused");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    ensure!(refused.message().contains("prjquota"), "{refused}");
    live(host, "free").await
}

async fn limited(host: &mut Host) -> anyhow::Result<()> {
    restart_with(host, NODE_S_LIMIT).await?;
    host.cri.pull(&host.image).await?;
    let info = &host.cri.status(true).await?.info["info"];
    ensure!(info.contains("\"quota\":true"), "{info}");
    ensure!(info.contains("\"limit\":\"8Mi\""), "{info}");
    let pod = PodSettings::new("limited");
    let pod_id = host.run_pod(&pod).await?;
    for (asked, said) in [("9Mi", "more than the 8Mi"), ("much", "at least 64Ki")] {
        let refused = host.create(&pod_id, &pod, &asking_for(asked)).await;
        let refused = refused.expect_err("it is refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        ensure!(refused.message().contains(said), "{refused}");
    }
    let less = host.run(&pod_id, &pod, &asking_for("1Mi")).await?;
    let usual = ContainerSettings::sleeper("usual");
    let usual = host.run(&pod_id, &pod, &usual).await?;
    let write = "head -c $((6 << 20)) /dev/zero >/file 2>&1 && echo all";
    let size = "df -P / | tail -n 1 | awk '{print $2}'";
    for round in ["this daemon", "the next"] {
        for (id, size_kb, fits) in [(&less, "1024", false), (&usual, "8192", true)] {
            let script = format!("rm -f /kept; {write}; sync; rm /file; {size}");
            let said = host.cri.sh(id, &script).await?;
            assert_eq!(said.contains("all\n"), fits, "{round}: {said}");
            ensure!(said.trim_end().ends_with(size_kb), "{round}: {said}");
        }
        host.cri
            .sh(&usual, "head -c $((4 << 20)) /dev/zero >/kept")
            .await?;
        host.restart_daemon().await?;
    }
    // The kernel counts: nobody walks, and nobody waits.
    let stats = host.cri.container_stats(&usual).await?;
    let layer = stats.and_then(|stats| stats.writable_layer);
    let used = layer.and_then(|layer| layer.used_bytes).map(|it| it.value);
    ensure!(
        used.is_some_and(|used| (4 << 20..8 << 20).contains(&used)),
        "{used:?}"
    );
    host.remove_all_pods().await
}
