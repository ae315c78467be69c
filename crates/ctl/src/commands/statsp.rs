use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use clap::Args;
use cri::v1::{
    CpuUsage, ListPodSandboxStatsResponse, PodSandboxStats, PodSandboxStatsFilter, UInt64Value,
};

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

/// Show what pods use
#[derive(Debug, Args)]
pub(crate) struct Statsp {
    /// One pod only
    #[arg(value_name = "POD-ID", conflicts_with = "id")]
    pod: Option<String>,
    /// Filter by pod id
    #[arg(long, value_name = "POD-ID")]
    id: Option<String>,
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

impl Statsp {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let format = self.output;
        let filter = PodSandboxStatsFilter {
            id: match self.pod.as_ref().or(self.id.as_ref()) {
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
        filter: &PodSandboxStatsFilter,
    ) -> Result<(), Error> {
        let first = sorted(session, filter).await?;
        if self.quiet.quiet {
            return write_ids(out, first.iter().map(id));
        }
        if format != Format::Table {
            return json::write_message(out, format, &ListPodSandboxStatsResponse { stats: first });
        }
        tokio::time::sleep(Duration::from_secs(self.seconds)).await;
        let second = sorted(session, filter).await?;
        let table = table(&first, &second);
        if self.watch && out.is_terminal() {
            out.clear_screen()?;
        }
        table.write(out)?;
        Ok(())
    }
}

async fn sorted(
    session: &Session,
    filter: &PodSandboxStatsFilter,
) -> Result<Vec<PodSandboxStats>, Error> {
    let mut stats = session.pod_stats(filter.clone()).await?;
    stats.sort_by(|a, b| id(a).cmp(id(b)));
    Ok(stats)
}

fn table(first: &[PodSandboxStats], second: &[PodSandboxStats]) -> Table {
    let before: HashMap<_, _> = first.iter().map(|pod| (id(pod), cpu(pod))).collect();
    let mut table = Table::with_header(&["POD", "POD ID", "CPU %", "MEM"]);
    for pod in second {
        // A pod that came in between has no first sample.
        let Some(before) = before.get(id(pod)) else {
            continue;
        };
        // One without containers that run.
        if number(cpu(pod).usage_core_nano_seconds) == 0 && memory(pod) == 0 {
            continue;
        }
        let attributes = pod.attributes.clone().unwrap_or_default();
        table.row([
            attributes.metadata.unwrap_or_default().name,
            short(&attributes.id, "").to_owned(),
            format!("{:.2}", percent(before, &cpu(pod))),
            human(memory(pod), 4),
        ]);
    }
    table
}

/// Of one CPU. Between samples that the runtime took at the same moment, its own average stands in.
fn percent(before: &CpuUsage, after: &CpuUsage) -> f64 {
    let elapsed = after.timestamp.saturating_sub(before.timestamp);
    if elapsed <= 0 {
        return number(after.usage_nano_cores) as f64 / 1e7;
    }
    let used = |cpu: &CpuUsage| number(cpu.usage_core_nano_seconds);
    used(after).saturating_sub(used(before)) as f64 / elapsed as f64 * 100.0
}

fn cpu(pod: &PodSandboxStats) -> CpuUsage {
    let linux = pod.linux.as_ref();
    linux.and_then(|linux| linux.cpu).unwrap_or_default()
}

fn memory(pod: &PodSandboxStats) -> u64 {
    let memory = pod.linux.as_ref().and_then(|linux| linux.memory.as_ref());
    number(memory.and_then(|memory| memory.working_set_bytes))
}

fn number(value: Option<UInt64Value>) -> u64 {
    value.map_or(0, |value| value.value)
}

fn id(pod: &PodSandboxStats) -> &str {
    pod.attributes.as_ref().map_or("", |a| &a.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_a_share_of_the_samples_own_time() {
        let sample = |timestamp, used: u64, cores: u64| CpuUsage {
            timestamp,
            usage_core_nano_seconds: Some(UInt64Value { value: used }),
            usage_nano_cores: Some(UInt64Value { value: cores }),
            psi: None,
        };
        assert_eq!(percent(&sample(0, 0, 0), &sample(2_000, 500, 0)), 25.0);
        assert_eq!(percent(&sample(0, 900, 0), &sample(2_000, 500, 0)), 0.0);
        assert_eq!(percent(&sample(5, 0, 0), &sample(5, 0, 500_000_000)), 50.0);
    }
}
