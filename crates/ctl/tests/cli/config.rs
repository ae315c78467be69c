use std::process::Command;

use crate::{Outcome, longshore};

fn config(file: &str, arguments: &[&str]) -> Outcome {
    let mut command = longshore();
    command.args(["--config", file, "config"]).args(arguments);
    Outcome::of(command.output().unwrap())
}

#[test]
fn the_configuration_file_is_shown_and_changed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("crictl.yaml");
    let file = file.to_str().unwrap();
    let set = [
        "--set",
        "timeout=7,debug=true",
        "--set",
        "image-endpoint=unix:///i.sock",
    ];
    assert_eq!(config(file, &set).code, 0);
    assert_eq!(config(file, &["pull-image-on-create", "true"]).code, 0);
    assert_eq!(config(file, &["--get", "timeout"]).stdout, "7\n");
    let listed = config(file, &["--list"]).stdout;
    assert!(listed.starts_with("KEY "), "{listed}");
    for line in [
        "image-endpoint         unix:///i.sock",
        "max-retries            3",
    ] {
        assert!(listed.lines().any(|listed| listed == line), "{listed}");
    }
    assert_eq!(
        std::fs::read_to_string(file).unwrap(),
        "timeout: 7\ndebug: true\nimage-endpoint: unix:///i.sock\npull-image-on-create: true\n"
    );
}

#[test]
fn a_wrong_change_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("crictl.yaml");
    let file = path.to_str().unwrap();
    for wrong in [
        &["--set", "timeout=soon"][..],
        &["--set", "timeout"],
        &["--set", "colour=red"],
        &["--get", "colour"],
        &["debug"],
        &[],
    ] {
        assert_eq!(config(file, wrong).code, 2, "{wrong:?}");
    }
    assert!(!path.exists());
    std::fs::write(&path, "timeout: [1]\n").unwrap();
    let outcome = config(file, &["--list"]);
    assert_eq!(outcome.code, 1);
    assert!(
        outcome
            .stderr
            .contains("timeout: \"[1]\" is not a number of seconds")
    );
    // Where it is not crictl, no file is its own.
    let outcome = Outcome::of(longshore().args(["config", "--list"]).output().unwrap());
    assert_eq!(outcome.code, 2);
    assert!(outcome.stderr.contains("--config"));
}

#[test]
fn completions_are_scripts_that_the_shell_accepts() {
    let completion = |shell: &str| {
        let output = longshore().args(["completion", shell]).output().unwrap();
        assert!(output.status.success());
        output.stdout
    };
    let script = completion("bash");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("script");
    std::fs::write(&file, &script).unwrap();
    let checked = Command::new("bash").arg("-n").arg(&file).status();
    assert!(checked.unwrap().success());
    for (shell, word) in [
        ("zsh", "#compdef longshore"),
        ("fish", "complete -c longshore"),
    ] {
        let script = String::from_utf8(completion(shell)).unwrap();
        assert!(
            script.contains(word) && script.contains("inspectp"),
            "{shell}"
        );
    }
    let unknown = longshore().args(["completion", "csh"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
}

#[test]
fn each_command_has_a_manual_page_made_of_its_help() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    let mut command = longshore();
    let output = command.arg("man").arg(&pages).output().unwrap();
    assert_eq!(Outcome::of(output).code, 0);
    let page = |name: &str| std::fs::read_to_string(pages.join(name)).unwrap();
    assert!(page("longshore-logs.1").contains("logs of containers"));
    assert!(page("longshore-run-jsonschema.1").contains("JSON schema"));
    assert!(page("longshore.1").contains("longshore\\-port\\-forward(1)"));
    let printed = longshore().arg("man").output().unwrap();
    assert_eq!(printed.stdout, page("longshore.1").into_bytes());

    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = Outcome::of(longshore().arg("man").arg(&file).output().unwrap());
    assert_eq!(refused.code, 1);
    assert_eq!(
        refused.stderr,
        format!(
            "longshore: make {}: File exists (os error 17)\n",
            file.display()
        )
    );
}

#[test]
fn schemas_are_shown_without_a_runtime() {
    let schema = |arguments: &[&str]| {
        let mut command = longshore();
        command.args(["-r", "/nobody/there.sock"]).args(arguments);
        Outcome::of(command.output().unwrap())
    };
    for (arguments, names) in [
        (&["runp", "jsonschema"][..], &["PodSandboxConfig"][..]),
        (&["pull", "js"], &["PodSandboxConfig"]),
        (
            &["create", "jsonschema", "--container"],
            &["ContainerConfig"],
        ),
        (
            &["run", "js", "-p", "-c"],
            &["PodSandboxConfig", "ContainerConfig"],
        ),
    ] {
        let shown = schema(arguments);
        assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
        let documents = serde_json::Deserializer::from_str(&shown.stdout).into_iter();
        let documents: Vec<serde_json::Value> = documents.map(Result::unwrap).collect();
        let roots: Vec<_> = documents
            .iter()
            .map(|document| document["$ref"].as_str().unwrap())
            .collect();
        let wanted: Vec<_> = names.iter().map(|name| format!("#/$defs/{name}")).collect();
        assert_eq!(roots, wanted);
    }
    assert_eq!(schema(&["create", "jsonschema"]).code, 2);
    assert_eq!(schema(&["runp"]).code, 2);
    assert_eq!(schema(&["runp", "jsonschema", "pod.json"]).code, 2);
}
