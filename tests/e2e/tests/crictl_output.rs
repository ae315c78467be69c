//! What `crictl` prints, and what ours prints by that name, of the same pods on the same endpoint.

use std::{collections::BTreeMap, os::unix::fs::symlink, path::PathBuf, process::Output};

use anyhow::{Context, ensure};
use e2e::{ContainerSettings, Host, PodSettings, scenario};
use serde_json::Value;
use testkit::daemon::binary;

use crate::streams_commands::SOCKET;
use crate::streams_crictl::crictl;

/// `{pod}`, `{main}`, `{ended}` and `{image}` stand for what the test has made. Those behind `~` show figures that change as one looks.
const COMMANDS: &[&str] = &[
    "pods",
    "pods -o json",
    "pods -o yaml",
    "pods -q",
    "pods -v",
    "pods --no-trunc",
    "pods --name other",
    "pods --state ready",
    "pods --label app=a",
    "pods -l",
    "pods --id {pod}",
    "ps",
    "ps -a",
    "ps -a -o json",
    "ps -a -o yaml",
    "ps -a -q",
    "ps -a -v",
    "ps --no-trunc",
    "ps -r",
    "ps --name main",
    "ps -s exited",
    "ps -p {pod}",
    "ps --image {image}",
    "ps -n 1",
    "ps -l",
    "images",
    "images -o json",
    "images -o yaml",
    "images -q",
    "images -v",
    "images --digests",
    "images --no-trunc",
    "images --pinned",
    "images none",
    "inspect {main}",
    "inspect -o yaml {main}",
    "inspect -o table {main}",
    "inspect -q {main}",
    "inspect {main} {ended}",
    "inspect -o go-template --template {{.status.state}} {ended}",
    "inspectp {pod}",
    "inspectp -o yaml {pod}",
    "inspectp -o table {pod}",
    "inspectp -q {pod}",
    "inspecti {image}",
    "inspecti -o yaml {image}",
    "inspecti -o table {image}",
    "info",
    "info -o yaml",
    "info -q",
    "runtime-config",
    "version",
    "~imagefsinfo",
    "~imagefsinfo -o table",
    "~imagefsinfo -o yaml",
    "~stats -o json",
    "~stats -a -o yaml",
    "~statsp -o json",
    "~statsp -o yaml",
    "~stats -s 0",
    "~statsp",
    "metricdescs",
    "metricdescs -o yaml",
    "~metricsp",
    "~metricsp -o yaml",
    "logs {main}",
    "logs --tail 1 {main}",
    "exec {main} echo hi",
    "exec {main} sh -c exit${IFS}7",
    "config --get debug",
    "inspect nobody",
    "inspectp nobody",
    "inspecti nobody",
    "logs nobody",
    "stop nobody",
    "rm nobody",
    "rm {main}",
    "rmp nobody",
    "rmi nobody",
    "start nobody",
    "ps -s nonsense",
    "pods --name [",
    "nonsense",
];

/// Upstream's vendored interface is older: it does not know these.
const NEWER: &[&str] = &["mount_options"];

fn ours(host: &Host) -> anyhow::Result<PathBuf> {
    let link = host.sandbox.directory().join("crictl");
    if !link.exists() {
        symlink(binary("longshore")?, &link)?;
    }
    Ok(link)
}

fn run(host: &Host, program: &PathBuf, words: &[String]) -> anyhow::Result<Output> {
    let mut command = host.sandbox.command(program);
    command.args(["-c", "/dev/null", "-r", SOCKET, "-i", SOCKET]);
    Ok(command.args(words).output()?)
}

/// A value's fields, without what they hold.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect(),
        // Elements are alike, and how many there are is not a matter of shape.
        Value::Array(items) => Value::Array(items.iter().take(1).map(shape).collect()),
        Value::String(_) => "text".into(),
        Value::Number(_) => "number".into(),
        Value::Bool(_) => "boolean".into(),
        // A message that is not there.
        Value::Null => "object".into(),
    }
}

/// What is compared of an output: JSON and YAML as what they mean, tables as they are, but for ages and, if `figures`, numbers.
fn seen(words: &[String], output: &Output, figures: bool) -> anyhow::Result<Value> {
    let text = String::from_utf8_lossy(&output.stdout).replace("\u{1b}[2J\u{1b}[H", "");
    let is = |format: &str| {
        words
            .windows(2)
            .any(|pair| pair[0] == "-o" && pair[1] == format)
    };
    let mut value = match text.trim_start().starts_with(['{', '[']) || is("json") {
        true => serde_json::from_str(&text).with_context(|| format!("{words:?}: {text}"))?,
        false if is("yaml") => serde_saphyr::from_str(&text)?,
        false => {
            let lines = text.lines().map(|line| Value::from(plain(line, figures)));
            return Ok(Value::Array(lines.collect()));
        }
    };
    forget(&mut value, NEWER);
    Ok(match figures {
        true => shape(&value),
        false => value,
    })
}

fn forget(value: &mut Value, names: &[&str]) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !names.contains(&name.as_str()));
            fields.values_mut().for_each(|value| forget(value, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| forget(item, names)),
        _ => {}
    }
}

/// A line without what depends on the moment: `2 seconds ago`, and figures where they change. Columns stay where they are.
fn plain(line: &str, figures: bool) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in line.split(' ') {
        let unit = ["second", "seconds", "minute", "minutes"].contains(&word);
        match words.last_mut() {
            Some(count) if unit => *count = "AGE".to_owned(),
            _ => words.push(word.to_owned()),
        }
    }
    let line = words.join(" ");
    match figures {
        // Padding follows the figures' widths.
        true => line
            .split_whitespace()
            .map(
                |word| match word.starts_with(|c: char| c.is_ascii_digit()) {
                    true => "N",
                    false => word,
                },
            )
            .collect::<Vec<_>>()
            .join(" "),
        false => line,
    }
}

/// Pods and containers in each state, and what stands for them.
async fn prepare(host: &Host) -> anyhow::Result<BTreeMap<&'static str, String>> {
    let pod = PodSettings::edited("first", |config| {
        config.labels = BTreeMap::from([("app".into(), "a".into()), ("tier".into(), "x".into())]);
        config.annotations = BTreeMap::from([("note".into(), "n".into())]);
    });
    let pod_id = host.run_pod(&pod).await?;
    let other = PodSettings::new("other");
    let other_id = host.run_pod(&other).await?;
    let main = ContainerSettings::sh("main", "echo out; echo \"<err>\" >&2; exec sleep 1000");
    let main_id = host.run(&pod_id, &pod, &main).await?;
    let ended = ContainerSettings::sh("ended", "exit 3");
    let ended_id = host.run(&pod_id, &pod, &ended).await?;
    host.until_exited(&ended_id).await?;
    host.until_logged(&pod, &main, "<err>").await?;
    host.create(&other_id, &other, &ContainerSettings::sleeper("made"))
        .await?;
    Ok(BTreeMap::from([
        ("{pod}", pod_id),
        ("{main}", main_id),
        ("{ended}", ended_id),
        ("{image}", host.image.clone()),
    ]))
}

fn words(command: &str, names: &BTreeMap<&str, String>) -> Vec<String> {
    let word = |word: &str| names.get(word).cloned().unwrap_or_else(|| word.to_owned());
    command.split(' ').map(word).collect()
}

#[test]
#[ignore = "needs upstream's crictl (LONGSHORE_CRICTL)"]
fn every_output_is_upstreams() {
    scenario(async |host| {
        let names = prepare(host).await?;
        let (upstream, ours) = (crictl()?, ours(host)?);
        let mut wrong = Vec::new();
        for command in COMMANDS {
            let figures = command.starts_with('~');
            let command = command.trim_start_matches('~');
            let words = words(command, &names);
            let theirs = run(host, &upstream, &words)?;
            let mine = run(host, &ours, &words)?;
            let (saw, see) = (
                seen(&words, &theirs, figures)?,
                seen(&words, &mine, figures)?,
            );
            if theirs.status.code() != mine.status.code() || saw != see {
                wrong.push(format!(
                    "{command}: {:?} {saw:#} and {:?} {see:#}",
                    theirs.status, mine.status
                ));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        host.remove_all_pods().await
    });
}
