//! gVisor's own model: the pod has one kernel, in a sandbox container of ours, and its containers run inside.

use std::fs;

use anyhow::{Context, ensure};
use cri::v1::{ContainerState, LinuxContainerResources, PodSandboxState};
use e2e::{ContainerSettings, Host, PodSettings, scenario_with};
use streaming::client::{self, Transport};
use testkit::{daemon::program, sandbox::Process};
use tokio::{
    io::AsyncReadExt,
    time::{Duration, Instant, sleep},
};

use crate::streams::{inside, over};

/// Handlers with the network namespace's stack, and with the one that gVisor has by default.
fn settings() -> String {
    let runsc = program("runsc").expect("runsc is installed: run cargo xtask install-deps");
    let handler = |name: &str, options: &str| {
        format!(
            "runtimes.{name} = {{ path = {runsc:?}, options = [\"--platform=ptrace\"{options}], kernel = \"pod\" }}\n"
        )
    };
    [
        handler("gvisor", ", \"--network=host\""),
        handler("netstack", ""),
        handler("alone", ", \"--network=none\""),
    ]
    .concat()
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
        let place = host.sandbox.directory().join("checkpoint.tar");
        let refused = host.cri.checkpoint(&first, &place, 0).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
        let words = "handler is gvisor, whose containers have a kernel of their own";
        assert!(refused.message().contains(words), "{refused}");
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

/// The pod's addresses are the stack's, and the node's bridge leads there.
#[test]
fn a_network_stack_of_its_own_serves_the_pod_s_addresses() {
    scenario_with(&settings(), async |host| {
        let pod = PodSettings::new("stack");
        let id = run_pod(host, &pod, "netstack").await?;
        let server =
            ContainerSettings::sh("server", "while :; do echo hello | nc -l -p 7777; done");
        let server = host.run(&id, &pod, &server).await?;
        let client = ContainerSettings::sleeper("client");
        let client = host.run(&id, &pod, &client).await?;
        let status = host.cri.pod_status(&id, false).await?.status;
        let network = status.context("a status")?.network.context("a network")?;
        // Its containers share it, and have the pod's address.
        let ask = format!(
            "ifconfig | grep {} && until nc 127.0.0.1 7777 </dev/null; do sleep 1; done",
            network.ip
        );
        let answer = host.cri.sh(&client, &ask).await?;
        ensure!(answer.ends_with("hello\n"), "{answer}");

        host.restart_daemon().await?;
        let url = host.cri.port_forward_url(&id, vec![7777]).await?;
        inside(host, async || {
            let forwarder = client::port_forward(&url, &over(Transport::WebSocket)).await?;
            // The server listens anew after each connection.
            for _ in 0..300 {
                let mut connection = forwarder.connect(7777)?;
                let mut words = String::new();
                let read = connection.stream.read_to_string(&mut words).await;
                if read.is_ok() && words == "hello\n" {
                    return Ok(());
                }
                sleep(Duration::from_millis(100)).await;
            }
            anyhow::bail!("the server is not reached")
        })?;
        ensure!(host.cri.sh(&server, "echo there").await? == "there\n");
        host.cri.remove_pod(&id).await?;
        host.settles()
    });
}

#[test]
fn a_pod_without_an_interface_has_no_ports_to_forward() {
    scenario_with(&settings(), async |host| {
        let pod = PodSettings::new("alone");
        let id = run_pod(host, &pod, "alone").await?;
        let refused = host.cri.port_forward_url(&id, vec![80]).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(refused.message().contains("--network=none"), "{refused}");
        host.cri.remove_pod(&id).await?;
        host.settles()
    });
}
