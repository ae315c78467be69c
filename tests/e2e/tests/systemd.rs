//! The systemd cgroup driver, with a real systemd: `cargo xtask vm --systemd`.

mod unit;

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, ensure};
use cri::v1::LinuxContainerResources;
use e2e::{ContainerSettings, Host, Limits, PodSettings, scenario};
use testkit::sandbox::{Process, poll};
use tonic::Code;

const SOON: Duration = Duration::from_secs(120);
const MIB: i64 = 1 << 20;

/// One at a time: systemd answers nobody while it executes itself anew, which one of them has it do.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Outside of the host: where systemd is.
fn systemctl(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("systemctl")
        .args(arguments)
        .output()
        .context("run systemctl")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The pod's slice, as a kubelet names it: by its name alone, and two steps deep.
fn slice(host: &Host) -> (String, PathBuf) {
    let top = host.sandbox.cgroup();
    let top = top.trim_start_matches('/').trim_end_matches(".slice");
    let name = format!("{top}-besteffort-pod1.slice");
    let path = format!("{top}.slice/{top}-besteffort.slice/{name}");
    (name, PathBuf::from("/sys/fs/cgroup").join(path))
}

fn in_slice(name: &str, slice: &str) -> PodSettings {
    let slice = slice.to_owned();
    PodSettings::edited(name, move |config| {
        let linux = config.linux.get_or_insert_default();
        linux.cgroup_parent.clone_from(&slice);
    })
}

/// The kubelet's part.
fn give_up(slice: &str) -> anyhow::Result<()> {
    let parent = slice.replace("-pod1.slice", ".slice");
    systemctl(&["stop", slice, &parent]).map(drop)
}

#[test]
#[ignore = "wants systemd: cargo xtask vm --systemd"]
fn a_pod_is_a_scope_of_its_slice() {
    let _alone = alone();
    scenario(async |host| {
        let config = host.cri.runtime_config().await?;
        let driver = config.linux.unwrap_or_default().cgroup_driver();
        assert_eq!(driver, cri::v1::CgroupDriver::Systemd);

        let (slice, path) = slice(host);
        let pod = in_slice("scoped", &slice);
        let pod_id = host.run_pod(&pod).await?;
        let unit = format!("longshore-{pod_id}.scope");
        let scope = path.join(&unit);
        ensure!(scope.is_dir(), "{} is missing", scope.display());
        assert_eq!(systemctl(&["is-active", &unit])?, "active");
        let shown = systemctl(&["show", "--property=Slice,Delegate,TasksMax", &unit])?;
        assert_eq!(
            shown.lines().collect::<BTreeSet<_>>(),
            [
                "Delegate=yes",
                &*format!("Slice={slice}"),
                "TasksMax=infinity"
            ]
            .into()
        );
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        let own = scope.join(&id);
        ensure!(!fs::read_to_string(own.join("cgroup.procs"))?.is_empty());
        // What costs memory for the pod's sake is not charged to the pod, but for the process that holds the scope.
        let anchors = fs::read_to_string(scope.join("anchor/cgroup.procs"))?;
        assert_eq!(anchors.lines().count(), 1, "{anchors:?}");
        assert_eq!(fs::read_to_string(scope.join("cgroup.procs"))?, "");

        // One with nothing in it stays.
        host.cri.stop(&id, 0).await?;
        host.cri.remove(&id).await?;
        ensure!(!own.exists());
        assert_eq!(systemctl(&["is-active", &unit])?, "active");
        host.run(&pod_id, &pod, &ContainerSettings::sleeper("second"))
            .await?;

        host.remove_all_pods().await?;
        give_up(&slice)?;
        host.settles()?;
        assert_eq!(
            systemctl(&["show", "--property=LoadState", "--value", &unit])?,
            "not-found"
        );
        assert_eq!(
            systemctl(&["list-units", "--failed", "--plain", "--no-legend"])?,
            ""
        );
        Ok(())
    });
}

#[test]
#[ignore = "wants systemd: cargo xtask vm --systemd"]
fn limits_survive_a_reload_of_systemd() {
    let _alone = alone();
    scenario(async |host| {
        let (slice, path) = slice(host);
        let pod = in_slice("kept", &slice);
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sleeper("main").edited(|config| {
            config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
                cpu_quota: 50_000,
                cpu_period: 100_000,
                memory_limit_in_bytes: 64 * MIB,
                ..Default::default()
            });
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        let changed = LinuxContainerResources {
            memory_limit_in_bytes: 96 * MIB,
            ..Default::default()
        };
        host.cri.update(&id, changed).await?;
        // As the kubelet limits a pod.
        systemctl(&[
            "set-property",
            "--runtime",
            &slice,
            "MemoryMax=128M",
            "TasksMax=100",
        ])?;
        let limits = Limits::of(host, &id).await?;
        for what in ["daemon-reload", "daemon-reexec"] {
            systemctl(&[what])?;
            assert_eq!(limits.memory()?, (96 * MIB).to_string(), "{what}");
            assert_eq!(limits.bandwidth()?, "50000 100000", "{what}");
            // No device of that number is allowed, before and after.
            let opened = host
                .cri
                .sh(&id, "mknod /tmp/d b 7 0; cat /tmp/d 2>&1; true")
                .await?;
            ensure!(opened.contains("not permitted"), "{what}: {opened}");
        }
        let of_slice = fs::read_to_string(path.join("memory.max"))?;
        assert_eq!(of_slice.trim(), (128 * MIB).to_string());
        host.remove_all_pods().await?;
        give_up(&slice)?;
        Ok(())
    });
}

/// Those of supervisors, each once.
fn homes(host: &Host) -> anyhow::Result<BTreeSet<String>> {
    let supervisors = host.supervisors().into_iter();
    let home = |supervisor: Process| {
        let file = host
            .sandbox
            .view(format!("/proc/{}/cgroup", supervisor.pid));
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(text.trim().trim_start_matches("0::").to_owned())
    };
    supervisors.map(home).collect()
}

#[test]
#[ignore = "wants systemd: cargo xtask vm --systemd"]
fn supervisors_have_a_scope_together() {
    let _alone = alone();
    scenario(async |host| {
        let home = host.sandbox.supervisor_scope();
        let unit = home.rsplit('/').next().unwrap_or_default();
        for round in ["first", "second"] {
            // Whose supervisor is the first in there is not settled.
            let pods = [1, 2, 3].map(|number| PodSettings::new(&format!("{round}-{number}")));
            let [a, b, c] = &pods;
            let (a, b, c) = tokio::join!(host.run_pod(a), host.run_pod(b), host.run_pod(c));
            let ids = [a?, b?, c?];
            assert_eq!(host.supervisors().len(), 3);
            assert_eq!(homes(host)?, [home.clone()].into(), "{round}");
            assert_eq!(systemctl(&["is-active", unit])?, "active");
            let shown = systemctl(&["show", "--property=Delegate,TasksMax", unit])?;
            let shown: BTreeSet<_> = shown.lines().collect();
            assert_eq!(shown, ["Delegate=yes", "TasksMax=infinity"].into());

            // The next daemon finds it.
            host.restart_daemon().await?;
            systemctl(&["daemon-reload"])?;
            let fourth = PodSettings::new(&format!("{round}-4"));
            host.run_pod(&fourth).await?;
            assert_eq!(homes(host)?, [home.clone()].into(), "{round}, restarted");
            let id = host
                .run(&ids[0], &pods[0], &ContainerSettings::sleeper("main"))
                .await?;
            assert_eq!(host.cri.sh(&id, "echo there").await?, "there\n");

            // It goes with the last of them, and comes back.
            host.remove_all_pods().await?;
            let gone = || {
                let state = systemctl(&["show", "--property=LoadState", "--value", unit]);
                state.ok().filter(|state| state == "not-found")
            };
            poll(SOON, gone).context("the scope of supervisors goes with the last one")?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "wants systemd: cargo xtask vm --systemd"]
fn a_scope_goes_with_its_pod_whoever_dies() {
    let _alone = alone();
    scenario(async |host| {
        let pod = PodSettings::new("orphan");
        let pod_id = host.run_pod(&pod).await?;
        host.run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        host.restart_daemon().await?;
        assert_eq!(host.cri.pods(None).await?.len(), 1);
        host.kill_supervisors()?;
        host.remove_all_pods().await?;
        host.settles()?;
        assert_eq!(
            systemctl(&["list-units", "--failed", "--plain", "--no-legend"])?,
            ""
        );
        Ok(())
    });
}

#[test]
#[ignore = "wants systemd: cargo xtask vm --systemd"]
fn parents_that_are_no_slices_or_lead_elsewhere_are_refused() {
    let _alone = alone();
    scenario(async |host| {
        for parent in [
            "/kubepods/besteffort/pod1",
            "/a.slice/../b.slice",
            "../a.slice",
            "/system.slice/a-b.slice",
            "-.slice",
            "a--b.slice",
            "a.slice:longshore:b",
        ] {
            let error = host.run_pod(&in_slice("astray", parent)).await.unwrap_err();
            let status = error.downcast::<tonic::Status>()?;
            assert_eq!(status.code(), Code::InvalidArgument, "{parent}: {status}");
            assert!(
                status.message().contains("cgroup_parent"),
                "{parent}: {status}"
            );
        }
        Ok(())
    });
}
