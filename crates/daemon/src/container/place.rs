//! Another cgroup for a container than its own, where a plugin wants it elsewhere below its pod's.

use std::path::Path;

use oci_spec::runtime::Spec;

use super::{Container, Turn};
use crate::{
    runtime::{BlockingError, DISK_BOUND, Runtime, blocking},
    state::RecordError,
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error("linux.cgroups_path: {path:?}: {holder} is in use")]
    Taken { path: String, holder: String },
    /// Whatever lives there would end with the container.
    #[error("linux.cgroups_path: {0:?}: there is a cgroup already, which is not this runtime's")]
    Exists(String),
    #[error("linux.cgroups_path: {path:?}")]
    Look {
        path: String,
        #[source]
        source: cgroup::Error,
    },
    #[error("its cgroup")]
    Record(#[source] RecordError),
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

/// Puts a container where its specification says, if that is not where it is by itself. On record before there is anything.
pub(super) async fn place(
    runtime: &Runtime,
    container: &Container,
    spec: &Spec,
    turn: &Turn<'_>,
) -> Result<(), PlaceError> {
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref().and_then(Path::to_str));
    let Some(path) = path.filter(|path| *path != container.cgroup()) else {
        return Ok(());
    };
    let (hierarchies, wanted) = (runtime.hierarchies.clone(), path.to_owned());
    match blocking(DISK_BOUND, move || hierarchies.open_cgroup(&wanted)).await? {
        Err(cgroup::Error::NotFound { .. }) => {}
        Ok(_) => return Err(PlaceError::Exists(path.to_owned())),
        Err(source) => {
            let path = path.to_owned();
            return Err(PlaceError::Look { path, source });
        }
    }
    let placed = runtime.inventory.place_container(container, path);
    placed.map_err(|holder| PlaceError::Taken {
        path: path.to_owned(),
        holder,
    })?;
    let kept = container.update(turn, &runtime.records, |record| {
        path.clone_into(&mut record.cgroup);
    });
    kept.map_err(PlaceError::Record)
}
