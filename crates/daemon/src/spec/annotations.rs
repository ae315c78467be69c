//! Annotations that other runtimes take for orders, where to ignore one would be to confine less than was asked, and one that is an order here.

use std::collections::BTreeMap;

use super::SpecError;
use crate::pod::config::PodConfig;

/// Names, which a slash and a container may follow, and what they ask for.
const ISOLATING: [(&[&str], &str); 4] = [
    (
        &NOTIFIER,
        "an eye on denied system calls: give it to the pod, without the name of a container",
    ),
    (
        &["userns-mode.crio.io", "io.kubernetes.cri-o.userns-mode"],
        "a user namespace: use namespace_options.userns_options (hostUsers: false)",
    ),
    (
        &[
            "seccomp-profile.crio.io",
            "seccomp-profile.kubernetes.cri-o.io",
        ],
        "a seccomp profile from a registry: put it into the profile directory, and use seccomp (Localhost)",
    ),
    (
        &["io.kubernetes.cri.untrusted-workload"],
        "a stronger handler: use runtime_handler (runtimeClassName)",
    ),
];

/// Refuses what asks for isolation that this runtime does not make of annotations. All others change nothing.
pub(super) fn check(annotations: &BTreeMap<String, String>) -> Result<(), SpecError> {
    check_but(annotations, &[])
}

/// As [`check`], but for what is honoured of a pod.
pub(super) fn check_pod(pod: &PodConfig) -> Result<(), SpecError> {
    check_but(&pod.annotations, &NOTIFIER)?;
    notifier(pod).map(drop)
}

fn check_but(annotations: &BTreeMap<String, String>, honoured: &[&str]) -> Result<(), SpecError> {
    let asking = |name: &str| !honoured.contains(&name);
    for (name, value) in annotations.iter().filter(|(name, _)| asking(name)) {
        let key = name.split_once('/').map_or(name.as_str(), |(key, _)| key);
        let asked = ISOLATING.iter().find(|(names, _)| names.contains(&key));
        if let Some((_, instead)) = asked
            && !["", "false"].contains(&value.as_str())
        {
            return Err(SpecError::field(
                format!("config.annotations[{name}]"),
                format_args!("{value:?}"),
                format!("this runtime does not honour it. It asks for {instead}"),
            ));
        }
    }
    Ok(())
}

/// Of pods, the newer name first.
const NOTIFIER: [&str; 2] = [
    "seccomp-notifier-action.crio.io",
    "io.kubernetes.cri-o.seccompNotifierAction",
];

/// What becomes of a container whose seccomp filter denies it something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notifier {
    /// It is counted and logged.
    Log,
    /// The same, and the container is stopped.
    Stop,
}

/// What the pod's annotation asks for.
pub(crate) fn notifier(pod: &PodConfig) -> Result<Option<Notifier>, SpecError> {
    let Some((name, action)) = notifier_asked(pod) else {
        return Ok(None);
    };
    match action {
        "stop" => Ok(Some(Notifier::Stop)),
        "" | "log" => Ok(Some(Notifier::Log)),
        "false" => Ok(None),
        action => Err(SpecError::field(
            format!("config.annotations[{name}]"),
            format_args!("{action:?}"),
            "use stop or log",
        )),
    }
}

fn notifier_asked(pod: &PodConfig) -> Option<(&'static str, &str)> {
    let mut names = NOTIFIER.into_iter();
    names.find_map(|name| Some((name, pod.annotations.get(name)?.as_str())))
}

/// Refuses what only the embedded core can do for a pod. `handler`: the external runtime that makes its containers.
pub(crate) fn check_handler(pod: &PodConfig, handler: &str) -> Result<(), SpecError> {
    match (notifier(pod)?, notifier_asked(pod)) {
        (Some(_), Some((name, action))) => Err(SpecError::field(
            format!("config.annotations[{name}]"),
            format_args!("{action:?}"),
            format!(
                "handler {handler} cannot tell of denied system calls: use the default one, or leave it out"
            ),
        )),
        (Some(_), None) | (None, _) => Ok(()),
    }
}
