use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use oci_spec::runtime::{Hook, Spec};

use super::{Failure, HookDirectories, Stage, of, run, state};

fn script(directory: &Path, name: &str, text: &str) -> Hook {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let mut hook = Hook::default();
    hook.set_path(path);
    hook
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_hook_reads_the_state_and_nothing_of_ours() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let mut hook = script(
        directory.path(),
        "tell",
        &format!(
            "cat >{0}; echo >>{0}; env >>{0}; echo \"$0 $*\" >>{0}",
            out.display()
        ),
    );
    hook.set_args(Some(vec!["its-name".into(), "one".into()]));
    hook.set_env(Some(vec![
        "PATH=/bin:/usr/bin".into(),
        "WORD=given=it".into(),
    ]));
    let spec = Spec::default();
    let told = state(
        &spec,
        "some-id",
        Stage::CreateRuntime,
        Some(7),
        Path::new("/bundle"),
    );
    run(&hook, &told, LONG).await.unwrap();
    let text = fs::read_to_string(out).unwrap();
    let told: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(told["id"], "some-id");
    assert_eq!(told["pid"], 7);
    assert_eq!(told["status"], "creating");
    assert_eq!(told["bundle"], "/bundle");
    assert!(text.contains("WORD=given=it"), "{text}");
    assert!(
        !text.contains("CARGO"),
        "the daemon's environment is its own: {text}"
    );
    assert!(text.trim_end().ends_with(" one"), "{text}");
}

#[tokio::test]
async fn a_hook_that_fails_hangs_or_is_not_there_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let hook = script(directory.path(), "fail", "echo no such gpu >&2; exit 3");
    let error = run(&hook, b"{}", LONG).await.unwrap_err().to_string();
    assert!(
        error.contains("exit status: 3") && error.contains("no such gpu"),
        "{error}"
    );

    let pid = directory.path().join("pid");
    let hang = format!("echo begun; sleep 1000 & echo $! >{}; wait", pid.display());
    let mut hook = script(directory.path(), "hang", &hang);
    hook.set_env(Some(vec!["PATH=/bin:/usr/bin".into()]));
    hook.set_timeout(Some(1));
    let error = run(&hook, b"{}", LONG).await.unwrap_err();
    assert!(
        matches!(&error, Failure::TimedOut { said, .. } if said == "begun"),
        "{error}"
    );
    let left = fs::read_to_string(pid).unwrap();
    let status = format!("/proc/{}/stat", left.trim());
    // It is killed with its parent; whoever reaps it may take a moment.
    let dead = || {
        fs::read_to_string(&status)
            .is_ok_and(|stat| !stat.contains(") Z"))
            .then_some(())
    };
    for _ in 0..500 {
        if dead().is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(dead().is_none(), "what the hook started lives on");

    let mut hook = Hook::default();
    hook.set_path(directory.path().join("absent"));
    assert!(matches!(
        run(&hook, b"{}", LONG).await,
        Err(Failure::Start(_))
    ));
}

fn file(directory: &Path, name: &str, when: &str, stages: &str) {
    let text = format!(
        r#"{{"version": "1.0.0", "hook": {{"path": "/bin/true", "args": ["{name}"]}}, "when": {when}, "stages": {stages}}}"#
    );
    fs::write(directory.join(name), text).unwrap();
}

fn names(spec: &Spec, stage: Stage) -> Vec<String> {
    let hooks = of(spec, stage).iter();
    hooks
        .map(|hook| hook.args().as_ref().unwrap()[0].clone())
        .collect()
}

#[test]
fn files_say_for_which_containers_they_are() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let directories = HookDirectories::new(vec![
        first.path().to_owned(),
        second.path().to_owned(),
        first.path().join("not-there"),
    ]);
    file(
        first.path(),
        "50-always.json",
        r#"{"always": true}"#,
        r#"["createRuntime", "poststop"]"#,
    );
    file(
        first.path(),
        "10-never.json",
        r#"{"always": false}"#,
        r#"["createRuntime"]"#,
    );
    file(
        first.path(),
        "20-annotated.json",
        r#"{"annotations": {"^io\\.example/": "^yes$"}}"#,
        r#"["createRuntime"]"#,
    );
    file(
        first.path(),
        "30-command.json",
        r#"{"commands": ["^/bin/other$", "sh$"]}"#,
        r#"["createRuntime"]"#,
    );
    file(
        first.path(),
        "40-mounts.json",
        r#"{"hasBindMounts": true}"#,
        r#"["createRuntime"]"#,
    );
    file(
        first.path(),
        "45-both.json",
        r#"{"hasBindMounts": true, "commands": ["^nothing$"]}"#,
        r#"["createRuntime"]"#,
    );
    file(
        first.path(),
        "60-replaced.json",
        r#"{"always": true}"#,
        r#"["createRuntime"]"#,
    );
    file(
        second.path(),
        "60-replaced.json",
        r#"{"always": true}"#,
        r#"["poststart"]"#,
    );
    fs::write(first.path().join("README"), "no hook").unwrap();

    let mut plain = Spec::default();
    let hooks = directories.look().unwrap();
    hooks.add(&mut plain, &BTreeMap::new(), false);
    assert_eq!(
        names(&plain, Stage::CreateRuntime),
        ["30-command.json", "50-always.json"]
    );
    assert_eq!(names(&plain, Stage::Poststop), ["50-always.json"]);
    assert_eq!(names(&plain, Stage::Poststart), ["60-replaced.json"]);

    let mut other = Spec::default();
    let annotations = [("io.example/x".to_owned(), "yes".to_owned())].into();
    other
        .process_mut()
        .as_mut()
        .unwrap()
        .set_args(Some(vec!["/bin/prog".into()]));
    hooks.add(&mut other, &annotations, true);
    assert_eq!(
        names(&other, Stage::CreateRuntime),
        ["20-annotated.json", "40-mounts.json", "50-always.json"]
    );

    for (text, words) in [
        ("{", "does not parse"),
        (
            r#"{"version": "0.1.0", "hook": {"path": "/bin/true"}, "when": {"always": true}, "stages": ["poststop"]}"#,
            "version: \"0.1.0\"",
        ),
        (
            r#"{"version": "1.0.0", "hook": {"path": "true"}, "when": {"always": true}, "stages": ["poststop"]}"#,
            "hook.path",
        ),
        (
            r#"{"version": "1.0.0", "hook": {"path": "/not/there"}, "when": {"always": true}, "stages": ["poststop"]}"#,
            "it is not there",
        ),
        (
            r#"{"version": "1.0.0", "hook": {"path": "/bin/true"}, "when": {}, "stages": ["poststop"]}"#,
            "at least one condition",
        ),
        (
            r#"{"version": "1.0.0", "hook": {"path": "/bin/true"}, "when": {"always": true}, "stages": ["sometime"]}"#,
            "sometime",
        ),
        (
            r#"{"version": "1.0.0", "hook": {"path": "/bin/true"}, "when": {"commands": ["("]}, "stages": ["poststop"]}"#,
            "regular expression",
        ),
        (
            r#"{"version": "1.0.0", "hook": {"path": "/bin/true"}, "when": {"sometimes": true}, "stages": ["poststop"]}"#,
            "does not parse",
        ),
    ] {
        fs::write(second.path().join("99-broken.json"), text).unwrap();
        let error = directories.look().unwrap_err().to_string();
        assert!(
            error.contains("99-broken.json") && error.contains(words),
            "{error}"
        );
        assert_eq!(directories.trouble(), Some(error));
    }
    fs::remove_file(second.path().join("99-broken.json")).unwrap();
    directories.look().unwrap();
    assert_eq!(directories.trouble(), None);
}

#[test]
fn a_directory_that_is_there_is_never_known_to_be_missing() {
    let place = tempfile::tempdir().unwrap();
    let (first, second) = (place.path().join("first"), place.path().join("second"));
    let directories = HookDirectories::new(vec![first.clone(), second.clone()]);
    // What the kernel remembers of them is its own affair.
    let _either = directories.are_known_missing();
    assert!(directories.look().unwrap().is_empty());
    let _either = directories.are_known_missing();
    fs::create_dir(&second).unwrap();
    assert!(!directories.are_known_missing());
    fs::create_dir(&first).unwrap();
    assert!(!directories.are_known_missing());
    fs::remove_dir(&second).unwrap();
    assert!(!directories.are_known_missing());
}
