//! Annotations that other runtimes take for orders, where to ignore one would be to confine less than was asked.

use std::collections::BTreeMap;

use super::SpecError;

/// Names, which a slash and a container may follow, and what they ask for.
const ISOLATING: [(&[&str], &str); 4] = [
    (
        &["userns-mode.crio.io", "io.kubernetes.cri-o.userns-mode"],
        "a user namespace: use namespace_options.userns_options (hostUsers: false)",
    ),
    (
        &[
            "seccomp-notifier-action.crio.io",
            "io.kubernetes.cri-o.seccompNotifierAction",
        ],
        "an end at the first forbidden system call: use a profile of its own with SCMP_ACT_KILL_PROCESS",
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
    for (name, value) in annotations {
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
