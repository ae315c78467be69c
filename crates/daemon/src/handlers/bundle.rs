//! What an external runtime reads: the specification of a container, with the paths of its bundle in place of the node's.

use std::{
    fs::{DirBuilder, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use oci_plan::{ContainerPlan, Mount, MountSource, NamespaceSource, Propagation, TerminalSize};
use oci_spec::runtime::{
    Box as ConsoleSize, BoxBuilder, LinuxNamespaceType, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process, Spec,
};
use rustix::{
    fs::{AtFlags, FileType, StatxFlags},
    process::{Resource, getrlimit},
};
use supervisor_api::{Bundle, process_file};

use super::{Limits, MadeWith};

/// The oldest that says everything in a bundle: crun 1.8 refuses what it does not know.
const VERSION: &str = "1.0.2";

#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    #[error("write the bundle's {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("look at the source of mounts[{index}]")]
    Look {
        index: usize,
        #[source]
        source: io::Error,
    },
    #[error("the specification has no process")]
    NoProcess,
    /// Security fails closed.
    #[error(
        "handler {handler} does not load seccomp profiles: use another, or ask for {}",
        if *.own_kernel { "RuntimeDefault, for which its own kernel stands" } else { "Unconfined" }
    )]
    NoSeccomp { handler: String, own_kernel: bool },
    /// Security fails closed: an exec is confined as its container is.
    #[error("handler {handler} runs execs outside a pod's user namespace: use another")]
    ExecOutside { handler: String },
    #[error(
        "handler {handler} gives each container a kernel of its own: {what} is not to be had with it"
    )]
    OwnKernel { handler: String, what: &'static str },
    #[error("handler {0} does not say that it knows linux.memoryPolicy, and would pass over it")]
    NoMemoryPolicy(String),
}

/// Writes the bundle of a container below `bundles`. `descriptors` are those of the plan; `annotations` are what the pod and the container have.
pub(crate) fn write_bundle<'a>(
    bundles: &Path,
    made_with: &MadeWith,
    spec: &Spec,
    plan: &ContainerPlan,
    descriptors: &[OwnedFd],
    annotations: impl Iterator<Item = (&'a String, &'a String)>,
    limits: Limits,
) -> Result<(), BundleError> {
    let (bundle, mut spec) = make_places(bundles, spec, plan, descriptors)?;
    spec.set_version(VERSION.to_owned());
    confine(made_with, &mut spec, plan)?;
    if made_with.exec_outside && plan.namespaces.user != NamespaceSource::Host {
        return Err(BundleError::ExecOutside {
            handler: made_with.name.clone(),
        });
    }
    if made_with.own_kernel {
        check_alone(made_with, plan)?;
        if !made_with.has_sandbox() {
            alone(&mut spec);
        }
    }
    if let Some(linux) = spec.linux_mut() {
        // A relative one would be below the runtime's own.
        linux.set_cgroups_path(Some(PathBuf::from(format!("/{}", plan.cgroup))));
        // The pod's network is not the runtime's: its devices are there already.
        linux.set_net_devices(None);
        if linux.memory_policy().is_some() && !made_with.memory_policy {
            return Err(BundleError::NoMemoryPolicy(made_with.name.clone()));
        }
    }
    if let Some(process) = spec.process_mut() {
        clamp(process, limits);
    }
    let mut all = spec.annotations().clone().unwrap_or_default();
    let shown = annotations.filter(|(name, _)| made_with.settings.shows(name));
    all.extend(shown.map(|(name, value)| (name.clone(), value.clone())));
    spec.set_annotations(Some(all));
    write_json(&bundle.config(), &spec)
}

/// A profile that the runtime would pass over is refused. In place of the default one stands a kernel of the container's own.
fn confine(made_with: &MadeWith, spec: &mut Spec, plan: &ContainerPlan) -> Result<(), BundleError> {
    let Some(linux) = spec.linux_mut().as_mut().filter(|_| !made_with.seccomp) else {
        return Ok(());
    };
    let Some(profile) = linux.seccomp() else {
        return Ok(());
    };
    let default = seccomp::default_profile(plan.process.capabilities.bounding);
    if made_with.own_kernel && *profile == default {
        linux.set_seccomp(None);
        return Ok(());
    }
    Err(BundleError::NoSeccomp {
        handler: made_with.name.clone(),
        own_kernel: made_with.own_kernel,
    })
}

/// What it would pass over in silence.
fn check_alone(made_with: &MadeWith, plan: &ContainerPlan) -> Result<(), BundleError> {
    let shared = |source: &NamespaceSource| match source {
        NamespaceSource::Pod | NamespaceSource::Container(_) | NamespaceSource::Fd(_) => true,
        NamespaceSource::Host | NamespaceSource::New => false,
    };
    let propagates = |mount: &Mount| {
        matches!(
            mount.propagation,
            Some(Propagation::Shared | Propagation::Slave)
        )
    };
    let what = if shared(&plan.namespaces.pid) {
        "a PID namespace with other containers in it"
    } else if shared(&plan.namespaces.user) {
        "the pod's user namespace"
    } else if plan.mounts.iter().any(propagates) {
        "mount propagation"
    } else {
        return Ok(());
    };
    Err(BundleError::OwnKernel {
        handler: made_with.name.clone(),
        what,
    })
}

/// By these annotations gVisor would look for a sandbox that the container belongs to.
fn alone(spec: &mut Spec) {
    const OF_A_SANDBOX: [&str; 2] = [
        "io.kubernetes.cri.container-type",
        "io.kubernetes.cri.sandbox-id",
    ];
    let mut annotations = spec.annotations().clone().unwrap_or_default();
    annotations.retain(|name, _| !OF_A_SANDBOX.contains(&name.as_str()));
    spec.set_annotations(Some(annotations));
}

/// Makes the places of a bundle, and nothing that is in them. Returns the specification with the bundle's paths.
pub(crate) fn make_places(
    bundles: &Path,
    spec: &Spec,
    plan: &ContainerPlan,
    descriptors: &[OwnedFd],
) -> Result<(Bundle, Spec), BundleError> {
    let bundle = Bundle::of(bundles, &plan.id);
    make_directory(bundle.path())?;
    make_directory(&bundle.rootfs())?;
    make_directory(&bundle.path().join("mounts"))?;
    make_directory(&bundle.path().join("namespaces"))?;
    let mut spec = spec.clone();
    if let Some(root) = spec.root_mut() {
        root.set_path(bundle.rootfs());
    }
    place_mounts(&bundle, &mut spec, plan, descriptors)?;
    place_namespaces(&bundle, &mut spec)?;
    Ok((bundle, spec))
}

/// Writes the process of an exec: all that restricts init restricts it.
pub(crate) fn write_process(
    pod: &Path,
    container: &str,
    exec: &str,
    spec: &Spec,
    args: Vec<String>,
    terminal: Option<TerminalSize>,
    limits: Limits,
) -> Result<(), BundleError> {
    let mut process = spec.process().clone().ok_or(BundleError::NoProcess)?;
    process
        .set_args(Some(args))
        .set_terminal(Some(terminal.is_some()))
        .set_console_size(terminal.map(console_size));
    let env = process.env_mut().get_or_insert_default();
    if terminal.is_some() && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    clamp(&mut process, limits);
    write_json(&process_file(pod, container, exec), &process)
}

fn console_size(size: TerminalSize) -> ConsoleSize {
    BoxBuilder::default()
        .height(u64::from(size.rows))
        .width(u64::from(size.columns))
        .build()
        .expect("both of its fields are set")
}

/// The supervisor moves each source to its place, with everything that the plan says of it: ids mapped, read-only as deep as asked.
fn place_mounts(
    bundle: &Bundle,
    spec: &mut Spec,
    plan: &ContainerPlan,
    descriptors: &[OwnedFd],
) -> Result<(), BundleError> {
    let mounts = spec.mounts_mut().iter_mut().flatten();
    for ((index, mount), planned) in mounts.enumerate().zip(&plan.mounts) {
        let place = bundle.mount(index);
        match &planned.source {
            MountSource::Tree(slot) => {
                let look = |source| BundleError::Look { index, source };
                let tree = descriptors
                    .get(usize::from(slot.0))
                    .ok_or_else(|| look(io::ErrorKind::NotFound.into()))?;
                match is_directory(tree).map_err(look)? {
                    true => make_directory(&place)?,
                    false => make_file(&place)?,
                }
            }
            MountSource::PodShm => make_directory(&place)?,
            MountSource::Filesystem { .. } | MountSource::Cgroup => continue,
        }
        let mut options = mount.options().clone().unwrap_or_default();
        options.retain(|option| option != "idmap" && option != "ridmap");
        for option in &mut options {
            if option == "rro" {
                "ro".clone_into(option);
            }
        }
        mount
            .set_source(Some(place))
            .set_options(Some(options))
            .set_uid_mappings(None)
            .set_gid_mappings(None);
    }
    Ok(())
}

/// What a file is never changes: no file server is asked again.
fn is_directory(tree: &OwnedFd) -> io::Result<bool> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(tree.as_fd(), "", flags, StatxFlags::TYPE)?;
    Ok(FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory)
}

fn place_namespaces(bundle: &Bundle, spec: &mut Spec) -> Result<(), BundleError> {
    let linux = spec.linux_mut().as_mut();
    let list = linux.and_then(|linux| linux.namespaces_mut().as_mut());
    for namespace in list.into_iter().flatten() {
        if namespace.path().is_none() {
            continue;
        }
        let name = match namespace.typ() {
            LinuxNamespaceType::Ipc => "ipc",
            LinuxNamespaceType::Network => "net",
            LinuxNamespaceType::Pid => "pid",
            LinuxNamespaceType::User => "user",
            LinuxNamespaceType::Uts => "uts",
            LinuxNamespaceType::Mount | LinuxNamespaceType::Cgroup | LinuxNamespaceType::Time => {
                continue;
            }
        };
        let place = bundle.namespace(name);
        make_file(&place)?;
        namespace.set_path(Some(place));
    }
    Ok(())
}

/// Runtimes fail where the kernel refuses; the core gives what it can, and Status says so.
fn clamp(process: &mut Process, limits: Limits) {
    if let (Some(least), Some(score)) = (limits.least_oom_score, process.oom_score_adj()) {
        process.set_oom_score_adj(Some(score.max(least)));
    }
    if limits.may_raise {
        return;
    }
    let clamped = |limit: &PosixRlimit| {
        let most = getrlimit(resource(limit.typ())).maximum.unwrap_or(u64::MAX);
        PosixRlimitBuilder::default()
            .typ(limit.typ())
            .hard(limit.hard().min(most))
            .soft(limit.soft().min(most))
            .build()
            .expect("its fields are set")
    };
    let rlimits = process.rlimits().iter().flatten().map(clamped).collect();
    process.set_rlimits(Some(rlimits));
}

fn resource(limit: PosixRlimitType) -> Resource {
    match limit {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

/// Root of a user namespace passes through, and sees no list.
fn make_directory(path: &Path) -> Result<(), BundleError> {
    match DirBuilder::new().mode(0o711).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|source| failed(path, source)),
    }
}

fn make_file(path: &Path) -> Result<(), BundleError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|source| failed(path, source))
}

/// Environments hold secrets.
fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), BundleError> {
    let write = || {
        let bytes = serde_json::to_vec(value)?;
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?
            .write_all(&bytes)
    };
    write().map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: io::Error) -> BundleError {
    BundleError::Write {
        path: path.to_owned(),
        source,
    }
}
