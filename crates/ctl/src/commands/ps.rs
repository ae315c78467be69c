use std::io::Write;

use clap::Args;
use cri::v1::{Container, ListContainersResponse};

use crate::error::Error;
use crate::ids::short;
use crate::output::table::Table;
use crate::output::time::{ago, now_ns};
use crate::output::{Format, Output, json};
use crate::select::{
    ContainerSelection, container_state, pod_name, pod_namespace, short_image, write_maps,
};
use crate::session::Session;

/// List containers
#[derive(Debug, Args)]
pub(crate) struct Ps {
    #[command(flatten)]
    selection: ContainerSelection,
    /// Filter by container id or its beginning
    #[arg(long, value_name = "CONTAINER-ID")]
    id: Option<String>,
    /// Show all that the list knows of each container
    #[arg(long, short)]
    verbose: bool,
    /// Show only ids
    #[arg(long, short)]
    quiet: bool,
    /// Output format
    #[arg(long, short, default_value = "table")]
    output: Format,
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Show the image's name where a container has its id
    #[arg(long, short)]
    resolve_image_path: bool,
}

impl Ps {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let format = self.output;
        let containers = self.selection.list(session, self.id.as_deref()).await?;
        if format != Format::Table {
            return json::write_message(out, format, &ListContainersResponse { containers });
        }
        if self.quiet {
            for container in &containers {
                writeln!(out, "{}", container.id)?;
            }
            return Ok(());
        }
        let now = now_ns();
        if self.verbose {
            return containers
                .iter()
                .try_for_each(|container| details(out, container, now));
        }
        let mut table = Table::with_header(&[
            "CONTAINER",
            "IMAGE",
            "CREATED",
            "STATE",
            "NAME",
            "ATTEMPT",
            "POD ID",
            "POD",
            "NAMESPACE",
        ]);
        for container in containers {
            let image = self.image(session, &container).await?;
            let metadata = container.metadata.clone().unwrap_or_default();
            let id = |id: &str| {
                if self.no_trunc {
                    id.to_owned()
                } else {
                    short(id, "").to_owned()
                }
            };
            table.row([
                id(&container.id),
                image,
                ago(container.created_at, now),
                container_state(container.state()).to_owned(),
                metadata.name,
                metadata.attempt.to_string(),
                id(&container.pod_sandbox_id),
                pod_name(&container.labels).to_owned(),
                pod_namespace(&container.labels).to_owned(),
            ]);
        }
        table.write(out)?;
        Ok(())
    }

    async fn image(&self, session: &Session, container: &Container) -> Result<String, Error> {
        let image = container.image.as_ref().map_or("", |image| &image.image);
        if self.resolve_image_path {
            let status = session.image_status(image, false).await?.image;
            if let Some(tag) = status.and_then(|image| image.repo_tags.into_iter().next()) {
                return Ok(tag);
            }
        }
        let shown = if self.no_trunc {
            image
        } else {
            short_image(image)
        };
        Ok(shown.to_owned())
    }
}

fn details(out: &mut Output, container: &Container, now_ns: i64) -> Result<(), Error> {
    let metadata = container.metadata.clone().unwrap_or_default();
    writeln!(out, "ID: {}", container.id)?;
    writeln!(out, "PodID: {}", container.pod_sandbox_id)?;
    writeln!(out, "Namespace: {}", pod_namespace(&container.labels))?;
    writeln!(out, "Name: {}", metadata.name)?;
    writeln!(out, "Attempt: {}", metadata.attempt)?;
    writeln!(out, "State: {}", container_state(container.state()))?;
    if let Some(image) = &container.image {
        writeln!(out, "Image: {}", image.image)?;
    }
    writeln!(out, "Created: {}", ago(container.created_at, now_ns))?;
    write_maps(
        out,
        [
            ("Labels", &container.labels),
            ("Annotations", &container.annotations),
        ],
    )?;
    writeln!(out)?;
    Ok(())
}
