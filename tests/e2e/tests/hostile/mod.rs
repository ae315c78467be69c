//! Requests that no well-meaning client sends, at every RPC: a table of them ([`CASES`]), bytes that are no message, and generated ones.

mod generated;
mod vanish;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use cri::v1::{IdMapping, NamespaceMode, PodSandboxConfig, UserNamespace};
use e2e::{ContainerSettings, Host, PodSettings, Raw, long_scenario, scenario};
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MethodDescriptor, prost::Message};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::{Code, Status};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(cri::DESCRIPTOR_SET).expect("the build has compiled this very set")
});

/// The whole table, on a processor that others use as well.
const TABLE_LIMIT: Duration = Duration::from_secs(900);

/// The table, in data.
const CASES: &str = include_str!("cases.toml");

#[derive(Debug, Deserialize)]
struct Table {
    case: Vec<Case>,
}

/// A good request, what is changed in it, and what the answer must be.
#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    rpc: String,
    /// Values by their place in the request's JSON, `config.metadata.name`. A text `@repeat N TEXT` stands for N times TEXT, `@entries N`
    /// for a map of so many, and a name in braces for what [`Good::names`] has.
    #[serde(default)]
    set: BTreeMap<String, toml::Value>,
    /// `Ok` or the name of a gRPC code; `A or B`, where another crate is free to choose.
    code: String,
    #[serde(default)]
    says: Vec<String>,
}

fn method(name: &str) -> Option<MethodDescriptor> {
    let services = POOL.services();
    services
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .find(|method| method.name() == name)
}

fn encode(method: &MethodDescriptor, request: Value) -> anyhow::Result<Bytes> {
    let message = DynamicMessage::deserialize(method.input(), request)
        .with_context(|| format!("a request of {}", method.name()))?;
    Ok(message.encode_to_vec().into())
}

async fn call(raw: &Raw, method: &MethodDescriptor, request: Bytes) -> Result<Bytes, Status> {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    raw.call(&path, method.is_server_streaming(), request).await
}

/// What good requests are made of, and what rows of the table may name.
struct Good {
    pod: Value,
    container: Value,
    names: BTreeMap<&'static str, String>,
}

fn as_json(message: &impl prost::Message, name: &str) -> anyhow::Result<Value> {
    let descriptor = POOL.get_message_by_name(name).context("no such message")?;
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())?;
    Ok(serde_json::to_value(message)?)
}

impl Good {
    fn request(&self, rpc: &str) -> Value {
        let (pod_id, container_id) = (&self.names["{pod}"], &self.names["{container}"]);
        match rpc {
            "RunPodSandbox" => json!({"config": self.pod}),
            "CreateContainer" => {
                json!({"podSandboxId": pod_id, "config": self.container, "sandboxConfig": self.pod})
            }
            "ExecSync" => json!({"containerId": container_id, "cmd": ["true"], "timeout": 5}),
            "Exec" => json!({"containerId": container_id, "cmd": ["true"], "stdout": true}),
            "Attach" => json!({"containerId": container_id, "stdout": true}),
            "PortForward" => json!({"podSandboxId": pod_id, "port": [80]}),
            "StopPodSandbox"
            | "RemovePodSandbox"
            | "PodSandboxStatus"
            | "PodSandboxStats"
            | "UpdatePodSandboxResources"
            | "CheckpointPod" => {
                json!({"podSandboxId": pod_id})
            }
            "StartContainer"
            | "StopContainer"
            | "RemoveContainer"
            | "ContainerStatus"
            | "ReopenContainerLog"
            | "ContainerStats"
            | "CheckpointContainer"
            | "UpdateContainerResources" => {
                json!({"containerId": container_id})
            }
            _ => json!({}),
        }
    }

    fn expand(&self, value: Value) -> Value {
        match value {
            Value::String(text) => self.expand_text(&text),
            Value::Array(items) => items.into_iter().map(|item| self.expand(item)).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| (name, self.expand(value)))
                .collect(),
            other => other,
        }
    }

    fn expand_text(&self, text: &str) -> Value {
        if let Some(count) = text.strip_prefix("@entries ") {
            let count: u32 = count.parse().expect("a count of entries");
            let entries = (0..count).map(|index| (format!("key-{index}"), json!("value")));
            return entries.collect();
        }
        if let Some((count, text)) = text
            .strip_prefix("@repeat ")
            .and_then(|rest| rest.split_once(' '))
        {
            return text.repeat(count.parse().expect("a count")).into();
        }
        let names = self.names.iter();
        let text = names.fold(text.to_owned(), |text, (name, value)| {
            text.replace(name, value)
        });
        text.into()
    }
}

fn put(request: &mut Value, place: &str, value: Value) {
    let mut at = request;
    for part in place.split('.') {
        at = match part.parse::<usize>() {
            Ok(index) => {
                if !at.is_array() {
                    *at = json!([]);
                }
                let items = at.as_array_mut().expect("made one");
                items.resize((index + 1).max(items.len()), Value::Null);
                &mut items[index]
            }
            Err(_) => {
                if !at.is_object() {
                    *at = json!({});
                }
                &mut at[part]
            }
        };
    }
    *at = value;
}

/// A pod with a user namespace.
fn mapped(name: &str) -> PodSettings {
    PodSettings::edited(name, |config: &mut PodSandboxConfig| {
        let linux = config.linux.get_or_insert_default();
        let context = linux.security_context.get_or_insert_default();
        let options = context.namespace_options.get_or_insert_default();
        let mapping = IdMapping {
            host_id: 100_000,
            container_id: 0,
            length: 65_536,
        };
        options.userns_options = Some(UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: vec![mapping],
            gids: vec![mapping],
        });
    })
}

#[test]
fn every_rpc_has_a_row() {
    let table: Table = toml::from_str(CASES).unwrap();
    let rows: BTreeSet<&str> = table.case.iter().map(|case| case.rpc.as_str()).collect();
    let services = POOL.services();
    let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
    for method in methods {
        assert!(rows.contains(method.name()), "no row of {}", method.name());
    }
}

#[test]
fn a_table_of_bad_requests() {
    long_scenario(TABLE_LIMIT, async |host| {
        let pod = PodSettings::new("good");
        let pod_id = host.run_pod(&pod).await?;
        // Without children that come and go.
        let settings = ContainerSettings::new("main", ["sleep", "3600"]);
        let main = host.run(&pod_id, &pod, &settings).await?;
        let of_another = PodSettings::new("other");
        let other = host.run_pod(&of_another).await?;
        let other = host.run(&other, &of_another, &settings).await?;
        let with_users = mapped("mapped");
        let mapped = host.run_pod(&with_users).await?;
        // The first container makes what its pod keeps, such as the process that writes logs.
        host.run(&mapped, &with_users, &settings).await?;
        let directory = host.sandbox.directory().display().to_string();
        let good = Good {
            pod: as_json(
                &host.pod_config(&PodSettings::new("bad")),
                "runtime.v1.PodSandboxConfig",
            )?,
            container: as_json(
                &ContainerSettings::sleeper("bad").config(&host.image),
                "runtime.v1.ContainerConfig",
            )?,
            names: BTreeMap::from([
                ("{pod}", pod_id),
                ("{container}", main),
                ("{other}", other),
                ("{mapped}", mapped),
                ("{directory}", directory),
            ]),
        };
        let unchanged = testkit::ledger::Ledger::take_settled(&host.sandbox)?;
        let before = std::mem::replace(&mut host.before, unchanged);
        let raw = Raw::connect(host.daemon.socket()).await?;
        let table: Table = toml::from_str(CASES)?;
        let mut wrong = Vec::new();
        for case in &table.case {
            let wrongs = judge(host, &raw, &good, case)
                .await
                .with_context(|| case.name.clone())?;
            if wrongs.is_some() {
                // Whatever it left is nobody else's.
                host.before = testkit::ledger::Ledger::take_settled(&host.sandbox)?;
            }
            wrong.extend(wrongs);
        }
        host.before = before;
        anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    });
}

/// A map of texts in a request.
fn texts(value: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

/// What is wrong with the answer to a case, or what it left behind.
async fn judge(host: &Host, raw: &Raw, good: &Good, case: &Case) -> anyhow::Result<Option<String>> {
    let method = method(&case.rpc).context("no such RPC")?;
    let mut request = good.request(&case.rpc);
    for (place, value) in &case.set {
        put(
            &mut request,
            place,
            good.expand(serde_json::to_value(value)?),
        );
    }
    let asked = [
        &request["config"]["labels"],
        &request["config"]["annotations"],
    ]
    .map(texts);
    let answer = call(raw, &method, encode(&method, request)?).await;
    let mut listed = None;
    // What was made all the same goes before the ledger is looked at.
    match (&answer, case.rpc.as_str()) {
        (Ok(bytes), "RunPodSandbox") => {
            let made = cri::v1::RunPodSandboxResponse::decode(bytes.clone())?;
            let pods = host.cri.pods(None).await?;
            let pod = pods.into_iter().find(|pod| pod.id == made.pod_sandbox_id);
            listed = Some(pod.map(|pod| [pod.labels, pod.annotations]));
            host.cri.remove_pod(&made.pod_sandbox_id).await?;
        }
        (Ok(bytes), "CreateContainer") => {
            let made = cri::v1::CreateContainerResponse::decode(bytes.clone())?;
            let containers = host.cri.containers(None).await?;
            let container = containers.into_iter().find(|it| it.id == made.container_id);
            listed = Some(container.map(|it| [it.labels, it.annotations]));
            host.cri.remove(&made.container_id).await?;
        }
        _ => {}
    }
    let (code, said) = match &answer {
        Ok(_) => ("Ok".to_owned(), ""),
        Err(status) => (format!("{:?}", status.code()), status.message()),
    };
    let name = &case.name;
    let shown: String = said.chars().take(300).collect();
    if !case.code.split(" or ").any(|expected| expected == code) {
        return Ok(Some(format!("{name}: {code}, not {}: {shown}", case.code)));
    }
    if let Some(word) = case.says.iter().find(|word| !said.contains(word.as_str())) {
        return Ok(Some(format!("{name}: {word:?} is not said: {shown}")));
    }
    if listed.is_some_and(|listed| listed != Some(asked)) {
        return Ok(Some(format!("{name}: is not listed as it was asked for")));
    }
    if said.len() > 16 * 1024 {
        return Ok(Some(format!("{name}: a message of {} bytes", said.len())));
    }
    Ok(host.settles().err().map(|left| format!("{name}: {left:#}")))
}

/// Bytes that are no request, at every RPC.
#[test]
fn what_does_not_decode_is_refused() {
    scenario(async |host| {
        let raw = Raw::connect(host.daemon.socket()).await?;
        // A field 1 that is longer than the message; a group that never ends; a number that never ends.
        let never: [&[u8]; 3] = [
            b"\x0a\x7fab",
            b"\x0b",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        let mut accepted = Vec::new();
        for service in POOL.services() {
            for method in service.methods() {
                // A field that a message does not have may hold anything.
                let first = method.input().get_field(1);
                let takes_bytes = first.is_none_or(|field| field.kind() == Kind::Bytes);
                let not_utf8: &[u8] = b"\x0a\x02\xff\xfe";
                let bad = never.into_iter();
                for bytes in bad.chain((!takes_bytes).then_some(not_utf8)) {
                    let name = method.name();
                    match call(&raw, &method, Bytes::from_static(bytes)).await {
                        Ok(_) => accepted.push(format!("{name}: {bytes:x?}")),
                        Err(status) => {
                            let refused = [Code::Internal, Code::InvalidArgument];
                            assert!(refused.contains(&status.code()), "{name}: {status}");
                        }
                    }
                }
            }
        }
        assert!(accepted.is_empty(), "accepted: {accepted:#?}");
        let large = Bytes::from(vec![0; cri::MAX_MESSAGE_BYTES + 1024]);
        let method = method("RunPodSandbox").context("no such RPC")?;
        let refusal = call(&raw, &method, large).await.unwrap_err();
        assert!(
            matches!(refusal.code(), Code::OutOfRange | Code::ResourceExhausted),
            "{refusal}"
        );
        host.cri.version().await?;
        assert!(
            !host.daemon.log().contains("panicked"),
            "{}",
            host.daemon.log_tail()
        );
        Ok(())
    });
}
