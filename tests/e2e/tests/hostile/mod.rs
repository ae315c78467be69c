//! Requests that no well-meaning client sends, at every RPC: a table of them ([`CASES`]), bytes that are no message, and generated ones.

mod generated;

use std::sync::LazyLock;

use anyhow::Context;
use bytes::Bytes;
use e2e::{ContainerSettings, Host, PodSettings, Raw, scenario};
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, prost::Message};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::{Code, Status};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(cri::DESCRIPTOR_SET).expect("the build has compiled this very set")
});

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
    /// Values by their place in the request's JSON, `config.metadata.name`. A text `@repeat N TEXT` stands for N times TEXT.
    #[serde(default)]
    set: std::collections::BTreeMap<String, toml::Value>,
    /// `Ok` or the name of a gRPC code.
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

/// What good requests are made of.
struct Good {
    pod: Value,
    container: Value,
    pod_id: String,
    container_id: String,
}

fn as_json(message: &impl prost::Message, name: &str) -> anyhow::Result<Value> {
    let descriptor = POOL.get_message_by_name(name).context("no such message")?;
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())?;
    Ok(serde_json::to_value(message)?)
}

impl Good {
    fn request(&self, rpc: &str) -> Value {
        let (pod_id, container_id) = (&self.pod_id, &self.container_id);
        match rpc {
            "RunPodSandbox" => json!({"config": self.pod}),
            "CreateContainer" => {
                json!({"podSandboxId": pod_id, "config": self.container, "sandboxConfig": self.pod})
            }
            "ExecSync" => json!({"containerId": container_id, "cmd": ["true"], "timeout": 5}),
            "StopPodSandbox" | "RemovePodSandbox" | "PodSandboxStatus" => {
                json!({"podSandboxId": pod_id})
            }
            "StartContainer"
            | "StopContainer"
            | "RemoveContainer"
            | "ContainerStatus"
            | "ReopenContainerLog"
            | "ContainerStats"
            | "UpdateContainerResources" => {
                json!({"containerId": container_id})
            }
            _ => json!({}),
        }
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

fn expand(value: Value) -> Value {
    match value {
        Value::String(text) => match text
            .strip_prefix("@repeat ")
            .and_then(|rest| rest.split_once(' '))
        {
            Some((count, text)) => Value::String(text.repeat(count.parse().unwrap_or(1))),
            None => Value::String(text),
        },
        Value::Array(items) => items.into_iter().map(expand).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, expand(value)))
            .collect(),
        other => other,
    }
}

#[test]
fn a_table_of_bad_requests() {
    scenario(async |host| {
        let pod = PodSettings::new("good");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sleeper("main");
        let main = host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "up").await?;
        let good = Good {
            pod: as_json(
                &host.pod_config(&PodSettings::new("bad")),
                "runtime.v1.PodSandboxConfig",
            )?,
            container: as_json(
                &ContainerSettings::sleeper("bad").config(&host.image),
                "runtime.v1.ContainerConfig",
            )?,
            pod_id,
            container_id: main,
        };
        let unchanged = testkit::ledger::Ledger::take(&host.sandbox)?;
        let before = std::mem::replace(&mut host.before, unchanged);
        let raw = Raw::connect(host.daemon.socket()).await?;
        let table: Table = toml::from_str(CASES)?;
        let mut wrong = Vec::new();
        for case in &table.case {
            wrong.extend(
                judge(host, &raw, &good, case)
                    .await
                    .with_context(|| case.name.clone())?,
            );
        }
        host.before = before;
        anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    });
}

/// What is wrong with the answer to a case, or what it left behind.
async fn judge(host: &Host, raw: &Raw, good: &Good, case: &Case) -> anyhow::Result<Option<String>> {
    let method = method(&case.rpc).context("no such RPC")?;
    let mut request = good.request(&case.rpc);
    for (place, value) in &case.set {
        put(&mut request, place, expand(serde_json::to_value(value)?));
    }
    let answer = call(raw, &method, encode(&method, request)?).await;
    // What was made all the same goes before the ledger is looked at.
    match (&answer, case.rpc.as_str()) {
        (Ok(bytes), "RunPodSandbox") => {
            let made = cri::v1::RunPodSandboxResponse::decode(bytes.clone())?;
            host.cri.remove_pod(&made.pod_sandbox_id).await?;
        }
        (Ok(bytes), "CreateContainer") => {
            let made = cri::v1::CreateContainerResponse::decode(bytes.clone())?;
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
    if code != case.code {
        return Ok(Some(format!("{name}: {code}, not {}: {shown}", case.code)));
    }
    if let Some(word) = case.says.iter().find(|word| !said.contains(word.as_str())) {
        return Ok(Some(format!("{name}: {word:?} is not said: {shown}")));
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
        // A field 1 that is longer than the message; a group that never ends; a field 1 of text that is not UTF-8; a number that never ends.
        let bad: [&[u8]; 4] = [
            b"\x0a\x7fab",
            b"\x0b",
            b"\x0a\x02\xff\xfe",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        for service in POOL.services() {
            for method in service.methods() {
                for bytes in bad {
                    let answer = call(&raw, &method, Bytes::from_static(bytes)).await;
                    if let Err(status) = answer {
                        let refused = [Code::Internal, Code::InvalidArgument, Code::Unimplemented];
                        assert!(
                            refused.contains(&status.code()),
                            "{}: {status}",
                            method.name()
                        );
                    }
                }
            }
        }
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
