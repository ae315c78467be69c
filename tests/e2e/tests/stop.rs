//! Stopping: the signal, the grace, the kill.

use std::time::Duration;

use cri::v1::{ContainerState, Signal};
use e2e::{ContainerSettings, PodSettings, scenario};
use testkit::image;

/// Takes note of signals and does not go.
const STUBBORN: &str = "trap 'echo TERM' TERM; trap 'echo USR1; exit 11' USR1; trap 'echo USR2; exit 12' USR2; \
    echo up; while :; do sleep 1 & wait $!; done";

#[test]
fn a_container_may_use_its_grace() {
    scenario(async |host| {
        let pod = PodSettings::new("graceful");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh(
            "graceful",
            "trap 'echo bye; sleep 1; exit 7' TERM; echo up; while :; do sleep 1 & wait $!; done",
        );
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "up").await?;
        host.cri.stop(&id, 30).await?;
        let status = host.cri.container_status(&id).await?;
        assert_eq!(
            (status.state(), status.exit_code),
            (ContainerState::ContainerExited, 7)
        );
        assert!(host.output(&pod, &settings)?.ends_with("bye\n"));
        Ok(())
    });
}

#[test]
fn who_does_not_go_is_killed() {
    scenario(async |host| {
        let pod = PodSettings::new("stubborn");
        let pod_id = host.run_pod(&pod).await?;
        for (name, timeout, terms) in [("grace", 1, 1), ("at-once", 0, 0)] {
            let settings = ContainerSettings::sh(name, STUBBORN);
            let id = host.run(&pod_id, &pod, &settings).await?;
            host.until_logged(&pod, &settings, "up").await?;
            host.cri.stop(&id, timeout).await?;
            let status = host.cri.container_status(&id).await?;
            assert_eq!(status.exit_code, 137, "{status:?}");
            let output = host.output(&pod, &settings)?;
            assert_eq!(output.matches("TERM").count(), terms, "{name}: {output}");
        }
        Ok(())
    });
}

#[test]
fn a_shorter_timeout_shortens_the_first() {
    scenario(async |host| {
        let pod = PodSettings::new("hurry");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh("stubborn", STUBBORN);
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "up").await?;
        let (patient, hasty) = (host.cri.clone(), host.cri.clone());
        // The client's own bound, 60 s, is far below the first timeout.
        let (first, second) = tokio::join!(patient.stop(&id, 3600), async {
            host.until_logged(&pod, &settings, "TERM").await?;
            anyhow::Ok(hasty.stop(&id, 1).await?)
        });
        second?;
        first?;
        assert_eq!(host.cri.container_status(&id).await?.exit_code, 137);
        Ok(())
    });
}

#[test]
fn the_stop_signal_is_the_containers_or_the_images() {
    scenario(async |host| {
        let busybox = image::busybox()?.stop_signal("SIGUSR1").build();
        let reference = host.registry.push("signals", "usr1", &busybox);
        host.cri.pull(&reference).await?;
        let pod = PodSettings::new("signals");
        let pod_id = host.run_pod(&pod).await?;
        let of_image = ContainerSettings::sh("image", STUBBORN).image(&reference);
        let of_config = ContainerSettings::sh("config", STUBBORN)
            .image(&reference)
            .edited(|config| config.set_stop_signal(Signal::Sigusr2));
        for (settings, code, signal) in [
            (of_image, 11, Signal::Sigusr1),
            (of_config, 12, Signal::Sigusr2),
        ] {
            let id = host.run(&pod_id, &pod, &settings).await?;
            host.until_logged(&pod, &settings, "up").await?;
            host.cri.stop(&id, 30).await?;
            let status = host.cri.container_status(&id).await?;
            assert_eq!(status.exit_code, code, "{status:?}");
            assert_eq!(status.stop_signal(), signal);
        }
        Ok(())
    });
}

#[test]
fn stopping_the_pod_stops_its_containers() {
    scenario(async |host| {
        let pod = PodSettings::new("both");
        let pod_id = host.run_pod(&pod).await?;
        let one = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("one"))
            .await?;
        let two = host
            .run(&pod_id, &pod, &ContainerSettings::sh("two", "sleep 1000"))
            .await?;
        host.cri.stop_pod(&pod_id).await?;
        for id in [one, two] {
            let status = host.cri.container_status(&id).await?;
            assert_eq!(
                status.state(),
                ContainerState::ContainerExited,
                "{status:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_tree_of_processes_goes_with_its_init() {
    scenario(async |host| {
        let pod = PodSettings::new("tree");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh(
            "tree",
            "(setsid sleep 4321 >/dev/null 2>&1 &); (trap '' TERM HUP INT; sleep 4322) & echo up; wait",
        );
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "up").await?;
        host.cri.stop(&id, 1).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let left = host.sandbox.processes();
        assert!(
            left.iter().all(|process| process.name != "sleep"),
            "{left:?}"
        );
        Ok(())
    });
}
