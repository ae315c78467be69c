//! Containers confined by AppArmor, for real: on machines that have it.

use std::fs;

use cri::v1::{Capability, NamespaceMode, SecurityProfile, security_profile::ProfileType};
use e2e::{ContainerSettings, PodSettings, scenario};
use tonic::Code;

/// Denies one directory, so that its effect can be seen.
const PROFILE: &str = "
profile longshore-test-walled flags=(attach_disconnected) {
  file,
  network,
  capability,
  mount,
  umount,
  pivot_root,
  signal,
  ptrace,
  unix,
  deny /walled/** rwklx,
  deny /walled/ rwklx,
}
";

/// What the default profile denies: mounts, settings of the node's kernel, and the processes of others.
const WALLS: &[&str] = &[
    "mkdir -p /mounted && mount -t tmpfs tmpfs /mounted",
    "cat /proc/sys/vm/swappiness > /tmp-value && cat /tmp-value > /proc/sys/vm/swappiness",
    "readlink /proc/1/exe || { echo Permission denied >&2; false; }",
];

fn asks(profile_type: ProfileType, name: &'static str) -> ContainerSettings {
    let script = "mkdir /walled; cat /proc/self/attr/apparmor/current; echo told; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";
    ContainerSettings::sh(name, script).edited(move |config| {
        let linux = config.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        // Without these, something else would deny it all.
        security.namespace_options.get_or_insert_default().pid = NamespaceMode::Node.into();
        security.seccomp = Some(SecurityProfile {
            profile_type: ProfileType::Unconfined.into(),
            ..SecurityProfile::default()
        });
        security.capabilities = Some(Capability {
            add_capabilities: ["SYS_ADMIN", "SYS_PTRACE"].map(str::to_owned).to_vec(),
            ..Capability::default()
        });
        security.apparmor = Some(SecurityProfile {
            profile_type: profile_type.into(),
            localhost_ref: match profile_type {
                ProfileType::Localhost => "longshore-test-walled".to_owned(),
                ProfileType::RuntimeDefault | ProfileType::Unconfined => String::new(),
            },
        });
    })
}

#[test]
#[ignore = "wants AppArmor, which one of the virtual machines has"]
fn init_and_exec_are_confined_by_the_profile_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("walled");
    fs::write(&file, PROFILE).unwrap();
    scenario(async |host| {
        let pod = PodSettings::edited("confined", |config| {
            let linux = config.linux.get_or_insert_default();
            let security = linux.security_context.get_or_insert_default();
            let namespaces = security.namespace_options.get_or_insert_default();
            namespaces.pid = NamespaceMode::Node.into();
        });
        let pod_id = host.run_pod(&pod).await?;
        let missing = asks(ProfileType::Localhost, "missing");
        let refusal = host.create(&pod_id, &pod, &missing).await.unwrap_err();
        assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
        for word in ["longshore-test-walled", "is not loaded", "apparmor_parser"] {
            assert!(refusal.message().contains(word), "{refusal}");
        }

        let load = format!("apparmor_parser --replace --skip-cache {}", file.display());
        host.sandbox.sh(&load)?;
        for (kind, name, label, walled) in [
            (
                ProfileType::RuntimeDefault,
                "default",
                "longshore-default (enforce)",
                false,
            ),
            (
                ProfileType::Localhost,
                "localhost",
                "longshore-test-walled (enforce)",
                true,
            ),
            (ProfileType::Unconfined, "unconfined", "unconfined", false),
        ] {
            let settings = asks(kind, name);
            let id = host.run(&pod_id, &pod, &settings).await?;
            host.until_logged(&pod, &settings, "told\n").await?;
            let init = host.output(&pod, &settings)?;
            assert!(init.contains(&format!("{label}\n")), "{name}: {init}");
            let exec = host
                .cri
                .sh(&id, "cat /proc/self/attr/apparmor/current")
                .await?;
            assert_eq!(exec, format!("{label}\n"), "{name}");
            let touched = host
                .cri
                .sh(&id, "mkdir -p /walled && touch /walled/x")
                .await;
            assert_eq!(touched.is_err(), walled, "{name}: {touched:?}");
            for command in WALLS {
                let done = host.cri.sh(&id, command).await;
                let denied = kind == ProfileType::RuntimeDefault;
                assert_eq!(done.is_err(), denied, "{name}: {command}: {done:?}");
                if let Err(error) = done {
                    let error = format!("{error:#}");
                    assert!(error.contains("ermission denied"), "{command}: {error}");
                }
            }
        }
        let remove = format!("apparmor_parser --remove {}", file.display());
        host.cri.stop_pod(&pod_id).await?;
        host.sandbox.sh(&remove)?;
        Ok(())
    });
}
