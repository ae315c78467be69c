//! What a container finds: names, files, users, mounts.

use std::fs;

use cri::v1::{DnsConfig, KeyValue, LinuxContainerSecurityContext, Mount, MountPropagation};
use e2e::{ContainerSettings, PodSettings, scenario};
use testkit::image;

#[test]
fn names_are_generated() {
    scenario(async |host| {
        let pod = PodSettings::edited("named", |config| {
            config.dns_config = Some(DnsConfig {
                servers: vec!["192.0.2.53".into(), "2001:db8::53".into()],
                searches: vec!["a.example".into(), "b.example".into()],
                options: vec!["ndots:5".into()],
            });
        });
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        assert_eq!(host.cri.sh(&id, "hostname").await?, "named\n");
        assert_eq!(host.cri.sh(&id, "cat /etc/hostname").await?, "named\n");
        let resolv = host.cri.sh(&id, "cat /etc/resolv.conf").await?;
        for line in [
            "nameserver 192.0.2.53",
            "nameserver 2001:db8::53",
            "search a.example b.example",
            "options ndots:5",
        ] {
            assert!(
                resolv.lines().any(|found| found == line),
                "{line:?} is not in {resolv}"
            );
        }
        let hosts = host.cri.sh(&id, "cat /etc/hosts").await?;
        assert!(
            hosts.contains("127.0.0.1") && hosts.contains("localhost"),
            "{hosts}"
        );
        let ip = host.cri.pod_ip(&pod_id).await?;
        let own = hosts
            .lines()
            .find(|line| line.starts_with(&ip))
            .unwrap_or("");
        assert!(own.contains("named"), "{hosts}");
        Ok(())
    });
}

#[test]
fn environment_directory_and_user_are_as_asked() {
    scenario(async |host| {
        let pod = PodSettings::new("env");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sleeper("main").edited(|config| {
            config.envs = vec![KeyValue {
                key: "GREETING".into(),
                value: "a b=c ✓".into(),
            }];
            config.working_dir = "/made/for/it".into();
            config.linux.get_or_insert_default().security_context =
                Some(LinuxContainerSecurityContext {
                    run_as_username: "www-data".into(),
                    supplemental_groups: vec![4000],
                    ..Default::default()
                });
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        assert_eq!(host.cri.sh(&id, "echo $GREETING").await?, "a b=c ✓\n");
        assert_eq!(
            host.cri.sh(&id, "pwd; stat -c %u .").await?,
            "/made/for/it\n33\n"
        );
        assert_eq!(host.cri.sh(&id, "id -u; id -g").await?, "33\n33\n");
        let mut groups: Vec<u32> = host
            .cri
            .sh(&id, "id -G")
            .await?
            .split_whitespace()
            .map(|group| group.parse().unwrap())
            .collect();
        groups.sort_unstable();
        // The image's /etc/group puts www-data into audio (29) and staff (50).
        assert_eq!(groups, [29, 33, 50, 4000]);
        assert_eq!(
            host.cri.sh(&id, "echo $HOME $HOSTNAME").await?,
            "/var/www env\n"
        );
        let user = host
            .cri
            .container_status(&id)
            .await?
            .user
            .unwrap()
            .linux
            .unwrap();
        assert_eq!((user.uid, user.gid), (33, 33));
        Ok(())
    });
}

#[test]
fn the_images_user_and_entrypoint_are_the_default() {
    scenario(async |host| {
        let built = image::busybox()?
            .user("nobody:staff")
            .entrypoint(["sh", "-c"])
            .command(["id -u; id -g; echo $FROM_IMAGE; pwd"])
            .env(["PATH=/bin", "FROM_IMAGE=yes"])
            .working_dir("/tmp")
            .build();
        let reference = host.registry.push("defaults", "1", &built);
        host.cri.pull(&reference).await?;
        let pod = PodSettings::new("defaults");
        let pod_id = host.run_pod(&pod).await?;
        let plain = ContainerSettings::new("plain", [""; 0]).image(&reference);
        let (_, output) = host.run_to_end(&pod_id, &pod, &plain).await?;
        assert_eq!(output, "65534\n50\nyes\n/tmp\n");
        // `args` replace the image's command and keep its entrypoint.
        let args = ContainerSettings::new("args", [""; 0])
            .image(&reference)
            .edited(|config| config.args = vec!["echo other".into()]);
        let (_, output) = host.run_to_end(&pod_id, &pod, &args).await?;
        assert_eq!(output, "other\n");
        Ok(())
    });
}

#[test]
fn mounts_are_shown_kept_and_read_only() {
    scenario(async |host| {
        let source = host.sandbox.directory().join("volume");
        fs::create_dir_all(&source)?;
        fs::write(source.join("file"), "from the host\n")?;
        let host_path = source.display().to_string();
        let settings = ContainerSettings::sleeper("main").edited(move |config| {
            let mount = |target: &str, readonly: bool| Mount {
                container_path: target.into(),
                host_path: host_path.clone(),
                readonly,
                propagation: MountPropagation::PropagationPrivate.into(),
                ..Default::default()
            };
            config.mounts = vec![mount("/data", false), mount("/fixed", true)];
        });
        let pod = PodSettings::new("mounts");
        let pod_id = host.run_pod(&pod).await?;
        let id = host.run(&pod_id, &pod, &settings).await?;
        assert_eq!(
            host.cri.sh(&id, "cat /data/file /fixed/file").await?,
            "from the host\n".repeat(2)
        );
        host.cri.sh(&id, "echo written > /data/new").await?;
        assert_eq!(fs::read_to_string(source.join("new"))?, "written\n");
        let refused = host.cri.sh(&id, "echo x > /fixed/new").await.unwrap_err();
        assert!(refused.message().contains("Read-only"), "{refused}");
        let mounts = host.cri.container_status(&id).await?.mounts;
        assert_eq!(mounts, settings.config(&host.image).mounts);
        Ok(())
    });
}

#[test]
fn root_filesystems_are_private_and_may_be_read_only() {
    scenario(async |host| {
        let pod = PodSettings::new("roots");
        let pod_id = host.run_pod(&pod).await?;
        let one = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("one"))
            .await?;
        let two = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("two"))
            .await?;
        host.cri.sh(&one, "echo mine > /etc/mine").await?;
        assert!(host.cri.sh(&two, "cat /etc/mine").await.is_err());
        let fixed = ContainerSettings::sleeper("fixed").edited(|config| {
            config.linux.get_or_insert_default().security_context =
                Some(LinuxContainerSecurityContext {
                    readonly_rootfs: true,
                    ..Default::default()
                });
        });
        let fixed = host.run(&pod_id, &pod, &fixed).await?;
        assert!(host.cri.sh(&fixed, "touch /x").await.is_err());
        host.cri.sh(&fixed, "touch /dev/shm/x").await?;
        // The pod shares its /dev/shm.
        assert_eq!(host.cri.sh(&one, "ls /dev/shm").await?, "x\n");
        Ok(())
    });
}

#[test]
fn volumes_of_the_image_are_writable_and_go() {
    scenario(async |host| {
        let layer = image::Layer::new()
            .directory("cache", 0o700)
            .owned_by(33, 33)
            .file("cache/seed", 0o644, "seed\n");
        let built = image::busybox()?
            .layer(layer)
            .volume("/cache")
            .volume("/made")
            .build();
        let reference = host.registry.push("volumes", "1", &built);
        host.cri.pull(&reference).await?;
        let pod = PodSettings::new("volumes");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sleeper("main").image(&reference);
        let id = host.run(&pod_id, &pod, &settings).await?;
        assert_eq!(
            host.cri
                .sh(&id, "cat /cache/seed; stat -c %u:%a /cache")
                .await?,
            "seed\n33:700\n"
        );
        host.cri.sh(&id, "touch /made/x /cache/x").await?;
        host.cri.remove(&id).await?;
        let again = host.run(&pod_id, &pod, &settings.attempt(1)).await?;
        assert_eq!(host.cri.sh(&again, "ls /made").await?, "");
        Ok(())
    });
}

#[test]
fn whiteouts_hide_what_lower_layers_have() {
    scenario(async |host| {
        let lower = image::Layer::new()
            .directory("d", 0o755)
            .file("d/gone", 0o644, "")
            .file("d/kept", 0o644, "")
            .directory("o", 0o755)
            .file("o/old", 0o644, "");
        let upper = image::Layer::new()
            .whiteout("d/gone")
            .directory("o", 0o755)
            .opaque("o")
            .file("o/new", 0o644, "");
        let built = image::busybox()?.layer(lower).layer(upper).build();
        let reference = host.registry.push("whiteouts", "1", &built);
        host.cri.pull(&reference).await?;
        let pod = PodSettings::new("whiteouts");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh("main", "ls /d /o").image(&reference);
        let (_, output) = host.run_to_end(&pod_id, &pod, &settings).await?;
        assert_eq!(output, "/d:\nkept\n\n/o:\nnew\n");
        Ok(())
    });
}
