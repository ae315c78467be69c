//! From a bundle to a plan: what the specification names on the host is opened.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use oci_plan::spec::{Context, Reach, bind_sources, container_plan};
use oci_plan::{ContainerPlan, DeviceRule, FdSlot, NamespaceSource, Seccomp};
use oci_spec::runtime::{Linux, Mount, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::OpenTreeFlags;

/// A directory with `config.json`.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) path: PathBuf,
    /// With every path of the host absolute.
    pub(crate) spec: Spec,
    pub(crate) rootfs: PathBuf,
}

/// A plan, with its descriptors.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) plan: ContainerPlan,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Bundle {
    pub(crate) fn load(path: &Path, id: &str) -> anyhow::Result<Self> {
        let path = fs::canonicalize(path).with_context(|| format!("find {}", path.display()))?;
        let config = path.join("config.json");
        let text = fs::read(&config).with_context(|| format!("read {}", config.display()))?;
        let mut spec: Spec = serde_json::from_slice(&text)
            .with_context(|| format!("understand {}", config.display()))?;
        check_version(spec.version())?;
        ensure!(spec.process().is_some(), "process is missing");
        let root = spec.root().as_ref().context("root is missing")?;
        let rootfs = path.join(root.path());
        let rootfs =
            fs::canonicalize(&rootfs).with_context(|| format!("find {}", rootfs.display()))?;
        for mount in spec.mounts_mut().iter_mut().flatten() {
            resolve(mount, &path);
        }
        if let Some(linux) = spec.linux_mut() {
            settle(linux, id);
        }
        without_selinux(&mut spec);
        Ok(Self { path, spec, rootfs })
    }

    /// Opens everything.
    pub(crate) fn prepare(&self, id: &str) -> anyhow::Result<Prepared> {
        let spec = &self.spec;
        let mut descriptors = vec![
            tree(&self.rootfs, true)
                .with_context(|| format!("take the root {}", self.rootfs.display()))?,
        ];
        let mut keep = |descriptor: OwnedFd| -> anyhow::Result<FdSlot> {
            let slot = u16::try_from(descriptors.len()).context("too many mounts")?;
            descriptors.push(descriptor);
            Ok(FdSlot(slot))
        };
        let mut binds = Vec::new();
        for source in bind_sources(spec, None)? {
            let tree = tree(&source.path, source.recursive).with_context(|| {
                format!("mounts[{}].source {}", source.index, source.path.display())
            })?;
            binds.push((source.index, keep(tree)?));
        }
        let mut namespaces = Vec::new();
        let listed = spec.linux().iter().flat_map(|linux| linux.namespaces());
        for namespace in listed.flatten() {
            if let Some(path) = namespace.path() {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let opened = rustix::fs::open(path, flags, Mode::empty())
                    .with_context(|| format!("open the namespace {}", path.display()))?;
                namespaces.push((path.clone(), NamespaceSource::Fd(keep(opened)?)));
            }
        }
        let mut plan = container_plan(
            spec,
            Context {
                id,
                rootfs: FdSlot(0),
                binds: &binds,
                namespaces: &namespaces,
                pod_shm: None,
                seccomp: seccomp(spec.linux().as_ref())?,
                reach: Reach::Here,
            },
        )?;
        let devices = &mut plan.resources.devices;
        if !devices.is_empty() {
            devices.extend(always_allowed());
        }
        Ok(Prepared { plan, descriptors })
    }
}

/// Behind the rules of the specification, as runc has it: every container may make nodes, and use those that it always has.
fn always_allowed() -> impl Iterator<Item = DeviceRule> {
    const USED: [(u32, Option<u32>); 9] = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(1)),
        (5, Some(2)),
        (136, None),
    ];
    let rule = |node_type, major, minor, access: &str| DeviceRule {
        allow: true,
        node_type,
        major,
        minor,
        access: access.to_owned(),
    };
    let made = ['c', 'b'].map(|node_type| rule(node_type, None, None, "m"));
    let used = USED.map(|(major, minor)| rule('c', Some(major), minor, "rwm"));
    made.into_iter().chain(used)
}

fn check_version(version: &str) -> anyhow::Result<()> {
    let mut parts = version
        .split(['-', '+'])
        .next()
        .unwrap_or_default()
        .split('.');
    let mut number = || parts.next().and_then(|part| part.parse::<u32>().ok());
    match (number(), number(), number()) {
        (Some(1), Some(_), Some(_)) => Ok(()),
        _ => bail!("ociVersion {version:?} is not understood: use 1.x"),
    }
}

/// Sources are relative to the bundle, destinations to the container's root.
fn resolve(mount: &mut Mount, bundle: &Path) {
    if !mount.destination().is_absolute() {
        let absolute = Path::new("/").join(mount.destination());
        mount.set_destination(absolute);
    }
    let options = mount.options().iter().flatten();
    let binds = mount.typ().as_deref() == Some("bind")
        || options
            .clone()
            .any(|one| ["bind", "rbind"].contains(&one.as_str()));
    if binds
        && let Some(source) = mount.source().clone()
        && !source.is_absolute()
    {
        mount.set_source(Some(bundle.join(source)));
    }
}

/// What a container has that says nothing of it.
fn settle(linux: &mut Linux, id: &str) {
    let missing = linux
        .cgroups_path()
        .as_ref()
        .is_none_or(|path| path.as_os_str().is_empty());
    if missing {
        linux.set_cgroups_path(Some(Path::new("/").join(id)));
    }
}

/// Labels say nothing where SELinux is off; charts and images carry them everywhere.
fn without_selinux(spec: &mut Spec) {
    let on = Path::new("/sys/fs/selinux/enforce").exists();
    if on {
        return;
    }
    if let Some(process) = spec.process_mut() {
        process.set_selinux_label(None);
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_mount_label(None);
    }
}

/// `linux.seccomp`, compiled.
pub(crate) fn seccomp(linux: Option<&Linux>) -> anyhow::Result<Option<Seccomp>> {
    let Some(profile) = linux.and_then(|linux| linux.seccomp().as_ref()) else {
        return Ok(None);
    };
    let program = seccomp::compile(profile).context("linux.seccomp")?;
    Ok(Some(Seccomp {
        program: program.instructions,
        flags: program.flags,
    }))
}

fn tree(path: &Path, recursive: bool) -> anyhow::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = rustix::mount::open_tree(CWD, path, flags)?;
    debug_assert!(tree.as_fd().as_raw_fd() >= 0);
    Ok(tree)
}
