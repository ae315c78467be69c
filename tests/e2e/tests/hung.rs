//! Paths on a file server that has gone: only who names them waits, and nobody else.

use std::time::Duration;

use cri::v1::{
    ContainerConfig, Device, Mount, MountPropagation, SecurityProfile,
    security_profile::ProfileType,
};
use e2e::{ContainerSettings, Host, PodSettings, long_scenario, scenario_with};
use testkit::{file_server::FileServer, sandbox::poll};
use tonic::Code;

/// Where the server's files are, as the sandbox sees them.
const FAR: &str = "/run/far";

const FILES: &[(&str, &str)] = &[
    ("volume/data", "rows\n"),
    ("logs/keep", ""),
    (
        "seccomp/strict.json",
        "{\"defaultAction\": \"SCMP_ACT_ALLOW\"}",
    ),
    ("dev/node", ""),
];

type Edit = fn(&mut ContainerConfig);

/// Everything of a request that is a path of the node, and which path an error must name.
const NAMED: [(&str, &str, Edit); 6] = [
    ("volume", "/run/far/volume", |it| {
        mount(it, "/run/far/volume", MountPropagation::PropagationPrivate)
    }),
    ("root", "/run/far", |it| {
        mount(it, "/run/far", MountPropagation::PropagationPrivate)
    }),
    ("propagated", "/run/far/logs", |it| {
        mount(
            it,
            "/run/far/logs",
            MountPropagation::PropagationHostToContainer,
        );
    }),
    ("log", "/run/far/logs/x/0.log", |it| {
        it.log_path = "/run/far/logs/x/0.log".to_owned()
    }),
    ("device", "devices", |it| {
        it.devices = vec![Device {
            container_path: "/dev/node".to_owned(),
            host_path: "/run/far/dev/node".to_owned(),
            permissions: "r".to_owned(),
        }];
    }),
    ("profile", "/run/far/seccomp/strict.json", |it| {
        let linux = it.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().seccomp = Some(SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: "strict.json".to_owned(),
        });
    }),
];

fn mount(container: &mut ContainerConfig, path: &str, propagation: MountPropagation) {
    container.mounts = vec![Mount {
        host_path: path.to_owned(),
        container_path: "/far".to_owned(),
        propagation: propagation.into(),
        ..Mount::default()
    }];
}

fn with_volume(name: &str, script: &str) -> ContainerSettings {
    let settings = ContainerSettings::sh(name, script);
    settings.edited(|it| mount(it, "/run/far/volume", MountPropagation::PropagationPrivate))
}

fn serve(host: &Host) -> anyhow::Result<FileServer> {
    host.sandbox.sh(&format!("mkdir {FAR}"))?;
    FileServer::mount(&host.sandbox, FAR, FILES)
}

fn unmount(host: &Host) -> anyhow::Result<()> {
    host.sandbox
        .sh(&format!("umount -l {FAR}; rmdir {FAR}"))
        .map(drop)
}

#[test]
fn who_names_a_hung_path_waits_alone() {
    scenario_with("seccomp_directory = \"/run/far/seccomp\"", async |host| {
        let server = serve(host)?;
        let (hung, other) = (PodSettings::new("hung"), PodSettings::new("other"));
        let hung_id = host.run_pod(&hung).await?;
        server.hang();
        let host: &Host = host;
        let creates = NAMED.iter().map(|(name, path, edit)| {
            let settings = ContainerSettings::sleeper(name).edited(edit);
            let (hung, hung_id) = (&hung, &hung_id);
            async move {
                // A kubelet that tries again joins, and hears the same.
                let (first, again) = tokio::join!(
                    host.create(hung_id, hung, &settings),
                    host.create(hung_id, hung, &settings)
                );
                let (first, again) = (first.unwrap_err(), again.unwrap_err());
                assert_eq!(first.code(), Code::DeadlineExceeded, "{name}: {first}");
                assert!(first.message().contains(path), "{name}: {first}");
                assert_eq!(first.message(), again.message(), "{name}");
            }
        });
        let all = futures_util::future::join_all(creates);
        tokio::pin!(all);
        // Meanwhile the node goes on.
        let mut rounds = 0;
        let life = async {
            loop {
                let id = host.run_pod(&other).await?;
                let settings = ContainerSettings::sh("main", "echo fine");
                let (status, output) = host.run_to_end(&id, &other, &settings).await?;
                anyhow::ensure!(
                    status.exit_code == 0 && output.ends_with("fine\n"),
                    "{status:?}"
                );
                host.cri.stop_pod(&id).await?;
                host.cri.remove_pod(&id).await?;
                std::fs::remove_file(host.log_path(&other, &settings))?;
                rounds += 1;
            }
        };
        tokio::select! {
            _ = &mut all => {}
            ended = life => return ended,
        }
        assert!(rounds > 2, "{rounds} pods while others hung");
        // The other's may still be there: its round was broken off.
        let left = host.cri.containers(None).await?;
        assert!(
            left.iter()
                .all(|container| container.pod_sandbox_id != hung_id),
            "{left:?}"
        );
        // Nothing of them runs on.
        let looks = || {
            let all = host.sandbox.processes();
            (!all.iter().any(|process| process.name == "longshore-path")).then_some(())
        };
        poll(Duration::from_secs(10), looks).expect("processes that look at paths");
        server.resume();
        let (status, output) = host
            .run_to_end(&hung_id, &hung, &with_volume("main", "cat /far/data"))
            .await?;
        assert_eq!((status.exit_code, output.as_str()), (0, "rows\n"));
        host.cri.remove_pod(&hung_id).await?;
        unmount(host)
    });
}

#[test]
fn pods_on_a_hung_volume_end() {
    long_scenario(Duration::from_secs(150), async |host| {
        let server = serve(host)?;
        let pod = PodSettings::new("reader");
        let pod_id = host.run_pod(&pod).await?;
        let settings = with_volume("reader", "echo up; read line; cat /far/data").edited(|it| {
            mount(it, "/run/far/volume", MountPropagation::PropagationPrivate);
            it.stdin = true;
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "up").await?;
        server.hang();
        // A process that waits for the server can be killed.
        let stuck = host.cri.exec(&id, &["cat", "/far/data"], 1).await;
        assert_eq!(stuck.unwrap_err().code(), Code::DeadlineExceeded);
        host.cri.stop(&id, 0).await?;
        host.cri.stop_pod(&pod_id).await?;
        host.cri.remove_pod(&pod_id).await?;
        // So can the pod of a container in the making.
        let pod_id = host.run_pod(&pod).await?;
        let making = with_volume("making", "true");
        let (made, removed) = tokio::join!(host.create(&pod_id, &pod, &making), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            host.cri.stop_pod(&pod_id).await?;
            host.cri.remove_pod(&pod_id).await
        });
        removed?;
        made.unwrap_err();
        // With the server dead there is nothing to wait for.
        drop(server);
        let pod_id = host.run_pod(&pod).await?;
        let refused = host.create(&pod_id, &pod, &making).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("/run/far/volume"), "{refused}");
        host.cri.remove_pod(&pod_id).await?;
        unmount(host)
    });
}

#[test]
fn a_process_that_cannot_be_killed_is_reported() {
    long_scenario(Duration::from_secs(200), async |host| {
        let server = serve(host)?;
        let (pod, other) = (PodSettings::new("undead"), PodSettings::new("other"));
        let pod_id = host.run_pod(&pod).await?;
        let reader = with_volume("reader", "echo up; sleep 1; cat /far/data");
        let id = host.run(&pod_id, &pod, &reader).await?;
        host.until_logged(&pod, &reader, "up").await?;
        server.swallow();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let making = with_volume("making", "true");
        let (stopped, made) =
            tokio::join!(host.cri.stop(&id, 0), host.create(&pod_id, &pod, &making));
        let (stopped, made) = (stopped.unwrap_err(), made.unwrap_err());
        assert_eq!(stopped.code(), Code::DeadlineExceeded, "{stopped}");
        assert_eq!(made.code(), Code::DeadlineExceeded, "{made}");
        // It is known now, and nobody has to wait for it again.
        let again = host.create(&pod_id, &pod, &making).await.unwrap_err();
        assert!(again.message().contains("earlier request"), "{again}");
        let other_id = host.run_pod(&other).await?;
        host.run_to_end(&other_id, &other, &ContainerSettings::sh("main", "true"))
            .await?;
        host.cri.remove_pod(&other_id).await?;
        drop(server);
        host.cri.stop(&id, 0).await?;
        host.cri.remove_pod(&pod_id).await?;
        unmount(host)
    });
}
