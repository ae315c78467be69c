//! Devices of the node's network, which a container's pod is lent for as long as the container lives. The pod's network namespace is this
//! runtime's, and outlives its containers: what one of them had, the next one can have.

use std::{path::PathBuf, sync::Arc};

use cni::devices::{self, DeviceError};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::{Container, Turn};
use crate::{
    runtime::{BlockingError, DISK_BOUND, Runtime, blocking},
    state::RecordError,
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum NetDevicesError {
    #[error("linux.netDevices: {device}: the container is not in a network of its pod's own")]
    NotThePod { device: String },
    #[error("linux.netDevices")]
    Device(#[from] DeviceError),
    #[error("that it has network devices")]
    Record(#[source] RecordError),
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

/// Lends a container's pod what its specification names. After an error what it has got is for [`take_back`].
pub(super) async fn lend(
    runtime: &Runtime,
    container: &Container,
    spec: &Spec,
    turn: &Turn<'_>,
) -> Result<(), NetDevicesError> {
    let linux = spec.linux().as_ref();
    let wanted = linux.and_then(|linux| linux.net_devices().clone());
    let wanted: Vec<(String, Option<String>)> = wanted
        .into_iter()
        .flatten()
        .map(|(device, named)| (device, named.name().clone()))
        .collect();
    let Some((first, _)) = wanted.first() else {
        return Ok(());
    };
    let netns = runtime.netns_path(&container.pod.id);
    let mut namespaces = linux
        .iter()
        .flat_map(|linux| linux.namespaces().iter().flatten());
    let network = namespaces.find(|one| one.typ() == LinuxNamespaceType::Network);
    if network.and_then(|network| network.path().as_ref()) != Some(&netns) {
        let device = first.clone();
        return Err(NetDevicesError::NotThePod { device });
    }
    // Those of one that has ended may be on their way back.
    for other in runtime.inventory.claims_of(&container.pod.id) {
        if other.has_exited() {
            take_back(runtime, &other).await?;
        }
    }
    container
        .update(turn, &runtime.records, |record| record.net_devices = true)
        .map_err(NetDevicesError::Record)?;
    let borrower = container.id.to_string();
    let lent = move || {
        let mut wanted = wanted.iter();
        wanted.try_for_each(|(device, name)| {
            devices::lend(&netns, device, name.as_deref(), &borrower)
        })
    };
    Ok(blocking(DISK_BOUND, lent).await??)
}

/// Moves back what a container has, if anything.
pub(crate) async fn take_back(
    runtime: &Runtime,
    container: &Container,
) -> Result<(), NetDevicesError> {
    let Some((netns, borrower)) = loan(runtime, container) else {
        return Ok(());
    };
    let taken = blocking(DISK_BOUND, move || devices::take_back(&netns, &borrower));
    Ok(taken.await??)
}

/// A container has ended: what it has goes back, in a task of its own.
pub(crate) fn return_devices(runtime: &Runtime, container: &Arc<Container>) {
    let Some((netns, borrower)) = loan(runtime, container) else {
        return;
    };
    let id = container.id.clone();
    tokio::spawn(async move {
        let taken = blocking(DISK_BOUND, move || devices::take_back(&netns, &borrower)).await;
        let error = match taken {
            Ok(Ok(())) => return,
            Ok(Err(error)) => NetDevicesError::Device(error),
            Err(error) => NetDevicesError::Blocking(error),
        };
        let error = &error as &dyn std::error::Error;
        tracing::warn!(container = %id, error, "network devices of the node stay in a pod until the container is removed");
    });
}

fn loan(runtime: &Runtime, container: &Container) -> Option<(PathBuf, String)> {
    container.has_net_devices().then(|| {
        (
            runtime.netns_path(&container.pod.id),
            container.id.to_string(),
        )
    })
}
