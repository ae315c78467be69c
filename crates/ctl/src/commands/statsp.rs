use clap::Args;
use cri::v1::{ListPodSandboxStatsResponse, PodSandboxStatsFilter};

use crate::error::Error;
use crate::ids::{self, short};
use crate::input::pairs;
use crate::output::size::human;
use crate::output::table::Table;
use crate::output::{Format, Output, json};
use crate::session::Session;

/// Show what pods use
#[derive(Debug, Args)]
pub(crate) struct Statsp {
    /// One pod only
    #[arg(value_name = "POD-ID")]
    id: Option<String>,
    /// Filter by label
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Output format
    #[arg(long, short, default_value = "table")]
    output: Format,
}

impl Statsp {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let format = self.output.supported()?;
        let id = match &self.id {
            Some(given) => ids::pod(session, given).await?,
            None => String::new(),
        };
        let label_selector = pairs("--label", &self.labels)?;
        let mut stats = session
            .pod_stats(PodSandboxStatsFilter { id, label_selector })
            .await?;
        stats.sort_by(|a, b| {
            let id = |attributes: &Option<cri::v1::PodSandboxAttributes>| {
                attributes.as_ref().map(|a| a.id.clone())
            };
            id(&a.attributes).cmp(&id(&b.attributes))
        });
        if format != Format::Table {
            return json::write_message(out, format, &ListPodSandboxStatsResponse { stats });
        }
        let mut table = Table::with_header(&["POD", "POD ID", "CPU %", "MEM"]);
        for pod in stats {
            let attributes = pod.attributes.unwrap_or_default();
            let linux = pod.linux.unwrap_or_default();
            let nano_cores = linux.cpu.and_then(|cpu| cpu.usage_nano_cores);
            let memory = linux.memory.and_then(|memory| memory.working_set_bytes);
            let percent = nano_cores.map_or(0.0, |cores| cores.value as f64 / 1e7);
            table.row([
                attributes.metadata.unwrap_or_default().name,
                short(&attributes.id, "").to_owned(),
                format!("{percent:.2}"),
                human(memory.map_or(0, |bytes| bytes.value), 4),
            ]);
        }
        table.write(out)?;
        Ok(())
    }
}
