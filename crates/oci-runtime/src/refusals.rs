//! What a plan must not ask for: looked at before anything is touched.

use oci_plan::{ContainerPlan, MountSource, NamespaceSource, Process};

use crate::error::Error;
use crate::{listener, sysctls};

/// Names the first field that cannot be honoured.
pub(crate) fn container(plan: &ContainerPlan) -> Result<(), Error> {
    let namespaces = &plan.namespaces;
    let own = |source: &NamespaceSource| *source == NamespaceSource::New;
    let existing = |source: &NamespaceSource| matches!(source, NamespaceSource::Fd(_));
    if own(&namespaces.user) != namespaces.mappings.is_some() && !existing(&namespaces.user) {
        let reason = "go with a new user namespace, and only with that";
        return Err(Error::refused("namespaces.mappings", reason));
    }
    if own(&namespaces.user) {
        for (name, source) in [
            ("net", &namespaces.net),
            ("ipc", &namespaces.ipc),
            ("uts", &namespaces.uts),
        ] {
            if !matches!(source, NamespaceSource::New | NamespaceSource::Host) {
                let reason = "a new user namespace has no rights over an existing one";
                return Err(Error::refused(format!("namespaces.{name}"), reason));
            }
        }
    }
    let its = |source: &NamespaceSource| own(source) || existing(source);
    if (plan.hostname.is_some() || plan.alone.domainname.is_some()) && !its(&namespaces.uts) {
        let reason = "needs an own UTS namespace";
        return Err(Error::refused("hostname", reason));
    }
    sysctls::check(
        &plan.sysctls,
        its(&namespaces.net),
        its(&namespaces.ipc),
        its(&namespaces.uts),
    )?;
    for (index, mount) in plan.mounts.iter().enumerate() {
        absolute(&mount.target, || format!("mounts[{index}].target"))?;
        let is_tree = matches!(mount.source, MountSource::Tree(_));
        if mount.idmap.is_some() && !is_tree {
            let field = format!("mounts[{index}].idmap");
            return Err(Error::refused(field, "needs a source on the host"));
        }
    }
    for (index, device) in plan.devices.iter().enumerate() {
        absolute(&device.path, || format!("devices[{index}].path"))?;
    }
    for (field, paths) in [
        ("masked_paths", &plan.masked_paths),
        ("readonly_paths", &plan.readonly_paths),
    ] {
        for (index, path) in paths.iter().enumerate() {
            absolute(path, || format!("{field}[{index}]"))?;
        }
    }
    process(&plan.process)
}

pub(crate) fn process(process: &Process) -> Result<(), Error> {
    absolute(&process.cwd, || "process.cwd".to_owned())?;
    if let Some(filter) = &process.seccomp
        && (filter.program.is_empty() || !filter.program.len().is_multiple_of(8))
    {
        let reason = format!("{} bytes are no filter", filter.program.len());
        return Err(Error::refused("process.seccomp.program", reason));
    }
    if let Some(filter) = &process.seccomp {
        listener::check(filter)?;
    }
    for (index, limit) in process.rlimits.iter().enumerate() {
        if limit.soft > limit.hard {
            let reason = format!("soft {} exceeds hard {}", limit.soft, limit.hard);
            return Err(Error::refused(format!("process.rlimits[{index}]"), reason));
        }
    }
    Ok(())
}

fn absolute(path: &str, field: impl Fn() -> String) -> Result<(), Error> {
    if !path.starts_with('/') {
        return Err(Error::refused(field(), format!("{path:?} is not absolute")));
    }
    if path.contains('\0') {
        return Err(Error::refused(field(), "has a NUL byte"));
    }
    Ok(())
}
