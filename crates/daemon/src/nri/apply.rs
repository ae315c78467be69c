//! Changes of plugins, into a specification. What the specification has no words for is refused; what the embedded core cannot do is refused
//! where the specification becomes a plan.

use std::path::{Path, PathBuf};

use cgroup::CgroupPath;
use nri::{api, removal};
use oci_spec::runtime::{
    Hook, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxHugepageLimit, LinuxNamespace,
    LinuxNamespaceType, LinuxPids, LinuxResources, LinuxSchedulerFlag as Flag, Mount, PosixRlimit,
    Process, Scheduler, Spec,
};
use serde_json::{Value, json};

use super::limits;
use crate::{
    hooks::{self, Stage},
    spec::Host,
};

/// A change that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?}: {why}")]
pub(crate) struct ApplyError {
    pub(crate) field: String,
    pub(crate) value: String,
    pub(crate) why: String,
}

pub(super) fn refuse(
    field: impl Into<String>,
    value: impl ToString,
    why: impl Into<String>,
) -> ApplyError {
    ApplyError {
        field: field.into(),
        value: value.to_string(),
        why: why.into(),
    }
}

/// Makes every change; CDI devices and classes are the caller's.
pub(super) fn apply(
    spec: &mut Spec,
    adjust: &api::ContainerAdjustment,
    host: &Host,
) -> Result<(), ApplyError> {
    let annotations = spec.annotations_mut().get_or_insert_default();
    for (key, value) in &adjust.annotations {
        match removal(key) {
            Some(key) => drop(annotations.remove(key)),
            None => drop(annotations.insert(key.clone(), value.clone())),
        }
    }
    mounts(spec, &adjust.mounts)?;
    if let Some(hooks) = &adjust.hooks {
        add_hooks(spec, hooks)?;
    }
    if let Some(process) = spec.process_mut() {
        environment(process, &adjust.env)?;
        if !adjust.args.is_empty() {
            process.set_args(Some(adjust.args.clone()));
        }
        for limit in &adjust.rlimits {
            rlimit(process, limit)?;
        }
    }
    match &adjust.linux {
        Some(linux) => self::linux(spec, linux, host),
        None => Ok(()),
    }
}

fn environment(process: &mut Process, changes: &[api::KeyValue]) -> Result<(), ApplyError> {
    let env = process.env_mut().get_or_insert_default();
    let at = |env: &[String], name: &str| {
        env.iter().position(|entry| {
            entry
                .split_once('=')
                .is_some_and(|(known, _)| known == name)
        })
    };
    for change in changes {
        if let Some(name) = removal(&change.key) {
            env.retain(|entry| entry.split_once('=').is_none_or(|(known, _)| known != name));
            continue;
        }
        if change.key.is_empty() || change.key.contains(['=', '\0']) || change.value.contains('\0')
        {
            return Err(refuse("env", &change.key, "it is no name of a variable"));
        }
        let entry = format!("{}={}", change.key, change.value);
        match at(env, &change.key) {
            Some(place) => env[place] = entry,
            None => env.push(entry),
        }
    }
    Ok(())
}

fn rlimit(process: &mut Process, limit: &api::PosixRlimit) -> Result<(), ApplyError> {
    let name = match limit.r#type.strip_prefix("RLIMIT_") {
        Some(_) => limit.r#type.clone(),
        None => format!("RLIMIT_{}", limit.r#type.to_uppercase()),
    };
    let made = json!({ "type": name, "hard": limit.hard, "soft": limit.soft });
    let made: PosixRlimit = serde_json::from_value(made)
        .map_err(|_unknown| refuse("rlimits", &limit.r#type, "there is no such limit"))?;
    let mut limits = process.rlimits().clone().unwrap_or_default();
    limits.retain(|known| known.typ() != made.typ());
    limits.push(made);
    process.set_rlimits(Some(limits));
    Ok(())
}

fn mounts(spec: &mut Spec, changes: &[api::Mount]) -> Result<(), ApplyError> {
    if changes.is_empty() {
        return Ok(());
    }
    let mounts = spec.mounts_mut().get_or_insert_default();
    for change in changes {
        let destination = removal(&change.destination).unwrap_or(&change.destination);
        mounts.retain(|mount| mount.destination() != Path::new(destination));
        if removal(&change.destination).is_some() {
            continue;
        }
        if !destination.starts_with('/') {
            return Err(refuse(
                "mounts.destination",
                destination,
                "use an absolute path",
            ));
        }
        let mut mount = Mount::default();
        mount
            .set_destination(PathBuf::from(destination))
            .set_typ(Some(change.r#type.clone()).filter(|kind| !kind.is_empty()))
            .set_source(Some(PathBuf::from(&change.source)))
            .set_options(Some(change.options.clone()))
            .set_uid_mappings(None)
            .set_gid_mappings(None);
        mounts.push(mount);
    }
    // A mount hides those below it that came before.
    mounts.sort_by_key(|mount| mount.destination().components().count());
    Ok(())
}

fn add_hooks(spec: &mut Spec, given: &api::Hooks) -> Result<(), ApplyError> {
    for (stage, list) in [
        (Stage::Prestart, &given.prestart),
        (Stage::CreateRuntime, &given.create_runtime),
        (Stage::CreateContainer, &given.create_container),
        (Stage::StartContainer, &given.start_container),
        (Stage::Poststart, &given.poststart),
        (Stage::Poststop, &given.poststop),
    ] {
        for one in list {
            let timeout = one.timeout.as_ref().map(|timeout| timeout.value);
            if !one.path.starts_with('/') {
                let field = format!("hooks.{}.path", stage.name());
                return Err(refuse(field, &one.path, "use an absolute path"));
            }
            let mut hook = Hook::default();
            hook.set_path(PathBuf::from(&one.path))
                .set_args(Some(one.args.clone()))
                .set_env(Some(one.env.clone()))
                .set_timeout(timeout);
            hooks::add(spec, stage, hook);
        }
    }
    Ok(())
}

fn linux(
    spec: &mut Spec,
    changes: &api::LinuxContainerAdjustment,
    host: &Host,
) -> Result<(), ApplyError> {
    if let Some(process) = spec.process_mut() {
        if let Some(score) = &changes.oom_score_adj {
            let score = i32::try_from(score.value).ok();
            let score = score.filter(|score| (-1000..=1000).contains(score));
            let score = score.ok_or_else(|| {
                refuse("linux.oom_score_adj", "out of range", "use -1000 to 1000")
            })?;
            process.set_oom_score_adj(Some(score));
        }
        if let Some(priority) = &changes.io_priority {
            let class = priority.class().as_str_name();
            let made = json!({ "class": class, "priority": priority.priority });
            process.set_io_priority(match priority.class() {
                api::IoPrioClass::IoprioClassNone => None,
                _ => from(made, "linux.io_priority", class)?,
            });
        }
        if let Some(given) = &changes.scheduler {
            process.set_scheduler(scheduler(given)?);
        }
    }
    let Some(linux) = spec.linux_mut() else {
        return Ok(());
    };
    for change in &changes.devices {
        let path = removal(&change.path).unwrap_or(&change.path);
        let devices = linux.devices_mut().get_or_insert_default();
        devices.retain(|device| device.path() != Path::new(path));
        if removal(&change.path).is_some() {
            continue;
        }
        let (device, kind) = device(change)?;
        devices.push(device);
        if kind != LinuxDeviceType::P {
            let mut rule = LinuxDeviceCgroup::default();
            rule.set_allow(true)
                .set_typ(Some(kind))
                .set_major(Some(change.major))
                .set_minor(Some(change.minor))
                .set_access(Some("rwm".to_owned()));
            let resources = linux.resources_mut().get_or_insert_default();
            resources.devices_mut().get_or_insert_default().push(rule);
        }
    }
    if let Some(given) = &changes.resources {
        resources(linux.resources_mut().get_or_insert_default(), given, host)?;
    }
    if !changes.cgroups_path.is_empty() {
        let own = linux.cgroups_path().clone().unwrap_or_default();
        linux.set_cgroups_path(Some(place(&own, &changes.cgroups_path)?));
    }
    for change in &changes.namespaces {
        let name = removal(&change.r#type).unwrap_or(&change.r#type);
        let kind = namespace(name)?;
        let list = linux.namespaces_mut().get_or_insert_default();
        list.retain(|namespace| namespace.typ() != kind);
        if removal(&change.r#type).is_none() {
            let mut namespace = LinuxNamespace::default();
            let path = (!change.path.is_empty()).then(|| PathBuf::from(&change.path));
            namespace.set_typ(kind).set_path(path);
            list.push(namespace);
        }
    }
    for (key, value) in &changes.sysctl {
        let sysctl = linux.sysctl_mut().get_or_insert_default();
        match removal(key) {
            Some(key) => drop(sysctl.remove(key)),
            None => drop(sysctl.insert(key.clone(), value.clone())),
        }
    }
    for (host, device) in &changes.net_devices {
        let devices = linux.net_devices_mut().get_or_insert_default();
        match removal(host) {
            Some(host) => drop(devices.remove(host)),
            None => {
                let made = from(json!({ "name": device.name }), "linux.net_devices", host)?;
                devices.insert(host.clone(), made.unwrap_or_default());
            }
        }
    }
    if let Some(policy) = &changes.seccomp_policy {
        let made = from(
            seccomp(policy),
            "linux.seccomp_policy",
            &policy.default_action,
        )?;
        linux.set_seccomp(made);
    }
    if let Some(policy) = &changes.memory_policy {
        let mode = policy.mode().as_str_name();
        let flags: Vec<_> = policy.flags().map(|flag| flag.as_str_name()).collect();
        let made = json!({ "mode": mode, "nodes": policy.nodes, "flags": flags });
        linux.set_memory_policy(from(made, "linux.memory_policy", mode)?);
    }
    if let Some(rdt) = &changes.rdt {
        if rdt.remove {
            linux.set_intel_rdt(None);
        }
        let given =
            rdt.clos_id.is_some() || rdt.schemata.is_some() || rdt.enable_monitoring.is_some();
        if given {
            let made = linux.intel_rdt_mut().get_or_insert_default();
            if let Some(class) = &rdt.clos_id {
                made.set_clos_id(Some(class.value.clone()));
            }
            if let Some(schemata) = &rdt.schemata {
                made.set_schemata(Some(schemata.value.clone()));
            }
            if let Some(monitoring) = &rdt.enable_monitoring {
                made.set_enable_monitoring(Some(monitoring.value));
            }
        }
    }
    Ok(())
}

/// Anywhere below what holds the pod's cgroups, in whose limits it stays.
fn place(own: &Path, wanted: &str) -> Result<PathBuf, ApplyError> {
    let refused = |why: String| refuse("linux.cgroups_path", wanted, why);
    let path = CgroupPath::parse(wanted).map_err(|error| refused(error.to_string()))?;
    let parent = own.parent().unwrap_or(Path::new("/"));
    let path = Path::new("/").join(path.as_str());
    let whole = Path::new("/").join(parent);
    if path == whole || !path.starts_with(&whole) {
        let parent = parent.display();
        return Err(refused(format!(
            "a container stays below its pod's {parent}"
        )));
    }
    Ok(match own.is_absolute() {
        true => path,
        false => path.strip_prefix("/").map(Path::to_owned).unwrap_or(path),
    })
}

fn scheduler(given: &api::LinuxScheduler) -> Result<Option<Scheduler>, ApplyError> {
    let policy = given.policy();
    if policy == api::LinuxSchedulerPolicy::SchedNone {
        return Ok(None);
    }
    // One of them has another name in the specification, another one none that it can be read by.
    let flags = given.flags().map(|flag| match flag {
        api::LinuxSchedulerFlag::SchedFlagResetOnFork => Flag::SchedResetOnFork,
        api::LinuxSchedulerFlag::SchedFlagReclaim => Flag::SchedFlagReclaim,
        api::LinuxSchedulerFlag::SchedFlagDlOverrun => Flag::SchedFlagDLOverrun,
        api::LinuxSchedulerFlag::SchedFlagKeepPolicy => Flag::SchedFlagKeepPolicy,
        api::LinuxSchedulerFlag::SchedFlagKeepParams => Flag::SchedFlagKeepParams,
        api::LinuxSchedulerFlag::SchedFlagUtilClampMin => Flag::SchedFlagUtilClampMin,
        api::LinuxSchedulerFlag::SchedFlagUtilClampMax => Flag::SchedFlagUtilClampMax,
    });
    let flags: Vec<_> = flags.collect();
    let policy = policy.as_str_name();
    let mut made: Option<Scheduler> = from(json!({ "policy": policy }), "linux.scheduler", policy)?;
    if let Some(made) = &mut made {
        made.set_nice(Some(given.nice))
            .set_priority(Some(given.priority))
            .set_flags((!flags.is_empty()).then_some(flags))
            .set_runtime(Some(given.runtime))
            .set_deadline(Some(given.deadline))
            .set_period(Some(given.period));
    }
    Ok(made)
}

fn device(change: &api::LinuxDevice) -> Result<(LinuxDevice, LinuxDeviceType), ApplyError> {
    let kind = match change.r#type.as_str() {
        "b" => LinuxDeviceType::B,
        "c" | "u" => LinuxDeviceType::C,
        "p" => LinuxDeviceType::P,
        other => return Err(refuse("linux.devices.type", other, "use b, c, u or p")),
    };
    if !change.path.starts_with('/') {
        return Err(refuse(
            "linux.devices.path",
            &change.path,
            "use an absolute path",
        ));
    }
    let mut device = LinuxDevice::default();
    device
        .set_path(PathBuf::from(&change.path))
        .set_typ(kind)
        .set_major(change.major)
        .set_minor(change.minor)
        .set_file_mode(change.file_mode.as_ref().map(|mode| mode.value))
        .set_uid(change.uid.as_ref().map(|uid| uid.value))
        .set_gid(change.gid.as_ref().map(|gid| gid.value));
    Ok((device, kind))
}

/// Limits; classes are the caller's.
fn resources(
    resources: &mut LinuxResources,
    given: &api::LinuxResources,
    host: &Host,
) -> Result<(), ApplyError> {
    if let Some(memory) = &given.memory {
        let known = resources.memory_mut().get_or_insert_default();
        if let Some(limit) = &memory.limit {
            // Without a limit of its own swap follows, as it does for requests.
            let follows = known.swap() == known.limit() && known.swap().is_some();
            known.set_limit(Some(limit.value));
            if follows && memory.swap.is_none() {
                known.set_swap(Some(limit.value));
            }
        }
        if let Some(swap) = &memory.swap {
            known.set_swap(Some(swap.value));
        }
        if let Some((name, value)) = reservation(memory, host) {
            let unified = resources.unified_mut().get_or_insert_default();
            unified.insert(name, value);
        }
        // Kernels since 5.11 know nothing else.
        if memory
            .use_hierarchy
            .as_ref()
            .is_some_and(|value| !value.value)
        {
            return Err(unsupported("memory.use_hierarchy", false));
        }
    }
    if let Some(cpu) = &given.cpu {
        let known = resources.cpu_mut().get_or_insert_default();
        if let Some(shares) = &cpu.shares {
            known.set_shares(Some(shares.value));
        }
        if let Some(quota) = &cpu.quota {
            known.set_quota(Some(quota.value));
        }
        if let Some(period) = &cpu.period {
            known.set_period(Some(period.value));
        }
        if !cpu.cpus.is_empty() {
            known.set_cpus(Some(cpu.cpus.clone()));
        }
        if !cpu.mems.is_empty() {
            known.set_mems(Some(cpu.mems.clone()));
        }
    }
    limits::further(given, host)?.put(resources);
    for limit in &given.hugepage_limits {
        let limits = resources.hugepage_limits_mut().get_or_insert_default();
        limits.retain(|known| *known.page_size() != limit.page_size);
        let mut made = LinuxHugepageLimit::default();
        made.set_page_size(limit.page_size.clone())
            .set_limit(i64::try_from(limit.limit).unwrap_or(i64::MAX));
        limits.push(made);
    }
    for (name, value) in &given.unified {
        let unified = resources.unified_mut().get_or_insert_default();
        unified.insert(name.clone(), value.clone());
    }
    if let Some(pids) = &given.pids {
        let mut made = LinuxPids::default();
        made.set_limit(pids.limit);
        resources.set_pids(Some(made));
    }
    for rule in &given.devices {
        let made = json!({
            "allow": rule.allow, "type": rule.r#type, "access": rule.access,
            "major": rule.major.as_ref().map(|number| number.value),
            "minor": rule.minor.as_ref().map(|number| number.value),
        });
        let made: Option<LinuxDeviceCgroup> = from(made, "linux.resources.devices", &rule.r#type)?;
        resources.devices_mut().get_or_insert_default().extend(made);
    }
    Ok(())
}

/// What is kept for the container when memory runs short: v1 has a limit instead that gives way.
pub(super) fn reservation(memory: &api::LinuxMemory, host: &Host) -> Option<(String, String)> {
    let bytes = memory.reservation.as_ref().filter(|_| host.cgroup_v2)?;
    Some(("memory.low".to_owned(), bytes.value.to_string()))
}

pub(super) fn unsupported(field: &str, value: impl ToString) -> ApplyError {
    let field = format!("linux.resources.{field}");
    refuse(field, value, "this runtime does not support it")
}

fn namespace(name: &str) -> Result<LinuxNamespaceType, ApplyError> {
    use LinuxNamespaceType as Kind;
    let all = [
        Kind::Mount,
        Kind::Cgroup,
        Kind::Uts,
        Kind::Ipc,
        Kind::User,
        Kind::Pid,
        Kind::Network,
        Kind::Time,
    ];
    let mut all = all.into_iter();
    all.find(|kind| super::describe::namespace_name(*kind) == name)
        .ok_or_else(|| refuse("linux.namespaces.type", name, "there is no such namespace"))
}

fn seccomp(policy: &api::LinuxSeccomp) -> Value {
    let number = |value: &Option<api::OptionalUInt32>| value.as_ref().map(|value| value.value);
    let syscalls: Vec<_> = policy
        .syscalls
        .iter()
        .map(|call| {
            let args: Vec<_> = call
                .args
                .iter()
                .map(|arg| json!({ "index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op }))
                .collect();
            json!({ "names": call.names, "action": call.action, "errnoRet": number(&call.errno_ret), "args": args })
        })
        .collect();
    let mut made = json!({
        "defaultAction": policy.default_action,
        "architectures": policy.architectures,
        "flags": policy.flags,
        "syscalls": syscalls,
    });
    if let Some(errno) = number(&policy.default_errno) {
        made["defaultErrnoRet"] = errno.into();
    }
    if !policy.listener_path.is_empty() {
        made["listenerPath"] = policy.listener_path.clone().into();
        made["listenerMetadata"] = policy.listener_metadata.clone().into();
    }
    made
}

/// Into the specification's own type, by the names that both have.
fn from<T: serde::de::DeserializeOwned>(
    made: Value,
    field: &str,
    value: &str,
) -> Result<Option<T>, ApplyError> {
    serde_json::from_value(made)
        .map(Some)
        .map_err(|error| refuse(field, value, error.to_string()))
}
