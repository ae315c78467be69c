//! One operation on a network, which is the same on each of its plugins in turn.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::config::{Network, Plugin};
use super::error::{PluginError, Reason};
use super::journal::Record;
use super::process::{self, Output};
use super::result;
use super::version::Version;

/// How plugins are run.
#[derive(Debug, Clone)]
pub(super) struct Runner {
    pub(super) directories: Vec<PathBuf>,
    /// For an operation on all plugins of a network together.
    pub(super) bound: Duration,
    /// The journal, for the mark.
    pub(super) journal: PathBuf,
}

/// Runs ADD, and returns what the last plugin said. On failure some plugins may have done their part.
pub(super) async fn add(runner: &Runner, record: &Record) -> Result<Value, PluginError> {
    let operation = Operation::of(runner, "ADD", record);
    let mut result = None;
    for plugin in &record.network.plugins {
        let output = operation.run(plugin, result.as_ref()).await?;
        let added = result::added(&output).map_err(|reason| operation.failed(plugin, reason))?;
        result = Some(added);
    }
    // A network has a plugin.
    Ok(result.unwrap_or(Value::Null))
}

/// Runs DEL, backwards, with what ADD had and said. Stops at the first that fails, so that what comes before it finds what it made.
pub(super) async fn delete(runner: &Runner, record: &Record) -> Result<(), PluginError> {
    let operation = Operation::of(runner, "DEL", record);
    // Before 0.4.0 there was none.
    let result = record.result.as_ref();
    let result = result.filter(|_| record.network.version.has_check());
    for plugin in record.network.plugins.iter().rev() {
        operation.succeed(plugin, result).await?;
    }
    Ok(())
}

/// Runs CHECK.
pub(super) async fn check(runner: &Runner, record: &Record) -> Result<(), PluginError> {
    let operation = Operation::of(runner, "CHECK", record);
    for plugin in &record.network.plugins {
        operation.succeed(plugin, record.result.as_ref()).await?;
    }
    Ok(())
}

/// Runs GC: what is not `valid`, as id and interface, may go. One plugin that fails does not keep the others.
pub(super) async fn collect(
    runner: &Runner,
    network: &Network,
    valid: &[(String, String)],
) -> Result<(), PluginError> {
    let valid: Vec<Value> = valid
        .iter()
        .map(|(id, interface)| json!({ "containerID": id, "ifname": interface }))
        .collect();
    let mut operation = Operation::without_pod(runner, "GC", network);
    // The specification's name, and the one that the reference implementation used at first.
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        operation
            .injected
            .insert(key.to_owned(), Value::Array(valid.clone()));
    }
    let mut first = Ok(());
    for plugin in &network.plugins {
        first = first.and(operation.succeed(plugin, None).await);
    }
    first
}

/// Runs STATUS: whether the plugins would take an ADD.
pub(super) async fn status(runner: &Runner, network: &Network) -> Result<(), PluginError> {
    let operation = Operation::without_pod(runner, "STATUS", network);
    for plugin in &network.plugins {
        operation.succeed(plugin, None).await?;
    }
    Ok(())
}

/// Runs VERSION. `None`: the plugin does not say.
pub(super) async fn versions(
    runner: &Runner,
    network: &Network,
    plugin: &Plugin,
) -> Result<Option<Vec<Version>>, PluginError> {
    let mut operation = Operation::without_pod(runner, "VERSION", network);
    // The reference skeleton of old plugins wants all of them, even here.
    for key in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        operation.environment.push((key, "dummy".to_owned()));
    }
    match operation.run(plugin, None).await {
        Ok(output) => Ok(result::spoken(&output)),
        Err(error) => match error.reason {
            Reason::Missing { .. } | Reason::Start { .. } => Err(error),
            Reason::Refused { .. }
            | Reason::Failed { .. }
            | Reason::Late { .. }
            | Reason::TooMuch { .. }
            | Reason::Garbage { .. }
            | Reason::Process(_) => Ok(None),
        },
    }
}

struct Operation<'a> {
    runner: &'a Runner,
    command: &'static str,
    network: &'a Network,
    capabilities: Option<&'a Map<String, Value>>,
    environment: Vec<(&'static str, String)>,
    injected: Map<String, Value>,
    mark: String,
    deadline: Instant,
}

impl<'a> Operation<'a> {
    fn of(runner: &'a Runner, command: &'static str, record: &'a Record) -> Operation<'a> {
        let mut operation = Operation::without_pod(runner, command, &record.network);
        operation.mark = process::mark(&runner.journal, &record.id);
        operation.capabilities = Some(&record.capabilities);
        // A namespace that is gone is told as none (specification, section 2, DEL).
        let netns = match command != "DEL" || record.netns.exists() {
            true => record.netns.display().to_string(),
            false => String::new(),
        };
        operation.environment.extend([
            ("CNI_CONTAINERID", record.id.clone()),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", record.interface.clone()),
            ("CNI_ARGS", record.arguments.clone()),
        ]);
        operation
    }

    fn without_pod(
        runner: &'a Runner,
        command: &'static str,
        network: &'a Network,
    ) -> Operation<'a> {
        Operation {
            runner,
            command,
            network,
            capabilities: None,
            environment: vec![
                ("CNI_COMMAND", command.to_owned()),
                ("CNI_PATH", process::join(&runner.directories)),
            ],
            injected: Map::new(),
            mark: process::mark(&runner.journal, ""),
            deadline: Instant::now() + runner.bound,
        }
    }

    async fn succeed(&self, plugin: &Plugin, previous: Option<&Value>) -> Result<(), PluginError> {
        let output = self.run(plugin, previous).await?;
        result::success(&output).map_err(|reason| self.failed(plugin, reason))
    }

    async fn run(&self, plugin: &Plugin, previous: Option<&Value>) -> Result<Output, PluginError> {
        let failed = |reason| self.failed(plugin, reason);
        let program: PathBuf =
            process::find(&self.runner.directories, &plugin.kind).map_err(failed)?;
        let started = Instant::now();
        let output = process::run(process::Run {
            program: Path::new(&program),
            environment: &self.environment,
            config: self.config(plugin, previous),
            mark: self.mark.clone(),
            bound: self.runner.bound,
            deadline: self.deadline,
        })
        .await;
        tracing::debug!(
            plugin = plugin.kind,
            command = self.command,
            network = self.network.name,
            elapsed_ms = started.elapsed().as_millis(),
            succeeded = output.as_ref().is_ok_and(|output| output.status.success()),
            "plugin"
        );
        output.map_err(failed)
    }

    /// The plugin's part of the configuration with what only a runtime knows (specification, section 3).
    fn config(&self, plugin: &Plugin, previous: Option<&Value>) -> Vec<u8> {
        let mut config = plugin.config.clone();
        config.insert("name".to_owned(), json!(self.network.name));
        config.insert(
            "cniVersion".to_owned(),
            json!(self.network.version.as_str()),
        );
        config.remove("cniVersions");
        config.extend(self.injected.clone());
        if let Some(previous) = previous {
            config.insert("prevResult".to_owned(), previous.clone());
        }
        let mut told = Map::new();
        for (capability, value) in self.capabilities.into_iter().flatten() {
            if plugin.takes(capability) {
                told.insert(capability.clone(), value.clone());
            }
        }
        if !told.is_empty() {
            config.insert("runtimeConfig".to_owned(), Value::Object(told));
        }
        Value::Object(config).to_string().into_bytes()
    }

    fn failed(&self, plugin: &Plugin, reason: Reason) -> PluginError {
        PluginError {
            plugin: plugin.kind.clone(),
            command: self.command,
            network: self.network.name.clone(),
            reason,
        }
    }
}
