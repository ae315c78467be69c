//! The file that `bench run` writes and `bench report` reads: every sample, so that each figure can be computed again, or otherwise.
//!
//! JSON, described in `docs/guide/bench.md`. A change that an older reader would misunderstand raises [`VERSION`]; a new field does not.

use serde::{Deserialize, Serialize};

use super::{Machine, Memory};

/// What the file calls itself.
pub const FORMAT: &str = "longshore-bench";

/// The newest version of the format that is known here, and the one that is written.
pub const VERSION: u32 = 1;

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// When it began, seconds since 1970.
    pub began: u64,
    /// All of it.
    pub took_seconds: f64,
    /// What makes the order of the endpoints.
    pub seed: u64,
    /// Rounds at each endpoint that did not count.
    pub warmup: usize,
    /// Rounds that did.
    pub repeats: usize,
    /// Where it ran.
    pub machine: Machine,
    /// Who was measured, in the order in which they were named.
    pub endpoints: Vec<Participant>,
    /// The samples.
    pub series: Vec<Series>,
    /// Memory with so many pods running.
    pub memory: Vec<MemoryAt>,
    /// Whether all was measured that was asked for: no endpoint has failed, nobody has interrupted it.
    pub complete: bool,
    /// What a reader must know: what was left out, and why.
    pub notes: Vec<String>,
}

/// A runtime that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Participant {
    /// As the user named it, and as [`Series::endpoint`] does.
    pub name: String,
    /// Where it listened.
    pub endpoint: String,
    /// As it names itself.
    pub runtime: String,
    /// Its version.
    pub version: String,
    /// RuntimeClass handler of the pods; empty for its default.
    pub handler: String,
}

/// Samples of one kind under one condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Which part of the run.
    pub suite: Suite,
    /// What belongs together; critest's name where critest measures it too: `PodLifecycle`, `ContainerOps`, `ImageLifecycle`, `ImageListing`.
    pub experiment: String,
    /// What was measured; critest's name where critest measures it too, such as `CreatePod`.
    pub operation: String,
    /// On which network, over which transport, of which image; empty where there is no choice.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Whose; none for what the machine does without a runtime.
    pub endpoint: Option<String>,
    /// Of the samples.
    pub unit: Unit,
    /// Where on the axis of the experiment, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<At>,
    /// In the order in which they were taken; at least one.
    pub samples: Vec<f64>,
}

/// A condition with a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// What is counted, such as `pods running`.
    pub axis: String,
    /// How many.
    pub value: u64,
}

/// A part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// One pod at a time.
    Pods,
    /// With ever more pods on the node.
    Scale,
    /// Ever more pods at a time.
    Concurrency,
    /// Exec and port-forward.
    Stream,
    /// Pulls and removals.
    Images,
    /// One pod at a time through each handler.
    Handlers,
}

/// Of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Milliseconds.
    Ms,
    /// Milliseconds of processor time.
    CpuMs,
    /// Bytes.
    Bytes,
    /// Bytes a second.
    BytesPerSecond,
    /// So many a second.
    PerSecond,
}

/// Memory of an endpoint with pods running that do nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryAt {
    /// Whose.
    pub endpoint: String,
    /// How many pods ran, of one container each.
    pub pods: u64,
    /// By class.
    pub classes: Vec<ClassMemory>,
}

/// Memory of the processes of one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassMemory {
    /// What they are for.
    pub class: Class,
    /// How many there were.
    pub count: usize,
    /// Of all together, bytes.
    pub memory: Memory,
}

/// What processes are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// The runtime's service.
    Daemon,
    /// What watches pods or containers: supervisors, shims, conmon.
    Supervisor,
    /// What writes containers' logs, where that is a process of its own.
    Log,
    /// What holds a pod's namespaces.
    Pause,
    /// What was asked for.
    Workload,
    /// Anything else that came with the pods.
    Other,
}

/// Why a text is not a result of `bench run`. Says what is wrong in one line.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Cut short, or something else altogether.
    #[error("it is not the result of a `bench run`")]
    Json(#[source] serde_json::Error),
    /// JSON of another kind.
    #[error("it is not the result of a `bench run`: its format is {format:?}, not {FORMAT:?}")]
    Format {
        /// What it says that it is.
        format: String,
    },
    /// Written by a newer program.
    #[error("it is version {version} of the format; this program knows up to {VERSION}")]
    Version {
        /// What it says.
        version: u32,
    },
    /// It contradicts itself.
    #[error("it contradicts itself: {what}")]
    Contradiction {
        /// How.
        what: String,
    },
}

impl Record {
    /// Reads what [`Self::json`] wrote, now or in an earlier version.
    pub fn read(text: &str) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Kind {
            format: String,
            version: u32,
        }
        let kind: Kind = serde_json::from_str(text).map_err(RecordError::Json)?;
        if kind.format != FORMAT {
            return Err(RecordError::Format {
                format: kind.format,
            });
        }
        if kind.version > VERSION {
            return Err(RecordError::Version {
                version: kind.version,
            });
        }
        let record: Self = serde_json::from_str(text).map_err(RecordError::Json)?;
        record.consistent()?;
        Ok(record)
    }

    /// The file's text.
    ///
    /// # Errors
    /// None that is known: samples are finite.
    pub fn json(&self) -> serde_json::Result<String> {
        // A line a series would be nice to read, but is not what other tools write back.
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(text)
    }

    /// Whether any endpoint was measured at all.
    pub(super) fn has_figures(&self) -> bool {
        self.series.iter().any(|series| series.endpoint.is_some())
    }

    fn consistent(&self) -> Result<(), RecordError> {
        let wrong = |what: String| Err(RecordError::Contradiction { what });
        let known = |name: &str| self.endpoints.iter().any(|it| it.name == name);
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let earlier = &self.endpoints[..index];
            if earlier.iter().any(|it| it.name == endpoint.name) {
                return wrong(format!("two endpoints are called {:?}", endpoint.name));
            }
        }
        for series in &self.series {
            let name = format!("{} {}", series.experiment, series.operation);
            if series.endpoint.as_deref().is_some_and(|it| !known(it)) {
                return wrong(format!("{name} is of an endpoint that is not listed"));
            }
            if series.samples.is_empty() {
                return wrong(format!("{name} has no samples"));
            }
            if !(series.samples.iter()).all(|sample| sample.is_finite() && *sample >= 0.0) {
                return wrong(format!("{name} has a sample below nothing"));
            }
        }
        match self.memory.iter().find(|it| !known(&it.endpoint)) {
            Some(it) => wrong(format!("there is memory of {:?}", it.endpoint)),
            None => Ok(()),
        }
    }
}

impl Suite {
    /// All, in the order in which they run.
    pub const ALL: [Self; 6] = [
        Self::Pods,
        Self::Scale,
        Self::Concurrency,
        Self::Stream,
        Self::Images,
        Self::Handlers,
    ];

    /// As it is written on the command line and in the file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Scale => "scale",
            Self::Concurrency => "concurrency",
            Self::Stream => "stream",
            Self::Images => "images",
            Self::Handlers => "handlers",
        }
    }
}

impl Class {
    /// All, the daemon first.
    pub const ALL: [Self; 6] = [
        Self::Daemon,
        Self::Supervisor,
        Self::Log,
        Self::Pause,
        Self::Workload,
        Self::Other,
    ];

    /// For people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Supervisor => "supervisors",
            Self::Log => "log processes",
            Self::Pause => "pause",
            Self::Workload => "workload",
            Self::Other => "others",
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::machine;

    /// Two endpoints, every kind of series.
    pub(in crate::bench) fn example() -> Record {
        let participant = |name: &str| Participant {
            name: name.to_owned(),
            endpoint: format!("unix:///run/{name}.sock"),
            runtime: format!("<{name}>"),
            version: "1.0".to_owned(),
            handler: String::new(),
        };
        let series = |experiment: &str, operation: &str, endpoint: Option<&str>| Series {
            suite: Suite::Pods,
            experiment: experiment.to_owned(),
            operation: operation.to_owned(),
            variant: "host network".to_owned(),
            endpoint: endpoint.map(str::to_owned),
            unit: Unit::Ms,
            at: None,
            samples: (1..=9).map(f64::from).collect(),
        };
        let mut all = vec![series("Floor", "container", None)];
        for endpoint in ["one", "two"] {
            all.push(series("PodLifecycle", "CreatePod", Some(endpoint)));
            all.push(series("ContainerOps", "StartContainer", Some(endpoint)));
            for value in [1, 10, 500] {
                all.push(Series {
                    suite: Suite::Scale,
                    at: Some(At {
                        axis: "pods running".to_owned(),
                        value,
                    }),
                    ..series("PodLifecycle", "RemovePod", Some(endpoint))
                });
            }
            all.push(Series {
                suite: Suite::Stream,
                unit: Unit::BytesPerSecond,
                samples: vec![1e9],
                ..series("Exec", "out of the container", Some(endpoint))
            });
        }
        let megabytes = |count: u64| Memory {
            resident: count << 20,
            proportional: count << 19,
            private: count << 18,
        };
        let memory = ["one", "two"].map(|endpoint| MemoryAt {
            endpoint: endpoint.to_owned(),
            pods: 10,
            classes: [(Class::Daemon, 1, 20), (Class::Supervisor, 10, 5)]
                .map(|(class, count, size)| ClassMemory {
                    class,
                    count,
                    memory: megabytes(size),
                })
                .to_vec(),
        });
        Record {
            format: FORMAT.to_owned(),
            version: VERSION,
            began: 1_700_000_000,
            took_seconds: 12.5,
            seed: 3,
            warmup: 1,
            repeats: 9,
            machine: machine(),
            endpoints: vec![participant("one"), participant("two")],
            series: all,
            memory: memory.to_vec(),
            complete: true,
            notes: vec!["one & two: <b>nothing</b>".to_owned()],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let record = example();
        let text = record.json().unwrap();
        assert_eq!(Record::read(&text).unwrap(), record);
        // A field that a later version adds does not matter.
        let later = text.replacen("\"seed\"", "\"colour\": \"red\", \"seed\"", 1);
        assert_eq!(Record::read(&later).unwrap(), record);
    }

    #[test]
    fn what_is_no_result_is_refused_in_one_line() {
        let good = example().json().unwrap();
        for (text, said) in [
            ("", "not the result of a `bench run`"),
            ("{}", "not the result of a `bench run`"),
            (&good[..good.len() / 2], "not the result of a `bench run`"),
            (
                &good.replace("longshore-bench", "other"),
                "its format is \"other\"",
            ),
            (
                &good.replace("\"version\": 1,", "\"version\": 2,"),
                "version 2 of the format",
            ),
            (
                &good.replace("\"endpoint\": \"two\"", "\"endpoint\": \"three\""),
                "an endpoint that is not listed",
            ),
            (
                &good.replace("\"name\": \"two\"", "\"name\": \"one\""),
                "two endpoints are called \"one\"",
            ),
            (&good.replace("1000000000.0", "-1.0"), "below nothing"),
        ] {
            let error = Record::read(text).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains('\n'), "{error}");
        }
    }
}
