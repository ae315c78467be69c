//! The real `longshored`, in a sandbox.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use cri::client::{Client, Endpoint};
use rustix::process::{Pid, Signal, kill_process};

use crate::sandbox::{Sandbox, child_of, poll, systemd_driver};

/// The daemon's socket, as the sandbox sees it.
pub const SOCKET: &str = "/run/longshore/longshore.sock";

/// Our own crates say more than the libraries.
const LOG_FILTER: &str = "info,longshored=debug,longshore_image=debug,longshore_cni=debug";

/// How long a daemon may take to answer after its start, recovery included.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

/// The handler that pods of every daemon are made with, where a suite is run for another than the usual one: its name, which is that of a
/// program in `PATH`.
pub const HANDLER_VARIABLE: &str = "LONGSHORE_TEST_HANDLER";

/// A running daemon, or one that was killed and may be started again. Dropping it kills it; pods that still run end with the
/// sandbox.
#[derive(Debug)]
pub struct Daemon {
    binary: PathBuf,
    /// Of a program that starts it.
    launcher: Vec<String>,
    arguments: Vec<String>,
    log: PathBuf,
    socket: PathBuf,
    process: Option<Running>,
}

#[derive(Debug)]
struct Running {
    nsenter: Child,
    /// On the host.
    pid: Pid,
}

impl Daemon {
    /// Starts `longshored` with its pods below the sandbox's cgroup, and waits until it answers.
    ///
    /// # Errors
    /// The binaries are not built, or the daemon ends or does not answer; the error has the end of its log.
    pub async fn start(sandbox: &Sandbox) -> anyhow::Result<Self> {
        Self::start_with(sandbox, "").await
    }

    /// As [`Daemon::start`], with TOML appended to the configuration.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub async fn start_with(sandbox: &Sandbox, settings: &str) -> anyhow::Result<Self> {
        let directory = sandbox.directory();
        let config = directory.join("config.toml");
        let cgroup = sandbox.cgroup();
        let settings = with_cni(settings, directory);
        let (driver, supervisors) = match systemd_driver() {
            true => ("systemd", sandbox.supervisor_scope()),
            false => ("cgroupfs", format!("{cgroup}/supervisors")),
        };
        let text = format!(
            "cgroup_driver = {driver:?}\ncgroup_parent = {cgroup:?}\nsupervisor_cgroup = {supervisors:?}\nlog = {LOG_FILTER:?}\n{}{settings}\n",
            with_handler()
        );
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let argument = |flag: &str, path: &Path| format!("{flag}={}", path.display());
        let mut daemon = Self {
            binary: binary("longshored")?,
            launcher: Vec::new(),
            arguments: vec![
                argument("--config", &config),
                argument("--root", &directory.join("lib")),
                "--state=/run/longshore".to_owned(),
                format!("--address={SOCKET}"),
            ],
            log: directory.join("longshored.log"),
            socket: sandbox.view(SOCKET),
            process: None,
        };
        daemon.restart(sandbox).await?;
        Ok(daemon)
    }

    /// Starts the daemon again after [`Daemon::kill`] or [`Daemon::terminate`], or after a reboot of its sandbox.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub async fn restart(&mut self, sandbox: &Sandbox) -> anyhow::Result<()> {
        self.restart_with(sandbox, "").await
    }

    /// As [`Daemon::restart`], with `LONGSHORE_FAILPOINT` set: `EDGE:daemon`, `EDGE:supervisor` or `EDGE:both` die when an operation
    /// first reaches the edge.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub async fn restart_with(&mut self, sandbox: &Sandbox, failpoint: &str) -> anyhow::Result<()> {
        self.kill();
        self.socket = sandbox.view(SOCKET);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("open {}", self.log.display()))?;
        let program = self.binary.display().to_string();
        let mut words = self.launcher.iter().chain([&program]);
        let mut command = sandbox.command(words.next().unwrap_or(&program));
        command.args(words);
        command.env_remove("LONGSHORE_FAILPOINT");
        if !failpoint.is_empty() {
            command.env("LONGSHORE_FAILPOINT", failpoint);
        }
        let mut nsenter = command
            .args(&self.arguments)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("run nsenter (package util-linux)")?;
        let started = poll(Duration::from_secs(60), || {
            let ended = matches!(nsenter.try_wait(), Ok(Some(_)));
            child_of(nsenter.id()).map(Some).or(ended.then_some(None))
        });
        let Some(pid) = started.flatten() else {
            let _ = nsenter.kill();
            let status = nsenter.wait()?;
            bail!("longshored did not start: {status}\n{}", self.log_tail());
        };
        let pid = Pid::from_raw(i32::try_from(pid)?).context("a process id is not 0")?;
        self.process = Some(Running { nsenter, pid });
        self.wait_ready().await
    }

    /// From the next start on it runs on a kernel without these system calls, as `testkit-without` takes them.
    ///
    /// # Errors
    /// The binaries are not built.
    pub fn without(&mut self, calls: &[&str]) -> anyhow::Result<()> {
        self.launcher.clear();
        if !calls.is_empty() {
            let program = binary("testkit-without")?.display().to_string();
            let calls = calls.iter().copied();
            let words = calls.chain(["--"]).map(str::to_owned);
            self.launcher = [program].into_iter().chain(words).collect();
        }
        Ok(())
    }

    /// From the next start on it is run by this command, which is given it as its last arguments.
    pub fn launched_by(&mut self, command: &[&str]) {
        self.launcher = command.iter().copied().map(str::to_owned).collect();
    }

    /// From the next start on it has this flag, such as `--root=/elsewhere`, in place of the one that begins alike.
    pub fn set_flag(&mut self, flag: &str) {
        let name = flag.split_inclusive('=').next().unwrap_or(flag);
        for old in &mut self.arguments {
            if old.starts_with(name) {
                flag.clone_into(old);
            }
        }
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let end = tokio::time::Instant::now() + STARTS_WITHIN;
        loop {
            let error = match self.client().await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if let Some(status) = self.ended()? {
                bail!("longshored ended with {status}\n{}", self.log_tail());
            }
            if tokio::time::Instant::now() > end {
                bail!("longshored does not answer: {error:#}\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let endpoint = Endpoint::of_socket(&self.socket);
        Ok(Client::connect(endpoint, Duration::from_secs(30)).await?)
    }

    /// The socket, as the host sees it.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The daemon's PID on the host, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.process.as_ref().map(|running| running.pid)
    }

    /// `kill -9`, and waits for the end. Nothing happens if it does not run.
    pub fn kill(&mut self) {
        let Some(mut running) = self.process.take() else {
            return;
        };
        // Until nsenter is reaped, the PID is its child's; ESRCH means that the child has ended.
        let _ = kill_process(running.pid, Signal::KILL);
        let _ = running.nsenter.wait();
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// It does not end within a minute; then it is killed.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        let Some(running) = &self.process else {
            return Ok(());
        };
        kill_process(running.pid, Signal::TERM).context("send SIGTERM to longshored")?;
        let mut ended = None;
        poll(Duration::from_secs(60), || {
            ended = self.ended().ok().flatten();
            ended
        });
        self.kill();
        ensure!(ended.is_some(), "longshored runs a minute after SIGTERM");
        Ok(())
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        match &mut self.process {
            Some(running) => Ok(running.nsenter.try_wait()?),
            None => Ok(None),
        }
    }

    /// Everything that all its runs have logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The log's last lines, for messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A machine that is a node of some cluster has CNI configurations where the daemon looks by default. Here they are looked for in `net.d/`
/// of the sandbox's directory, plugins in `plugins/` and then where Debian has them.
fn with_cni(settings: &str, directory: &Path) -> String {
    let places = format!(
        "[cni]\nconfigurations = {:?}\nplugins = [{:?}, \"/usr/lib/cni\"]\nothers = {:?}",
        directory.join("net.d"),
        directory.join("plugins"),
        directory.join("others"),
    );
    match settings.contains("[cni]") {
        true => settings.replace("[cni]", &places),
        false => format!("{settings}\n{places}"),
    }
}

/// The path of a binary that `cargo xtask build` staged: in `$LONGSHORE_BIN_DIR`, or in `stage/` of the target directory that holds
/// the running test.
///
/// # Errors
/// It is not there.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let directory = match std::env::var_os("LONGSHORE_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let test = std::env::current_exe().context("find the running test")?;
            // target/PROFILE/deps/TEST
            let target = test
                .ancestors()
                .nth(3)
                .context("find the target directory")?;
            target.join("stage/debug")
        }
    };
    let path = directory.join(name);
    ensure!(
        path.exists(),
        "{} is missing: run `cargo xtask build`",
        path.display()
    );
    Ok(path)
}

/// Settings that make the handler of [`HANDLER_VARIABLE`] the default.
fn with_handler() -> String {
    match std::env::var(HANDLER_VARIABLE) {
        Ok(name) if name != "native" => {
            let path = program(name.trim_end_matches("-pod")).unwrap_or_default();
            let path = path.display().to_string();
            // The platform that needs no more than ptrace(2), and the pod's own network.
            let gvisor = "options = [\"--platform=ptrace\", \"--network=host\"], kernel";
            let more = match name.as_str() {
                "runsc" => format!(", {gvisor} = \"container\""),
                "runsc-pod" => format!(", {gvisor} = \"pod\""),
                _ => String::new(),
            };
            format!(
                "default_handler = {name:?}\nruntimes.{name} = {{ kind = \"oci\", path = {path:?}{more} }}\n"
            )
        }
        Ok(_) | Err(_) => String::new(),
    }
}

/// Where a program of the node is, or one of ours that was staged.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    if name.starts_with("longshore") {
        return binary(name).ok();
    }
    let directories = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ];
    let paths = directories.map(|directory| Path::new(directory).join(name));
    paths.into_iter().find(|path| path.is_file())
}
