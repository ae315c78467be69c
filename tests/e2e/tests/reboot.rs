//! Power off, power on.

use cri::v1::{ContainerState, PodSandboxState};
use e2e::{ContainerSettings, PodSettings, scenario};

#[test]
fn after_a_reboot_nothing_runs_and_everything_can_run_again() {
    scenario(async |host| {
        host.reboot().await?;
        host.warm_up().await?;

        let pod = PodSettings::new("before");
        let pod_id = host.run_pod(&pod).await?;
        let container = ContainerSettings::sleeper("main");
        let id = host.run(&pod_id, &pod, &container).await?;
        host.cri.sh(&id, "echo data > /data").await?;
        host.reboot().await?;

        // Pods of another boot are not there, or not ready.
        for pod in host.cri.pods(None).await? {
            assert_eq!(pod.state(), PodSandboxState::SandboxNotready);
        }
        for container in host.cri.containers(None).await? {
            assert_ne!(container.state(), ContainerState::ContainerRunning);
        }
        assert!(host.cri.image(&host.image).await?.is_some());
        host.remove_all_pods().await?;

        let again = host.run_pod(&pod).await?;
        assert_ne!(again, pod_id);
        let (status, output) = host
            .run_to_end(
                &again,
                &pod,
                &ContainerSettings::sh("main", "cat /data || echo none"),
            )
            .await?;
        assert_eq!(status.exit_code, 0);
        assert!(output.contains("none"), "{output}");
        Ok(())
    });
}

#[test]
fn addresses_of_another_boot_are_free() {
    scenario(async |host| {
        host.reboot().await?;
        host.warm_up().await?;
        for round in 0..3 {
            for number in 0..3 {
                host.run_pod(&PodSettings::new(&format!("pod-{round}-{number}")))
                    .await?;
            }
            host.reboot().await?;
            host.remove_all_pods().await?;
        }
        let kept = host.before.clone();
        host.warm_up().await?;
        host.before = kept;
        Ok(())
    });
}
