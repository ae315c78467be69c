use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use supervisor_api::{EXITS_DIRECTORY, ExitRecord};

use super::BootId;
use crate::{
    container::config::ContainerConfig,
    handlers::{MadeWith, bundles},
    id::{ContainerId, PodId},
    pod::config::{LinuxResources, PodConfig},
    selinux::PodLabels,
    spec::{Signal, User},
};

/// A pod as it is remembered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) id: PodId,
    pub(crate) boot: BootId,
    pub(crate) config: PodConfig,
    pub(crate) handler: String,
    pub(crate) created_at_ns: i64,
    pub(crate) stage: PodStage,
    /// The cgroup that holds the pod's and its containers' cgroups.
    pub(crate) cgroup_parent: String,
    pub(crate) network: Option<NetworkRecord>,
    pub(crate) supervisor: Option<SupervisorRecord>,
    /// The external runtime that makes its containers, where one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made_with: Option<MadeWith>,
    /// In place of those of `config`, once they have been changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resources: Option<PodResources>,
    /// Where SELinux is used. Its categories are no other pod's as long as this record is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) labels: Option<PodLabels>,
}

/// What a kubelet says that a pod costs and may use. The pod's cgroup is the kubelet's, and so are its limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodResources {
    pub(crate) overhead: Option<LinuxResources>,
    pub(crate) resources: Option<LinuxResources>,
}

/// What must be undone, or waited for, after a restart. See the diagram in `pod/mod.rs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PodStage {
    Starting,
    Ready,
    Stopping { reason: Option<String> },
    Stopped { reason: Option<String> },
    Removing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    /// Where the network namespace is pinned.
    pub(crate) netns: PathBuf,
    /// The pod's addresses, the primary one first.
    pub(crate) ips: Vec<IpAddr>,
}

/// A process that is known by its pid *and* when it started: pids come round again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SupervisorRecord {
    pub(crate) pid: i32,
    pub(crate) start_ticks: u64,
}

/// A container as it is remembered. How it ended is in the supervisor's exit record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: ContainerId,
    pub(crate) pod: PodId,
    pub(crate) config: ContainerConfig,
    pub(crate) created_at_ns: i64,
    pub(crate) stage: ContainerStage,
    /// Config digest of the image, `sha256:…`.
    pub(crate) image_id: String,
    /// A repository digest of the image, or its id where it has none.
    pub(crate) image_ref: String,
    pub(crate) cgroup: String,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) user: Option<User>,
    /// The image's stop signal; the request's own is in `config`.
    pub(crate) image_stop_signal: Option<Signal>,
    /// In place of those of `config`, once they have been changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resources: Option<LinuxResources>,
    /// Config digests of the images that it mounts, by their mounts' position in `config`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) volume_images: BTreeMap<usize, String>,
    /// Its specification has hooks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) hooked: bool,
    /// Its pod is lent devices of the node's network for it, or is about to be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) net_devices: bool,
    /// It is being stopped for system calls that its seccomp filter denies: which, and how often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) forbidden: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ContainerStage {
    Creating,
    Created,
    Removing,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("write the record {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read the record {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the record {} is damaged", path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("remove {}", path.display())]
    Remove {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl RecordError {
    /// There is none: whoever was to write it died before.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// There is one and it says nothing.
    pub(crate) fn is_damaged(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}

/// The records of one state directory. Calls are short writes to a tmpfs and do not move to other threads.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    pods: PathBuf,
    bundles: PathBuf,
}

impl Records {
    pub(crate) fn open(state: &Path) -> Result<Self, RecordError> {
        let pods = state.join("pods");
        // Environments hold secrets; what is mounted from here is opened by root.
        std::fs::create_dir_all(&pods)
            .and_then(|()| std::fs::set_permissions(&pods, PermissionsExt::from_mode(0o700)))
            .map_err(|source| RecordError::Write {
                path: pods.clone(),
                source,
            })?;
        // Root of a user namespace passes through to its bundle.
        let bundles = bundles(state);
        std::fs::create_dir_all(&bundles)
            .and_then(|()| std::fs::set_permissions(&bundles, PermissionsExt::from_mode(0o711)))
            .map_err(|source| RecordError::Write {
                path: bundles.clone(),
                source,
            })?;
        Ok(Self { pods, bundles })
    }

    /// Where the bundles of external runtimes are.
    pub(crate) fn bundles(&self) -> &Path {
        &self.bundles
    }

    pub(crate) fn pod_directory(&self, id: &PodId) -> PathBuf {
        self.pods.join(id.as_str())
    }

    pub(crate) fn container_directory(&self, pod: &PodId, id: &ContainerId) -> PathBuf {
        self.pod_directory(pod).join("containers").join(id.as_str())
    }

    /// Makes the pod's directory and writes its first record.
    pub(crate) fn create_pod(&self, record: &PodRecord) -> Result<(), RecordError> {
        let directory = self.pod_directory(&record.id);
        for path in [
            &directory,
            &directory.join("containers"),
            &directory.join(EXITS_DIRECTORY),
        ] {
            std::fs::create_dir(path).map_err(|source| RecordError::Write {
                path: path.clone(),
                source,
            })?;
        }
        self.save_pod(record)
    }

    pub(crate) fn save_pod(&self, record: &PodRecord) -> Result<(), RecordError> {
        write(&self.pod_directory(&record.id).join("pod.json"), record)
    }

    pub(crate) fn load_pod(&self, id: &PodId) -> Result<PodRecord, RecordError> {
        read(&self.pod_directory(id).join("pod.json"))
    }

    /// Forgets a pod and all its containers. Succeeds for one that is not there.
    pub(crate) fn remove_pod(&self, id: &PodId) -> Result<(), RecordError> {
        for container in self.containers(id)? {
            remove_tree(&self.bundles.join(container.as_str()))?;
        }
        // That of its sandbox container, where it had one.
        remove_tree(&self.bundles.join(id.as_str()))?;
        remove_tree(&self.pod_directory(id))
    }

    /// Ids of the pods that have a directory, whole or not.
    pub(crate) fn pods(&self) -> Result<Vec<PodId>, RecordError> {
        Ok(names(&self.pods)?
            .iter()
            .filter_map(|name| PodId::parse(name))
            .collect())
    }

    pub(crate) fn create_container(&self, record: &ContainerRecord) -> Result<(), RecordError> {
        let directory = self.container_directory(&record.pod, &record.id);
        std::fs::create_dir(&directory).map_err(|source| RecordError::Write {
            path: directory,
            source,
        })?;
        self.save_container(record)
    }

    pub(crate) fn save_container(&self, record: &ContainerRecord) -> Result<(), RecordError> {
        let directory = self.container_directory(&record.pod, &record.id);
        write(&directory.join("container.json"), record)
    }

    pub(crate) fn load_container(
        &self,
        pod: &PodId,
        id: &ContainerId,
    ) -> Result<ContainerRecord, RecordError> {
        read(&self.container_directory(pod, id).join("container.json"))
    }

    pub(crate) fn containers(&self, pod: &PodId) -> Result<Vec<ContainerId>, RecordError> {
        let directory = self.pod_directory(pod).join("containers");
        Ok(names(&directory)?
            .iter()
            .filter_map(|name| ContainerId::parse(name))
            .collect())
    }

    /// Forgets a container and how it ended. Succeeds for one that is not there.
    pub(crate) fn remove_container(
        &self,
        pod: &PodId,
        id: &ContainerId,
    ) -> Result<(), RecordError> {
        let exit = self.exit_path(pod, id);
        match std::fs::remove_file(&exit) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(RecordError::Remove { path: exit, source });
            }
            Ok(()) | Err(_) => {}
        }
        remove_tree(&self.bundles.join(id.as_str()))?;
        remove_tree(&self.container_directory(pod, id))
    }

    /// How the container ended, if its supervisor has recorded it.
    pub(crate) fn exit(&self, pod: &PodId, id: &ContainerId) -> Option<ExitRecord> {
        let bytes = std::fs::read(self.exit_path(pod, id)).ok()?;
        supervisor_api::decode(&bytes).ok()
    }

    /// Writes down an exit that no supervisor could.
    pub(crate) fn save_exit(
        &self,
        pod: &PodId,
        id: &ContainerId,
        exit: &ExitRecord,
    ) -> Result<(), RecordError> {
        let path = self.exit_path(pod, id);
        let failed = |source| RecordError::Write {
            path: path.clone(),
            source,
        };
        let bytes =
            supervisor_api::encode_record(exit).map_err(|error| failed(io::Error::other(error)))?;
        replace(&path, &bytes).map_err(failed)
    }

    pub(crate) fn save_spec(
        &self,
        record: &ContainerRecord,
        spec: &oci_spec::runtime::Spec,
    ) -> Result<(), RecordError> {
        let directory = self.container_directory(&record.pod, &record.id);
        write(&directory.join("spec.json"), spec)
    }

    pub(crate) fn load_spec(
        &self,
        pod: &PodId,
        id: &ContainerId,
    ) -> Result<oci_spec::runtime::Spec, RecordError> {
        read(&self.container_directory(pod, id).join("spec.json"))
    }

    fn exit_path(&self, pod: &PodId, id: &ContainerId) -> PathBuf {
        self.pod_directory(pod)
            .join(EXITS_DIRECTORY)
            .join(id.as_str())
    }
}

fn write<T: Serialize>(path: &Path, record: &T) -> Result<(), RecordError> {
    let failed = |source| RecordError::Write {
        path: path.to_owned(),
        source,
    };
    let bytes = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
    replace(path, &bytes).map_err(failed)
}

/// A rename within a tmpfs: the file is the old one or the new one, never half.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, path))
        .inspect_err(|_full| {
            // What was written of it takes space that something else needs.
            let _gone = std::fs::remove_file(&temporary);
        })
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, RecordError> {
    let bytes = std::fs::read(path).map_err(|source| RecordError::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|source| RecordError::Damaged {
        path: path.to_owned(),
        source,
    })
}

fn names(directory: &Path) -> Result<Vec<String>, RecordError> {
    let failed = |source| RecordError::Read {
        path: directory.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    entries
        .map(|entry| {
            Ok(entry
                .map_err(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned())
        })
        .collect()
}

fn remove_tree(path: &Path) -> Result<(), RecordError> {
    match std::fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RecordError::Remove {
            path: path.to_owned(),
            source,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}
