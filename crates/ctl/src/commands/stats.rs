use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use clap::Args;
use cri::v1::{ContainerStats, ContainerStatsFilter, ListContainerStatsResponse, UInt64Value};

use super::each::{Quiet, write_ids};
use crate::error::Error;
use crate::ids::{self, short};
use crate::input::pairs;
use crate::output::size::human;
use crate::output::table::Table;
use crate::output::{Format, Output, json};
use crate::session::Session;

/// Time between two frames of `--watch`.
const FRAME: Duration = Duration::from_millis(500);

/// Show what containers use
#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// One container only
    #[arg(value_name = "CONTAINER-ID", conflicts_with = "id")]
    container: Option<String>,
    /// Filter by container id
    #[arg(long, value_name = "CONTAINER-ID")]
    id: Option<String>,
    /// Show containers that do not run, too
    #[arg(long, short)]
    all: bool,
    /// Filter by pod id
    #[arg(long, short, value_name = "POD-ID")]
    pod: Option<String>,
    /// Filter by label
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Output format
    #[arg(long, short, default_value = "table")]
    output: Format,
    /// Seconds over which the use of CPUs is taken
    #[arg(long, short, value_name = "SECONDS", default_value_t = 1)]
    seconds: u64,
    /// Show again and again, until interrupted
    #[arg(long, short)]
    watch: bool,
    #[command(flatten)]
    quiet: Quiet,
}

impl Stats {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let format = self.output;
        let filter = ContainerStatsFilter {
            id: match self.container.as_ref().or(self.id.as_ref()) {
                Some(given) => ids::container(session, given).await?,
                None => String::new(),
            },
            pod_sandbox_id: match &self.pod {
                Some(given) => ids::pod(session, given).await?,
                None => String::new(),
            },
            label_selector: pairs("--label", &self.labels)?,
        };
        loop {
            self.frame(session, out, format, &filter).await?;
            out.flush()?;
            if !self.watch {
                return Ok(());
            }
            tokio::time::sleep(FRAME).await;
        }
    }

    async fn frame(
        &self,
        session: &Session,
        out: &mut Output,
        format: Format,
        filter: &ContainerStatsFilter,
    ) -> Result<(), Error> {
        let first = sorted(session, filter).await?;
        if self.quiet.quiet {
            return write_ids(out, first.iter().map(id));
        }
        if format != Format::Table {
            return json::write_message(out, format, &ListContainerStatsResponse { stats: first });
        }
        tokio::time::sleep(Duration::from_secs(self.seconds)).await;
        let second = sorted(session, filter).await?;
        let table = table(&first, &second, self.all);
        if self.watch && out.is_terminal() {
            out.clear_screen()?;
        }
        table.write(out)?;
        Ok(())
    }
}

async fn sorted(
    session: &Session,
    filter: &ContainerStatsFilter,
) -> Result<Vec<ContainerStats>, Error> {
    let mut stats = session.container_stats(filter.clone()).await?;
    stats.sort_by(|a, b| id(a).cmp(id(b)));
    Ok(stats)
}

fn table(first: &[ContainerStats], second: &[ContainerStats], all: bool) -> Table {
    let before: HashMap<_, _> = first.iter().map(|stats| (id(stats), stats)).collect();
    let mut table = Table::with_header(&[
        "CONTAINER",
        "NAME",
        "CPU %",
        "MEM",
        "DISK",
        "INODES",
        "SWAP",
    ]);
    for stats in second {
        let memory = number(stats.memory.as_ref().and_then(|m| m.working_set_bytes));
        let runs = cpu_ns(stats) != 0 || memory != 0;
        // A container that came in between has no first sample.
        let Some(before) = before.get(id(stats)).filter(|_| runs || all) else {
            continue;
        };
        let attributes = stats.attributes.clone().unwrap_or_default();
        let layer = stats.writable_layer.clone().unwrap_or_default();
        let swap = stats.swap.unwrap_or_default();
        table.row([
            short(&attributes.id, "").to_owned(),
            attributes.metadata.unwrap_or_default().name,
            format!("{:.2}", cpu_percent(before, stats)),
            human(memory, 4),
            human(number(layer.used_bytes), 4),
            number(layer.inodes_used).to_string(),
            human(number(swap.swap_usage_bytes), 4),
        ]);
    }
    table
}

/// Of one CPU. Between samples that the runtime took at the same moment, its own average stands in.
pub(super) fn cpu_percent(before: &ContainerStats, after: &ContainerStats) -> f64 {
    let time = |stats: &ContainerStats| stats.cpu.as_ref().map_or(0, |cpu| cpu.timestamp);
    let elapsed = time(after).saturating_sub(time(before));
    if elapsed > 0 {
        let used = cpu_ns(after).saturating_sub(cpu_ns(before));
        return used as f64 / elapsed as f64 * 100.0;
    }
    let cores = after.cpu.as_ref().and_then(|cpu| cpu.usage_nano_cores);
    number(cores) as f64 / 1e7
}

fn cpu_ns(stats: &ContainerStats) -> u64 {
    number(
        stats
            .cpu
            .as_ref()
            .and_then(|cpu| cpu.usage_core_nano_seconds),
    )
}

pub(super) fn number(value: Option<UInt64Value>) -> u64 {
    value.map_or(0, |value| value.value)
}

fn id(stats: &ContainerStats) -> &str {
    stats.attributes.as_ref().map_or("", |a| &a.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::v1::{ContainerAttributes, CpuUsage};

    fn sample(timestamp: i64, used_ns: u64, nano_cores: u64) -> ContainerStats {
        ContainerStats {
            attributes: Some(ContainerAttributes {
                id: "abc".to_owned(),
                ..ContainerAttributes::default()
            }),
            cpu: Some(CpuUsage {
                timestamp,
                usage_core_nano_seconds: Some(UInt64Value { value: used_ns }),
                usage_nano_cores: Some(UInt64Value { value: nano_cores }),
                psi: None,
            }),
            ..ContainerStats::default()
        }
    }

    #[test]
    fn cpu_is_a_share_of_the_samples_own_time() {
        let percent = |a, b| cpu_percent(&a, &b);
        assert_eq!(percent(sample(0, 0, 0), sample(2_000, 500, 0)), 25.0);
        assert_eq!(percent(sample(0, 900, 0), sample(2_000, 500, 0)), 0.0);
        assert_eq!(percent(sample(5, 0, 0), sample(5, 0, 500_000_000)), 50.0);
    }
}
