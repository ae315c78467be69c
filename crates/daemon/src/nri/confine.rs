//! What no plugin may do: confine a container less than its pod was let in with. Whoever let the pod run did not ask the plugin.

use oci_spec::runtime::{
    LinuxDeviceCgroup, LinuxDeviceType, LinuxSeccomp, LinuxSeccompAction as Action,
    LinuxSeccompFilterFlag, LinuxSyscall, Spec,
};

use super::{
    apply::{ApplyError, refuse},
    describe,
};

/// Looks at everything in which `after` could confine less than `before`.
pub(super) fn check(before: &Spec, after: &Spec, privileged: bool) -> Result<(), ApplyError> {
    if privileged {
        return Ok(());
    }
    namespaces(before, after)?;
    device_rules(before, after)?;
    propagation(before, after)?;
    let policy = |spec: &Spec| {
        spec.linux()
            .as_ref()
            .and_then(|linux| linux.seccomp().clone())
    };
    if let Some(before) = policy(before) {
        match policy(after) {
            None => Err(refuse(
                "linux.seccomp_policy",
                "none",
                "the container has one",
            )),
            Some(after) => seccomp(&before, &after),
        }?;
    }
    Ok(())
}

fn namespaces(before: &Spec, after: &Spec) -> Result<(), ApplyError> {
    let list = |spec: &Spec| {
        let linux = spec.linux().as_ref();
        linux
            .and_then(|linux| linux.namespaces().clone())
            .unwrap_or_default()
    };
    let (before, after) = (list(before), list(after));
    for own in &before {
        let name = describe::namespace_name(own.typ());
        let Some(now) = after.iter().find(|now| now.typ() == own.typ()) else {
            let why = "the container would be in the node's, and its pod does not ask for that";
            return Err(refuse("linux.namespaces", format!("-{name}"), why));
        };
        if now.path() != own.path() && now.path().is_some() {
            let path = now
                .path()
                .as_ref()
                .map_or_else(String::new, |path| path.display().to_string());
            let why = "a container joins its own pod's namespaces, and no others";
            return Err(refuse(format!("linux.namespaces.{name}"), path, why));
        }
    }
    Ok(())
}

/// A rule for one device is what plugins are there for; one for all of them is a privileged container.
fn device_rules(before: &Spec, after: &Spec) -> Result<(), ApplyError> {
    let rules = |spec: &Spec| {
        let resources = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.resources().clone());
        resources
            .and_then(|resources| resources.devices().clone())
            .unwrap_or_default()
    };
    let known = rules(before);
    let wide = |rule: &&LinuxDeviceCgroup| {
        let access = rule.access().as_deref().unwrap_or("rwm");
        let any = |number: Option<i64>| number.is_none_or(|number| number < 0);
        rule.allow()
            && access.contains(['r', 'w'])
            && (rule.typ().is_none_or(|kind| kind == LinuxDeviceType::A) || any(rule.major()))
    };
    let added = rules(after);
    let added = added.iter().filter(|rule| !known.contains(rule));
    match added.into_iter().find(wide) {
        Some(_) => Err(refuse(
            "linux.resources.devices",
            "every device",
            "the pod is not privileged: name the devices by their numbers",
        )),
        None => Ok(()),
    }
}

/// What a container mounts, the node would see.
fn propagation(before: &Spec, after: &Spec) -> Result<(), ApplyError> {
    for mount in after.mounts().iter().flatten() {
        let shared = |option: &String| ["shared", "rshared"].contains(&option.as_str());
        let options = mount.options().iter().flatten();
        if options.into_iter().any(shared)
            && !before.mounts().iter().flatten().any(|known| known == mount)
        {
            let path = mount.destination().display();
            return Err(refuse(
                "mounts",
                path,
                "the pod is not privileged: shared propagation is not its",
            ));
        }
    }
    Ok(())
}

/// Every call that the later policy lets through, the earlier one must, under the same conditions or without any.
fn seccomp(before: &LinuxSeccomp, after: &LinuxSeccomp) -> Result<(), ApplyError> {
    if lets(before.default_action()) {
        return Ok(());
    }
    let field = "linux.seccomp_policy";
    if lets(after.default_action()) {
        let action = after.default_action().to_string();
        return Err(refuse(
            field,
            action,
            "it lets through what the container's own profile does not",
        ));
    }
    let unmitigated = |policy: &LinuxSeccomp| {
        let mut flags = policy.flags().iter().flatten();
        flags.any(|flag| *flag == LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow)
    };
    if unmitigated(after) && !unmitigated(before) {
        let why = "the container's own profile does not give up the kernel's protection against speculation";
        return Err(refuse(field, "SECCOMP_FILTER_FLAG_SPEC_ALLOW", why));
    }
    let allowed = |spec: &LinuxSeccomp| -> Vec<LinuxSyscall> {
        let rules = spec.syscalls().iter().flatten();
        rules.filter(|rule| lets(rule.action())).cloned().collect()
    };
    let before = allowed(before);
    for rule in allowed(after) {
        for name in rule.names() {
            let covered = before.iter().any(|known| {
                let unconditional = known.args().as_ref().is_none_or(Vec::is_empty);
                known.names().contains(name) && (unconditional || known.args() == rule.args())
            });
            if !covered {
                let why = "the container's own profile does not let it through";
                return Err(refuse(field, name, why));
            }
        }
    }
    Ok(())
}

fn lets(action: Action) -> bool {
    match action {
        Action::ScmpActAllow
        | Action::ScmpActLog
        | Action::ScmpActTrace
        | Action::ScmpActNotify => true,
        Action::ScmpActKill
        | Action::ScmpActKillProcess
        | Action::ScmpActKillThread
        | Action::ScmpActTrap
        | Action::ScmpActErrno => false,
    }
}
