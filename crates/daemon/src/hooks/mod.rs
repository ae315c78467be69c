//! OCI hooks: programs that run at stages of a container's life, with its state on their standard input.
//!
//! ```text
//!  stage             when                                          where                        it fails
//!  prestart          the container's file system is made,          the node                     no container
//!  createRuntime     and its init waits before entering it         the node                     no container
//!  createContainer                                                 the container's namespaces   no container
//!  startContainer    it is started, its program not yet            the container                it is ended
//!  poststart         its program runs                              the node                     it is ended
//!  poststop          it is removed                                 the node                     a warning
//! ```
//!
//! They come from files of devices ([`crate::cdi`]), from plugins ([`crate::nri`]) and from directories ([`directory`]), and are written into
//! the container's specification. What a container's stages come to is in `container/hooks.rs`.

mod directory;
mod run;
#[cfg(test)]
mod tests;

use std::path::Path;

pub(crate) use directory::{DirectoryError, HookDirectories};
use oci_spec::runtime::{Hook, Spec};
pub(crate) use run::{Failure, Output, run, timeout};
use serde::Deserialize;

/// A stage of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Stage {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Stage {
    /// In the order of their times.
    pub(crate) const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// As specifications and files name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// The state of a container whose hooks of this stage run.
    pub(crate) fn status(self) -> &'static str {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }
}

/// The hooks of a stage, in order.
pub(crate) fn of(spec: &Spec, stage: Stage) -> &[Hook] {
    let list = spec.hooks().as_ref().and_then(|hooks| {
        let list = match stage {
            Stage::Prestart => hooks.prestart(),
            Stage::CreateRuntime => hooks.create_runtime(),
            Stage::CreateContainer => hooks.create_container(),
            Stage::StartContainer => hooks.start_container(),
            Stage::Poststart => hooks.poststart(),
            Stage::Poststop => hooks.poststop(),
        };
        list.as_deref()
    });
    list.unwrap_or_default()
}

/// Adds a hook at the end of a stage.
pub(crate) fn add(spec: &mut Spec, stage: Stage, hook: Hook) {
    let hooks = spec.hooks_mut().get_or_insert_default();
    let list = match stage {
        Stage::Prestart => hooks.prestart_mut(),
        Stage::CreateRuntime => hooks.create_runtime_mut(),
        Stage::CreateContainer => hooks.create_container_mut(),
        Stage::StartContainer => hooks.start_container_mut(),
        Stage::Poststart => hooks.poststart_mut(),
        Stage::Poststop => hooks.poststop_mut(),
    };
    list.get_or_insert_default().push(hook);
}

/// The container's state as hooks read it: JSON of the runtime specification.
pub(crate) fn state(
    spec: &Spec,
    id: &str,
    stage: Stage,
    pid: Option<i32>,
    bundle: &Path,
) -> Vec<u8> {
    let mut state = serde_json::json!({
        "ociVersion": spec.version(),
        "id": id,
        "status": stage.status(),
        "bundle": bundle,
        "annotations": spec.annotations().clone().unwrap_or_default(),
    });
    if let Some(pid) = pid {
        state["pid"] = pid.into();
    }
    state.to_string().into_bytes()
}
