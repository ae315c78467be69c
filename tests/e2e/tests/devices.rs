//! Devices that vendors describe in files: by field, by annotation, and wrong ones.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use cri::v1::CdiDevice;
use e2e::{ContainerSettings, Host, PodSettings, scenario_with};
use tonic::Code;

use crate::nri::net_devices::{LENT, on_the_node};

/// Files of devices, in directories of the sandbox's own: the machine may have some where the daemon looks by default. The path is
/// absolute and alike inside and outside.
const SETTINGS: &str = "[cdi]\ndirectories = [\"/run/e2e/etc-cdi\", \"/run/e2e/run-cdi\"]";

fn write(host: &Host, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = host.sandbox.view(PathBuf::from("/run/e2e").join(name));
    fs::create_dir_all(path.parent().expect("it has a parent"))?;
    fs::write(&path, text)?;
    Ok(path)
}

fn asking(name: &str, script: &str, devices: &[&str]) -> ContainerSettings {
    let devices: Vec<String> = devices.iter().map(|name| (*name).to_owned()).collect();
    ContainerSettings::sh(name, script).edited(move |config| {
        let named = devices.iter().map(|name| CdiDevice { name: name.clone() });
        config.cdi_devices = named.collect();
    })
}

async fn refused(host: &Host, pod_id: &str, pod: &PodSettings, device: &str) -> tonic::Status {
    let asked = asking("refused", "true", &[device]);
    host.create(pod_id, pod, &asked)
        .await
        .expect_err("it cannot be given")
}

/// Waits until the node's condition about devices is as it should be.
async fn until_told(host: &Host, is_so: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let mut message = String::new();
    for _ in 0..600 {
        let status = host.cri.status(false).await?.status.unwrap_or_default();
        let mut all = status.conditions.into_iter();
        let told = all.find(|one| one.r#type == "LongshoreDevices");
        message = told.map(|one| one.message).unwrap_or_default();
        if is_so(&message) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("the condition stays {message:?}")
}

#[test]
fn a_vendors_device_comes_with_all_that_its_file_says() {
    scenario_with(SETTINGS, async |host| {
        write(host, "tool.txt", "from the vendor\n")?;
        write(
            host,
            "run-cdi/example.yaml",
            r#"
cdiVersion: "0.7.0"
kind: example.com/widget
containerEdits:
  env: [WIDGETS=yes]
  mounts:
  - hostPath: /run/e2e/tool.txt
    containerPath: /opt/vendor/tool.txt
    options: [ro, nosuid, nodev, rbind]
devices:
- name: "0"
  containerEdits:
    env: [WIDGET=zero]
    deviceNodes:
    - path: /dev/widget0
      hostPath: /dev/full
      permissions: rw
    additionalGids: [4242]
- name: "1"
  containerEdits:
    env: [SECOND=one]
"#,
        )?;
        let pod = PodSettings::new("widgets");
        let pod_id = host.run_pod(&pod).await?;
        let script = "echo $WIDGETS $WIDGET $SECOND; cat /opt/vendor/tool.txt; id -G; \
            touch /opt/vendor/tool.txt || echo read-only; echo x >/dev/widget0 || echo full; test -c /dev/widget0 && echo node";
        let settings = asking(
            "field",
            script,
            &["example.com/widget=0", "example.com/widget=1"],
        );
        let (_, output) = host.run_to_end(&pod_id, &pod, &settings).await?;
        for words in [
            "yes zero one\n",
            "from the vendor\n",
            "4242",
            "read-only\n",
            "full\n",
            "node\n",
        ] {
            assert!(output.contains(words), "{words:?}: {output}");
        }
        assert!(
            output.contains("No space left"),
            "its device is /dev/full: {output}"
        );

        let annotated = ContainerSettings::sh("annotation", "echo $WIDGETS $WIDGET $SECOND")
            .edited(|config| {
                let names = "example.com/widget=0,example.com/widget=1";
                config
                    .annotations
                    .insert("cdi.k8s.io/driver_claim".into(), names.into());
            });
        let (_, output) = host.run_to_end(&pod_id, &pod, &annotated).await?;
        assert_eq!(output, "yes zero one\n");
        // Nothing of it is anybody else's.
        let (_, output) = host
            .run_to_end(
                &pod_id,
                &pod,
                &ContainerSettings::sh("none", "echo -$WIDGETS-; ls /dev"),
            )
            .await?;
        assert!(
            output.starts_with("--\n") && !output.contains("widget"),
            "{output}"
        );
        Ok(fs::remove_dir_all(host.sandbox.view("/run/e2e"))?)
    });
}

#[test]
fn devices_that_cannot_be_given_are_refused_with_the_file() {
    scenario_with(SETTINGS, async |host| {
        let file = |device: &str, edits: &str| {
            format!(
                r#"{{"cdiVersion": "1.1.0", "kind": "example.com/widget", "devices": [{{"name": "{device}", "containerEdits": {edits}}}]}}"#
            )
        };
        let node = r#"{"deviceNodes": [{"path": "/dev/not-there"}]}"#;
        let mount = r#"{"mounts": [{"hostPath": "/not/there", "containerPath": "/x"}]}"#;
        let shared = r#"{"mounts": [{"hostPath": "/run/e2e", "containerPath": "/x", "options": ["rbind", "rshared"]}]}"#;
        write(
            host,
            "etc-cdi/first.json",
            &file("twice", r#"{"env": ["A=1"]}"#),
        )?;
        write(
            host,
            "etc-cdi/second.json",
            &file("twice", r#"{"env": ["A=2"]}"#),
        )?;
        write(
            host,
            "etc-cdi/broken.json",
            &file("broken", r#"{"env": "A"}"#),
        )?;
        write(host, "etc-cdi/node.json", &file("node", node))?;
        write(host, "etc-cdi/mount.json", &file("mount", mount))?;
        write(host, "etc-cdi/shared.json", &file("shared", shared))?;
        write(
            host,
            "etc-cdi/rdt.json",
            &file("rdt", r#"{"intelRdt": {"closID": "fast"}}"#),
        )?;
        let pod = PodSettings::new("refused");
        let pod_id = host.run_pod(&pod).await?;
        for (device, code, words) in [
            (
                "example.com/widget=twice",
                Code::InvalidArgument,
                ["first.json", "second.json"],
            ),
            (
                "example.com/widget=absent",
                Code::InvalidArgument,
                ["config.CDI_devices[0]", "first.json"],
            ),
            (
                "example.com/widget=broken",
                Code::InvalidArgument,
                ["broken.json", "does not parse"],
            ),
            (
                "example.com/widget=node",
                Code::InvalidArgument,
                ["node.json", "/dev/not-there"],
            ),
            (
                "example.com/widget=mount",
                Code::InvalidArgument,
                ["/not/there", "does not exist"],
            ),
            (
                "example.com/widget=shared",
                Code::InvalidArgument,
                ["shared.json: mount /x", "not privileged"],
            ),
            (
                "example.com/widget=rdt",
                Code::FailedPrecondition,
                ["linux.intelRdt", "class"],
            ),
            (
                "widget",
                Code::InvalidArgument,
                ["config.CDI_devices[0]", "VENDOR/CLASS=NAME"],
            ),
        ] {
            let error = refused(host, &pod_id, &pod, device).await;
            assert_eq!(error.code(), code, "{error}");
            for words in words {
                assert!(error.message().contains(words), "{words:?}: {error}");
            }
        }
        assert!(host.cri.containers(None).await?.is_empty());
        let status = host.cri.status(false).await?.status.unwrap_or_default();
        let told = status.conditions.iter().any(|condition| {
            condition.r#type == "LongshoreDevices" && condition.message.contains("broken.json")
        });
        assert!(told, "{status:?}");
        Ok(fs::remove_dir_all(host.sandbox.view("/run/e2e"))?)
    });
}

#[test]
fn files_come_change_and_go_while_the_daemon_runs() {
    scenario_with(SETTINGS, async |host| {
        let file = |env: &str| {
            format!(
                r#"{{"cdiVersion": "0.6.0", "kind": "example.com/widget", "devices": [{{"name": "one", "containerEdits": {{"env": ["WIDGET={env}"]}}}}]}}"#
            )
        };
        let pod = PodSettings::new("watched");
        let pod_id = host.run_pod(&pod).await?;
        let one = "example.com/widget=one";
        let error = refused(host, &pod_id, &pod, one).await;
        assert!(
            error
                .message()
                .contains("no file is about example.com/widget"),
            "{error}"
        );
        // The directory comes with its first file.
        let asked = |name: &str| asking(name, "echo $WIDGET", &[one]);
        let path = write(host, "etc-cdi/one.json", &file("first"))?;
        let (_, output) = host.run_to_end(&pod_id, &pod, &asked("first")).await?;
        assert_eq!(output, "first\n");
        let lives = ContainerSettings::sleeper("lives").edited(|config| {
            let name = one.to_owned();
            config.cdi_devices = vec![CdiDevice { name }];
        });
        let lives = host.run(&pod_id, &pod, &lives).await?;
        write(host, "etc-cdi/one.json", &file("changed"))?;
        let (_, output) = host.run_to_end(&pod_id, &pod, &asked("changed")).await?;
        assert_eq!(output, "changed\n");
        // As drivers replace them: by another file's name.
        let other = write(host, "etc-cdi/one.json.new", &file("replaced"))?;
        fs::rename(other, &path)?;
        let (_, output) = host.run_to_end(&pod_id, &pod, &asked("replaced")).await?;
        assert_eq!(output, "replaced\n");
        // The node tells of a bad one, and that it is mended, though nobody asks for a device.
        until_told(host, str::is_empty).await?;
        write(host, "etc-cdi/one.json", "{")?;
        until_told(host, |told| {
            told.contains("etc-cdi/one.json: it does not parse")
        })
        .await?;
        let error = refused(host, &pod_id, &pod, one).await;
        assert!(error.message().contains("etc-cdi/one.json"), "{error}");
        write(host, "etc-cdi/one.json", &file("mended"))?;
        until_told(host, str::is_empty).await?;
        fs::remove_file(path)?;
        let error = refused(host, &pod_id, &pod, one).await;
        assert!(error.message().contains("is described nowhere"), "{error}");
        let kept = host.cri.sh(&lives, "echo $WIDGET").await?;
        assert_eq!(kept, "first\n", "who has it keeps it");
        Ok(fs::remove_dir_all(host.sandbox.view("/run/e2e"))?)
    });
}

#[test]
fn a_vendors_hooks_run_and_its_network_device_is_lent() {
    scenario_with(SETTINGS, async |host| {
        host.sandbox.sh(LENT)?;
        let hook = write(host, "hook", "#!/bin/sh\ncat >>/run/e2e/$1\n")?;
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
        let hooks = ["createRuntime", "poststop"].map(|stage| {
            format!(
                r#"{{"hookName": "{stage}", "path": "/run/e2e/hook", "args": ["hook", "{stage}"]}}"#
            )
        });
        let text = format!(
            r#"{{"cdiVersion": "1.1.0", "kind": "example.com/nic", "devices": [{{"name": "0", "containerEdits": {{
                "netDevices": [{{"hostInterfaceName": "lent", "name": "fast0"}}], "hooks": [{}]}}}}]}}"#,
            hooks.join(", ")
        );
        write(host, "etc-cdi/nic.json", &text)?;
        let pod = PodSettings::new("nic");
        let pod_id = host.run_pod(&pod).await?;
        let script = "ip addr show fast0; sleep 1000";
        let main = asking("main", script, &["example.com/nic=0"]);
        let id = host.run(&pod_id, &pod, &main).await?;
        host.until_logged(&pod, &main, "192.0.2.9/24").await?;
        let told = |stage: &str| fs::read_to_string(host.sandbox.view(format!("/run/e2e/{stage}")));
        assert!(told("createRuntime")?.contains(&id));
        assert!(told("poststop").is_err(), "it is there yet");
        // Nobody else gets it meanwhile, and the error says who wanted it.
        let error = refused(host, &pod_id, &pod, "example.com/nic=0").await;
        assert!(
            error
                .message()
                .contains("the node has no network device lent"),
            "{error}"
        );
        host.cri.remove(&id).await?;
        on_the_node(host, "lent").await?;
        assert!(told("poststop")?.contains(&id));
        host.sandbox.sh("ip link delete lent")?;
        Ok(fs::remove_dir_all(host.sandbox.view("/run/e2e"))?)
    });
}
