//! The node in trouble: a full state directory, a damaged record, a dead init, a curious user.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use cri::v1::{ContainerState, NamespaceMode, NamespaceOption, PodSandboxState};
use e2e::{ContainerSettings, Host, PodSettings, scenario};

/// Where the daemon keeps its records, as the sandbox sees it.
const PODS: &str = "/run/longshore/pods";

#[test]
fn a_full_state_directory_keeps_nothing_from_ending() {
    scenario(async |host| {
        let pod = PodSettings::new("full");
        let pod_id = host.run_pod(&pod).await?;
        let first = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("first"))
            .await?;
        host.run(&pod_id, &pod, &ContainerSettings::sleeper("second"))
            .await?;
        // As small as what is in it, and then full to the last byte.
        host.sandbox.sh(
            "used=$(df -k --output=used /run | tail -n 1); mount -o remount,size=$((used + 4))k /run; \
             dd if=/dev/zero of=/run/filler bs=1k 2>/dev/null || true",
        )?;
        let other = host.run_pod(&PodSettings::new("too-late")).await;
        host.cri.stop(&first, 1).await?;
        assert_eq!(
            host.cri.container_status(&first).await?.state(),
            ContainerState::ContainerExited
        );
        host.cri.remove(&first).await?;
        host.cri.stop_pod(&pod_id).await?;
        host.cri.remove_pod(&pod_id).await?;
        host.sandbox
            .sh("mount -o remount,size=50% /run; rm /run/filler")?;
        let status = other.expect_err("there was room for another pod");
        let status = status.downcast::<tonic::Status>()?;
        assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
        Ok(())
    });
}

#[test]
fn a_pod_with_a_damaged_record_ends() {
    scenario(async |host| {
        let pod = PodSettings::new("damaged");
        let pod_id = host.run_pod(&pod).await?;
        host.run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        let other = host.run_pod(&PodSettings::new("whole")).await?;
        host.daemon.kill();
        let record = host.sandbox.view(format!("{PODS}/{pod_id}/pod.json"));
        fs::write(record, "{\"id\": 7")?;
        host.start_daemon().await?;
        let listed: Vec<String> = host
            .cri
            .pods(None)
            .await?
            .into_iter()
            .map(|pod| pod.id)
            .collect();
        assert_eq!(listed, [other]);
        // Nobody could stop it any more, so it must not run.
        assert_eq!(host.supervisors().len(), 1);
        Ok(())
    });
}

#[test]
fn a_pod_whose_init_dies_is_not_ready() {
    for daemon_is_away in [false, true] {
        scenario(async |host| {
            let shared = NamespaceOption {
                pid: NamespaceMode::Pod.into(),
                ..NamespaceOption::default()
            };
            let pod = PodSettings::edited("shared", move |config| {
                let linux = config.linux.get_or_insert_default();
                linux
                    .security_context
                    .get_or_insert_default()
                    .namespace_options = Some(shared.clone());
            });
            let pod_id = host.run_pod(&pod).await?;
            if daemon_is_away {
                host.daemon.kill();
            }
            let init = init_of_the_pod(host);
            host.sandbox.kill("KILL", &[init])?;
            if daemon_is_away {
                host.start_daemon().await?;
            }
            let not_ready = || async {
                let status = host.cri.pod_status(&pod_id, true).await.ok()?;
                let state = status.status.as_ref()?.state();
                (state == PodSandboxState::SandboxNotready).then_some(status)
            };
            let mut status = not_ready().await;
            for _ in 0..200 {
                if status.is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                status = not_ready().await;
            }
            let info = &status.expect("the pod stays ready").info["info"];
            assert!(info.contains("\"reason\":\""), "{info}");
            Ok(())
        });
    }
}

/// The child of the supervisor that is the first of its PID namespace.
fn init_of_the_pod(host: &Host) -> u32 {
    let supervisor = host.supervisors()[0].pid;
    let children = host
        .sandbox
        .processes()
        .into_iter()
        .filter(|p| p.parent == supervisor);
    let inits: Vec<u32> = children
        .filter(|process| {
            let path = host.sandbox.view(format!("/proc/{}/status", process.pid));
            let status = fs::read_to_string(path).unwrap_or_default();
            let own = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            own.is_some_and(|pids| pids.split_whitespace().next_back() == Some("1"))
        })
        .map(|process| process.pid)
        .collect();
    assert_eq!(inits.len(), 1, "{inits:?}");
    inits[0]
}

#[test]
fn records_are_for_root_alone() {
    scenario(async |host| {
        host.run_pod(&PodSettings::new("secret")).await?;
        let mode = |path: &str| -> anyhow::Result<u32> {
            Ok(fs::metadata(host.sandbox.view(path))?.permissions().mode() & 0o7777)
        };
        assert_eq!(mode(PODS)?, 0o700);
        assert_eq!(mode("/run/longshore/longshore.sock")?, 0o660);
        let volumes = host.sandbox.directory().join("lib/volumes");
        assert_eq!(fs::metadata(volumes)?.permissions().mode() & 0o7777, 0o700);
        Ok(())
    });
}
