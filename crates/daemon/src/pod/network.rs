//! The pod's place in the network: its namespace pinned where other tools look for it, and its attachment.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::{
    pod::config::{PodConfig, PortMapping, Protocol},
    runtime::Runtime,
    state::NetworkRecord,
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("pin the pod's network namespace at {}", path.display())]
    Pin {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("let go of the pod's network namespace at {}", path.display())]
    Unpin {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("attach the pod to the network")]
    Attach(#[source] cni::builtin::AttachError),
    #[error("detach the pod from the network")]
    Detach(#[source] cni::builtin::DetachError),
}

/// Pins the namespace and attaches it. On failure nothing stays.
pub(super) async fn attach(
    runtime: &Runtime,
    id: &str,
    path: PathBuf,
    netns: OwnedFd,
    config: &PodConfig,
) -> Result<NetworkRecord, NetworkError> {
    pin(&netns, &path)?;
    let ports = port_mappings(&config.port_mappings);
    match runtime.network.attach(id, netns, &ports).await {
        Ok(attachment) => Ok(NetworkRecord {
            netns: path,
            ips: attachment.ips,
        }),
        Err(error) => {
            if let Err(error) = unpin(&path) {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "after a failed attach"
                );
            }
            Err(NetworkError::Attach(error))
        }
    }
}

/// Undoes [`attach`]; succeeds where there is nothing to undo. The pin goes first: with the namespace the kernel reaps the link,
/// which costs far less than removing it by name.
pub(super) async fn detach(runtime: &Runtime, id: &str, path: &Path) -> Result<(), NetworkError> {
    unpin(path)?;
    runtime
        .network
        .detach(id)
        .await
        .map_err(NetworkError::Detach)
}

fn pin(netns: &OwnedFd, path: &Path) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::Pin {
        path: path.to_owned(),
        source,
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    std::fs::File::create(path).map_err(failed)?;
    let source = format!("/proc/self/fd/{}", netns.as_raw_fd());
    rustix::mount::mount(source, path, "", MountFlags::BIND, None).map_err(|source| {
        // The empty file is all there is to undo.
        let _gone = std::fs::remove_file(path);
        failed(source.into())
    })
}

/// Removes the pin; succeeds where there is none.
pub(crate) fn unpin(path: &Path) -> Result<(), NetworkError> {
    let failed = |source: io::Error| NetworkError::Unpin {
        path: path.to_owned(),
        source,
    };
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // EINVAL: the file is there and nothing is mounted on it.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(source) => return Err(failed(source.into())),
    }
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed(source)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn port_mappings(mappings: &[PortMapping]) -> Vec<cni::builtin::PortMapping> {
    mappings
        .iter()
        // A port without a host port is a declaration.
        .filter(|mapping| mapping.host_port != 0)
        .map(|mapping| cni::builtin::PortMapping {
            protocol: match mapping.protocol {
                Protocol::Tcp => cni::builtin::Protocol::Tcp,
                Protocol::Udp => cni::builtin::Protocol::Udp,
                Protocol::Sctp => cni::builtin::Protocol::Sctp,
            },
            container_port: mapping.container_port,
            host_port: mapping.host_port,
            host_ip: mapping.host_ip,
        })
        .collect()
}
