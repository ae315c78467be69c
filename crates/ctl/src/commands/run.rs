use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use cri::v1::{ImageSpec, PullImageRequest};

use super::pull::{self, PullFlags};
use crate::error::{self, Error};
use crate::ids::short;
use crate::manifest::{self, PodPlan, PullPolicy};
use crate::output::Output;
use crate::output::table::Table;
use crate::session::Session;
use crate::{duration, input};

/// Run pods of Kubernetes manifests; or, as in crictl, one container in a new pod
///
/// With one file, or several whose first is a manifest: every v1 Pod in them is run, its containers in their order; images that
/// are missing are pulled. If something fails, the pod is removed again unless --keep says otherwise.
/// With two files of CRI configurations, CONTAINER-CONFIG and POD-CONFIG: a pod, and the container in it.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Pod manifests; or CONTAINER-CONFIG POD-CONFIG
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Runtime handler
    #[arg(long, short, default_value = "", hide_default_value = true)]
    runtime: String,
    /// Use image REF where a manifest says NAME (with or without its tag)
    #[arg(long = "image", value_name = "NAME=REF")]
    images: Vec<String>,
    /// Where the pods' log directories are made
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/log/pods")]
    log_root: PathBuf,
    /// Keep a pod of which a container failed
    #[arg(long)]
    keep: bool,
    /// Show only ids: each pod's, then its containers'
    #[arg(long, short)]
    quiet: bool,
    /// Do not pull images
    #[arg(long, conflicts_with = "with_pull")]
    no_pull: bool,
    /// Pull images even if they are there
    #[arg(long)]
    with_pull: bool,
    #[command(flatten)]
    pull: PullFlags,
    /// Give up creating a container after this time
    #[arg(long, short = 'T', value_name = "DURATION", value_parser = duration::parse)]
    cancel_timeout: Option<Duration>,
}

impl Run {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let first = input::read(&self.files[0])?;
        let manifests =
            first.value.get("kind").is_some() || first.value.get("apiVersion").is_some();
        match self.files.as_slice() {
            [container, pod] if !manifests => self.container(session, out, container, pod).await,
            _ if manifests => self.pods(session, out, first).await,
            _ => Err(Error::Usage(format!(
                "{}: not a Pod manifest (it has no kind); a container takes two files, CONTAINER-CONFIG and POD-CONFIG",
                self.files[0].display()
            ))),
        }
    }

    /// crictl's way: what has been made stays when a later step fails.
    async fn container(
        &self,
        session: &Session,
        out: &mut Output,
        container: &Path,
        pod: &Path,
    ) -> Result<(), Error> {
        let config = input::container_config(container)?;
        let sandbox = input::pod_config(pod)?;
        let pod = session
            .run_pod(sandbox.clone(), &self.runtime, None)
            .await?;
        let started = async {
            let wanted = session.settings().pull_on_run && !self.no_pull;
            if wanted || self.with_pull {
                pull::images_of(session, &config, Some(&sandbox), &self.pull).await?;
            }
            let bound = self.cancel_timeout;
            let id = session
                .create_container(&pod, config, Some(sandbox), bound)
                .await?;
            session.start_container(&id).await?;
            Ok(id)
        };
        match started.await {
            Ok(id) => {
                writeln!(out, "{id}")?;
                Ok(())
            }
            Err(error) => {
                let program = session.program();
                error::note(&format!(
                    "{program}: pod {pod} stays; remove it with {program} rmp -f {}",
                    short(&pod, "")
                ));
                Err(error)
            }
        }
    }

    /// All files are read and translated before the first pod is made.
    async fn pods(
        &self,
        session: &Session,
        out: &mut Output,
        first: input::Document,
    ) -> Result<(), Error> {
        let images: BTreeMap<_, _> = input::pairs("--image", &self.images)?;
        let mut plans = Vec::new();
        let mut first = Some(first);
        for file in &self.files {
            let document = match first.take() {
                Some(document) => document,
                None => input::read(file)?,
            };
            for pod in manifest::parse(file, &document.text)? {
                let uid = input::new_uid()?;
                let plan = manifest::plan(&pod, &uid, &self.log_root, &images)
                    .map_err(|reason| Error::Input(format!("{}: {reason}", file.display())))?;
                plans.push(plan);
            }
        }
        for plan in plans {
            self.pod(session, out, plan).await?;
        }
        Ok(())
    }

    async fn pod(&self, session: &Session, out: &mut Output, plan: PodPlan) -> Result<(), Error> {
        for note in &plan.notes {
            error::note(&format!("{}: {note}", session.program()));
        }
        // Images first: a pod whose images are not there need not be made.
        self.pull_missing(session, &plan).await?;
        manifest::prepare(&plan)?;
        let handler = if self.runtime.is_empty() {
            &plan.handler
        } else {
            &self.runtime
        };
        let pod = match session.run_pod(plan.config.clone(), handler, None).await {
            Ok(pod) => pod,
            Err(error) => {
                remove_logs(&plan)?;
                return Err(error);
            }
        };
        match self.containers(session, &pod, &plan).await {
            Ok(containers) => self.report(session, out, &pod, &plan, &containers).await,
            Err(error) => {
                self.undo(session, &pod, &plan).await;
                Err(error)
            }
        }
    }

    async fn pull_missing(&self, session: &Session, plan: &PodPlan) -> Result<(), Error> {
        for container in &plan.containers {
            let policy = match (self.with_pull, self.no_pull) {
                (true, _) => PullPolicy::Always,
                (_, true) => PullPolicy::Never,
                _ => container.pull,
            };
            let Some(image) = &container.config.image else {
                continue;
            };
            let wanted = match policy {
                PullPolicy::Never => false,
                PullPolicy::Always => true,
                PullPolicy::IfNotPresent => session
                    .image_status(&image.image, false)
                    .await?
                    .image
                    .is_none(),
            };
            if wanted {
                let request = PullImageRequest {
                    image: Some(ImageSpec {
                        runtime_handler: plan.handler.clone(),
                        ..image.clone()
                    }),
                    auth: self.pull.credentials()?,
                    sandbox_config: Some(plan.config.clone()),
                };
                pull::one(session, request, &self.pull).await?;
            }
        }
        Ok(())
    }

    /// Creates and starts each, in order.
    async fn containers(
        &self,
        session: &Session,
        pod: &str,
        plan: &PodPlan,
    ) -> Result<Vec<String>, Error> {
        let mut ids = Vec::new();
        for container in &plan.containers {
            let (config, sandbox) = (container.config.clone(), plan.config.clone());
            let bound = self.cancel_timeout;
            let id = session
                .create_container(pod, config, Some(sandbox), bound)
                .await?;
            session.start_container(&id).await?;
            ids.push(id);
        }
        Ok(ids)
    }

    async fn undo(&self, session: &Session, pod: &str, plan: &PodPlan) {
        let program = session.program();
        if self.keep {
            error::note(&format!(
                "{program}: pod {pod} stays; remove it with {program} rmp -f {}",
                short(pod, "")
            ));
            return;
        }
        let undone = async {
            session.stop_pod(pod).await?;
            session.remove_pod(pod).await?;
            // Nobody could find its logs any more.
            remove_logs(plan)
        };
        match undone.await {
            Ok(()) => error::note(&format!("{program}: pod {pod} has been removed again")),
            Err(error) => {
                error::report(program, &error);
                error::note(&format!("{program}: pod {pod} stays; remove it later"));
            }
        }
    }

    async fn report(
        &self,
        session: &Session,
        out: &mut Output,
        pod: &str,
        plan: &PodPlan,
        containers: &[String],
    ) -> Result<(), Error> {
        if self.quiet {
            writeln!(out, "{pod}")?;
            for id in containers {
                writeln!(out, "{id}")?;
            }
            return Ok(());
        }
        let status = session
            .pod_status(pod, false)
            .await?
            .status
            .unwrap_or_default();
        let ip = status.network.map(|network| network.ip).unwrap_or_default();
        let metadata = plan.config.metadata.clone().unwrap_or_default();
        let mut table = Table::with_header(&["RUNS", "ID", "NAME", "IMAGE OR ADDRESS"]);
        table.row([
            "pod".to_owned(),
            short(pod, "").to_owned(),
            format!("{}/{}", metadata.namespace, metadata.name),
            if ip.is_empty() { "-".to_owned() } else { ip },
        ]);
        for (container, id) in plan.containers.iter().zip(containers) {
            let config = &container.config;
            table.row([
                "container".to_owned(),
                short(id, "").to_owned(),
                config.metadata.as_ref().map_or("", |m| &m.name).to_owned(),
                config.image.as_ref().map_or("", |i| &i.image).to_owned(),
            ]);
        }
        table.write(out)?;
        out.flush()?;
        Ok(())
    }
}

fn remove_logs(plan: &PodPlan) -> Result<(), Error> {
    let logs = &plan.config.log_directory;
    match std::fs::remove_dir_all(logs) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Io {
            what: format!("remove logs {logs}"),
            source,
        }),
        _ => Ok(()),
    }
}
