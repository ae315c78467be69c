//! What the kernel alone takes for a container: a clone with the namespaces and cgroups of a pod's container, an overlay, proc, sys, dev,
//! pivot_root, exec and exit. No runtime can be faster, and this does nothing that a runtime is for.

use std::{
    ffi::{CString, OsString},
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStringExt, fs::PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Instant,
};

use cgroup::Hierarchies;
use oci_plan::Resources;
use rustix::{
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags},
    process::{WaitId, WaitIdOptions},
};
use serde::Serialize;
use sys::{Clone as Side, CloneFlags};

use super::{
    BenchError,
    samples::{Samples, Summary},
};

/// The floor, milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct FloorReport {
    /// From making the cgroups to having reaped the process.
    pub container: Summary,
    /// fork, exec and wait of the same program with nothing around it.
    pub spawn: Summary,
    /// The program.
    pub program: String,
}

/// Static programs that do nothing, found on many machines. A dynamic one would measure its loader.
const STATIC_PROGRAMS: [&str; 3] = ["/bin/busybox", "/usr/bin/busybox", "/usr/local/bin/busybox"];

/// The namespaces of a container and its pod.
const NAMESPACES: CloneFlags = CloneFlags::NEWNS
    .with(CloneFlags::NEWPID)
    .with(CloneFlags::NEWNET)
    .with(CloneFlags::NEWIPC)
    .with(CloneFlags::NEWUTS);

/// Measures `rounds` containers below `directory`, which must be on the file system that counts.
///
/// # Errors
///
/// Without root, with other threads in this process, or where no static busybox is found: the text says which.
pub fn measure(directory: &Path, rounds: usize) -> Result<FloorReport, BenchError> {
    let floor = Floor::measure(directory, rounds)?;
    let summaries = floor.container.summary().zip(floor.spawn.summary());
    let (container, spawn) = summaries.ok_or_else(|| {
        failed(
            "measure the floor: no rounds were asked for",
            io::ErrorKind::InvalidInput.into(),
        )
    })?;
    Ok(FloorReport {
        container,
        spawn,
        program: floor.program.display().to_string(),
    })
}

/// One of [`STATIC_PROGRAMS`].
pub(super) fn static_program() -> Result<&'static Path, BenchError> {
    let mut programs = STATIC_PROGRAMS.iter().map(Path::new);
    programs.find(|path| path.exists()).ok_or_else(|| {
        failed(
            "run the least of programs: it wants a static busybox in /bin",
            io::ErrorKind::NotFound.into(),
        )
    })
}

/// The same, every sample of it.
#[derive(Debug)]
pub(crate) struct Floor {
    pub(crate) container: Samples,
    pub(crate) spawn: Samples,
    program: &'static Path,
}

impl Floor {
    /// As [`measure`].
    pub(crate) fn measure(directory: &Path, rounds: usize) -> Result<Self, BenchError> {
        let program = static_program()?;
        let bed = Bed::lay(directory, program)?;
        let mut container = Samples::default();
        let mut spawn = Samples::default();
        for round in 0..=rounds {
            let begun = Instant::now();
            bed.container(round)?;
            let took = begun.elapsed();
            let begun = Instant::now();
            let status = std::process::Command::new(program).arg("true").status();
            status.map_err(|source| failed("measure the floor: spawn busybox", source))?;
            if round > 0 {
                container.keep(took);
                spawn.keep(begun.elapsed());
            }
        }
        Ok(Self {
            container,
            spawn,
            program,
        })
    }
}

/// A layer with one program, and where to mount it.
struct Bed {
    hierarchies: Hierarchies,
    directory: PathBuf,
    merged: CString,
    proc: CString,
    sys: CString,
    dev: CString,
}

impl Bed {
    fn lay(directory: &Path, program: &Path) -> Result<Self, BenchError> {
        let step = |what: &str, source| failed(&format!("measure the floor: {what}"), source);
        let lower = directory.join("lower");
        for name in ["bin", "proc", "sys", "dev"] {
            fs::create_dir_all(lower.join(name)).map_err(|e| step("make a root", e))?;
        }
        fs::create_dir_all(directory.join("merged")).map_err(|e| step("make a root", e))?;
        fs::copy(program, lower.join("bin/true")).map_err(|e| step("copy the program", e))?;
        fs::set_permissions(lower.join("bin/true"), fs::Permissions::from_mode(0o755))
            .map_err(|e| step("make the program executable", e))?;
        let hierarchies = Hierarchies::open()
            .map_err(|error| step("find the cgroup hierarchies", io::Error::other(error)))?;
        let merged = directory.join("merged");
        Ok(Self {
            hierarchies,
            directory: directory.to_owned(),
            proc: c_string(merged.join("proc"))?,
            sys: c_string(merged.join("sys"))?,
            dev: c_string(merged.join("dev"))?,
            merged: c_string(merged)?,
        })
    }

    fn container(&self, round: usize) -> Result<(), BenchError> {
        let cgroup_error =
            |error: cgroup::Error| failed("measure the floor: a cgroup", io::Error::other(error));
        let name = format!("/longshore-bench-{}-{round}", std::process::id());
        let cgroup = self
            .hierarchies
            .create(&name, &Resources::default())
            .map_err(cgroup_error)?;
        let ran = self.run(&cgroup, round);
        cgroup.remove().map_err(cgroup_error)?;
        ran
    }

    fn run(&self, cgroup: &cgroup::Cgroup, round: usize) -> Result<(), BenchError> {
        let cgroup_error = |error: cgroup::Error| {
            failed("measure the floor: open a cgroup", io::Error::other(error))
        };
        let writable = |name: &str| self.directory.join(format!("{name}-{round}"));
        for name in ["upper", "work"] {
            fs::create_dir(writable(name))
                .map_err(|source| failed("measure the floor: make a writable layer", source))?;
        }
        let mut options = OsString::from("lowerdir=").into_vec();
        options.extend(self.directory.join("lower").into_os_string().into_vec());
        options.extend(b",upperdir=");
        options.extend(writable("upper").into_os_string().into_vec());
        options.extend(b",workdir=");
        options.extend(writable("work").into_os_string().into_vec());
        let options = c_string(PathBuf::from(OsString::from_vec(options)))?;
        let unified = cgroup.unified_dir().map_err(cgroup_error)?;
        let tasks = cgroup.attach_fds().map_err(cgroup_error)?;
        let program = Program::new();
        let side = sys::clone_process(NAMESPACES, unified.as_ref().map(AsFd::as_fd));
        match side.map_err(|errno| failed("measure the floor: clone", errno.into()))? {
            Side::Child => {
                let (step, _errno) = self.become_container(&tasks, &options, &program);
                sys::exit_process(step)
            }
            Side::Parent { pidfd, .. } => wait(pidfd.as_fd())?,
        }
        for name in ["upper", "work"] {
            fs::remove_dir_all(writable(name))
                .map_err(|source| failed("measure the floor: remove a writable layer", source))?;
        }
        Ok(())
    }

    /// In the child. Returns only the step that failed.
    fn become_container(
        &self,
        tasks: &[OwnedFd],
        options: &CString,
        program: &Program,
    ) -> (i32, Errno) {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let steps = || -> Result<(), (i32, Errno)> {
            for tasks in tasks {
                rustix::io::write(tasks, b"0").map_err(|errno| (11, errno))?;
            }
            rustix::mount::mount_change(c"/", private).map_err(|errno| (12, errno))?;
            let mount = |step, kind, target: &CString, flags, data: Option<&std::ffi::CStr>| {
                rustix::mount::mount(kind, target, kind, flags, data).map_err(|errno| (step, errno))
            };
            mount(
                13,
                c"overlay",
                &self.merged,
                MountFlags::empty(),
                Some(options),
            )?;
            mount(14, c"proc", &self.proc, quiet, None)?;
            mount(15, c"sysfs", &self.sys, quiet | MountFlags::RDONLY, None)?;
            mount(16, c"tmpfs", &self.dev, MountFlags::NOSUID, None)?;
            rustix::process::chdir(&self.merged).map_err(|errno| (17, errno))?;
            rustix::process::pivot_root(c".", c".").map_err(|errno| (18, errno))?;
            rustix::mount::unmount(c".", UnmountFlags::DETACH).map_err(|errno| (19, errno))
        };
        match steps() {
            Ok(()) => (
                20,
                sys::execute(c"/bin/true", &program.arguments, &program.environment),
            ),
            Err(failed) => failed,
        }
    }
}

/// Allocated before the clone, for the child.
struct Program {
    arguments: sys::CStrings,
    environment: sys::CStrings,
}

impl Program {
    fn new() -> Self {
        Self {
            arguments: sys::CStrings::new(vec![c"true".to_owned()]),
            environment: sys::CStrings::new(Vec::new()),
        }
    }
}

/// What each status of the child means.
const STEPS: [&str; 10] = [
    "enter its cgroups",
    "make its mounts private",
    "mount the overlay",
    "mount proc",
    "mount sysfs",
    "mount a tmpfs",
    "enter its root",
    "pivot_root",
    "let go of the old root",
    "execute the program",
];

fn wait(pidfd: BorrowedFd<'_>) -> Result<(), BenchError> {
    let status = rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED)
        .map_err(|errno| failed("measure the floor: wait for the process", errno.into()))?;
    let code = status.and_then(|status| status.exit_status()).unwrap_or(-1);
    if code == 0 {
        return Ok(());
    }
    let step = usize::try_from(code - 11)
        .ok()
        .and_then(|index| STEPS.get(index));
    let step = step.copied().unwrap_or("run");
    Err(failed(
        "measure the floor",
        io::Error::other(format!("the process could not {step} (status {code})")),
    ))
}

fn c_string(path: PathBuf) -> Result<CString, BenchError> {
    CString::new(path.into_os_string().into_vec())
        .map_err(|error| failed("measure the floor: a path", error.into()))
}

fn failed(operation: &str, source: io::Error) -> BenchError {
    BenchError::Io {
        operation: operation.to_owned(),
        source,
    }
}
