//! What vendors' files and plugins make of a container's specification.

use std::sync::Arc;

use oci_spec::runtime::Spec;

use super::{Container, CreateError, Turn, devices, place::place};
use crate::{cdi, nri::Others, runtime::Runtime};

/// Gives it the devices that it asks for, and has plugins change it; returns what they want of other containers.
pub(super) async fn adjust(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    spec: &mut Spec,
    turn: &Turn<'_>,
) -> Result<Others, CreateError> {
    let id = &container.id;
    let wrong = |error| CreateError::Devices(id.clone(), error);
    let requested = cdi::requested(&container.config);
    devices::give(runtime, container, spec, &requested)
        .await
        .map_err(wrong)?;
    let asked = Arc::new(spec.clone());
    let adjusted = runtime.nri.create(runtime, container, &asked).await;
    let adjusted = adjusted.map_err(|error| CreateError::Nri(id.clone(), error))?;
    let Some(adjusted) = adjusted else {
        return Ok(Others::default());
    };
    *spec = adjusted.spec;
    let placed = place(runtime, container, spec, turn).await;
    placed.map_err(|error| CreateError::Place(id.clone(), error))?;
    if let Some(limits) = adjusted.limits {
        container
            .update(turn, &runtime.records, |record| {
                record.resources = Some(limits);
            })
            .map_err(|error| CreateError::Record(id.clone(), error))?;
    }
    devices::give(runtime, container, spec, &adjusted.devices)
        .await
        .map_err(wrong)?;
    Ok(adjusted.others)
}
