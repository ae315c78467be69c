//! What an archive says of the container, in the files and the words that `checkpointctl` and the peers read.

use std::{
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use oci_spec::runtime::Spec;
use serde::Serialize;
use serde_json::json;

use super::mounts::is_bind;
use crate::{
    container::{Container, Phase},
    runtime::now_ns,
};

/// Images of CRIU.
pub(super) const IMAGES: &str = "checkpoint";
pub(super) const LAYER: &str = "rootfs-diff.tar";
pub(super) const DELETED: &str = "deleted.files";
/// What runc notes of the standard streams, beside the images.
pub(super) const DESCRIPTORS: &str = "descriptors.json";
/// Mounts that are external, beside the images; our own.
pub(super) const EXTERNAL: &str = "external.mounts";
pub(super) const CONFIG: &str = "config.dump";
pub(super) const SPEC: &str = "spec.dump";
const STATUS: &str = "status.dump";
/// containerd's own record, which checkpointctl asks for.
const CONTAINERD_STATUS: &str = "status";
/// CRI-O's list of what is mounted from the node.
const BINDS: &str = "bind.mounts";

/// `config.dump`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    id: &'a str,
    name: &'a str,
    rootfs_image: &'a str,
    rootfs_image_ref: &'a str,
    rootfs_image_name: &'a str,
    runtime: &'static str,
    created_time: String,
    checkpointed_time: String,
    restored_time: &'static str,
    restored: bool,
}

/// A line of `bind.mounts`.
#[derive(Serialize)]
struct Bind {
    source: PathBuf,
    destination: PathBuf,
    file_type: &'static str,
    permissions: u32,
}

/// Writes the files that describe the container.
pub(super) fn write(directory: &Path, container: &Container, spec: &Spec) -> io::Result<()> {
    let config = &container.config;
    let image = match config.image.user_specified_image.as_str() {
        "" => &config.image.image,
        name => name,
    };
    let described = Config {
        id: container.id.as_str(),
        name: &config.metadata.name,
        rootfs_image: image,
        rootfs_image_ref: &container.image_ref,
        rootfs_image_name: image,
        runtime: "longshore",
        created_time: rfc3339(container.created_at_ns),
        checkpointed_time: rfc3339(now_ns()),
        restored_time: "0001-01-01T00:00:00Z",
        restored: false,
    };
    json_file(directory, CONFIG, &described)?;
    json_file(directory, SPEC, &annotated(container, spec))?;
    let (pid, started_at_ns) = match container.phase() {
        Phase::Running { pid, started_at_ns } => (pid, started_at_ns),
        Phase::Creating | Phase::Created { .. } | Phase::Exited(_) | Phase::Removed => (0, 0),
    };
    let status = json!({
        "id": container.id.as_str(),
        "metadata": { "name": config.metadata.name, "attempt": config.metadata.attempt },
        "state": 1,
        "created_at": container.created_at_ns,
        "started_at": started_at_ns,
        "image": { "image": config.image.image, "user_specified_image": image },
        "image_ref": container.image_ref,
        "image_id": container.image_id,
        "labels": config.labels,
        "annotations": config.annotations,
        "log_path": container.log_path,
    });
    json_file(directory, STATUS, &status)?;
    let status = json!({
        "CreatedAt": container.created_at_ns,
        "StartedAt": started_at_ns,
        "FinishedAt": 0,
        "ExitCode": 0,
        "Pid": pid,
        "Reason": "",
        "Message": "",
    });
    json_file(directory, CONTAINERD_STATUS, &status)?;
    let binds = spec.mounts().iter().flatten().filter(|one| is_bind(one));
    let binds: Vec<Bind> = binds
        .filter_map(|mount| {
            let source = mount.source().clone()?;
            let found = source.metadata().ok()?;
            Some(Bind {
                destination: mount.destination().clone(),
                file_type: if found.is_dir() { "directory" } else { "file" },
                permissions: std::os::unix::fs::MetadataExt::mode(&found) & 0o777,
                source,
            })
        })
        .collect();
    json_file(directory, BINDS, &binds)
}

/// The names that the peers' specifications have for who the container is.
fn annotated(container: &Container, spec: &Spec) -> Spec {
    let mut spec = spec.clone();
    let pod = &container.pod;
    let metadata = &pod.config.metadata;
    let mut annotations = spec.annotations().clone().unwrap_or_default();
    annotations.extend(
        [
            ("container-type", "container"),
            ("container-name", &container.config.metadata.name),
            ("image-name", &container.config.image.image),
            ("sandbox-id", pod.id.as_str()),
            ("sandbox-name", &metadata.name),
            ("sandbox-namespace", &metadata.namespace),
            ("sandbox-uid", &metadata.uid),
        ]
        .map(|(name, value)| (format!("io.kubernetes.cri.{name}"), value.to_owned())),
    );
    spec.set_annotations(Some(annotations));
    spec
}

pub(super) fn json_file(directory: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    std::fs::write(directory.join(name), serde_json::to_vec_pretty(value)?)
}

/// Nanoseconds since the epoch, as Go writes a time.
pub(super) fn rfc3339(time_ns: i64) -> String {
    let time = Timestamp::from_nanosecond(i128::from(time_ns)).unwrap_or(Timestamp::MAX);
    format!("{time:.9}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_gos() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(
            rfc3339(951_782_399_000_000_001),
            "2000-02-28T23:59:59.000000001Z"
        );
        assert_eq!(
            rfc3339(1_709_164_800_000_000_000),
            "2024-02-29T00:00:00.000000000Z"
        );
    }
}
