//! The pod's place in the network: its namespace pinned where other tools look for it, and its attachment to the network of CNI plugins,
//! or to the built-in one where there is no configuration.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use cni::plugins::{Detached, PinError, pin, unpin};

use super::network_request::{self, AnnotationError};
use crate::{
    pod::config::{PodConfig, PortMapping, Protocol},
    runtime::Runtime,
    state::NetworkRecord,
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    #[error("attach the pod to the network")]
    Attach(#[source] cni::builtin::AttachError),
    #[error("attach the pod to the CNI network")]
    Plugins(#[source] cni::plugins::AttachError),
    #[error("detach the pod from the network")]
    Detach(#[source] cni::builtin::DetachError),
}

/// Pins the namespace and attaches it. After a failure, [`detach`].
pub(super) async fn attach(
    runtime: &Runtime,
    id: &str,
    path: PathBuf,
    netns: OwnedFd,
    config: &PodConfig,
    cgroup_parent: &str,
) -> Result<NetworkRecord, NetworkError> {
    if runtime.plugins.serves() || runtime.config.cni.required {
        let request = network_request::of(id, &path, config, cgroup_parent)?;
        pin(netns.as_fd(), &path)?;
        let attached = runtime.plugins.attach(request).await;
        let attachment = attached.map_err(NetworkError::Plugins)?;
        return Ok(NetworkRecord {
            netns: path,
            ips: attachment.ips,
        });
    }
    pin(netns.as_fd(), &path)?;
    let ports = port_mappings(&config.port_mappings);
    let attached = runtime.network.attach(id, netns, &ports).await;
    let attachment = attached.map_err(NetworkError::Attach)?;
    Ok(NetworkRecord {
        netns: path,
        ips: attachment.ips,
    })
}

/// Undoes [`attach`]; succeeds where there is nothing to undo. A plugin that fails keeps no pod from its end: it is run again in the background,
/// and the pin stays for it. On the built-in network the pin goes first: with the namespace the kernel reaps the link, which costs far less
/// than removing it by name.
pub(super) async fn detach(runtime: &Runtime, id: &str, path: &Path) -> Result<(), NetworkError> {
    match runtime.plugins.detach(id).await {
        Detached::Done => {}
        Detached::Later(error) => {
            let error = &*error as &dyn std::error::Error;
            tracing::error!(
                pod = id,
                error,
                "the pod ends all the same; its network is detached in the background"
            );
            return Ok(());
        }
    }
    unpin(path)?;
    runtime
        .network
        .detach(id)
        .await
        .map_err(NetworkError::Detach)
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
