//! Requests that nobody has thought of, built from the schema: every RPC answers in time, the daemon neither panics nor dies, and what was
//! made can be removed.
//!
//! `LONGSHORE_HOSTILE_SECONDS` (default 20) and `LONGSHORE_HOSTILE_SEED` (default: from the clock; printed when it fails).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use e2e::{ContainerSettings, Host, PodSettings, Raw, long_scenario};
use proptest::{
    prelude::Rng,
    test_runner::{RngAlgorithm, TestRng},
};
use prost_reflect::{Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::{POOL, call, encode};

/// An answer that takes longer is none.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What fields of a name are filled with; anything may be missing. Paths and cgroups stay where the test cleans up.
struct Words {
    ids: Vec<String>,
    image: String,
    directory: String,
    cgroup: String,
}

struct Generator {
    rng: TestRng,
}

impl Generator {
    fn below(&mut self, bound: usize) -> usize {
        (self.rng.next_u64() % bound.max(1) as u64) as usize
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
            let value = if field.is_map() {
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
                let items =
                    (0..count).map(|_| self.value(words, field.name(), &field.kind(), depth));
                items.collect()
            } else {
                self.value(words, field.name(), &field.kind(), depth)
            };
            fields.insert(field.json_name().to_owned(), value);
        }
        // Of alternatives only one can be set.
        for alternatives in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
            for field in alternatives.fields().skip(1) {
                fields.remove(field.json_name());
            }
        }
        Value::Object(fields)
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
            "id" | "container_id" | "pod_sandbox_id" | "target_id" if self.below(8) > 0 => {
                let at = self.below(words.ids.len());
                words.ids.get(at).cloned().unwrap_or_default()
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
                        .pick(&["", "..", "/dev/null", "/no/such/path"])
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
            "runtime_handler" => self.pick(&["", "", "", "longshore", "none"]).to_owned(),
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
    let clock = SystemTime::now().duration_since(UNIX_EPOCH);
    let clock = clock.map_or(0, |since| u64::from(since.subsec_nanos()));
    let seed = number("LONGSHORE_HOSTILE_SEED").unwrap_or(clock);
    long_scenario(Duration::from_secs(seconds + 100), async |host| {
        let run = Box::pin(throw(host, seed, Duration::from_secs(seconds))).await;
        run.map_err(|error| error.context(format!("LONGSHORE_HOSTILE_SEED={seed}")))
    });
}

async fn throw(host: &mut Host, seed: u64, length: Duration) -> anyhow::Result<()> {
    let pod = PodSettings::new("real");
    let pod_id = host.run_pod(&pod).await?;
    host.run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
        .await?;
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
    let mut answered = 0_u32;
    while Instant::now() < end {
        let pods = host.cri.pods(None).await?.into_iter().map(|pod| pod.id);
        let containers = host.cri.containers(None).await?.into_iter().map(|it| it.id);
        let words = Words {
            ids: pods.chain(containers).collect(),
            image: host.image.clone(),
            directory: directory.clone(),
            cgroup: host.sandbox.cgroup(),
        };
        for _ in 0..10 {
            // What makes something is asked more often than its share.
            let method = match generator.below(4) {
                0 => methods.iter().find(|method| {
                    method.name() == generator.pick(&["RunPodSandbox", "CreateContainer"])
                }),
                _ => methods.get(generator.below(methods.len())),
            };
            let Some(method) = method else { continue };
            // What our own stream of progress waits for may never come.
            if method.name() == "RemoveImage" || method.parent_service().name() == "Progress" {
                continue;
            }
            let request = generator.message(&words, &method.input(), 0);
            let shown: String = request.to_string().chars().take(2000).collect();
            let encoded = encode(method, request)?;
            let asked = tokio::time::timeout(ANSWER_WITHIN, call(&raw, method, encoded)).await;
            anyhow::ensure!(asked.is_ok(), "no answer: {} {shown}", method.name());
            let log_ok = host.daemon.ended()?.is_none();
            anyhow::ensure!(log_ok, "the daemon died of {} {shown}", method.name());
            answered += 1;
        }
        anyhow::ensure!(!host.daemon.log().contains("panicked at"), "a panic");
    }
    anyhow::ensure!(answered > 20, "{answered} requests in {length:?}");
    Ok(())
}
