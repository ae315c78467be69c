//! Denied system calls that are told, and containers that are stopped for them.

use cri::v1::ContainerState;

use super::*;

/// mkdir(2) is refused with an error number of the profile's own, and all else that is denied by default.
const PROFILE: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
    {"names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#;

fn notified(name: &str, action: &'static str) -> PodSettings {
    PodSettings::edited(name, move |config| {
        annotate(config, "seccomp-notifier-action.crio.io", action);
    })
}

fn profiled(name: &str, script: &str) -> ContainerSettings {
    ContainerSettings::sh(name, script).edited(|config| {
        security(config).seccomp = profile(ProfileType::Localhost, "watched.json");
    })
}

fn settings(directory: &tempfile::TempDir) -> String {
    fs::write(directory.path().join("watched.json"), PROFILE).expect("the profile is written");
    format!("seccomp_directory = {:?}", directory.path())
}

#[test]
fn denied_calls_are_told_and_denied_as_the_profile_says() {
    let directory = tempfile::tempdir().unwrap();
    scenario_with(&settings(&directory), async |host| {
        let pod = notified("watched", "log");
        let pod_id = host.run_pod(&pod).await?;
        let wait = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";
        let watched = profiled("watched", wait);
        let id = host.run(&pod_id, &pod, &watched).await?;
        for no_new_privs in [false, true] {
            let other = profiled(&format!("privs-{no_new_privs}"), wait).edited(move |config| {
                let security = security(config);
                security.seccomp = profile(ProfileType::Localhost, "watched.json");
                security.no_new_privs = no_new_privs;
                security.run_as_user = Some(Int64Value { value: 33 });
            });
            let id = host.run(&pod_id, &pod, &other).await?;
            let refused = host.cri.sh(&id, "mkdir /tmp/x 2>&1; true").await?;
            assert!(refused.contains("No space left"), "{refused}");
        }
        for _ in 0..3 {
            let refused = host.cri.sh(&id, "mkdir /a 2>&1; true").await?;
            assert!(refused.contains("No space left"), "{refused}");
        }
        let told = "call=\"mkdir\" count=3";
        let end = Instant::now() + Duration::from_secs(30);
        while !host.daemon.log().contains(told) {
            assert!(Instant::now() < end, "{}", host.daemon.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // What ends a process does, and the container goes on.
        let killed = host.cri.exec(&id, &["hostname", "x"], 10).await?;
        assert_eq!(killed.exit_code, 128 + 31, "{killed:?}");
        let state = host.cri.container_status(&id).await?.state();
        assert_eq!(state, ContainerState::ContainerRunning);
        Ok(())
    });
}

#[test]
fn a_container_is_stopped_for_its_denied_calls_whichever_daemon_is_there() {
    let directory = tempfile::tempdir().unwrap();
    scenario_with(&settings(&directory), async |host| {
        let pod = notified("stopped", "stop");
        let pod_id = host.run_pod(&pod).await?;
        let script = "mkdir /a; mkdir /b; echo tried; exec sleep 1000";
        let container = profiled("main", script);
        let id = host.run(&pod_id, &pod, &container).await?;
        host.until_logged(&pod, &container, "tried\n").await?;
        host.restart_daemon().await?;
        let end = Instant::now() + Duration::from_secs(60);
        let status = loop {
            let status = host.cri.container_status(&id).await?;
            if status.state() == ContainerState::ContainerExited {
                break status;
            }
            assert!(Instant::now() < end, "{}", host.daemon.log_tail());
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        assert_eq!(status.reason, "seccomp killed");
        assert_eq!(status.message, "Used forbidden syscalls: mkdir (2x)");
        assert_eq!(status.exit_code, 137);
        host.restart_daemon().await?;
        let again = host.cri.container_status(&id).await?;
        assert_eq!(
            (again.reason, again.message),
            (status.reason, status.message)
        );
        Ok(())
    });
}
