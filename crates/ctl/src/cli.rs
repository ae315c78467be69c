use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::commands::jsonschema::{OfBoth, OfPod, OrSchema};
use crate::commands::*;
use crate::duration;
use crate::error::Error;
use crate::output::Output;
use crate::session::Session;

/// Run and look at pods, containers and images through the Container Runtime Interface.
///
/// Flags and output are crictl's; called by that name, this is crictl. Ids may be shortened to a unique prefix, or be a unique name.
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = false,
    disable_version_flag = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalFlags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Before the command's name, as crictl has them: commands use some of the same letters.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct GlobalFlags {
    /// Configuration file [env: CRI_CONFIG_FILE] [crictl's default: /etc/crictl.yaml]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Socket of the runtime [env: CONTAINER_RUNTIME_ENDPOINT] [default: unix:///run/longshore/longshore.sock]
    #[arg(long, short, value_name = "ENDPOINT")]
    pub(crate) runtime_endpoint: Option<String>,
    /// Socket of the image service [env: IMAGE_SERVICE_ENDPOINT] [default: that of the runtime]
    #[arg(long, short, value_name = "ENDPOINT")]
    pub(crate) image_endpoint: Option<String>,
    /// Bound on connecting and on each call, such as 2s or 1m30s [default: 10s to connect and ask, 4m to act]
    #[arg(long, short, value_name = "DURATION", value_parser = duration::parse)]
    pub(crate) timeout: Option<Duration>,
    /// Accepted for crictl's sake; errors always say all there is
    #[arg(long, short = 'D', hide = true)]
    pub(crate) debug: bool,
    /// Connect again so many times, with growing pauses; less than 0 is for ever [default: 0; crictl's, for an endpoint that was named: 3]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) max_retries: Option<i64>,
    /// Print version
    #[arg(long, short = 'V', visible_short_alias = 'v', action = ArgAction::Version)]
    pub(crate) version: Option<bool>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Version(version::Version),
    #[command(visible_alias = "status")]
    Info(info::Info),
    Handlers(handlers::Handlers),
    Ops(ops::Ops),
    RuntimeConfig(runtime_config::RuntimeConfig),
    UpdateRuntimeConfig(update_runtime_config::UpdateRuntimeConfig),
    Pods(pods::Pods),
    Runp(OrSchema<runp::Runp, OfPod>),
    Stopp(stopp::Stopp),
    Rmp(rmp::Rmp),
    Inspectp(inspectp::Inspectp),
    Statsp(statsp::Statsp),
    Metricsp(metricsp::Metricsp),
    Metricdescs(metricdescs::Metricdescs),
    Run(OrSchema<run::Run, OfBoth>),
    Create(OrSchema<create::Create, OfBoth>),
    Start(start::Start),
    Stop(stop::Stop),
    Update(update::Update),
    Checkpoint(checkpoint::Checkpoint),
    #[command(visible_alias = "checkpoint-pod")]
    Checkpointp(checkpointp::Checkpointp),
    #[command(visible_alias = "restore-pod")]
    Restorep(restorep::Restorep),
    Wait(wait::Wait),
    Rm(rm::Rm),
    Ps(ps::Ps),
    Inspect(inspect::Inspect),
    Exec(exec::Exec),
    Attach(attach::Attach),
    PortForward(port_forward::PortForward),
    Logs(logs::Logs),
    Diff(diff::Diff),
    Cp(cp::Cp),
    Stats(stats::Stats),
    Top(top::Top),
    #[command(visible_alias = "event")]
    Events(events::Events),
    #[command(visible_aliases = ["image", "img"])]
    Images(images::Images),
    Pull(OrSchema<pull::Pull, OfPod>),
    ExplainPull(explain_pull::ExplainPull),
    Inspecti(inspecti::Inspecti),
    Imagefsinfo(imagefsinfo::Imagefsinfo),
    Rmi(rmi::Rmi),
    Fsck(fsck::Fsck),
    Du(du::Du),
    Load(load::Load),
    Save(save::Save),
    Import(import::Import),
    Push(push::Push),
    Bench(bench::Bench),
    Check(check::Check),
    Config(config::Config),
    Completion(completion::Completion),
    Man(man::Man),
    #[command(visible_alias = "h")]
    Help(help::Help),
}

impl Command {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        match self {
            Self::Version(command) => command.run(session, out).await,
            Self::Info(command) => command.run(session, out).await,
            Self::Handlers(command) => command.run(session, out).await,
            Self::Ops(command) => command.run(session, out).await,
            Self::RuntimeConfig(command) => command.run(session, out).await,
            Self::UpdateRuntimeConfig(command) => command.run(session).await,
            Self::Pods(command) => command.run(session, out).await,
            Self::Runp(given) => match given.or_write(out)? {
                Some(command) => command.run(session, out).await,
                None => Ok(()),
            },
            Self::Stopp(command) => command.run(session, out).await,
            Self::Rmp(command) => command.run(session, out).await,
            Self::Inspectp(command) => command.run(session, out).await,
            Self::Statsp(command) => command.run(session, out).await,
            Self::Metricsp(command) => command.run(session, out).await,
            Self::Metricdescs(command) => command.run(session, out).await,
            Self::Run(given) => match given.or_write(out)? {
                Some(command) => command.run(session, out).await,
                None => Ok(()),
            },
            Self::Create(given) => match given.or_write(out)? {
                Some(command) => command.run(session, out).await,
                None => Ok(()),
            },
            Self::Start(command) => command.run(session, out).await,
            Self::Stop(command) => command.run(session, out).await,
            Self::Update(command) => command.run(session, out).await,
            Self::Checkpoint(command) => command.run(session, out).await,
            Self::Checkpointp(command) => command.run(session, out).await,
            Self::Restorep(command) => command.run(session, out).await,
            Self::Wait(command) => command.run(session, out).await,
            Self::Rm(command) => command.run(session, out).await,
            Self::Ps(command) => command.run(session, out).await,
            Self::Inspect(command) => command.run(session, out).await,
            Self::Exec(command) => command.run(session, out).await,
            Self::Attach(command) => command.run(session).await,
            Self::PortForward(command) => command.run(session, out).await,
            Self::Logs(command) => command.run(session, out).await,
            Self::Diff(command) => command.run(session, out).await,
            Self::Cp(command) => command.run(session, out).await,
            Self::Stats(command) => command.run(session, out).await,
            Self::Top(command) => command.run(session, out).await,
            Self::Events(command) => command.run(session, out).await,
            Self::Images(command) => command.run(session, out).await,
            Self::Pull(given) => match given.or_write(out)? {
                Some(command) => command.run(session, out).await,
                None => Ok(()),
            },
            Self::ExplainPull(command) => command.run(session, out).await,
            Self::Inspecti(command) => command.run(session, out).await,
            Self::Imagefsinfo(command) => command.run(session, out).await,
            Self::Rmi(command) => command.run(session, out).await,
            Self::Fsck(command) => command.run(session, out).await,
            Self::Du(command) => command.run(session, out).await,
            Self::Load(command) => command.run(session, out).await,
            Self::Save(command) => command.run(session, out).await,
            Self::Import(command) => command.run(session, out).await,
            Self::Push(command) => command.run(session, out).await,
            Self::Bench(command) => command.run(session, out).await,
            Self::Check(command) => command.run(session, out).await,
            // They need no runtime, and were done before one was looked for.
            Self::Config(_) | Self::Completion(_) | Self::Man(_) | Self::Help(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Commands whose output has no ids in it, or is what another program reads.
    const SPEAK: &[&str] = &[
        "attach",
        "bench",
        "check",
        "completion",
        "config",
        "du",
        "explain-pull",
        "fsck",
        "help",
        "imagefsinfo",
        "logs",
        "man",
        "port-forward",
        "runtime-config",
        "save",
        "top",
        "update-runtime-config",
        "version",
    ];

    #[test]
    fn every_command_that_names_something_can_be_quiet() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let quiet = command
                .get_arguments()
                .any(|argument| argument.get_long() == Some("quiet"));
            assert_eq!(quiet, !SPEAK.contains(&name), "{name}");
        }
    }
}
