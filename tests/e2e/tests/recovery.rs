//! The daemon, the supervisor, or both are killed with SIGKILL; what runs goes on, and whatever is left can be undone.

use std::time::Duration;

use cri::v1::{ContainerState, PodSandboxState};
use e2e::{ContainerSettings, PodSettings, scenario};

#[test]
fn containers_outlive_the_daemon() {
    scenario(async |host| {
        let pod = PodSettings::new("survivor");
        let pod_id = host.run_pod(&pod).await?;
        let script = "n=0; while :; do echo $n; n=$((n+1)); sleep 0.005; done";
        let counter = ContainerSettings::sh("counter", script);
        let id = host.run(&pod_id, &pod, &counter).await?;
        let created = host
            .create(&pod_id, &pod, &ContainerSettings::sleeper("created"))
            .await?;
        let before = host.cri.container_status(&id).await?;
        host.until_logged(&pod, &counter, "\n10\n").await?;
        for _ in 0..3 {
            host.restart_daemon().await?;
            host.cri.sh(&id, "echo still here").await?;
        }
        let after = host.cri.container_status(&id).await?;
        assert_eq!(before, after);
        let status = host.cri.pod_status(&pod_id, false).await?.status.unwrap();
        assert_eq!(status.state(), PodSandboxState::SandboxReady);
        host.cri.start(&created).await?;
        host.cri.stop(&id, 0).await?;
        // Not a byte of the log is lost or said twice.
        let output = host.output(&pod, &counter)?;
        let numbers: Vec<usize> = output.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>());
        Ok(())
    });
}

#[test]
fn exits_while_nobody_looked_are_told() {
    scenario(async |host| {
        let pod = PodSettings::new("meanwhile");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh("main", "sleep 2; echo bye; exit 5");
        let id = host.create(&pod_id, &pod, &settings).await?;
        host.cri.start(&id).await?;
        host.daemon.kill();
        // The container waits for nobody.
        let gone = || {
            let running = host.sandbox.processes();
            let is_main = |args: &[String]| args.iter().any(|arg| arg.contains("exit 5"));
            (!running.iter().any(|process| is_main(&process.args))).then_some(())
        };
        testkit::sandbox::poll(Duration::from_secs(60), gone).unwrap();
        host.start_daemon().await?;
        let status = host.cri.container_status(&id).await?;
        assert_eq!(
            (status.state(), status.exit_code),
            (ContainerState::ContainerExited, 5)
        );
        assert!(status.finished_at > status.started_at);
        assert!(host.output(&pod, &settings)?.ends_with("bye\n"));
        Ok(())
    });
}

#[test]
fn a_stop_goes_on_in_the_next_daemon() {
    scenario(async |host| {
        let pod = PodSettings::new("stopping");
        let pod_id = host.run_pod(&pod).await?;
        let script = "trap 'echo TERM' TERM; echo up; while :; do sleep 1 & wait $!; done";
        let settings = ContainerSettings::sh("stubborn", script);
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "up").await?;
        let client = host.cri.clone();
        let stop = tokio::spawn({
            let id = id.clone();
            async move { client.stop(&id, 50).await }
        });
        host.until_logged(&pod, &settings, "TERM").await?;
        host.restart_daemon().await?;
        assert!(stop.await?.is_err());
        host.cri.stop(&id, 1).await?;
        assert_eq!(host.cri.container_status(&id).await?.exit_code, 137);
        Ok(())
    });
}

#[test]
fn a_pod_whose_supervisor_dies_is_not_ready() {
    for daemon_is_away in [false, true] {
        scenario(async |host| {
            let pod = PodSettings::new("lost");
            let pod_id = host.run_pod(&pod).await?;
            let id = host
                .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
                .await?;
            if daemon_is_away {
                host.daemon.kill();
            }
            host.kill_supervisors()?;
            if daemon_is_away {
                host.start_daemon().await?;
            }
            let status = host.until_exited(&id).await?;
            assert_ne!(status.exit_code, 0, "{status:?}");
            assert!(
                !status.reason.is_empty() && !status.message.is_empty(),
                "{status:?}"
            );
            let status = host.cri.pod_status(&pod_id, true).await?;
            assert_eq!(
                status.status.unwrap().state(),
                PodSandboxState::SandboxNotready
            );
            assert!(
                status.info["info"].contains("supervisor"),
                "{:?}",
                status.info
            );
            // Its processes do not run on unwatched.
            let gone = || {
                let left = host.sandbox.processes();
                left.iter()
                    .all(|process| process.name == "longshored")
                    .then_some(())
            };
            testkit::sandbox::poll(Duration::from_secs(60), gone).unwrap();
            assert!(host.cri.exec(&id, &["true"], 5).await.is_err());
            host.cri.stop(&id, 5).await?;
            Ok(())
        });
    }
}

#[test]
fn sigterm_ends_the_daemon_and_nothing_else() {
    scenario(async |host| {
        let pod = PodSettings::new("unharmed");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        host.daemon.terminate()?;
        assert_eq!(host.supervisors().len(), 1);
        host.start_daemon().await?;
        assert_eq!(host.cri.sh(&id, "echo on").await?, "on\n");
        Ok(())
    });
}
