//! What is shown: a row for each running container, or for each pod that has one.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use clap::ValueEnum;
use cri::v1::{
    Container, ContainerFilter, ContainerState, ContainerStateValue, ContainerStats,
    ContainerStatsFilter,
};

use crate::commands::stats::{cpu_percent, number};
use crate::error::Error;
use crate::ids::short;
use crate::output::size::human;
use crate::select::{POD_NAME_LABEL, POD_NAMESPACE_LABEL};
use crate::session::Session;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    Cpu,
    Memory,
    Name,
}

/// All that was asked for at one moment.
#[derive(Debug, Default)]
pub(super) struct Sample {
    containers: Vec<Container>,
    stats: HashMap<String, ContainerStats>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// Of the container, or of the pod.
    pub(super) id: String,
    /// Empty in a pod's row.
    pub(super) container: String,
    pub(super) pod: String,
    /// Of one CPU; none before the second sample.
    cpu_percent: Option<f64>,
    memory_bytes: u64,
    disk_bytes: u64,
}

pub(super) const HEADER: [&str; 6] = ["ID", "CONTAINER", "POD", "CPU %", "MEMORY", "DISK"];

impl Sample {
    pub(super) async fn take(session: &Session) -> Result<Self, Error> {
        let running = ContainerFilter {
            state: Some(ContainerStateValue {
                state: ContainerState::ContainerRunning.into(),
            }),
            ..ContainerFilter::default()
        };
        let (containers, stats) = tokio::try_join!(
            session.containers(running),
            session.container_stats(ContainerStatsFilter::default())
        )?;
        let by_id = |stats: ContainerStats| Some((stats.attributes.as_ref()?.id.clone(), stats));
        Ok(Self {
            containers,
            stats: stats.into_iter().filter_map(by_id).collect(),
        })
    }

    /// A row for each container, with its share of the CPU since `before`.
    pub(super) fn containers(&self, before: &Sample) -> Vec<Row> {
        let row = |container: &Container| {
            let stats = self.stats.get(&container.id);
            let earlier = before.stats.get(&container.id);
            let label = |key| container.labels.get(key).map_or("", String::as_str);
            let (namespace, name) = (label(POD_NAMESPACE_LABEL), label(POD_NAME_LABEL));
            Row {
                id: container.id.clone(),
                container: container.metadata.clone().unwrap_or_default().name,
                pod: match name {
                    "" => short(&container.pod_sandbox_id, "").to_owned(),
                    name => format!("{namespace}/{name}"),
                },
                cpu_percent: earlier
                    .zip(stats)
                    .map(|(before, now)| cpu_percent(before, now)),
                memory_bytes: number(
                    stats.and_then(|stats| stats.memory.as_ref()?.working_set_bytes),
                ),
                disk_bytes: number(
                    stats.and_then(|stats| stats.writable_layer.as_ref()?.used_bytes),
                ),
            }
        };
        self.containers.iter().map(row).collect()
    }

    /// A row for each pod: the sum of its containers'.
    pub(super) fn pods(&self, before: &Sample) -> Vec<Row> {
        let mut pods = BTreeMap::new();
        for (container, row) in self.containers.iter().zip(self.containers(before)) {
            let id = &container.pod_sandbox_id;
            let sum = pods.entry(id.clone()).or_insert_with(|| Row {
                id: id.clone(),
                container: String::new(),
                pod: row.pod.clone(),
                cpu_percent: None,
                memory_bytes: 0,
                disk_bytes: 0,
            });
            if let Some(percent) = row.cpu_percent {
                *sum.cpu_percent.get_or_insert(0.0) += percent;
            }
            sum.memory_bytes += row.memory_bytes;
            sum.disk_bytes += row.disk_bytes;
        }
        pods.into_values().collect()
    }
}

/// The largest first, names in their order; equal ones always in the same order.
pub(super) fn sort(rows: &mut [Row], by: By) {
    let name = |a: &Row, b: &Row| (&a.pod, &a.container, &a.id).cmp(&(&b.pod, &b.container, &b.id));
    rows.sort_by(|a, b| {
        let first = match by {
            By::Cpu => b
                .cpu_percent
                .partial_cmp(&a.cpu_percent)
                .unwrap_or(Ordering::Equal),
            By::Memory => b.memory_bytes.cmp(&a.memory_bytes),
            By::Name => Ordering::Equal,
        };
        first.then_with(|| name(a, b))
    });
}

impl Row {
    pub(super) fn cells(&self) -> [String; 6] {
        [
            short(&self.id, "").to_owned(),
            self.container.clone(),
            self.pod.clone(),
            self.cpu_percent
                .map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1}")),
            human(self.memory_bytes, 3),
            human(self.disk_bytes, 3),
        ]
    }

    /// What a person calls it.
    pub(super) fn name(&self) -> &str {
        match self.container.as_str() {
            "" => &self.pod,
            name => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, cpu_percent: Option<f64>, memory_bytes: u64) -> Row {
        Row {
            id: name.to_owned(),
            container: name.to_owned(),
            pod: "pod".to_owned(),
            cpu_percent,
            memory_bytes,
            disk_bytes: 0,
        }
    }

    #[test]
    fn rows_are_sorted_and_keep_their_places() {
        let mut rows = [
            row("a", None, 3),
            row("b", Some(1.0), 1),
            row("c", Some(7.5), 2),
            row("d", Some(1.0), 3),
        ];
        let mut names = |by| {
            sort(&mut rows, by);
            rows.iter().map(|row| row.name()).collect::<String>()
        };
        assert_eq!(names(By::Cpu), "cbda");
        assert_eq!(names(By::Memory), "adcb");
        assert_eq!(names(By::Name), "abcd");
    }
}
