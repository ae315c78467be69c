//! Namespaces, privilege, and what a container may not do.

use cri::v1::{
    Device, IdMapping, Int64Value, LinuxContainerResources, LinuxContainerSecurityContext, Mount,
    MountPropagation, NamespaceMode, NamespaceOption, PodSandboxConfig, SecurityProfile,
    UserNamespace, security_profile::ProfileType,
};
use e2e::{ContainerSettings, Host, PodSettings, scenario};

#[test]
fn containers_may_share_a_pid_namespace() {
    scenario(async |host| {
        let pod = PodSettings::edited("shared", |config| {
            pod_options(config).set_pid(NamespaceMode::Pod)
        });
        let pod_id = host.run_pod(&pod).await?;
        let shared = |name: &str| {
            ContainerSettings::sleeper(name).edited(|config| {
                let context = config.linux.get_or_insert_default();
                let context = context.security_context.get_or_insert_default();
                context
                    .namespace_options
                    .get_or_insert_default()
                    .set_pid(NamespaceMode::Pod);
            })
        };
        let one = host.run(&pod_id, &pod, &shared("one")).await?;
        let two = host.run(&pod_id, &pod, &shared("two")).await?;
        // A shell between fork and exec counts twice.
        let seen = host.cri.sh(&one, "ps -o args | grep -c '[t]rap'").await?;
        assert!(seen.trim().parse::<u32>()? >= 2, "{seen}");
        // The pod's init is none of theirs: no root to reach through it.
        let root = host.cri.sh(&one, "ls -A /proc/1/root 2>&1 || true").await?;
        assert!(!root.contains("etc"), "{root}");
        host.cri.stop(&one, 5).await?;
        assert_eq!(host.cri.sh(&two, "echo on").await?, "on\n");
        // Orphans are reaped, not collected.
        host.cri
            .sh(
                &two,
                "for n in 1 2 3 4 5; do (sleep 0.05 &); done; sleep 0.3",
            )
            .await?;
        let zombies = host.cri.sh(&two, "ps -o stat | grep -c Z || true").await?;
        assert_eq!(zombies, "0\n");
        Ok(())
    });
}

#[test]
fn a_container_may_join_anothers_processes() {
    scenario(async |host| {
        let pod = PodSettings::new("target");
        let pod_id = host.run_pod(&pod).await?;
        let target = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        let id = target.clone();
        let debug = ContainerSettings::sleeper("debug").edited(move |config| {
            let context = config.linux.get_or_insert_default();
            let context = context.security_context.get_or_insert_default();
            let options = context.namespace_options.get_or_insert_default();
            options.set_pid(NamespaceMode::Target);
            options.target_id.clone_from(&id);
        });
        let debug = host.run(&pod_id, &pod, &debug).await?;
        let own = host.cri.sh(&debug, "readlink /proc/self/ns/pid").await?;
        assert_eq!(
            own,
            host.cri.sh(&target, "readlink /proc/self/ns/pid").await?
        );
        Ok(())
    });
}

/// Runs a container in a pod with a user namespace, whose ids are the node's from `host_id` on. The container's id.
pub(super) async fn run_mapped(
    host: &Host,
    name: &str,
    host_id: u32,
    network: NamespaceMode,
) -> anyhow::Result<String> {
    let mapping = IdMapping {
        container_id: 0,
        host_id,
        length: 65_536,
    };
    let options = NamespaceOption {
        network: network.into(),
        pid: NamespaceMode::Container.into(),
        userns_options: Some(UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: vec![mapping],
            gids: vec![mapping],
        }),
        ..Default::default()
    };
    let of_pod = options.clone();
    let pod = PodSettings::edited(name, move |config| *pod_options(config) = of_pod.clone());
    let pod_id = host.run_pod(&pod).await?;
    let settings = ContainerSettings::sleeper("main").edited(move |config| {
        let context = config.linux.get_or_insert_default();
        let context = context.security_context.get_or_insert_default();
        context.namespace_options = Some(options.clone());
    });
    host.run(&pod_id, &pod, &settings).await
}

#[test]
fn a_pod_may_have_a_user_namespace() {
    scenario(async |host| {
        let id = run_mapped(host, "mapped", 100_000, NamespaceMode::Pod).await?;
        assert_eq!(
            host.cri.sh(&id, "id -u; stat -c %u /etc/passwd").await?,
            "0\n0\n"
        );
        let map = host.cri.sh(&id, "cat /proc/self/uid_map").await?;
        assert_eq!(
            map.split_whitespace().collect::<Vec<_>>(),
            ["0", "100000", "65536"]
        );
        host.cri
            .sh(&id, "touch /owned && mkdir /d && chown 5:5 /d")
            .await?;
        host.restart_daemon().await?;
        assert_eq!(host.cri.sh(&id, "stat -c %u /d").await?, "5\n");
        Ok(())
    });
}

#[test]
fn a_user_namespace_goes_with_the_hosts_network() {
    scenario(async |host| {
        let id = run_mapped(host, "mapped-on-host", 200_000, NamespaceMode::Node).await?;
        let hosts = host.sandbox.sh("readlink /proc/self/ns/net")?;
        let seen = host
            .cri
            .sh(
                &id,
                "readlink /proc/self/ns/net; cut -c 1-24 /proc/self/uid_map",
            )
            .await?;
        let (network, map) = seen.split_once('\n').unwrap();
        assert_eq!(network, hosts.trim());
        assert_eq!(
            map.split_whitespace().take(2).collect::<Vec<_>>(),
            ["0", "200000"]
        );
        // The node's network is there to use, and not to change; neither is what /sys shows of it.
        host.cri
            .sh(&id, "ls /sys/class/net/lo /sys/fs/cgroup")
            .await?;
        for refused in [
            "ip link set lo down",
            "echo 1500 > /sys/class/net/lo/mtu",
            "mount -o remount,rw /sys",
            "umount /sys",
        ] {
            assert!(host.cri.sh(&id, refused).await.is_err(), "{refused}");
        }
        Ok(())
    });
}

#[test]
fn ordinary_containers_are_confined() {
    scenario(async |host| {
        let pod = PodSettings::edited("confined", |config| {
            let sysctls = &mut config.linux.get_or_insert_default().sysctls;
            sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "81".into());
        });
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sleeper("main").edited(|config| {
            let linux = config.linux.get_or_insert_default();
            let context = linux.security_context.get_or_insert_default();
            context.seccomp = Some(SecurityProfile {
                profile_type: ProfileType::RuntimeDefault.into(),
                ..Default::default()
            });
            context.masked_paths =
                vec!["/proc/kcore".into(), "/proc/keys".into(), "/nowhere".into()];
            context.readonly_paths = vec!["/proc/sys".into()];
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        let sysctl = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
        assert_eq!(host.cri.sh(&id, sysctl).await?, "81\n");
        assert_eq!(
            host.cri.sh(&id, "grep Seccomp: /proc/self/status").await?,
            "Seccomp:\t2\n"
        );
        for refused in [
            "unshare -m true",
            "mount -t tmpfs none /mnt",
            "echo 1 > /proc/sys/kernel/core_uses_pid",
            "mknod /dev/sda b 8 0 && head -c 1 /dev/sda",
            "ip link set lo down",
            "chroot / kill -0 1 && hostname other",
        ] {
            assert!(host.cri.sh(&id, refused).await.is_err(), "{refused}");
        }
        assert_eq!(host.cri.sh(&id, "wc -c < /proc/keys").await?, "0\n");
        for (device, kind) in [
            ("null", "c"),
            ("zero", "c"),
            ("full", "c"),
            ("random", "c"),
            ("tty", "c"),
        ] {
            let shown = host.cri.sh(&id, &format!("ls -l /dev/{device}")).await?;
            assert!(shown.starts_with(kind), "{shown}");
        }
        Ok(())
    });
}

#[test]
fn empty_lists_of_paths_mask_nothing() {
    scenario(async |host| {
        let pod = PodSettings::new("unmasked");
        let pod_id = host.run_pod(&pod).await?;
        let paths = |masked: &'static [&'static str], readonly: &'static [&'static str]| {
            move |config: &mut cri::v1::ContainerConfig| {
                let linux = config.linux.get_or_insert_default();
                let context = linux.security_context.get_or_insert_default();
                context.masked_paths = masked.iter().map(|&path| path.into()).collect();
                context.readonly_paths = readonly.iter().map(|&path| path.into()).collect();
            }
        };
        // As kubelets ask for `procMount: Unmasked`, and for the default.
        let bare = ContainerSettings::sleeper("bare").edited(paths(&[], &[]));
        let masked = ContainerSettings::sleeper("masked")
            .edited(paths(&["/proc/interrupts", "/proc/keys"], &["/proc/sys"]));
        let mounts = "grep -E ' /proc/(interrupts|keys|sys) ' /proc/mounts | wc -l";
        for (settings, expected) in [(bare, "0\n"), (masked, "3\n")] {
            let id = host.run(&pod_id, &pod, &settings).await?;
            assert_eq!(host.cri.sh(&id, mounts).await?, expected);
        }
        Ok(())
    });
}

#[test]
fn privileged_containers_are_not() {
    scenario(async |host| {
        let pod = PodSettings::edited("privileged", |config| {
            let linux = config.linux.get_or_insert_default();
            linux.security_context.get_or_insert_default().privileged = true;
        });
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sleeper("main").edited(|config| {
            let linux = config.linux.get_or_insert_default();
            linux.security_context.get_or_insert_default().privileged = true;
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.cri
            .sh(&id, "mkdir /m && mount -t tmpfs none /m && umount /m")
            .await?;
        assert_eq!(
            host.cri.sh(&id, "grep Seccomp: /proc/self/status").await?,
            "Seccomp:\t0\n"
        );
        host.cri
            .sh(&id, "ip link add dummy0 type veth && ip link del dummy0")
            .await?;
        Ok(())
    });
}

#[test]
fn mounts_propagate_as_asked() {
    scenario(async |host| {
        let shared = host.sandbox.directory().join("shared");
        std::fs::create_dir_all(&shared)?;
        let source = shared.display().to_string();
        // Inside the sandbox mounts are shared, as on a host with systemd.
        let pod = PodSettings::new("propagation");
        let pod_id = host.run_pod(&pod).await?;
        let mount = |propagation: MountPropagation| {
            let host_path = source.clone();
            move |config: &mut cri::v1::ContainerConfig| {
                config.mounts = vec![Mount {
                    container_path: "/shared".into(),
                    host_path: host_path.clone(),
                    propagation: propagation.into(),
                    ..Default::default()
                }];
            }
        };
        let private = ContainerSettings::sleeper("private")
            .edited(mount(MountPropagation::PropagationPrivate));
        let follows = ContainerSettings::sleeper("follows")
            .edited(mount(MountPropagation::PropagationHostToContainer));
        let private = host.run(&pod_id, &pod, &private).await?;
        let follows = host.run(&pod_id, &pod, &follows).await?;
        host.sandbox.sh(&format!(
            "mkdir {source}/late; mount -t tmpfs none {source}/late; touch {source}/late/seen"
        ))?;
        assert_eq!(host.cri.sh(&follows, "ls /shared/late").await?, "seen\n");
        assert_eq!(host.cri.sh(&private, "ls /shared/late").await?, "");
        host.sandbox.sh(&format!("umount {source}/late"))?;
        Ok(())
    });
}

#[test]
fn recursive_read_only_reaches_every_mount() {
    scenario(async |host| {
        let tree = host.sandbox.directory().join("tree");
        std::fs::create_dir_all(tree.join("below"))?;
        let source = tree.display().to_string();
        host.sandbox
            .sh(&format!("mount -t tmpfs none {source}/below"))?;
        let pod = PodSettings::new("fixed");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sleeper("main").edited(move |config| {
            let mount = |target: &str, recursive: bool| Mount {
                container_path: target.into(),
                host_path: source.clone(),
                readonly: true,
                recursive_read_only: recursive,
                ..Default::default()
            };
            config.mounts = vec![mount("/plain", false), mount("/whole", true)];
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.cri.sh(&id, "touch /plain/below/x").await?;
        for refused in ["touch /plain/x", "touch /whole/x", "touch /whole/below/y"] {
            assert!(host.cri.sh(&id, refused).await.is_err(), "{refused}");
        }
        host.cri.remove(&id).await?;
        host.sandbox
            .sh(&format!("umount {}/below", tree.display()))?;
        Ok(())
    });
}

#[test]
fn devices_and_limits_reach_the_container() {
    scenario(async |host| {
        let pod = PodSettings::new("limits");
        let pod_id = host.run_pod(&pod).await?;
        // No driver has this number: an open that the cgroup lets pass fails later, and otherwise.
        let node = host.sandbox.directory().join("node").display().to_string();
        host.sandbox.sh(&format!("mknod {node} c 200 1"))?;
        let settings = ContainerSettings::sleeper("main").edited(move |config| {
            config.devices = vec![Device {
                container_path: "/dev/mine".into(),
                host_path: node.clone(),
                permissions: "r".into(),
            }];
            config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
                cpu_period: 100_000,
                cpu_quota: 50_000,
                cpu_shares: 512,
                memory_limit_in_bytes: 64 << 20,
                oom_score_adj: 500,
                ..Default::default()
            });
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        let read = host.cri.sh(&id, "exec < /dev/mine").await.unwrap_err();
        assert!(read.message().contains("No such device"), "{read}");
        let write = host.cri.sh(&id, "exec > /dev/mine").await.unwrap_err();
        assert!(write.message().contains("not permitted"), "{write}");
        assert_eq!(
            host.cri.sh(&id, "cat /proc/self/oom_score_adj").await?,
            "500\n"
        );
        let resources = host
            .cri
            .container_status(&id)
            .await?
            .resources
            .unwrap()
            .linux
            .unwrap();
        assert_eq!((resources.cpu_quota, resources.cpu_shares), (50_000, 512));
        assert_eq!(resources.memory_limit_in_bytes, 64 << 20);
        Ok(())
    });
}

#[test]
fn a_terminal_is_one() {
    scenario(async |host| {
        let pod = PodSettings::new("terminal");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh("tty", "tty; [ -t 0 ] && [ -t 1 ] && echo yes")
            .edited(|config| config.tty = true);
        let (status, output) = host.run_to_end(&pod_id, &pod, &settings).await?;
        assert_eq!(status.exit_code, 0);
        assert!(
            output.contains("/dev/pts/") && output.contains("yes"),
            "{output:?}"
        );
        Ok(())
    });
}

#[test]
fn users_by_number_need_no_entry() {
    scenario(async |host| {
        let pod = PodSettings::new("numbers");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh("main", "id -u; id -g; echo $HOME").edited(|config| {
            let linux = config.linux.get_or_insert_default();
            linux
                .security_context
                .get_or_insert(LinuxContainerSecurityContext::default());
            if let Some(context) = &mut linux.security_context {
                context.run_as_user = Some(Int64Value { value: 12_345 });
                context.run_as_group = Some(Int64Value { value: 54_321 });
            }
        });
        let (_, output) = host.run_to_end(&pod_id, &pod, &settings).await?;
        assert_eq!(output, "12345\n54321\n/\n");
        Ok(())
    });
}

fn pod_options(config: &mut PodSandboxConfig) -> &mut NamespaceOption {
    let linux = config.linux.get_or_insert_default();
    let context = linux.security_context.get_or_insert_default();
    context.namespace_options.get_or_insert_default()
}
