//! OCI command lines beside each other, with no runtime around them: `run` of a program that ends at once, on the same bundle.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use cgroup::Hierarchies;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use serde::Serialize;
use serde_json::json;
use sys::CloneFlags;

use super::{
    BenchError,
    floor::static_program,
    pods::io_error,
    samples::{Samples, Summary, milliseconds},
};

/// A command line with runc's verbs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// How the report calls it.
    pub name: String,
    /// The program.
    pub path: PathBuf,
}

/// All command lines on one machine.
#[derive(Debug, Clone, Serialize)]
pub struct CommandsReport {
    /// Mounts that were on the host beside its own.
    pub mounts: usize,
    /// Each command line.
    pub commands: Vec<CommandReport>,
}

/// One command line.
#[derive(Debug, Clone, Serialize)]
pub struct CommandReport {
    /// As the user named it.
    pub name: String,
    /// From its start to its end, milliseconds.
    pub run: Summary,
    /// User and system time of one run, with that of all its processes, milliseconds.
    pub cpu_ms: f64,
}

/// Runs every command line in turn, round by round, in a mount namespace of its own with `mounts` more than the host has. The first round of
/// each does not count.
pub(super) async fn measure(
    commands: &[CommandLine],
    directory: &Path,
    rounds: usize,
    mounts: usize,
) -> Result<CommandsReport, BenchError> {
    let (commands, directory) = (commands.to_vec(), directory.to_owned());
    // A thread can have a mount namespace that the others do not share, and gives it to what it starts.
    let (told, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _nobody_waits = told.send(apart(&commands, &directory, rounds, mounts));
    });
    answer.await.map_err(|_| {
        failed(
            "compare command lines",
            io::Error::other("the thread panicked"),
        )
    })?
}

fn apart(
    commands: &[CommandLine],
    directory: &Path,
    rounds: usize,
    mounts: usize,
) -> Result<CommandsReport, BenchError> {
    sys::unshare(CloneFlags::NEWNS)
        .map_err(|errno| failed("make a mount namespace", errno.into()))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)
        .map_err(|errno| failed("make its mounts private", errno.into()))?;
    let hierarchies = Hierarchies::open()
        .map_err(|error| failed("find the cgroup hierarchies", io::Error::other(error)))?;
    // crun before 1.9 refuses v1 and v2 beside each other, and what one is measured with the others are.
    if let Some(unified) = hierarchies.hybrid_mount_point() {
        rustix::mount::unmount(unified, UnmountFlags::DETACH)
            .map_err(|errno| io_error("hide", unified, errno.into()))?;
    }
    let bundle = lay_bundle(directory)?;
    let crowd = directory.join(format!("mounts-{mounts}"));
    for number in 0..mounts {
        let place = crowd.join(number.to_string());
        fs::create_dir_all(&place).map_err(|source| io_error("make", &place, source))?;
        rustix::mount::mount("tmpfs", &place, "tmpfs", MountFlags::empty(), None)
            .map_err(|errno| io_error("mount a tmpfs on", &place, errno.into()))?;
    }
    let mut samples = vec![(Samples::default(), Duration::ZERO); commands.len()];
    for round in 0..=rounds {
        for (command, (walls, cpu)) in commands.iter().zip(&mut samples) {
            let before = sys::children_time();
            let begun = Instant::now();
            run(command, directory, &bundle, round)?;
            if round > 0 {
                walls.keep(begun.elapsed());
                *cpu += sys::children_time() - before;
            }
        }
    }
    let reports = commands.iter().zip(samples);
    let reports = reports.filter_map(|(command, (walls, cpu))| {
        Some(CommandReport {
            name: command.name.clone(),
            run: walls.summary()?,
            cpu_ms: milliseconds(cpu) / rounds.max(1) as f64,
        })
    });
    Ok(CommandsReport {
        mounts,
        commands: reports.collect(),
    })
}

fn run(
    command: &CommandLine,
    directory: &Path,
    bundle: &Path,
    round: usize,
) -> Result<(), BenchError> {
    let id = format!(
        "longshore-bench-{}-{}-{round}",
        command.name,
        std::process::id()
    );
    let output = Command::new(&command.path)
        .arg("--root")
        .arg(directory.join(format!("state-{}", command.name)))
        .arg("run")
        .arg("--bundle")
        .arg(bundle)
        .arg(id)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| io_error("run", &command.path, source))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or("it said nothing");
    let source = io::Error::other(format!("{}: {last}", output.status));
    Err(io_error("run a container with", &command.path, source))
}

/// A root with one static program, and the specification that `spec` of these command lines writes, without a terminal.
fn lay_bundle(directory: &Path) -> Result<PathBuf, BenchError> {
    let bundle = directory.join("bundle");
    let at = |source| io_error("make the bundle", &bundle, source);
    for name in ["bin", "proc", "sys", "dev"] {
        fs::create_dir_all(bundle.join("rootfs").join(name)).map_err(at)?;
    }
    let program = bundle.join("rootfs/bin/true");
    fs::copy(static_program()?, &program).map_err(at)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).map_err(at)?;
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mount = |to: &str, kind: &str, options: &[&str]| json!({ "destination": to, "type": kind, "source": kind, "options": options });
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
    let specification = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["/bin/true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities
            },
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "bench",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": namespaces,
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    });
    fs::write(bundle.join("config.json"), specification.to_string()).map_err(at)?;
    Ok(bundle)
}

fn failed(operation: &str, source: io::Error) -> BenchError {
    BenchError::Io {
        operation: operation.to_owned(),
        source,
    }
}
