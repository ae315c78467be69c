//! Which SELinux labels a container has.
//!
//! The pod's, with what the container asks for in place of its parts. A container that shares the node's processes or memory, or is
//! privileged, is not confined unless it or its pod asks for something: a confined one could not do what it is there for.

use super::{SpecError, SpecInput, host};
use crate::{
    container::config::ContainerConfig,
    pod::config::{NamespaceMode, SelinuxOptions},
    selinux::{Label, PodLabels},
};

/// `None` in both: the pod has no labels.
#[derive(Debug, Default)]
pub(super) struct Labels {
    pub(super) process: Option<Label>,
    /// Of the root file system, and of what else is the container's alone.
    pub(super) files: Option<Label>,
}

pub(super) fn labels(input: &SpecInput<'_>) -> Result<Labels, SpecError> {
    let security = &input.container.linux.security_context;
    let asked = &security.selinux_options;
    let Some(pods) = input.labels else {
        host::check_selinux(asked, input.host)?;
        return Ok(Labels::default());
    };
    let none = SelinuxOptions::default();
    let says_nothing = *asked == none && input.pod.linux.security_context.selinux_options == none;
    let options = &security.namespace_options;
    let of_the_node = [options.pid, options.ipc].contains(&NamespaceMode::Node);
    let process = match says_nothing && (security.privileged || of_the_node) {
        true => pods.unconfined.clone(),
        false => Some(pods.process.clone().with(asked)),
    };
    Ok(Labels {
        process,
        files: Some(files_label(input.container, pods)),
    })
}

/// The label of a container's files: whoever has a level of their own has it for files, too.
pub(crate) fn files_label(container: &ContainerConfig, pods: &PodLabels) -> Label {
    match container
        .linux
        .security_context
        .selinux_options
        .level
        .as_str()
    {
        "" => pods.files.clone(),
        level => pods.files.clone().at(Some(level)),
    }
}
