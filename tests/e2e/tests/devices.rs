//! Devices that vendors describe in files: by field, by annotation, and wrong ones.

use std::{fs, path::PathBuf};

use cri::v1::CdiDevice;
use e2e::{ContainerSettings, Host, PodSettings, scenario_with};
use tonic::Code;

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
            let asked = asking("refused", "true", &[device]);
            let error = host.create(&pod_id, &pod, &asked).await.unwrap_err();
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
