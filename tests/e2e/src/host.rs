use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    panic,
    path::PathBuf,
    process::Command,
    sync::{Once, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use cri::v1::{ContainerState, ContainerStatus};
use testkit::{
    daemon::Daemon,
    image::{self, Image},
    ledger::{Ledger, SETTLES_WITHIN},
    registry::Registry,
    sandbox::{Process, Sandbox, poll, systemd_driver},
};

use crate::{ContainerSettings, Cri, PodSettings};

/// How long a story may take, on an emulated processor that others use as well.
const STORY_LIMIT: Duration = Duration::from_secs(600);

/// How long a container may take to reach a state.
const STATE_LIMIT: Duration = Duration::from_secs(90);

/// So many characters, the last of a panic's, are said at once.
const SAID_AT_ONCE: usize = 1500;

/// A sandbox with a registry, a daemon, and busybox in the daemon's store.
#[derive(Debug)]
pub struct Host {
    // Dropped in this order: the daemon goes before its sandbox.
    pub daemon: Daemon,
    pub registry: Registry,
    pub sandbox: Sandbox,
    pub cri: Cri,
    /// The reference of busybox.
    pub image: String,
    /// What must be there again when the story is over.
    pub before: Ledger,
}

/// Runs a story on a host of its own, and checks that nothing is left of it.
///
/// # Panics
/// The story fails, takes too long, or leaves something; the daemon's log is printed then.
pub fn scenario(story: impl AsyncFnOnce(&mut Host) -> anyhow::Result<()>) {
    scenario_with("", story);
}

/// As [`scenario`], with TOML appended to the daemon's configuration.
///
/// # Panics
/// As [`scenario`].
pub fn scenario_with(settings: &str, story: impl AsyncFnOnce(&mut Host) -> anyhow::Result<()>) {
    run(settings, STORY_LIMIT, story);
}

/// As [`scenario`], for a story that may take so long.
///
/// # Panics
/// As [`scenario`].
pub fn long_scenario(limit: Duration, story: impl AsyncFnOnce(&mut Host) -> anyhow::Result<()>) {
    run("", limit, story);
}

fn run(settings: &str, limit: Duration, story: impl AsyncFnOnce(&mut Host) -> anyhow::Result<()>) {
    say_panics_at_once();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Connections live on the worker, so that a story may block.
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let result = runtime.block_on(async {
        let mut host = Host::start(settings).await?;
        if let Err(error) = host.warm_up().await {
            return Err(error.context(format!("warm up\n{}\n", host.daemon.log_tail())));
        }
        let told = tokio::time::timeout(limit, story(&mut host)).await;
        let result = match told {
            Ok(Ok(())) => host.undo_all().await,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(anyhow::anyhow!("the story is not over after {limit:?}")),
        };
        result.with_context(|| format!("\n{}\n", host.daemon.log_tail()))
    });
    // The log first, then what went wrong.
    if let Err(error) = result {
        panic!("{error:#}");
    }
}

/// The harness tells why at the end of all tests; whoever has the middle of a log alone shall find it there too, beside the test's name.
fn say_panics_at_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let kept = panic::take_hook();
        panic::set_hook(Box::new(move |told| {
            kept(told);
            let text = told.to_string();
            let skipped = text.chars().count().saturating_sub(SAID_AT_ONCE);
            let end: String = text.chars().skip(skipped).collect();
            // Not `eprintln`, which the harness keeps to itself.
            let _ = writeln!(std::io::stderr(), "a test fails: {end}");
        }));
    });
}

impl Host {
    async fn start(settings: &str) -> anyhow::Result<Self> {
        let sandbox = Sandbox::new()?;
        let listener = sandbox.on_network(|| TcpListener::bind("127.0.0.1:5000"))??;
        let registry = Registry::serve(listener)?;
        let image = registry.push("library/busybox", "latest", busybox()?);
        let daemon = Daemon::start_with(&sandbox, settings).await?;
        let cri = Cri::new(daemon.client().await?);
        cri.pull(&image)
            .await
            .with_context(|| format!("pull busybox\n{}\n", daemon.log_tail()))?;
        Ok(Self {
            daemon,
            registry,
            sandbox,
            cri,
            image,
            before: Ledger::default(),
        })
    }

    /// Runs a pod, which makes what later ones share (the bridge, nf_tables), removes it, and takes the ledger.
    ///
    /// # Errors
    /// As the calls.
    pub async fn warm_up(&mut self) -> anyhow::Result<()> {
        let pod = PodSettings::new("warm-up");
        let id = self.run_pod(&pod).await.context("run the first pod")?;
        let container = self
            .run(&id, &pod, &ContainerSettings::new("warm-up", ["true"]))
            .await
            .context("run the first container")?;
        self.until_exited(&container).await?;
        self.until_tried().await?;
        let running = Ledger::take(&self.sandbox)?;
        self.cri.stop_pod(&id).await?;
        self.cri.remove_pod(&id).await?;
        // What goes away by itself shall be gone before the picture.
        let end = Instant::now() + SETTLES_WITHIN;
        let mut last = running;
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = Ledger::take(&self.sandbox)?;
            if last.difference(&now).is_empty() || Instant::now() > end {
                self.before = now;
                return Ok(());
            }
            last = now;
        }
    }

    /// Waits until no handler is being tried: that takes a pod, which is not the story's.
    async fn until_tried(&self) -> anyhow::Result<()> {
        let end = Instant::now() + STATE_LIMIT;
        loop {
            let described = self.cri.status(true).await?.info;
            if !described["info"].contains("\"trial\":\"under way\"") {
                return Ok(());
            }
            ensure!(Instant::now() < end, "a handler is being tried for ever");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops and removes all pods, removes all images but busybox, and compares with the ledger.
    async fn undo_all(&mut self) -> anyhow::Result<()> {
        self.remove_all_pods().await?;
        for image in self.cri.images().await? {
            if !image.repo_tags.contains(&self.image) {
                self.cri.remove_image(&image.id).await?;
            }
        }
        self.settles()
    }

    /// Stops and removes all pods.
    ///
    /// # Errors
    /// As the calls.
    pub async fn remove_all_pods(&self) -> anyhow::Result<()> {
        for pod in self.cri.pods(None).await? {
            let id = &pod.id;
            self.cri
                .stop_pod(id)
                .await
                .with_context(|| format!("stop {id}"))?;
            self.cri
                .remove_pod(id)
                .await
                .with_context(|| format!("remove {id}"))?;
        }
        Ok(())
    }

    /// An error, which lists what is left, unless the sandbox is soon as in the ledger.
    ///
    /// # Errors
    /// As said.
    pub fn settles(&self) -> anyhow::Result<()> {
        if let Err(left) = self.before.settles(&self.sandbox, SETTLES_WITHIN)? {
            bail!("left behind (+) or missing (-):\n{left}");
        }
        Ok(())
    }

    /// Runs a pod; makes its log directory, as a kubelet does.
    ///
    /// # Errors
    /// As the call.
    pub async fn run_pod(&self, pod: &PodSettings) -> anyhow::Result<String> {
        fs::create_dir_all(self.log_directory(pod)).context("make the pod's log directory")?;
        Ok(self.cri.run_pod(self.pod_config(pod)).await?)
    }

    /// The CRI request of a pod.
    #[must_use]
    pub fn pod_config(&self, pod: &PodSettings) -> cri::v1::PodSandboxConfig {
        pod.config(&self.log_directory(pod))
    }

    /// A parent cgroup as a kubelet names one for a pod, and its path below the mount point: with the systemd driver a slice.
    #[must_use]
    pub fn pod_parent(&self, pod: &str) -> (String, String) {
        let top = self.sandbox.cgroup();
        let top = top.trim_matches('/');
        match top.strip_suffix(".slice") {
            Some(name) => {
                let slice = format!("{name}-{pod}.slice");
                let path = format!("{top}/{slice}");
                (slice, path)
            }
            None => (format!("/{top}/{pod}"), format!("{top}/{pod}")),
        }
    }

    /// The kubelet's part, once the pod is removed; systemd keeps slices.
    ///
    /// # Errors
    /// There is no `systemctl`.
    pub fn give_up_parent(&self, pod: &str) -> anyhow::Result<()> {
        if systemd_driver() {
            let (slice, _) = self.pod_parent(pod);
            Command::new("systemctl")
                .args(["stop", &slice])
                .status()
                .context("run systemctl")?;
        }
        Ok(())
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    /// As the calls.
    pub async fn run(
        &self,
        pod_id: &str,
        pod: &PodSettings,
        container: &ContainerSettings,
    ) -> anyhow::Result<String> {
        let id = self.create(pod_id, pod, container).await?;
        self.cri.start(&id).await?;
        Ok(id)
    }

    /// Creates a container.
    ///
    /// # Errors
    /// As the call.
    pub async fn create(
        &self,
        pod_id: &str,
        pod: &PodSettings,
        container: &ContainerSettings,
    ) -> Result<String, tonic::Status> {
        let config = container.config(&self.image);
        self.cri.create(pod_id, config, self.pod_config(pod)).await
    }

    /// Runs a container of these settings until it ends; returns how it ended, and what it wrote.
    ///
    /// # Errors
    /// As the calls, or it does not end.
    pub async fn run_to_end(
        &self,
        pod_id: &str,
        pod: &PodSettings,
        container: &ContainerSettings,
    ) -> anyhow::Result<(ContainerStatus, String)> {
        let id = self.run(pod_id, pod, container).await?;
        let status = self.until_exited(&id).await?;
        Ok((status, self.output(pod, container)?))
    }

    /// Waits until a container has exited.
    ///
    /// # Errors
    /// It does not exit in time.
    pub async fn until_exited(&self, id: &str) -> anyhow::Result<ContainerStatus> {
        let end = Instant::now() + STATE_LIMIT;
        loop {
            let status = self.cri.container_status(id).await?;
            if status.state() == ContainerState::ContainerExited {
                return Ok(status);
            }
            ensure!(
                Instant::now() < end,
                "the container does not exit: {status:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a container's log contains `text`.
    ///
    /// # Errors
    /// It does not in time.
    pub async fn until_logged(
        &self,
        pod: &PodSettings,
        container: &ContainerSettings,
        text: &str,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + STATE_LIMIT;
        loop {
            let output = self.output(pod, container).unwrap_or_default();
            if output.contains(text) {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "{text:?} is not in the log: {output:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What a container wrote, as its log has it, both streams.
    ///
    /// # Errors
    /// There is no log, or a line is not in CRI's format.
    pub fn output(
        &self,
        pod: &PodSettings,
        container: &ContainerSettings,
    ) -> anyhow::Result<String> {
        let lines = self.log(pod, container)?;
        Ok(lines.iter().map(LogLine::text).collect())
    }

    /// The lines of a container's log.
    ///
    /// # Errors
    /// As [`Host::output`].
    pub fn log(
        &self,
        pod: &PodSettings,
        container: &ContainerSettings,
    ) -> anyhow::Result<Vec<LogLine>> {
        let path = self.log_path(pod, container);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        text.lines().map(LogLine::parse).collect()
    }

    /// Where a container's log is.
    #[must_use]
    pub fn log_path(&self, pod: &PodSettings, container: &ContainerSettings) -> PathBuf {
        self.log_directory(pod).join(container.log_path())
    }

    fn log_directory(&self, pod: &PodSettings) -> PathBuf {
        self.sandbox.directory().join("logs").join(&pod.name)
    }

    /// The supervisors that run.
    #[must_use]
    pub fn supervisors(&self) -> Vec<Process> {
        let all = self.sandbox.processes();
        let is_supervisor = |process: &Process| {
            let first = process.args.first().map_or("", String::as_str);
            process.name.starts_with("longshore-pod") || first.ends_with("longshore-pod")
        };
        // Its own children, before they run their programs, look alike.
        let pids: Vec<u32> = all
            .iter()
            .filter(|process| is_supervisor(process))
            .map(|process| process.pid)
            .collect();
        // Nor are those that open a path for the daemon.
        let opens_a_path =
            |process: &Process| process.args.get(1).is_some_and(|arg| arg == "--path");
        let others = |process: &Process| pids.contains(&process.parent) || opens_a_path(process);
        all.into_iter()
            .filter(|process| is_supervisor(process) && !others(process))
            .collect()
    }

    /// `kill -9` of every supervisor.
    ///
    /// # Errors
    /// There is none.
    pub fn kill_supervisors(&self) -> anyhow::Result<()> {
        let pids: Vec<u32> = self
            .supervisors()
            .iter()
            .map(|process| process.pid)
            .collect();
        ensure!(!pids.is_empty(), "no supervisor runs");
        self.sandbox.kill("KILL", &pids)
    }

    /// `kill -9` of the daemon, and another one.
    ///
    /// # Errors
    /// The new one does not come up.
    pub async fn restart_daemon(&mut self) -> anyhow::Result<()> {
        self.daemon.kill();
        self.start_daemon().await
    }

    /// A daemon after the last one has been killed.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start_daemon(&mut self) -> anyhow::Result<()> {
        self.start_daemon_with("").await
    }

    /// As [`Host::start_daemon`], with a failpoint (see [`Daemon::restart_with`]).
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start_daemon_with(&mut self, failpoint: &str) -> anyhow::Result<()> {
        self.daemon.restart_with(&self.sandbox, failpoint).await?;
        self.cri = Cri::new(self.daemon.client().await?);
        Ok(())
    }

    /// Power off and on, and another daemon. The registry is not reachable any more, so the power goes once the image is safe.
    ///
    /// # Errors
    /// The daemon does not come up.
    pub async fn reboot(&mut self) -> anyhow::Result<()> {
        let safe = || {
            self.daemon
                .log()
                .contains("layers would survive a power cut now")
        };
        poll(STATE_LIMIT, || safe().then_some(())).context("the image is never safe")?;
        self.daemon.kill();
        self.sandbox.reboot()?;
        self.start_daemon().await
    }
}

/// Built once: an emulated processor takes a while to compress it.
fn busybox() -> anyhow::Result<&'static Image> {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    if let Some(image) = IMAGE.get() {
        return Ok(image);
    }
    let image = image::busybox()?.build();
    Ok(IMAGE.get_or_init(|| image))
}

/// A line of a container's log (CRI's format): `TIME STREAM TAG MESSAGE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// RFC 3339 with nanoseconds.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// `P`: more of the same line follows.
    pub partial: bool,
    pub message: String,
}

impl LogLine {
    fn parse(line: &str) -> anyhow::Result<Self> {
        let mut words = line.splitn(4, ' ');
        let (Some(time), Some(stream), Some(tag), Some(message)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            bail!("not a line of a CRI log: {line:?}");
        };
        // 2026-01-02T03:04:05.123456789Z, or with an offset
        let fraction = time.split_once('.').map_or("", |(_, rest)| rest);
        ensure!(
            time.contains('T')
                && fraction.len() >= 10
                && fraction[..9].bytes().all(|b| b.is_ascii_digit()),
            "not RFC 3339 with nanoseconds: {line:?}"
        );
        ensure!(
            ["stdout", "stderr"].contains(&stream),
            "no stream: {line:?}"
        );
        ensure!(["P", "F"].contains(&tag), "neither P nor F: {line:?}");
        Ok(Self {
            time: time.to_owned(),
            stream: stream.to_owned(),
            partial: tag == "P",
            message: message.to_owned(),
        })
    }

    fn text(&self) -> String {
        let end = if self.partial { "" } else { "\n" };
        format!("{}{end}", self.message)
    }
}
