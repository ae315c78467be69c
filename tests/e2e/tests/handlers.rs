//! External OCI runtimes: the scenarios of this program with each installed one in place of the core, and runtimes that misbehave.

mod suite;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use cri::v1::{IdMapping, NamespaceMode, NamespaceOption, RuntimeHandler, UserNamespace};
use e2e::{ContainerSettings, Host, PodSettings, scenario, scenario_with};
use testkit::daemon::{HANDLER_VARIABLE, program};

use suite::{DIFFERENT, SUITE};

/// Runs the suite in a program of its own, whose daemons have another default handler.
fn passes(handler: &str) {
    let runtime = handler.trim_end_matches("-pod");
    let different =
        |name| DIFFERENT.contains(&(handler, name)) || DIFFERENT.contains(&(runtime, name));
    let expected: Vec<_> = SUITE.into_iter().filter(|name| !different(name)).collect();
    assert!(
        program(runtime).is_some(),
        "{runtime} is not installed: run cargo xtask install-deps"
    );
    let this = std::env::current_exe().expect("a process can name its program");
    let output = Command::new(this)
        .args(["--exact", "--test-threads=4"])
        .args(&expected)
        .env(HANDLER_VARIABLE, handler)
        .output()
        .expect("a program that runs can be started again");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let summary = format!("ok. {} passed; 0 failed; 0 ignored", expected.len());
    assert!(told.contains(&summary), "not every scenario ran: {told}");
}

#[test]
fn runc_passes_the_suite() {
    passes("runc");
}

#[test]
fn crun_passes_the_suite() {
    passes("crun");
}

#[test]
fn longshore_oci_passes_the_suite() {
    passes("longshore-oci");
}

#[test]
fn runsc_passes_what_a_sandbox_of_each_containers_own_can() {
    passes("runsc");
}

#[test]
fn runsc_passes_what_one_kernel_for_a_pod_can() {
    passes("runsc-pod");
}

#[test]
fn a_profile_is_refused_where_the_runtime_loads_none() {
    use cri::v1::{SecurityProfile, security_profile::ProfileType};

    scenario(async |host| {
        // It is asked for its version and its features, and never for a container.
        let text = |enabled: bool| {
            format!(
                "case \"$*\" in *--version*) echo fake 1.0;; features) echo '{{\"linux\":{{\"seccomp\":{{\"enabled\":{enabled}}}}}}}';; *' delete '*) ;; *) exit 1;; esac"
            )
        };
        let without = script(host, "without", &text(false))?;
        let with = script(host, "with", &text(true))?;
        let text =
            format!("[runtimes.with]\npath = {with:?}\n[runtimes.without]\npath = {without:?}\n");
        reload(host, &text, &["", "native", "with", "without"]).await?;
        for (handler, code, words) in [
            (
                "without",
                tonic::Code::FailedPrecondition,
                "handler without does not load seccomp profiles",
            ),
            (
                "with",
                tonic::Code::Internal,
                "with create exited with status 1",
            ),
        ] {
            let (pod, config) = pod_of(host, handler)?;
            let id = host.cri.run_pod_with(config, handler).await?;
            let settings = ContainerSettings::sleeper("main").edited(|config| {
                let linux = config.linux.get_or_insert_default();
                let security = linux.security_context.get_or_insert_default();
                security.seccomp = Some(SecurityProfile {
                    profile_type: ProfileType::RuntimeDefault.into(),
                    localhost_ref: String::new(),
                });
            });
            let error = host.create(&id, &pod, &settings).await.unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message().contains(words), "{error}");
            host.cri.remove_pod(&id).await?;
        }
        let described = host.cri.status(true).await?.info;
        let described: serde_json::Value = serde_json::from_str(&described["info"])?;
        for handler in described["handlers"].as_array().context("handlers")? {
            let missing = match handler["name"].as_str() {
                Some("without") => serde_json::json!(["seccomp"]),
                Some("with") => serde_json::json!([]),
                _ => continue,
            };
            assert_eq!(handler["missing"], missing, "{handler}");
        }
        host.settles()
    });
}

/// youki 0.7 lists user namespaces among its features, and its execs do not enter them.
#[test]
fn a_user_namespace_is_refused_where_execs_stay_outside() {
    scenario(async |host| {
        let text = "case \"$*\" in *--version*) echo youki version: 0.7.0;; features) echo '{\"linux\":{\"namespaces\":[\"user\"],\"seccomp\":{\"enabled\":true}}}';; *' delete '*) ;; *) exit 1;; esac";
        let youki = script(host, "youki", text)?;
        let text = format!("[runtimes.youki]\npath = {youki:?}\n");
        reload(host, &text, &["", "native", "youki"]).await?;
        let listed = host.cri.status(true).await?.runtime_handlers;
        let youki = listed.iter().find(|one| one.name == "youki");
        let features = youki.context("youki")?.features.unwrap_or_default();
        assert!(!features.user_namespaces);

        let mapping = IdMapping {
            container_id: 0,
            host_id: 100_000,
            length: 65_536,
        };
        let options = NamespaceOption {
            userns_options: Some(UserNamespace {
                mode: NamespaceMode::Pod.into(),
                uids: vec![mapping],
                gids: vec![mapping],
            }),
            ..NamespaceOption::default()
        };
        let of_pod = options.clone();
        let pod = PodSettings::edited("mapped", move |config| {
            let linux = config.linux.get_or_insert_default();
            let context = linux.security_context.get_or_insert_default();
            context.namespace_options = Some(of_pod.clone());
        });
        let config = host.pod_config(&pod);
        fs::create_dir_all(&config.log_directory)?;
        let id = host.cri.run_pod_with(config, "youki").await?;
        let settings = ContainerSettings::sleeper("main").edited(move |config| {
            let linux = config.linux.get_or_insert_default();
            let context = linux.security_context.get_or_insert_default();
            context.namespace_options = Some(options.clone());
        });
        let refused = host.create(&id, &pod, &settings).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
        let words = "handler youki runs execs outside a pod's user namespace";
        assert!(refused.message().contains(words), "{refused}");
        host.cri.remove_pod(&id).await?;
        host.settles()
    });
}

fn pod_of(host: &Host, name: &str) -> anyhow::Result<(PodSettings, cri::v1::PodSandboxConfig)> {
    let pod = PodSettings::new(name);
    let config = host.pod_config(&pod);
    fs::create_dir_all(&config.log_directory)?;
    Ok((pod, config))
}

async fn handlers(host: &Host) -> anyhow::Result<Vec<RuntimeHandler>> {
    Ok(host.cri.status(false).await?.runtime_handlers)
}

/// Writes a drop-in, and waits until the daemon lists just these handlers.
pub(crate) async fn reload(host: &Host, text: &str, names: &[&str]) -> anyhow::Result<()> {
    let directory = host.sandbox.directory().join("conf.d");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("10-handlers.toml"), text)?;
    let pid = host.daemon.pid().context("the daemon runs")?;
    rustix::process::kill_process(pid, rustix::process::Signal::HUP)?;
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let listed = handlers(host).await?;
        let listed: Vec<_> = listed.iter().map(|one| one.name.as_str()).collect();
        if listed == names {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < end, "{listed:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn handlers_come_and_go_and_pods_keep_theirs() {
    scenario(async |host| {
        let runc = program("runc").context("runc: cargo xtask install-deps")?;
        let (pod, config) = pod_of(host, "kept")?;
        let unknown = host.cri.run_pod_with(config.clone(), "runc").await;
        let unknown = unknown.unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::InvalidArgument);
        assert!(unknown.message().contains("use \"native\""), "{unknown}");

        let text = format!(
            "[runtimes.runc]\npath = {runc:?}\n[runtimes.also-native]\nkind = \"native\"\n"
        );
        reload(host, &text, &["", "native", "also-native", "runc"]).await?;
        let id = host.cri.run_pod_with(config.clone(), "runc").await?;
        let first = host
            .run(&id, &pod, &ContainerSettings::sleeper("first"))
            .await?;
        assert!(made_by_runc(host, &id, &first));
        let native = PodSettings::new("native");
        fs::create_dir_all(host.pod_config(&native).log_directory)?;
        let config = host.pod_config(&native);
        let native_id = host.cri.run_pod_with(config, "also-native").await?;
        let beside = ContainerSettings::sleeper("beside");
        let beside = host.run(&native_id, &native, &beside).await?;
        assert!(!made_by_runc(host, &native_id, &beside));

        // Gone from the configuration, and with another daemon: the pod goes on with what it was made with.
        reload(host, "", &["", "native"]).await?;
        host.restart_daemon().await?;
        let second = ContainerSettings::sleeper("second");
        let second = host.run(&id, &pod, &second).await?;
        assert!(made_by_runc(host, &id, &second));
        assert_eq!(host.cri.sh(&first, "echo there").await?, "there\n");
        let status = host.cri.pod_status(&id, false).await?.status;
        assert_eq!(status.context("a status")?.runtime_handler, "runc");
        let (_, config) = pod_of(host, "late")?;
        let late = host.cri.run_pod_with(config, "runc").await;
        assert_eq!(late.unwrap_err().code(), tonic::Code::InvalidArgument);
        Ok(())
    });
}

/// runc keeps a state for each container that it has made.
fn made_by_runc(host: &Host, pod: &str, container: &str) -> bool {
    let state = format!("/run/longshore/pods/{pod}/runtime/{container}/state.json");
    host.sandbox.view(state).exists()
}

#[test]
fn a_missing_program_is_an_error_where_the_container_is_made() {
    scenario_with("default_handler = \"native\"", async |host| {
        let missing = host.sandbox.directory().join("no-such-runtime");
        let plain = host.sandbox.directory().join("not-executable");
        fs::write(&plain, "#!/bin/sh\n")?;
        let text =
            format!("[runtimes.missing]\npath = {missing:?}\n[runtimes.plain]\npath = {plain:?}\n");
        reload(host, &text, &["", "native", "missing", "plain"]).await?;
        for (handler, path, why) in [
            ("missing", &missing, "No such file"),
            ("plain", &plain, "ermission denied"),
        ] {
            let words = [handler, "create", &path.display().to_string(), why].map(str::to_owned);
            refused(host, handler, &words).await?;
        }
        // Their features are not claimed.
        for handler in handlers(host).await? {
            let features = handler.features.unwrap_or_default();
            let native = ["", "native"].contains(&handler.name.as_str());
            assert_eq!(features.user_namespaces, native, "{}", handler.name);
            assert_eq!(features.recursive_read_only_mounts, native);
        }
        Ok(())
    });
}

/// A pod of the handler takes no container, says so in these words, and can be removed.
async fn refused(host: &Host, handler: &str, words: &[String]) -> anyhow::Result<()> {
    let (pod, config) = pod_of(host, handler)?;
    let id = host.cri.run_pod_with(config, handler).await?;
    let answer = host
        .create(&id, &pod, &ContainerSettings::sleeper("main"))
        .await;
    let error = answer.err().context("a container was made")?;
    for word in words {
        ensure!(
            error.message().contains(word.as_str()),
            "{word:?} is not in {error}"
        );
    }
    host.cri.stop_pod(&id).await?;
    host.cri.remove_pod(&id).await?;
    host.settles()
}

/// A runtime that is a shell script.
pub(crate) fn script(host: &Host, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = host.sandbox.directory().join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Finds the option `$1` among the others and leaves its value in `$value`.
const OPTION: &str = "option() { want=$1; shift; value=; while [ $# -gt 0 ]; do [ \"$1\" = $want ] && value=$2; shift; done; }
all=\"$*\"; option --log \"$@\"; log=$value; option --pid-file \"$@\"; pid_file=$value
case \"$all\" in *--version*) echo fake 1.0; exit 0;; features) exit 1;; *' delete '*) exit 0;; esac";

#[test]
fn a_runtime_that_misbehaves_is_named_with_its_last_words() {
    scenario(async |host| {
        let runtimes = [
            (
                "garbage",
                "head -c 100000 /dev/urandom > $log; echo >> $log; echo '{\"level\":\"error\",\"msg\":\"the \\\"end\\\" of it\"}' >> $log; exit 3",
                &["exited with status 3", "the \"end\" of it"][..],
            ),
            (
                "dies",
                "echo first > $log; echo last words >> $log; kill -9 $$",
                &["killed by signal 9", "first; last words"],
            ),
            (
                "silent",
                "exit 1",
                &["exited with status 1", "wrote no log"],
            ),
            (
                "forgets",
                "exit 0",
                &["succeeded, but its pid file cannot be read"],
            ),
            (
                "lies",
                "echo 1 > $pid_file; exit 0",
                &["succeeded, but its pid file holds \"1\\n\""],
            ),
            (
                "stranger",
                "echo 2 > $pid_file; exit 0",
                &["succeeded, but its pid file names 2, which"],
            ),
            (
                "dead",
                "sh -c 'exit 0' & dead=$!; wait $dead; echo $dead > $pid_file; exit 0",
                &["succeeded, but its pid file names ", ", which does not run"],
            ),
            (
                "writes",
                "echo many words > $pid_file; exit 0",
                &["succeeded, but its pid file holds \"many words\\n\""],
            ),
            (
                "leaves",
                "(trap '' TERM HUP; sleep 1000) & (setsid sleep 1000 &); exit 1",
                &["exited with status 1"],
            ),
            (
                "abandons",
                "setsid sleep 1000 & echo $! > $pid_file; kill -9 $$",
                &["killed by signal 9"],
            ),
        ];
        let mut text = String::new();
        let mut names = vec!["", "native"];
        for (name, body, _) in runtimes {
            let path = script(host, name, &format!("{OPTION}\n{body}"))?;
            text.push_str(&format!("[runtimes.{name}]\npath = {path:?}\n"));
            names.push(name);
        }
        names[2..].sort_unstable();
        reload(host, &text, &names).await?;
        for (name, _, said) in runtimes {
            let mut words = vec![name.to_owned(), "create".to_owned()];
            words.extend(said.iter().map(|word| (*word).to_owned()));
            refused(host, name, &words)
                .await
                .with_context(|| name.to_owned())?;
        }
        Ok(())
    });
}

/// Nobody knows yet how it behaves, and it is asked at every look.
#[test]
fn a_probe_ends_with_all_that_it_has_started() {
    scenario(async |host| {
        let runtimes = [
            (
                "answers",
                "(setsid sleep 98765 &); sleep 98765 & echo fake 1.0",
                None,
            ),
            (
                "dies",
                "(setsid sleep 98765 &); kill -9 $$",
                Some("was killed by signal 9"),
            ),
            (
                "fails",
                "(trap '' TERM HUP; sleep 98765) & echo last words >&2; exit 3",
                Some("exited with status 3: last words"),
            ),
            (
                "garbage",
                "printf '\\377 7\\n'; head -c 100000 /dev/urandom; (setsid sleep 98765 &)",
                Some("prints no version"),
            ),
            (
                "hangs",
                "(setsid sleep 98765 &); (trap '' TERM HUP; sleep 98765) & sleep 98765",
                Some("--version did not end within 5 s"),
            ),
        ];
        let mut text = String::new();
        let mut names = vec!["", "native"];
        for (name, body, _) in runtimes {
            let path = script(host, name, body)?;
            text.push_str(&format!("[runtimes.{name}]\npath = {path:?}\n"));
            names.push(name);
        }
        reload(host, &text, &names).await?;
        let described = host.cri.status(true).await?.info;
        let described: serde_json::Value = serde_json::from_str(&described["info"])?;
        let handlers = described["handlers"].as_array().context("handlers")?;
        for (name, _, trouble) in runtimes {
            let handler = handlers.iter().find(|one| one["name"] == name);
            let told = &handler.context(name)?["trouble"];
            match trouble {
                Some(words) => {
                    let told = told.as_str().with_context(|| name.to_owned())?;
                    ensure!(told.contains(words), "{name}: {told}");
                }
                None => ensure!(told.is_null(), "{name}: {told}"),
            }
        }
        let end = tokio::time::Instant::now() + Duration::from_secs(60);
        while host
            .sandbox
            .processes()
            .iter()
            .any(|one| one.args.iter().any(|arg| arg == "98765"))
        {
            ensure!(
                tokio::time::Instant::now() < end,
                "a probe has left processes"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    });
}

#[test]
fn a_runtime_that_hangs_is_killed_in_time() {
    scenario(async |host| {
        let runc = program("runc").context("runc: cargo xtask install-deps")?;
        let flags = host.sandbox.directory().join("hang-at");
        let body = format!(
            "{OPTION}\nfor verb in $(cat {flags}); do case \"$all\" in *\" $verb \"*) echo \"hanging at $verb\" > $log; sleep 1000;; esac; done\nexec {runc} \"$@\"",
            flags = flags.display(),
            runc = runc.display(),
        );
        let path = script(host, "hangs", &body.replace("*' delete '*) exit 0;; ", ""))?;
        fs::write(&flags, "")?;
        let text = format!("[runtimes.hangs]\npath = {path:?}\n");
        reload(host, &text, &["", "native", "hangs"]).await?;
        let (pod, config) = pod_of(host, "hangs")?;
        let id = host.cri.run_pod_with(config, "hangs").await?;
        let main = ContainerSettings::sleeper("main");
        let container = host.run(&id, &pod, &main).await?;
        host.until_logged(&pod, &main, "up").await?;

        fs::write(&flags, "create kill delete")?;
        let error = host
            .create(&id, &pod, &ContainerSettings::sleeper("other"))
            .await
            .unwrap_err();
        for words in [
            "handler hangs",
            "create did not end within 25 s",
            "hanging at create",
        ] {
            assert!(error.message().contains(words), "{error}");
        }
        // A stop ends in death, whatever the runtime does about its signal.
        host.cri.stop(&container, 0).await?;
        host.cri.remove(&container).await?;
        host.cri.stop_pod(&id).await?;
        host.cri.remove_pod(&id).await?;
        host.settles()
    });
}

#[test]
fn a_runtime_may_be_killed_at_any_moment() {
    for handler in ["runc", "crun", "longshore-oci"] {
        let Some(path) = program(handler) else {
            panic!("{handler} is not installed: run cargo xtask install-deps");
        };
        killed_at_any_moment(handler, &path);
    }
}

fn killed_at_any_moment(handler: &str, path: &Path) {
    let settings = format!("runtimes.{handler} = {{ path = {path:?} }}");
    scenario_with(&settings, async |host| {
        let (pod, config) = pod_of(host, "shot")?;
        let id = host.cri.run_pod_with(config, handler).await?;
        for round in 0..12 {
            let settings = ContainerSettings::sleeper("main").attempt(round);
            let making = host.create(&id, &pod, &settings);
            let killing = async {
                tokio::time::sleep(Duration::from_millis(u64::from(round) * 6)).await;
                let commands = host.sandbox.processes();
                let commands = commands
                    .iter()
                    .filter(|one| one.args.first().is_some_and(|arg| Path::new(arg) == path));
                let pids: Vec<u32> = commands.map(|one| one.pid).collect();
                // It may have ended meanwhile.
                let _gone = host.sandbox.kill("KILL", &pids);
            };
            let (made, ()) = tokio::join!(making, killing);
            match made {
                Ok(container) => {
                    // What was shot may have been its init, by the name of the runtime still.
                    if host.cri.start(&container).await.is_ok() {
                        host.until_logged(&pod, &settings, "up").await?;
                    }
                    host.cri.remove(&container).await?;
                }
                Err(error) => {
                    let words = format!("handler {handler}");
                    ensure!(error.message().contains(&words), "{error}");
                }
            }
        }
        host.cri.stop_pod(&id).await?;
        host.cri.remove_pod(&id).await?;
        host.settles()
    });
}
