//! Devices that files of vendors describe, into a container's specification.

use std::path::PathBuf;

use oci_spec::runtime::Spec;

use super::Container;
use crate::{
    cdi::{self, CdiError, InjectError, Requested},
    paths::PathError,
    runtime::Runtime,
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum DevicesError {
    #[error(transparent)]
    Cdi(#[from] CdiError),
    #[error("{}: a device node of the node", file.display())]
    Node {
        file: PathBuf,
        #[source]
        source: PathError,
    },
    #[error(transparent)]
    Inject(#[from] InjectError),
}

/// Gives a container the devices that it asks for. All that can be wrong is, before anything is made of the specification.
pub(super) async fn give(
    runtime: &Runtime,
    container: &Container,
    spec: &mut Spec,
    requested: &[Requested],
) -> Result<(), DevicesError> {
    let privileged = container.config.linux.security_context.privileged;
    for (file, edits) in runtime.cdi.edits(requested).await? {
        // Nodes are looked at where one that hangs holds up this container alone.
        let nodes = runtime.paths.nodes(cdi::host_nodes(&edits)).await;
        let nodes = nodes.map_err(|source| DevicesError::Node {
            file: file.clone(),
            source,
        })?;
        cdi::inject(spec, &file, &edits, nodes, privileged)?;
        tracing::debug!(container = %container.id, file = %file.display(), "devices");
    }
    Ok(())
}
