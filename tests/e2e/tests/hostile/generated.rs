//! Requests that nobody has thought of, built from the schema: every RPC answers in time, the daemon neither panics nor dies, and what was
//! made can be removed.
//!
//! `LONGSHORE_HOSTILE_SECONDS` (default 20) and `LONGSHORE_HOSTILE_SEED` (default 1). The seed is printed whichever way the
//! test fails, a panic and the end of its time included.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cri::v1::{ContainerFilter, ContainerState, ContainerStateValue};
use e2e::{ContainerSettings, Host, PodSettings, Raw, long_scenario};
use proptest::{
    prelude::Rng,
    test_runner::{RngAlgorithm, TestRng},
};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};
use serde_json::{Map, Value, json};
use tokio::time::timeout;
use tonic::Code;

use super::{POOL, as_json, call, encode};

/// An answer that takes longer is none.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What fields of a name are filled with; anything may be missing. Paths and cgroups stay where the test cleans up.
struct Words {
    pods: Vec<String>,
    containers: Vec<String>,
    image: String,
    directory: String,
    cgroup: String,
}

struct Generator {
    rng: TestRng,
}

/// They lead to states in which the others have something to do.
const MAKERS: [&str; 4] = [
    "RunPodSandbox",
    "CreateContainer",
    "CreateContainer",
    "StartContainer",
];

/// From this length on a run has had time for a success of each RPC.
const LONG: Duration = Duration::from_secs(120);

/// The first is not waited for, the others want a program that is not everywhere.
const NEVER: [&str; 4] = [
    "WatchPull",
    "CheckpointContainer",
    "CheckpointPod",
    "RestorePod",
];

impl Generator {
    fn below(&mut self, bound: usize) -> usize {
        (self.rng.next_u64() % bound.max(1) as u64) as usize
    }

    fn one(&mut self, of: &[String]) -> String {
        let at = self.below(of.len());
        of.get(at).cloned().unwrap_or_default()
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn message(&mut self, words: &Words, message: &MessageDescriptor, depth: usize) -> Value {
        let mut fields = Map::new();
        for field in message.fields() {
            // Near the top most fields are there: an empty request is refused at the door.
            if self.below(10) >= 8_usize.saturating_sub(depth) || depth > 7 {
                continue;
            }
            let value = self.field(words, &field, depth);
            fields.insert(field.json_name().to_owned(), value);
        }
        // Of alternatives only one can be set.
        for alternatives in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
            let set: Vec<_> = alternatives
                .fields()
                .filter(|field| fields.contains_key(field.json_name()))
                .collect();
            let kept = self.below(set.len());
            for (index, field) in set.iter().enumerate() {
                if index != kept {
                    fields.remove(field.json_name());
                }
            }
        }
        Value::Object(fields)
    }

    /// What a client would ask of something that there is, where chance alone would hardly find it.
    fn sensible(&mut self, words: &Words, method: &str) -> Option<Value> {
        let id = self.one(&words.containers);
        Some(match method {
            "StartContainer" | "ReopenContainerLog" => json!({"containerId": id}),
            "ExecSync" => json!({"containerId": id, "cmd": ["true"], "timeout": "1"}),
            "Exec" => json!({"containerId": id, "cmd": ["true"], "stdout": true}),
            "Attach" => json!({"containerId": id, "stdout": true}),
            "PortForward" => json!({"podSandboxId": self.one(&words.pods), "port": [80]}),
            "UpdateContainerResources" => {
                json!({"containerId": id, "linux": {"cpuShares": "512"}})
            }
            "PullImage" => json!({"image": {"image": words.image}}),
            "ImageStatus" => json!({"image": {"image": words.image}}),
            "ExplainPull" => json!({"image": words.image}),
            "Save" => json!({"images": [words.image]}),
            _ => return None,
        })
    }

    /// A good request with some fields of any depth replaced: what only random fields make up is refused at the door.
    fn spoilt(&mut self, words: &Words, message: &MessageDescriptor, mut good: Value) -> Value {
        for _ in 0..self.below(4) {
            self.spoil(words, message, &mut good, 0);
        }
        good
    }

    fn spoil(&mut self, words: &Words, message: &MessageDescriptor, at: &mut Value, depth: usize) {
        let fields: Vec<_> = message.fields().collect();
        if fields.is_empty() {
            return;
        }
        let field = &fields[self.below(fields.len())];
        let place = &mut at[field.json_name()];
        let below = field.kind();
        match below.as_message() {
            Some(below) if place.is_object() && !field.is_map() && self.below(8) > 0 => {
                self.spoil(words, below, place, depth + 1);
            }
            _ => *place = self.field(words, field, depth),
        }
    }

    fn field(&mut self, words: &Words, field: &FieldDescriptor, depth: usize) -> Value {
        if field.is_map() {
            let mut map = Map::new();
            for _ in 0..self.below(3) {
                map.insert(self.text(words, "key"), self.text(words, "value").into());
            }
            let texts = field.kind();
            let texts = texts
                .as_message()
                .map(|entry| entry.map_entry_value_field().kind());
            match texts {
                Some(Kind::String) => Value::Object(map),
                _ => json!({}),
            }
        } else if field.is_list() {
            let count = self.below(3);
            let items = (0..count).map(|_| self.value(words, field.name(), &field.kind(), depth));
            items.collect()
        } else {
            self.value(words, field.name(), &field.kind(), depth)
        }
    }

    fn value(&mut self, words: &Words, name: &str, kind: &Kind, depth: usize) -> Value {
        match kind {
            Kind::Message(message) => self.message(words, message, depth + 1),
            Kind::Enum(known) => match self.below(8) {
                0 => json!(self.below(99)),
                _ => {
                    let values: Vec<_> = known.values().map(|value| value.number()).collect();
                    json!(values[self.below(values.len())])
                }
            },
            Kind::Bool => json!(self.below(2) == 1),
            Kind::Float | Kind::Double => json!(self.below(100) as f64 / 7.0),
            Kind::Bytes => json!("AAEC"),
            Kind::String => self.text(words, name).into(),
            // More than a second of grace or of waiting tells nothing.
            Kind::Int64 if name == "timeout" => {
                json!([-1, 0, 1, i64::MIN][self.below(4)].to_string())
            }
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                json!([0, 1, -1, 2, 80, 1000, 65536, i32::MAX, i32::MIN][self.below(9)])
            }
            Kind::Uint32 | Kind::Fixed32 => json!([0, 1, 2, 1000, u32::MAX][self.below(5)]),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                let numbers = [0, 1, -1, 2, 1000, 4096, 1 << 26, i64::MAX, i64::MIN];
                json!(numbers[self.below(9)].to_string())
            }
            Kind::Uint64 | Kind::Fixed64 => {
                json!([0, 1, 2, 1000, 1 << 26, u64::MAX][self.below(6)].to_string())
            }
        }
    }

    fn text(&mut self, words: &Words, name: &str) -> String {
        let odd = [
            "",
            " ",
            "a",
            "a\nb",
            "a\0b",
            "..",
            "ü\u{202e}",
            "%s%n",
            "{\"a\":1}",
            "-",
        ];
        match name {
            "id" | "container_id" | "pod_sandbox_id" | "target_id" if self.below(16) > 0 => {
                // One of the other kind, now and then.
                let pod = match name {
                    "pod_sandbox_id" => self.below(16) > 0,
                    "container_id" => self.below(16) == 0,
                    _ => self.below(2) == 0,
                };
                self.one(if pod { &words.pods } else { &words.containers })
            }
            "image" | "user_specified_image" | "image_ref" => match self.below(4) {
                0 => self
                    .pick(&["", "UPPER", "a\0b", "127.0.0.1:5000/none:1"])
                    .to_owned(),
                _ => words.image.clone(),
            },
            "cgroup_parent" => match self.below(3) {
                0 => self.pick(&["/../x", "a/../../b", "/a\0b"]).to_owned(),
                1 => String::new(),
                _ => format!("{}/g{}", words.cgroup, self.below(3)),
            },
            "cmd" | "command" | "args" => {
                self.pick(&["true", "sh", "", "a\0b", "/none"]).to_owned()
            }
            // What could reach out of the sandbox stays in its directory.
            "host_path" | "log_directory" | "log_path" | "location" | "localhost_ref" => {
                let below = self.pick(&["", "/x", "/x/../y", "/none/at/all", "/a\nb", "/\0"]);
                match self.below(4) {
                    0 => self
                        // What nobody can make: a path that can be made is one on the host.
                        .pick(&["", "..", "/dev/null", "/proc/no/such/path"])
                        .to_owned(),
                    _ => format!("{}/made{below}", words.directory),
                }
            }
            "container_path" | "working_dir" => {
                let paths = [
                    "/x",
                    "/x/y",
                    "/",
                    "/proc",
                    "/proc/self",
                    "/etc/..",
                    "/dev",
                    "x",
                    "",
                    "/a\0b",
                ];
                self.pick(&paths).to_owned()
            }
            "runtime_handler" => self.pick(&["", "", "", "native", "none"]).to_owned(),
            "name" | "namespace" | "uid" if self.below(4) > 0 => format!("n{}", self.below(5)),
            _ => match self.below(40) {
                0 => "x".repeat(100_000),
                _ => self.pick(&odd).to_owned(),
            },
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_rpc_answers_whatever_is_asked() {
    let seconds = number("LONGSHORE_HOSTILE_SECONDS").unwrap_or(20);
    // The same unless asked otherwise: what fails here fails by the change under test, not by the dice.
    let seed = number("LONGSHORE_HOSTILE_SEED").unwrap_or(1);
    // What a test prints is shown when it fails.
    println!("LONGSHORE_HOSTILE_SEED={seed}");
    long_scenario(Duration::from_secs(seconds + 100), async |host| {
        let answered = Box::pin(throw(host, seed, Duration::from_secs(seconds))).await?;
        println!("{answered:#?}");
        Ok(())
    });
}

/// How often which RPC gave which answer.
async fn throw(
    host: &mut Host,
    seed: u64,
    length: Duration,
) -> anyhow::Result<BTreeMap<String, u32>> {
    let pod = PodSettings::new("real");
    let container = ContainerSettings::sleeper("main");
    let good_pod = as_json(&host.pod_config(&pod), "runtime.v1.PodSandboxConfig")?;
    let good_container = as_json(&container.config(&host.image), "runtime.v1.ContainerConfig")?;
    let raw = Raw::connect(host.daemon.socket()).await?;
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut generator = Generator {
        rng: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
    };
    let methods: Vec<_> = POOL
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .collect();
    let directory = host.sandbox.directory().display().to_string();
    let end = Instant::now() + length;
    let mut answered = BTreeMap::<String, u32>::new();
    let mut watching = Vec::new();
    while Instant::now() < end {
        // It may have been removed, and most of the rest needs it.
        if host.cri.image(&host.image).await?.is_none() {
            host.cri.pull(&host.image).await?;
        }
        let running = ContainerStateValue {
            state: ContainerState::ContainerRunning.into(),
        };
        let running = ContainerFilter {
            state: Some(running),
            ..ContainerFilter::default()
        };
        if host.cri.containers(Some(running)).await?.is_empty() {
            host.remove_all_pods().await?;
            let id = host.run_pod(&pod).await?;
            host.run(&id, &pod, &container).await?;
        }
        let pods = host.cri.pods(None).await?.into_iter();
        let containers = host.cri.containers(None).await?.into_iter();
        let words = Words {
            pods: pods.map(|pod| pod.id).collect(),
            containers: containers.map(|container| container.id).collect(),
            image: host.image.clone(),
            directory: directory.clone(),
            cgroup: host.sandbox.cgroup(),
        };
        for _ in 0..10 {
            // What makes something is asked more often than its share.
            let method = match generator.below(4) {
                0 => {
                    let name = generator.pick(&MAKERS);
                    methods.iter().find(|method| method.name() == name)
                }
                _ => methods.get(generator.below(methods.len())),
            };
            let Some(method) = method else { continue };
            let input = method.input();
            let good = match method.name() {
                "RunPodSandbox" => Some(json!({"config": good_pod})),
                "CreateContainer" => Some(json!({
                    "podSandboxId": generator.one(&words.pods),
                    "config": good_container,
                    "sandboxConfig": good_pod,
                })),
                other => generator.sensible(&words, other),
            };
            let request = match good {
                Some(good) if generator.below(4) > 0 => generator.spoilt(&words, &input, good),
                _ => generator.message(&words, &input, 0),
            };
            let shown: String = request.to_string().chars().take(2000).collect();
            let encoded = encode(method, request)?;
            let question = format!("{} {shown}", method.name());
            // It waits for a pull that may never come; the others need not wait with it.
            if method.name() == "WatchPull" {
                let (raw, method) = (raw.clone(), method.clone());
                watching.push(tokio::spawn(async move {
                    let asked = timeout(ANSWER_WITHIN, call(&raw, &method, encoded)).await;
                    asked.is_ok().then_some(()).ok_or(question)
                }));
                continue;
            }
            let asked = timeout(ANSWER_WITHIN, call(&raw, method, encoded)).await;
            let answer = asked.map_err(|_| anyhow::anyhow!("no answer: {question}"))?;
            let alive = host.daemon.ended()?.is_none();
            anyhow::ensure!(alive, "the daemon died of {question}");
            let code = answer.err().map_or(Code::Ok, |status| status.code());
            let answer = format!("{} {code:?}", method.name());
            *answered.entry(answer).or_default() += 1;
        }
        anyhow::ensure!(!host.daemon.log().contains("panicked at"), "a panic");
    }
    for watched in watching {
        let answer = watched.await?;
        answer.map_err(|question| anyhow::anyhow!("no answer: {question}"))?;
    }
    host.cri.pull(&host.image).await?;
    let all: u32 = answered.values().sum();
    anyhow::ensure!(all > 20, "{all} answers in {length:?}: {answered:#?}");
    if length >= LONG {
        let succeeded = |name: &str| answered.contains_key(&format!("{name} Ok"));
        let names = methods.iter().map(MethodDescriptor::name);
        let never: Vec<_> = names
            .filter(|name| !succeeded(name) && !NEVER.contains(name))
            .collect();
        anyhow::ensure!(never.is_empty(), "without a success: {never:?}");
    }
    Ok(answered)
}
