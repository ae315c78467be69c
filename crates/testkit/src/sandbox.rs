//! A host of the test's own.
//!
//! A holder process owns new network, mount, PID, IPC and UTS namespaces. Everything that a test starts lives in there; when the
//! holder goes, the kernel kills every process of its PID namespace, and with them go links, addresses, nf_tables and mounts.
//! The holder goes when its standard input ends, so also when the test is killed with SIGKILL; its keeper, outside, then removes the
//! directory and the cgroups. Should the keeper be killed too, the next sandbox removes them: their names say whose they were.
//!
//! Inside, `/run` and `/var/log` are empty tmpfs, mounts are shared (as on a host with systemd) but never reach the outside, and `lo` is up.

mod holder;
mod remains;

use std::{
    ffi::OsStr,
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use holder::Holder;
#[cfg(feature = "daemon")]
pub(crate) use holder::child_of;
pub use remains::{cgroup_hierarchies, sweep};

/// Namespaces, a directory and a cgroup name, until dropped.
#[derive(Debug)]
pub struct Sandbox {
    name: String,
    directory: PathBuf,
    holder: Option<Holder>,
    boots: u32,
}

impl Sandbox {
    /// Namespaces and a directory under the system's temporary one. Removes what killed tests left.
    ///
    /// # Errors
    /// Not root, or a package of `cargo xtask install-deps` is missing.
    pub fn new() -> anyhow::Result<Self> {
        Self::named("lst", &std::env::temp_dir())
    }

    /// As [`Sandbox::new`], with names that begin with `prefix` and the directory inside `parent`.
    ///
    /// # Errors
    /// As [`Sandbox::new`].
    pub fn named(prefix: &str, parent: &Path) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        if count == 0 {
            sweep(prefix, parent);
        }
        let name = remains::name(prefix, count).context("name a sandbox")?;
        let directory = parent.join(&name);
        fs::create_dir_all(directory.join("lib"))
            .with_context(|| format!("make {}", directory.display()))?;
        let mut sandbox = Self {
            name,
            directory,
            holder: None,
            boots: 0,
        };
        sandbox.boot()?;
        Ok(sandbox)
    }

    /// On the host and inside alike; removed with the sandbox.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A name for the parent cgroup of this test's pods, `/lst-…`; whatever is below goes with the sandbox. Where tests are of the
    /// systemd cgroup driver it is a slice.
    #[must_use]
    pub fn cgroup(&self) -> String {
        match systemd_driver() {
            // A dash would be a step down.
            true => format!("/{}.slice", self.name.replace('-', "_")),
            false => format!("/{}", self.name),
        }
    }

    /// Where tests are of the systemd cgroup driver: a name for the scope of this test's supervisors, in [`Sandbox::cgroup`].
    #[must_use]
    pub fn supervisor_scope(&self) -> String {
        format!("{}/{}-supervisors.scope", self.cgroup(), self.name)
    }

    /// The holder's PID on the host.
    #[must_use]
    pub fn holder_pid(&self) -> u32 {
        self.holder.as_ref().map_or(0, Holder::pid)
    }

    /// How the host reaches `path` of the inside.
    #[must_use]
    pub fn view(&self, path: impl AsRef<Path>) -> PathBuf {
        let inside = path.as_ref();
        let inside = inside.strip_prefix("/").unwrap_or(inside);
        PathBuf::from(format!("/proc/{}/root", self.holder_pid())).join(inside)
    }

    /// A command that runs inside, as `nsenter(1)` runs it: the child is nsenter, its child the program. Standard input is
    /// `/dev/null` unless the caller sets it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.holder_pid()))
            .args(["--net", "--mount", "--pid", "--ipc", "--uts", "--"])
            .arg(program)
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    /// Runs a shell script inside, up to the first command that fails, and returns its standard output.
    ///
    /// # Errors
    /// It cannot be run or fails; the error has its standard error.
    pub fn sh(&self, script: &str) -> anyhow::Result<String> {
        let output = self
            .command("bash")
            .args(["-ec", script])
            .output()
            .with_context(|| format!("run in the sandbox: {script}"))?;
        ensure!(
            output.status.success(),
            "in the sandbox: {script}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `work` on a thread in the sandbox's network namespace. Sockets made there stay there.
    ///
    /// # Errors
    /// The thread cannot be had, or cannot enter.
    pub fn on_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let path = format!("/proc/{}/ns/net", self.holder_pid());
        on_network_at(Path::new(&path), work)
    }

    /// As [`Sandbox::on_network`], in a network namespace that is pinned inside, such as `/run/netns/NAME`.
    ///
    /// # Errors
    /// As [`Sandbox::on_network`].
    pub fn on_pinned_network<T: Send>(
        &self,
        pin: impl AsRef<Path>,
        work: impl FnOnce() -> T + Send,
    ) -> anyhow::Result<T> {
        on_network_at(&self.view(pin), work)
    }

    /// Sends `signal` (`KILL`, `TERM`, …) to processes, by their PIDs inside.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn kill(&self, signal: &str, pids: &[u32]) -> anyhow::Result<()> {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        self.sh(&format!("kill -s {signal} {}", pids.join(" ")))
            .map(drop)
    }

    /// Every process inside except the holder.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let Ok(entries) = fs::read_dir(self.view("/proc")) else {
            return Vec::new();
        };
        let mut processes: Vec<Process> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != 1)
            .filter_map(|pid| Process::read(&self.view(format!("/proc/{pid}")), pid))
            .collect();
        processes.sort_by_key(|process| process.pid);
        processes
    }

    /// Power off, power on: every process, namespace, mount and cgroup is gone, `/run` is empty, the boot id is another; the
    /// directory stays.
    ///
    /// # Errors
    /// As [`Sandbox::new`].
    pub fn reboot(&mut self) -> anyhow::Result<()> {
        if let Some(holder) = self.holder.take() {
            holder.end_and_keep_directory();
        }
        self.boot()?;
        // Bound over proc only here: a proc mount that is partly covered cannot be mounted again in a user namespace.
        let boot_id = self.directory.join("boot_id");
        let text = format!("00000000-0000-4000-8000-{:012x}\n", self.boots);
        fs::write(&boot_id, text).context("write another boot id")?;
        let target = "/proc/sys/kernel/random/boot_id";
        self.sh(&format!("mount --bind {} {target}", boot_id.display()))?;
        Ok(())
    }

    fn boot(&mut self) -> anyhow::Result<()> {
        self.boots += 1;
        let cgroup = self.cgroup();
        let holder = Holder::start(cgroup.trim_start_matches('/'), &self.directory)
            .context("start a sandbox")?;
        self.holder = Some(holder);
        Ok(())
    }
}

/// Whether daemons of tests have systemd make their cgroups: `LONGSHORE_TEST_CGROUP_DRIVER=systemd`.
#[must_use]
pub fn systemd_driver() -> bool {
    std::env::var_os("LONGSHORE_TEST_CGROUP_DRIVER").is_some_and(|driver| driver == "systemd")
}

fn on_network_at<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    let namespace = fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    thread::scope(|scope| {
        let entered = move || -> io::Result<T> {
            let kind = Some(LinkNameSpaceType::Network);
            // Affects this thread only, which ends with the closure.
            move_into_link_name_space(namespace.as_fd(), kind)?;
            Ok(work())
        };
        match scope.spawn(entered).join() {
            Ok(result) => result.with_context(|| format!("enter {}", path.display())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A process of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// As the inside sees it.
    pub pid: u32,
    pub parent: u32,
    /// `Name` of `/proc/PID/status`, in brackets for a zombie.
    pub name: String,
    /// Empty for a zombie.
    pub args: Vec<String>,
}

impl Process {
    /// `None` if it has gone meanwhile.
    fn read(directory: &Path, pid: u32) -> Option<Self> {
        let status = fs::read_to_string(directory.join("status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_start_matches(':').trim().to_owned())
        };
        let name = field("Name")?;
        let zombie = field("State")?.starts_with(['Z', 'X']);
        let line = fs::read(directory.join("cmdline")).unwrap_or_default();
        let args = line
            .split(|byte| *byte == 0)
            .filter(|arg| !arg.is_empty())
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .collect();
        Some(Self {
            pid,
            parent: field("PPid")?.parse().ok()?,
            name: if zombie { format!("[{name}]") } else { name },
            args,
        })
    }
}

/// Asks `probe` every 20 ms until it gives a value; `None` after `limit`.
pub fn poll<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
