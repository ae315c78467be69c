use clap::Args;
use cri::v1::LinuxContainerResources;

use super::each::{Quiet, each};
use crate::error::Error;
use crate::ids;
use crate::output::Output;
use crate::session::Session;

/// Change the limits of containers that are created or run
///
/// What is not named, and what is 0 or empty, stays as it is.
#[derive(Debug, Args)]
pub(crate) struct Update {
    #[arg(value_name = "CONTAINER-ID", required = true)]
    ids: Vec<String>,
    /// Length of a CFS period in microseconds
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    cpu_period: i64,
    /// CPU time allowed in a period, in microseconds; -1 lifts the limit
    #[arg(
        long,
        value_name = "MICROSECONDS",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    cpu_quota: i64,
    /// CPU shares: weight against other containers
    #[arg(long, value_name = "SHARES", default_value_t = 0)]
    cpu_share: i64,
    /// Memory limit in bytes; -1 lifts the limit
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    memory: i64,
    /// CPUs to use, such as 0-2,7
    #[arg(long, value_name = "CPUS", default_value = "")]
    cpuset_cpus: String,
    /// Memory nodes to use
    #[arg(long, value_name = "NODES", default_value = "")]
    cpuset_mems: String,
    /// Score of the OOM killer, -1000 to 1000
    #[arg(long, value_name = "SCORE", default_value_t = 0, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1000..=1000))]
    oom_score_adj: i64,
    // On Windows alone; taken and refused by name, so that nobody believes they had an effect.
    #[arg(long, hide = true)]
    cpu_count: Option<i64>,
    #[arg(long, hide = true)]
    cpu_maximum: Option<i64>,
    #[command(flatten)]
    quiet: Quiet,
}

impl Update {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        for (flag, value) in [
            ("--cpu-count", self.cpu_count),
            ("--cpu-maximum", self.cpu_maximum),
        ] {
            if value.is_some_and(|value| value != 0) {
                return Err(Error::Usage(format!("update: {flag} is for Windows")));
            }
        }
        let resources = LinuxContainerResources {
            cpu_period: self.cpu_period,
            cpu_quota: self.cpu_quota,
            cpu_shares: self.cpu_share,
            memory_limit_in_bytes: self.memory,
            cpuset_cpus: self.cpuset_cpus,
            cpuset_mems: self.cpuset_mems,
            oom_score_adj: self.oom_score_adj,
            ..LinuxContainerResources::default()
        };
        // crictl asks for a change of nothing.
        if resources == LinuxContainerResources::default() && session.program() != "crictl" {
            return Err(Error::Usage(
                "update: name at least one limit, such as --memory".to_owned(),
            ));
        }
        let targets = ids::containers(session, &self.ids).await?;
        each(session, out, 1, targets, async |id| {
            session.update_container(&id, resources.clone()).await?;
            Ok(id)
        })
        .await
    }
}
