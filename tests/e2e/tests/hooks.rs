//! OCI hooks: each at its time and place, and what a failing one does.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use cri::v1::ContainerState;
use e2e::{ContainerSettings, Host, PodSettings, scenario_with};
use tonic::Code;

const SETTINGS: &str = "[hooks]\ndirectories = [\"/run/e2e/hooks.d\"]\ntimeout = \"100s\"";

/// A script of the node's, and a file that makes it a hook of a stage.
fn hook(host: &Host, name: &str, stages: &[&str], more: &str, script: &str) -> anyhow::Result<()> {
    let program = PathBuf::from("/run/e2e/bin").join(name);
    write(host, &program, &format!("#!/bin/sh\n{script}\n"), 0o755)?;
    let stages = serde_json::to_string(stages)?;
    let text = format!(
        r#"{{"version": "1.0.0", "hook": {{"path": "{}", "args": ["{name}"], "env": ["PATH=/bin:/usr/bin"]{more}}},
            "when": {{"commands": [".*"], "annotations": {{"^hooked$": "^{name}$"}}}}, "stages": {stages}}}"#,
        program.display()
    );
    write(
        host,
        &PathBuf::from(format!("/run/e2e/hooks.d/{name}.json")),
        &text,
        0o644,
    )
}

fn write(host: &Host, path: &PathBuf, text: &str, mode: u32) -> anyhow::Result<()> {
    let path = host.sandbox.view(path);
    fs::create_dir_all(path.parent().expect("it has a parent"))?;
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn hooked(container: ContainerSettings, with: &str) -> ContainerSettings {
    let with = with.to_owned();
    container.edited(move |config| {
        config.annotations.insert("hooked".into(), with.clone());
    })
}

fn told(host: &Host, name: &str) -> String {
    fs::read_to_string(host.sandbox.view(format!("/run/e2e/{name}"))).unwrap_or_default()
}

#[test]
fn hooks_run_at_their_times_and_places() {
    scenario_with(SETTINGS, async |host| {
        // Each says when it ran, what it was told, and in which namespaces it is.
        let all = [
            "prestart",
            "createRuntime",
            "createContainer",
            "poststart",
            "poststop",
        ];
        hook(
            host,
            "all",
            &all,
            "",
            r#"state=$(cat)
status=$(echo "$state" | sed 's/.*"status":"\([a-z]*\)".*/\1/')
bundle=$(echo "$state" | sed 's/.*"bundle":"\([^"]*\)".*/\1/')
pid=$(echo "$state" | sed -n 's/.*"pid":\([0-9]*\).*/\1/p')
root=$(sed 's/.*"root":{"path":"\([^"]*\)".*/\1/' "$bundle/config.json")
inside=no; test -e "$root/bin/busybox" && inside=yes
echo "$status pid=$pid inside=$inside host=$(hostname) uts=$(readlink /proc/self/ns/uts)" >>/run/e2e/told
if [ "$inside" = yes ]; then echo "made by a hook" >"$root/from-hook"; fi"#,
        )?;
        let pod = PodSettings::new("hooked");
        let pod_id = host.run_pod(&pod).await?;
        let main = hooked(
            ContainerSettings::sh(
                "main",
                "cat /from-hook; echo uts=$(readlink /proc/self/ns/uts); ls -d /run/e2e || echo bare; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done",
            ),
            "all",
        );
        let id = host.create(&pod_id, &pod, &main).await?;
        let lines: Vec<String> = told(host, "told").lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        let [prestart, runtime, inside] = [&lines[0], &lines[1], &lines[2]];
        assert!(prestart.starts_with("creating pid="), "{prestart}");
        assert!(
            prestart.contains("inside=no"),
            "the node shows no mount of the root: {prestart}"
        );
        assert_eq!(
            prestart, runtime,
            "both on the node, with the host's number"
        );
        assert!(
            inside.starts_with("creating pid=1 inside=yes host=hooked"),
            "{inside}"
        );
        host.cri.start(&id).await?;
        host.until_logged(&pod, &main, "bare").await?;
        let output = host.output(&pod, &main)?;
        assert!(output.starts_with("made by a hook\n"), "{output}");
        let uts = |text: &str| {
            let found = text.split_once("uts=").map(|(_, rest)| rest);
            found
                .and_then(|rest| rest.split_whitespace().next())
                .map(str::to_owned)
        };
        assert_eq!(uts(inside), uts(&output), "in the container's namespaces");
        assert_ne!(uts(prestart), uts(&output), "on the node");
        let lines = told(host, "told");
        let last = lines.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("running pid=") && last.contains("inside=no"),
            "{last}"
        );
        host.cri.stop(&id, 10).await?;
        assert_eq!(told(host, "told").lines().count(), 4);
        // Its removal, by another daemon, knows of them.
        host.restart_daemon().await?;
        host.cri.remove(&id).await?;
        let lines = told(host, "told");
        assert_eq!(lines.lines().count(), 5, "{lines}");
        assert!(
            lines
                .lines()
                .last()
                .unwrap_or_default()
                .starts_with("stopped pid= "),
            "{lines}"
        );
        // Others have none.
        let (_, output) = host
            .run_to_end(
                &pod_id,
                &pod,
                &ContainerSettings::sh("plain", "ls /from-hook || echo none"),
            )
            .await?;
        assert!(output.ends_with("none\n"), "{output}");
        assert_eq!(told(host, "told").lines().count(), 5);
        Ok(fs::remove_dir_all(host.sandbox.view("/run/e2e"))?)
    });
}

#[test]
fn a_start_hook_is_confined_as_its_container() {
    scenario_with(SETTINGS, async |host| {
        // It is the container's own program, by its path in there.
        let text = r#"{"version": "1.0.0", "hook": {"path": "/bin/sh", "timeout": 100,
            "args": ["sh", "-c", "cat >/tmp/state; id -u >/tmp/who; grep CapEff /proc/self/status >>/tmp/who; grep Seccomp: /proc/self/status >>/tmp/who"]},
            "when": {"annotations": {"^hooked$": "^start$"}}, "stages": ["startContainer"]}"#;
        write(
            host,
            &PathBuf::from("/run/e2e/hooks.d/start.json"),
            text,
            0o644,
        )?;
        let pod = PodSettings::new("start");
        let pod_id = host.run_pod(&pod).await?;
        let script = "cat /tmp/who; id -u; grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; cat /tmp/state";
        let main = ContainerSettings::sh("main", script).edited(|config| {
            config.annotations.insert("hooked".into(), "start".into());
            let linux = config.linux.get_or_insert_default();
            let security = linux.security_context.get_or_insert_default();
            security.run_as_user = Some(cri::v1::Int64Value { value: 1234 });
            security.no_new_privs = true;
        });
        let (_, output) = host.run_to_end(&pod_id, &pod, &main).await?;
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines[..3], lines[3..6], "{output}");
        assert_eq!(lines[0], "1234");
        assert!(
            lines[6].contains(r#""status":"created""#) && lines[6].contains(r#""pid":1"#),
            "{output}"
        );
        Ok(fs::remove_dir_all(host.sandbox.view("/run/e2e"))?)
    });
}

#[test]
fn a_failing_hook_ends_what_it_was_asked_about() {
    scenario_with(SETTINGS, async |host| {
        for stage in [
            "prestart",
            "createRuntime",
            "createContainer",
            "poststart",
            "poststop",
        ] {
            let script = format!("echo {stage} says no >&2; exit 7");
            hook(host, &format!("bad-{stage}"), &[stage], "", &script)?;
        }
        hook(
            host,
            "slow",
            &["createRuntime"],
            r#", "timeout": 1"#,
            "sleep 1000",
        )?;
        hook(
            host,
            "slow-inside",
            &["createContainer"],
            r#", "timeout": 1"#,
            "sleep 1000",
        )?;
        hook(
            host,
            "undone",
            &["poststop"],
            "",
            "echo undone >>/run/e2e/undone",
        )?;
        let pod = PodSettings::new("failing");
        let pod_id = host.run_pod(&pod).await?;
        for (with, code) in [
            ("bad-prestart", Code::FailedPrecondition),
            ("bad-createRuntime", Code::FailedPrecondition),
            ("bad-createContainer", Code::FailedPrecondition),
            ("slow", Code::DeadlineExceeded),
            ("slow-inside", Code::DeadlineExceeded),
        ] {
            let asked = hooked(ContainerSettings::sleeper(with), with);
            let error = host.create(&pod_id, &pod, &asked).await.unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(
                error
                    .message()
                    .contains(&format!("hook /run/e2e/bin/{with}")),
                "{error}"
            );
            if let Some(stage) = with.strip_prefix("bad-") {
                assert!(
                    error.message().contains(&format!("{stage} says no")),
                    "{error}"
                );
            }
        }
        assert!(host.cri.containers(None).await?.is_empty());

        let late = hooked(ContainerSettings::sleeper("late"), "bad-poststart");
        let id = host.create(&pod_id, &pod, &late).await?;
        let error = host.cri.start(&id).await.unwrap_err();
        assert!(error.message().contains("poststart says no"), "{error}");
        let status = host.cri.container_status(&id).await?;
        assert_eq!(
            status.state(),
            ContainerState::ContainerExited,
            "{status:?}"
        );
        host.cri.remove(&id).await?;

        // Nothing keeps a container from going.
        let last = hooked(ContainerSettings::sleeper("last"), "bad-poststop");
        let id = host.run(&pod_id, &pod, &last).await?;
        host.cri.remove(&id).await?;
        assert!(host.daemon.log().contains("poststop says no"));

        write(host, &PathBuf::from("/run/e2e/hooks.d/zz.json"), "{", 0o644)?;
        let plain = ContainerSettings::sleeper("plain");
        let error = host.create(&pod_id, &pod, &plain).await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        assert!(
            error.message().contains("/run/e2e/hooks.d/zz.json"),
            "{error}"
        );
        Ok(fs::remove_dir_all(host.sandbox.view("/run/e2e"))?)
    });
}
