//! Classes that plugins name. What they are, the node defines, as for annotations.

use nri::api;
use oci_spec::runtime::Spec;

use super::apply::{ApplyError, refuse};
use crate::{
    classes::{Asker, ClassError, Classes},
    runtime::{DISK_BOUND, Runtime, blocking},
};

/// Gives a container that is being specified the classes that plugins have named, and takes away what an empty name takes away.
pub(super) async fn give(
    runtime: &Runtime,
    spec: &mut Spec,
    given: &api::LinuxResources,
) -> Result<(), ApplyError> {
    let name = |class: &Option<api::OptionalString>| class.as_ref().map(|one| one.value.clone());
    let (block_io, rdt) = (name(&given.blockio_class), name(&given.rdt_class));
    if block_io.is_none() && rdt.is_none() {
        return Ok(());
    }
    let Some(linux) = spec.linux_mut() else {
        return Ok(());
    };
    if let Some(name) = block_io {
        let class = find("blockio_class", &name, runtime, |classes, name| {
            classes.block_io(name)
        });
        let class = class.await?;
        let resources = linux.resources_mut().get_or_insert_default();
        resources.set_block_io(class);
    }
    if let Some(name) = rdt {
        let class = find("rdt_class", &name, runtime, |classes, name| {
            classes.rdt(name, Asker::Plugin)
        });
        linux.set_intel_rdt(class.await?);
    }
    Ok(())
}

/// `None`: no class is asked for.
async fn find<T: Send + 'static>(
    field: &str,
    name: &str,
    runtime: &Runtime,
    look: impl FnOnce(&Classes, &str) -> Result<T, ClassError> + Send + 'static,
) -> Result<Option<T>, ApplyError> {
    if name.is_empty() {
        return Ok(None);
    }
    let refused = |why: String| refuse(format!("linux.resources.{field}"), name, why);
    let (classes, class) = (runtime.classes.clone(), name.to_owned());
    let found = blocking(DISK_BOUND, move || look(&classes, &class));
    let found = found.await.map_err(|error| refused(error.to_string()))?;
    found
        .map(Some)
        .map_err(|error| refused(crate::rpc::chain(&error)))
}
