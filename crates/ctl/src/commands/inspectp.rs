use std::io::Write;

use clap::Args;
use cri::v1::PodSandboxStatusResponse;

use super::status;
use crate::error::Error;
use crate::ids;
use crate::output::Output;
use crate::output::json::{self, Names};
use crate::output::template::Shape;
use crate::output::time::spaced;
use crate::select::{PodSelection, write_maps};
use crate::session::Session;

/// Show the status of pods
#[derive(Debug, Args)]
pub(crate) struct Inspectp {
    /// Pods; without any, those that the filters select
    #[arg(value_name = "POD-ID")]
    ids: Vec<String>,
    #[command(flatten)]
    selection: PodSelection,
    #[command(flatten)]
    shape: Shape,
    /// Leave out verbose information
    #[arg(long, short)]
    quiet: bool,
}

impl Inspectp {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let form = self.shape.form()?;
        let targets = if self.ids.is_empty() {
            let pods = self.selection.list(session, None).await?;
            pods.into_iter().map(|pod| Ok(pod.id)).collect()
        } else {
            ids::pods(session, &self.ids).await?
        };
        if targets.is_empty() {
            return Err(Error::NoMatch(
                "no pod matches; name one, or see pods".to_owned(),
            ));
        }
        let mut objects = Vec::new();
        for target in targets {
            let reply = session.pod_status(&target?, !self.quiet).await?;
            if form.is_table() {
                table(out, &reply, !self.quiet)?;
                continue;
            }
            let pod = reply.status.unwrap_or_default();
            let mut value = json::value(&pod, Names::Json);
            status::set_time(&mut value, "createdAt", Some(pod.created_at));
            objects.push(status::with_info(value, reply.info));
        }
        if form.is_table() {
            return Ok(());
        }
        status::write(out, &form, objects)
    }
}

fn table(out: &mut Output, reply: &PodSandboxStatusResponse, verbose: bool) -> Result<(), Error> {
    let pod = reply.status.clone().unwrap_or_default();
    let metadata = pod.metadata.clone().unwrap_or_default();
    writeln!(out, "ID: {}", pod.id)?;
    writeln!(out, "Name: {}", metadata.name)?;
    writeln!(out, "UID: {}", metadata.uid)?;
    writeln!(out, "Namespace: {}", metadata.namespace)?;
    writeln!(out, "Attempt: {}", metadata.attempt)?;
    writeln!(out, "Status: {}", pod.state().as_str_name())?;
    writeln!(out, "Created: {}", spaced(pod.created_at))?;
    if let Some(network) = &pod.network {
        writeln!(out, "IP Addresses: {}", network.ip)?;
        for additional in &network.additional_ips {
            writeln!(out, "Additional IP: {}", additional.ip)?;
        }
    }
    write_maps(
        out,
        [("Labels", &pod.labels), ("Annotations", &pod.annotations)],
    )?;
    if verbose {
        status::write_info(out, &reply.info)?;
    }
    Ok(())
}
