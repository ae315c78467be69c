//! What is refused, with which code and words. Nothing may be left of it.

use cri::v1::{
    Capability, CdiDevice, ContainerConfig, Device, ImageSpec, Int64Value, KeyValue,
    LinuxContainerResources, LinuxContainerSecurityContext, Mount, PodSandboxConfig, PortMapping,
    SecurityProfile, security_profile::ProfileType,
};
use e2e::{ContainerSettings, Host, PodSettings, scenario};
use testkit::image::{self, Layer};
use tonic::{Code, Status};

/// A change that makes a good request bad, the code, and what the message must contain.
type Case<T> = (&'static str, fn(&mut T), Code, &'static [&'static str]);

const PODS: &[Case<PodSandboxConfig>] = &[
    (
        "no metadata",
        |pod| pod.metadata = None,
        Code::InvalidArgument,
        &["metadata"],
    ),
    (
        "no name",
        |pod| pod.metadata.get_or_insert_default().name.clear(),
        Code::InvalidArgument,
        &["metadata.name"],
    ),
    (
        "a hostname longer than the kernel's limit",
        |pod| pod.hostname = "h".repeat(65),
        Code::InvalidArgument,
        &["hostname"],
    ),
    (
        "a relative log directory",
        |pod| pod.log_directory = "logs".into(),
        Code::InvalidArgument,
        &["log_directory", "logs"],
    ),
    (
        "a port beyond 65535",
        |pod| publish(pod, 80, 65536, ""),
        Code::InvalidArgument,
        &["65536"],
    ),
    (
        "a port below 0",
        |pod| publish(pod, -1, 80, ""),
        Code::InvalidArgument,
        &["-1"],
    ),
    (
        "a host address that is none",
        |pod| publish(pod, 80, 80, "everywhere"),
        Code::InvalidArgument,
        &["host_ip", "everywhere"],
    ),
    (
        "a cgroup above the root",
        |pod| pod.linux.get_or_insert_default().cgroup_parent = "/a/../../b".into(),
        Code::InvalidArgument,
        &["cgroup_parent"],
    ),
    (
        "a sysctl of no namespace",
        |pod| {
            let sysctls = &mut pod.linux.get_or_insert_default().sysctls;
            sysctls.insert("vm.swappiness".into(), "10".into());
        },
        Code::InvalidArgument,
        &["sysctl", "vm.swappiness"],
    ),
];

#[test]
fn pods() {
    scenario(async |host| {
        let mut wrong = Vec::new();
        for (name, edit, code, words) in PODS {
            let mut config = host.pod_config(&PodSettings::new("bad"));
            edit(&mut config);
            let answer = host.cri.run_pod(config).await;
            if answer.is_ok() {
                host.remove_all_pods().await?;
            }
            wrong.extend(check(host, name, answer, *code, words));
        }
        let config = host.pod_config(&PodSettings::new("bad"));
        let answer = host.cri.run_pod_with(config, "no-such-handler").await;
        let words = ["runtime_handler", "no-such-handler"];
        wrong.extend(check(
            host,
            "an unknown handler",
            answer,
            Code::InvalidArgument,
            &words,
        ));
        none(&wrong)
    });
}

const CONTAINERS: &[Case<ContainerConfig>] = &[
    (
        "no metadata",
        |it| it.metadata = None,
        Code::InvalidArgument,
        &["metadata"],
    ),
    (
        "no name",
        |it| it.metadata.get_or_insert_default().name.clear(),
        Code::InvalidArgument,
        &["metadata.name"],
    ),
    (
        "no image",
        |it| it.image = None,
        Code::InvalidArgument,
        &["image"],
    ),
    (
        "an image that is no reference",
        |it| it.image.get_or_insert_default().image = "UPPER CASE".into(),
        Code::InvalidArgument,
        &["UPPER CASE"],
    ),
    (
        "an image that is not here",
        |it| it.image.get_or_insert_default().image = "example.invalid/none:1".into(),
        Code::NotFound,
        &["example.invalid/none:1"],
    ),
    (
        "a mount of what does not exist and cannot be made",
        |it| it.mounts = vec![mount("/proc/no/such/volume", "/data")],
        Code::InvalidArgument,
        &["mounts", "/proc/no/such/volume"],
    ),
    (
        "a mount of an image that is not here",
        |it| {
            let mut mount = mount("", "/data");
            mount.image = Some(ImageSpec {
                image: "example.invalid/none:1".into(),
                ..Default::default()
            });
            mount.readonly = true;
            it.mounts = vec![mount];
        },
        Code::NotFound,
        &["config.mounts[0].image", "example.invalid/none:1"],
    ),
    (
        "a device that is not there",
        |it| {
            it.devices = vec![Device {
                container_path: "/dev/x".into(),
                host_path: "/dev/no-such-device".into(),
                permissions: "rwm".into(),
            }];
        },
        Code::InvalidArgument,
        &["devices", "/dev/no-such-device"],
    ),
    (
        "a CDI device",
        |it| {
            it.cdi_devices = vec![CdiDevice {
                name: "vendor.com/class=one".into(),
            }]
        },
        Code::InvalidArgument,
        &["vendor.com/class=one"],
    ),
    (
        "a relative working directory",
        |it| it.working_dir = "here".into(),
        Code::InvalidArgument,
        &["working_dir", "here"],
    ),
    (
        "an environment variable without a name",
        |it| {
            it.envs = vec![KeyValue {
                key: String::new(),
                value: "v".into(),
            }]
        },
        Code::InvalidArgument,
        &["envs"],
    ),
    (
        "an unknown capability",
        |it| {
            security(it).capabilities = Some(Capability {
                add_capabilities: vec!["CAP_NO_SUCH".into()],
                ..Default::default()
            });
        },
        Code::InvalidArgument,
        &["CAP_NO_SUCH"],
    ),
    (
        "a user that the image does not know",
        |it| security(it).run_as_username = "nobody-knows".into(),
        Code::InvalidArgument,
        &["run_as_username", "nobody-knows"],
    ),
    (
        "a group without a user",
        |it| security(it).run_as_group = Some(Int64Value { value: 5 }),
        Code::InvalidArgument,
        &["run_as_group"],
    ),
    (
        "a negative user",
        |it| security(it).run_as_user = Some(Int64Value { value: -2 }),
        Code::InvalidArgument,
        &["run_as_user", "-2"],
    ),
    (
        "privilege in a pod without",
        |it| security(it).privileged = true,
        Code::InvalidArgument,
        &["privileged"],
    ),
    (
        "a log above its directory",
        |it| it.log_path = "../../escape.log".into(),
        Code::InvalidArgument,
        &["log_path", "../../escape.log"],
    ),
    (
        "an AppArmor profile where there is no AppArmor",
        |it| {
            security(it).apparmor = Some(SecurityProfile {
                profile_type: ProfileType::Localhost.into(),
                localhost_ref: "some-profile".into(),
            });
        },
        Code::InvalidArgument,
        &["apparmor"],
    ),
    (
        "CPUs that are not there",
        |it| {
            it.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
                cpuset_cpus: "4000".into(),
                ..Default::default()
            });
        },
        Code::InvalidArgument,
        &["cpuset", "4000"],
    ),
];

#[test]
fn containers() {
    scenario(async |host| {
        let pod = PodSettings::new("good");
        let pod_id = host.run_pod(&pod).await?;
        let good = ContainerSettings::sleeper("bad");
        // The first container makes what the pod keeps, such as the process that writes logs.
        let first = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("first"))
            .await?;
        host.cri.remove(&first).await?;
        let unchanged = testkit::ledger::Ledger::take_settled(&host.sandbox)?;
        let before = std::mem::replace(&mut host.before, unchanged);
        let pod_config = host.pod_config(&pod);
        let mut wrong = Vec::new();
        for (name, edit, code, words) in CONTAINERS {
            let mut config = good.config(&host.image);
            edit(&mut config);
            let answer = host.cri.create(&pod_id, config, pod_config.clone()).await;
            if let Ok(id) = &answer {
                host.cri.remove(id).await?;
            }
            wrong.extend(check(host, name, answer, *code, words));
        }
        let config = good.config(&host.image);
        for (id, code) in [
            ("", Code::InvalidArgument),
            ("0123456789abcdef", Code::NotFound),
        ] {
            let answer = host
                .cri
                .create(id, config.clone(), pod_config.clone())
                .await;
            wrong.extend(check(host, "an unknown pod", answer, code, &[id]));
        }
        host.before = before;
        host.cri.stop_pod(&pod_id).await?;
        let refusal = host
            .cri
            .create(&pod_id, config, pod_config.clone())
            .await
            .unwrap_err();
        assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
        none(&wrong)
    });
}

#[test]
fn images_that_say_not_what_to_run() {
    scenario(async |host| {
        let silent = image::busybox()?.without_command().build();
        let silent = host.registry.push("silent", "1", &silent);
        host.cri.pull(&silent).await?;
        let pod = PodSettings::new("silent");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::new("silent", [""; 0]).image(&silent);
        let refusal = host.create(&pod_id, &pod, &settings).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
        assert!(refusal.message().contains("command"), "{refusal}");
        Ok(())
    });
}

#[test]
fn programs_that_cannot_run() {
    scenario(async |host| {
        let layer = Layer::new()
            .file("not-executable", 0o644, "#!/bin/sh\n")
            .file("no-interpreter", 0o755, "#!/no/such/shell\n")
            .file("wrong-machine", 0o755, s390x())
            .file("nonsense", 0o755, "\x00nonsense")
            .directory("directory", 0o755);
        let built = image::busybox()?.layer(layer).build();
        let reference = host.registry.push("programs", "1", &built);
        host.cri.pull(&reference).await?;
        let pod = PodSettings::new("programs");
        let pod_id = host.run_pod(&pod).await?;
        for (name, program) in [
            ("missing-path", "/no/such/program"),
            ("missing-name", "no-such-program"),
            ("not-executable", "/not-executable"),
            ("no-interpreter", "/no-interpreter"),
            ("wrong-machine", "/wrong-machine"),
            ("nonsense", "/nonsense"),
            ("directory", "/directory"),
        ] {
            let settings = ContainerSettings::new(name, [program]).image(&reference);
            // It may be seen at once, or when it is started.
            let id = match host.create(&pod_id, &pod, &settings).await {
                Ok(id) => id,
                Err(refusal) => {
                    assert!(refusal.message().contains(program), "{name}: {refusal}");
                    continue;
                }
            };
            let refusal = host.cri.start(&id).await.unwrap_err();
            assert!(refusal.message().contains(program), "{name}: {refusal}");
            assert_ne!(refusal.code(), Code::Internal, "{name}: {refusal}");
            let again = host.cri.start(&id).await.unwrap_err();
            assert_eq!(again.code(), Code::FailedPrecondition, "{name}: {again}");
            let status = host.cri.container_status(&id).await?;
            assert_ne!(status.exit_code, 0, "{name}: {status:?}");
            assert!(status.message.contains(program), "{name}: {status:?}");
            host.cri.remove(&id).await?;
        }
        Ok(())
    });
}

#[test]
fn ids_that_nothing_has() {
    scenario(async |host| {
        for id in ["0123456789ab", "no-such-id"] {
            let refusals = [
                (
                    "PodSandboxStatus",
                    host.cri.pod_status(id, false).await.map(drop),
                ),
                (
                    "ContainerStatus",
                    host.cri.container_status(id).await.map(drop),
                ),
                ("StartContainer", host.cri.start(id).await),
                ("ExecSync", host.cri.exec(id, &["true"], 1).await.map(drop)),
                ("ReopenContainerLog", host.cri.reopen_log(id).await),
                (
                    "ContainerStats",
                    host.cri.container_stats(id).await.map(drop),
                ),
            ];
            for (name, refusal) in refusals {
                let refusal = refusal.unwrap_err();
                assert_eq!(refusal.code(), Code::NotFound, "{name}: {refusal}");
                assert!(refusal.message().contains(id), "{name}: {refusal}");
            }
            host.cri.stop(id, 1).await?;
            host.cri.remove(id).await?;
            host.cri.stop_pod(id).await?;
            host.cri.remove_pod(id).await?;
        }
        let refusals = [
            (
                "PodSandboxStatus",
                host.cri.pod_status("", false).await.map(drop),
            ),
            (
                "ContainerStatus",
                host.cri.container_status("").await.map(drop),
            ),
            ("StartContainer", host.cri.start("").await),
            ("StopContainer", host.cri.stop("", 1).await),
            ("RemoveContainer", host.cri.remove("").await),
            ("StopPodSandbox", host.cri.stop_pod("").await),
            ("RemovePodSandbox", host.cri.remove_pod("").await),
            ("ExecSync", host.cri.exec("", &["true"], 1).await.map(drop)),
        ];
        for (name, refusal) in refusals {
            let refusal = refusal.unwrap_err();
            assert_eq!(refusal.code(), Code::InvalidArgument, "{name}: {refusal}");
        }
        Ok(())
    });
}

/// What is wrong with a refusal, or what it left behind.
fn check<T>(
    host: &Host,
    name: &str,
    answer: Result<T, Status>,
    code: Code,
    words: &[&str],
) -> Option<String> {
    let Err(refusal) = answer else {
        return Some(format!("{name}: is not refused"));
    };
    if refusal.code() != code {
        return Some(format!("{name}: not {code:?}: {refusal}"));
    }
    if let Some(word) = words
        .iter()
        .find(|word| !refusal.message().contains(**word))
    {
        return Some(format!("{name}: {word:?} is not said: {refusal}"));
    }
    host.settles().err().map(|left| format!("{name}: {left:#}"))
}

fn none(wrong: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn publish(pod: &mut PodSandboxConfig, host_port: i32, container_port: i32, host_ip: &str) {
    pod.port_mappings.push(PortMapping {
        container_port,
        host_port,
        host_ip: host_ip.to_owned(),
        ..Default::default()
    });
}

fn mount(source: &str, target: &str) -> Mount {
    Mount {
        host_path: source.to_owned(),
        container_path: target.to_owned(),
        ..Default::default()
    }
}

fn security(container: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    let linux = container.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

/// The header of a 64-bit big-endian ELF executable for s390.
fn s390x() -> Vec<u8> {
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([0, 2, 0, 22, 0, 0, 0, 1]);
    elf.resize(64, 0);
    elf
}
