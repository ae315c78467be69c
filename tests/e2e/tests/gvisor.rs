//! gVisor's own model: the pod has one kernel, in a sandbox container of ours, and its containers run inside.

use std::fs;

use anyhow::{Context, ensure};
use cri::v1::{ContainerState, LinuxContainerResources, PodSandboxState};
use e2e::{ContainerSettings, Host, PodSettings, scenario_with};
use testkit::{daemon::program, sandbox::Process};
use tokio::time::{Duration, Instant, sleep};

/// Handlers with the network namespace's stack, and with the one that gVisor has by default.
fn settings() -> String {
    let runsc = program("runsc").expect("runsc is installed: run cargo xtask install-deps");
    let handler = |name: &str, options: &str| {
        format!(
            "runtimes.{name} = {{ path = {runsc:?}, options = [\"--platform=ptrace\"{options}], kernel = \"pod\" }}\n"
        )
    };
    handler("gvisor", ", \"--network=host\"") + &handler("netstack", "")
}

async fn run_pod(host: &Host, pod: &PodSettings, handler: &str) -> Result<String, tonic::Status> {
    let config = host.pod_config(pod);
    fs::create_dir_all(&config.log_directory)?;
    host.cri.run_pod_with(config, handler).await
}

/// The kernels: processes that runsc calls so.
fn kernels(host: &Host) -> Vec<Process> {
    let mut processes = host.sandbox.processes();
    processes.retain(|one| one.args.first().is_some_and(|name| name == "runsc-sandbox"));
    processes
}

#[test]
fn containers_of_a_pod_share_a_kernel_and_its_network() {
    scenario_with(&settings(), async |host| {
        let pod = PodSettings::new("shared");
        let id = run_pod(host, &pod, "gvisor").await?;
        assert_eq!(kernels(host).len(), 1);
        let first = ContainerSettings::sleeper("first");
        let first = host.run(&id, &pod, &first).await?;
        let server =
            ContainerSettings::sh("server", "while :; do echo hello | nc -l -p 7777; done");
        let server = host.run(&id, &pod, &server).await?;
        assert_eq!(kernels(host).len(), 1);

        let ask = "until nc 127.0.0.1 7777 < /dev/null | grep hello; do sleep 1; done";
        assert_eq!(host.cri.sh(&first, ask).await?, "hello\n");

        // Each has streams, an end and processes of its own.
        let short = ContainerSettings::sh("short", "echo out; echo err >&2; exit 7");
        let (ended, output) = host.run_to_end(&id, &pod, &short).await?;
        assert_eq!(ended.exit_code, 7);
        ensure!(output.contains("out") && output.contains("err"), "{output}");
        host.restart_daemon().await?;
        host.cri.stop(&server, 0).await?;
        assert_eq!(host.until_exited(&server).await?.exit_code, 137);
        assert_eq!(host.cri.sh(&first, "echo there").await?, "there\n");
        host.cri.stop(&first, 30).await?;
        assert_eq!(host.until_exited(&first).await?.exit_code, 0);
        host.cri.remove(&first).await?;
        Ok(())
    });
}

#[test]
fn with_its_kernel_a_pod_is_over() {
    scenario_with(&settings(), async |host| {
        let pod = PodSettings::new("lost");
        let id = run_pod(host, &pod, "gvisor").await?;
        let main = ContainerSettings::sleeper("main");
        let main = host.run(&id, &pod, &main).await?;
        let kernels = kernels(host);
        let kernel = kernels.first().context("there is no kernel")?;
        host.sandbox.kill("KILL", &[kernel.pid])?;
        assert_eq!(host.until_exited(&main).await?.exit_code, 137);
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let status = host.cri.pod_status(&id, false).await?.status;
            if status.context("a status")?.state() == PodSandboxState::SandboxNotready {
                break;
            }
            ensure!(Instant::now() < end, "the pod is ready without its kernel");
            sleep(Duration::from_millis(20)).await;
        }
        let status = host.cri.container_status(&main).await?;
        assert_eq!(status.state(), ContainerState::ContainerExited);
        host.cri.remove_pod(&id).await?;
        host.settles()
    });
}

#[test]
fn what_a_pod_may_have_bounds_its_kernel() {
    scenario_with(&settings(), async |host| {
        let pod = PodSettings::edited("bounded", |config| {
            let linux = config.linux.get_or_insert_default();
            linux.resources = Some(LinuxContainerResources {
                memory_limit_in_bytes: 128 << 20,
                ..LinuxContainerResources::default()
            });
        });
        let id = run_pod(host, &pod, "gvisor").await?;
        let hungry = ContainerSettings::sh("hungry", "tail /dev/zero");
        let hungry = host.run(&id, &pod, &hungry).await?;
        assert_eq!(host.until_exited(&hungry).await?.exit_code, 137);
        host.cri.remove_pod(&id).await?;
        host.settles()
    });
}

/// Where its own network stack runs (runsc of 2022 takes every namespace of Linux 6.18 for the node's), nobody else reaches what listens there.
#[test]
fn ports_of_a_network_stack_of_its_own_are_not_forwarded() {
    scenario_with(&settings(), async |host| {
        let pod = PodSettings::new("stack");
        match run_pod(host, &pod, "netstack").await {
            Ok(id) => {
                let refused = host.cri.port_forward_url(&id, vec![80]).await.unwrap_err();
                assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
                assert!(refused.message().contains("--network=host"), "{refused}");
                host.cri.remove_pod(&id).await?;
            }
            Err(error) => {
                let said = "handler netstack: ";
                ensure!(error.message().contains(said), "{error}");
                ensure!(error.message().contains("runsc start exited"), "{error}");
            }
        }
        host.settles()
    });
}
