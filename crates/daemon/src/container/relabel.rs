//! Volumes get the label of the container's files, where the request says so: nobody else may use them then but containers of that level.

use std::path::Path;

use oci_spec::runtime::Spec;

use super::{
    config::Mount,
    mounts::{MountError, refusal},
    volumes,
};
use crate::{
    runtime::Runtime,
    selinux::{Label, is_unconfined},
};

/// What a node cannot do without, whole: whoever mounts one of these means a part of it, or to look.
const OF_THE_NODE: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/lib/kubelet",
    "/var/log",
    "/var/run",
    "/var/spool",
    "/var/tmp",
    "/etc/group",
    "/etc/gshadow",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/kubernetes",
    "/etc/passwd",
    "/etc/pki",
    "/etc/resolv.conf",
    "/etc/shadow",
    "/etc/ssl",
];

/// Labels what is at `source` if one of the mounts that are asked for says so, or it is the container's own.
pub(super) async fn relabel(
    runtime: &Runtime,
    asked: &[Mount],
    source: &Path,
    spec: &Spec,
) -> Result<(), MountError> {
    let linux = spec.linux().as_ref();
    let Some(label) = linux.and_then(|linux| linux.mount_label().as_deref()) else {
        return Ok(());
    };
    let failed = |source_error| MountError::Relabel {
        path: source.to_owned(),
        source: source_error,
    };
    if source.starts_with(volumes::root(&runtime.config.root)) {
        return runtime.paths.relabel(source, label).await.map_err(failed);
    }
    let wanted = asked
        .iter()
        .any(|mount| mount.selinux_relabel && Path::new(&mount.host_path) == source);
    let process = spec.process().as_ref();
    let process = process.and_then(|process| process.selinux_label().as_deref());
    let process = process.and_then(|label| label.parse::<Label>().ok());
    // Nothing is denied to such a process; others of the volume's users would lose it.
    if !wanted || process.as_ref().is_none_or(is_unconfined) {
        return Ok(());
    }
    let led = runtime.paths.canonical(source).await;
    let led = led.map_err(|error| refusal(source, error))?;
    let own = [&runtime.config.root, &runtime.config.state];
    if is_the_node_s(&led, own.map(|path| path.as_path())) {
        return Err(MountError::RelabelNode {
            path: source.to_owned(),
            led,
        });
    }
    runtime.paths.relabel(&led, label).await.map_err(failed)
}

/// `own`: the daemon's directories.
fn is_the_node_s(path: &Path, own: [&Path; 2]) -> bool {
    let listed = OF_THE_NODE.iter().any(|one| Path::new(one) == path);
    let ours = own
        .iter()
        .any(|own| path.starts_with(own) || own.starts_with(path));
    listed || ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_node_s_keeps_its_labels() {
        let own = [Path::new("/var/lib/longshore"), Path::new("/run/longshore")];
        let is = |path: &str| is_the_node_s(Path::new(path), own);
        for path in [
            "/",
            "/etc",
            "/etc/",
            "/usr",
            "/var/lib",
            "/var/lib/longshore",
            "/var/lib/longshore/layers",
            "/run/longshore/pods",
        ] {
            assert!(is(path), "{path}");
        }
        for path in [
            "/srv/data",
            "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/data",
            "/home/me",
            "/etcetera",
        ] {
            assert!(!is(path), "{path}");
        }
    }
}
