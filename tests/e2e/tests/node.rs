//! What of the node reaches a container: devices, cgroups, and the parameters of a network of its own.

use std::fs;

use cri::v1::{Device, Int64Value, NamespaceMode};
use e2e::{ContainerSettings, PodSettings, scenario, scenario_with};
use tonic::Code;

/// No driver has this number: an open that the cgroup lets pass fails later, and otherwise.
const MAJOR: u32 = 200;

fn privileged_pod(name: &str) -> PodSettings {
    PodSettings::edited(name, |config| {
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().privileged = true;
    })
}

fn privileged(settings: ContainerSettings) -> ContainerSettings {
    settings.edited(|config| {
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().privileged = true;
    })
}

#[test]
fn a_directory_of_devices_is_passed_with_its_permissions() {
    scenario(async |host| {
        let base = host.sandbox.directory().join("devices");
        fs::create_dir_all(base.join("deep/er"))?;
        let path = base.display().to_string();
        host.sandbox.sh(&format!(
            "mknod {path}/one c {MAJOR} 1; mknod {path}/deep/er/two c {MAJOR} 2; ln -s one {path}/link; echo > {path}/file"
        ))?;
        let pod = PodSettings::new("devices");
        let pod_id = host.run_pod(&pod).await?;
        let device = move |host_path: String, inside: &str, permissions: &str| Device {
            host_path,
            container_path: inside.into(),
            permissions: permissions.into(),
        };
        let (directory, link) = (path.clone(), format!("{path}/link"));
        let settings = ContainerSettings::sleeper("main").edited(move |config| {
            config.devices = vec![
                device(directory.clone(), "/dev/all", "r"),
                device(link.clone(), "/dev/by-link", "rw"),
            ];
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        let found = host
            .cri
            .sh(&id, "cd /dev/all; find . -type c | sort")
            .await?;
        assert_eq!(found, "./deep/er/two\n./one\n");
        let open = async |how: &str| {
            let error = host.cri.sh(&id, &format!("exec {how}")).await.unwrap_err();
            error.message().to_owned()
        };
        let (passes, denied) = ("No such device", "not permitted");
        assert!(open("< /dev/all/deep/er/two").await.contains(passes));
        assert!(open("> /dev/all/deep/er/two").await.contains(denied));
        assert!(open("> /dev/by-link").await.contains(passes));

        let nothing = format!("{path}/no-such");
        let missing = ContainerSettings::sleeper("missing").edited(move |config| {
            config.devices = vec![device(nothing.clone(), "/dev/x", "rwm")];
        });
        let error = host.create(&pod_id, &pod, &missing).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains("no-such"), "{error}");
        Ok(())
    });
}

#[test]
fn a_privileged_container_has_every_device() {
    scenario(async |host| {
        let pod = privileged_pod("all-devices");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(
                &pod_id,
                &pod,
                &privileged(ContainerSettings::sleeper("main")),
            )
            .await?;
        let on_node = host
            .sandbox
            .sh("cd /dev; find . -xdev \\( -type c -o -type b \\) | grep -v -e console -e ptmx -e '/tty$' | sort")?;
        let inside = host
            .cri
            .sh(
                &id,
                "cd /dev; find . -xdev \\( -type c -o -type b \\) | sort",
            )
            .await?;
        for node in on_node.lines() {
            assert!(inside.lines().any(|line| line == node), "{node}: {inside}");
        }
        host.cri
            .sh(&id, &format!("mknod /dev/any c {MAJOR} 3"))
            .await?;
        let open = host.cri.sh(&id, "exec > /dev/any").await.unwrap_err();
        assert!(open.message().contains("No such device"), "{open}");
        Ok(())
    });
}

#[test]
fn cgroups_are_the_containers_own_and_read_only_unless_it_is_privileged() {
    scenario(async |host| {
        let pod = PodSettings::new("plain");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        let own = host
            .cri
            .sh(&id, "cut -d: -f3 /proc/1/cgroup | sort -u")
            .await?;
        assert_eq!(own, "/\n");
        assert!(host.cri.sh(&id, "mkdir /sys/fs/cgroup/x").await.is_err());
        let nested = "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $d/x 2>/dev/null && echo $d; done; true";
        assert_eq!(host.cri.sh(&id, nested).await?, "");
        Ok(())
    });
}

#[test]
fn an_exec_finds_its_way_into_a_container_that_made_cgroups_of_its_own() {
    scenario(async |host| {
        let pod = privileged_pod("nested");
        let pod_id = host.run_pod(&pod).await?;
        // As systemd and Docker do: everything into a leaf, then controllers for what is below.
        let script = "
            set -e
            root=/sys/fs/cgroup; [ -e $root/cgroup.controllers ] || root=$root/unified
            path=$(sed -n 's/^0:://p' /proc/self/cgroup); own=$root
            for part in $(echo $path | tr / ' '); do
                for c in $(cat $own/cgroup.controllers); do echo +$c > $own/cgroup.subtree_control || true; done
                own=$own/$part
            done
            mkdir $own/init
            echo 0 > $own/init/cgroup.procs
            for c in $(cat $own/cgroup.controllers); do echo +$c > $own/cgroup.subtree_control; done
            mkdir $own/work
            echo nested
            trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";
        let settings = privileged(ContainerSettings::sh("main", script));
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "nested").await?;
        let controllers = "
            root=/sys/fs/cgroup; [ -e $root/cgroup.controllers ] || root=$root/unified
            cat $root$(sed -n 's/^0:://p' /proc/1/cgroup)/../cgroup.subtree_control";
        let enabled = host.cri.sh(&id, controllers).await?;
        let there = host.cri.sh(&id, "cat /proc/self/cgroup").await?;
        assert!(there.contains("exec-"), "{there}");
        assert!(
            !enabled.trim().is_empty(),
            "no controller to be had here: {there}"
        );
        // All of it goes with the container.
        Ok(())
    });
}

#[test]
fn a_network_of_its_own_is_for_everybody() {
    let read =
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range";
    scenario(async |host| {
        let pod = PodSettings::new("open");
        let pod_id = host.run_pod(&pod).await?;
        let nobody = ContainerSettings::sleeper("main").edited(|config| {
            let linux = config.linux.get_or_insert_default();
            let security = linux.security_context.get_or_insert_default();
            security.run_as_user = Some(Int64Value { value: 1000 });
        });
        let id = host.run(&pod_id, &pod, &nobody).await?;
        assert_eq!(host.cri.sh(&id, read).await?, "0\n0\t2147483647\n");
        // Port 80, in hexadecimal.
        let listen = "nc -l -p 80 >/dev/null 2>&1 & sleep 0.3; grep -c ':0050 ' /proc/net/tcp /proc/net/tcp6; kill $!";
        let listening = host.cri.sh(&id, listen).await?;
        assert!(listening.contains(":1"), "{listening}");

        let asked = PodSettings::edited("asked", |config| {
            let linux = config.linux.get_or_insert_default();
            linux.sysctls = [("net.ipv4.ip_unprivileged_port_start".into(), "900".into())].into();
        });
        let pod_id = host.run_pod(&asked).await?;
        let id = host
            .run(&pod_id, &asked, &ContainerSettings::sleeper("main"))
            .await?;
        assert_eq!(host.cri.sh(&id, read).await?, "900\n0\t2147483647\n");

        let nodes = PodSettings::edited("nodes", |config| {
            let linux = config.linux.get_or_insert_default();
            let security = linux.security_context.get_or_insert_default();
            let options = security.namespace_options.get_or_insert_default();
            options.network = NamespaceMode::Node.into();
        });
        let pod_id = host.run_pod(&nodes).await?;
        let before = host.sandbox.sh(read)?;
        let id = host
            .run(&pod_id, &nodes, &ContainerSettings::sleeper("main"))
            .await?;
        assert_eq!(host.cri.sh(&id, read).await?, before);
        Ok(())
    });
    scenario_with(
        "unprivileged_ports = false\nunprivileged_ping = false",
        async |host| {
            let pod = PodSettings::new("closed");
            let pod_id = host.run_pod(&pod).await?;
            let id = host
                .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
                .await?;
            assert_eq!(host.cri.sh(&id, read).await?, "1024\n1\t0\n");
            Ok(())
        },
    );
}
