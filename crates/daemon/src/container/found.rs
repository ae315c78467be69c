//! What the node has of what a request names: devices, profiles, classes.

use oci_spec::runtime::LinuxSeccomp;

use super::{Container, CreateError, create::step, mounts};
use crate::{
    id::ContainerId,
    runtime::Runtime,
    spec::{self, ClassAsked, ClassesAsked, ClassesFound, ContainerSpec, HostDevice},
};

/// What the node has at paths that the request names.
pub(super) struct Found {
    pub(super) devices: Vec<HostDevice>,
    pub(super) seccomp: Option<LinuxSeccomp>,
    pub(super) classes: ClassesFound,
}

pub(super) async fn look(runtime: &Runtime, container: &Container) -> Result<Found, CreateError> {
    let (id, config) = (&container.id, &container.config);
    let devices = spec::device_paths(config);
    let nodes = runtime.paths.nodes(devices).await;
    let nodes = nodes.map_err(|error| CreateError::Device(id.clone(), error))?;
    let seccomp = runtime.seccomp.localhost(&runtime.paths, config).await;
    let seccomp = seccomp.map_err(|error| CreateError::Profile(id.clone(), error))?;
    mounts::check_propagation(&runtime.paths, &config.mounts)
        .await
        .map_err(|error| CreateError::Mount(id.clone(), error))?;
    Ok(Found {
        devices: spec::devices(config, nodes),
        seccomp,
        classes: classes(runtime, container).await?,
    })
}

/// What the classes are that the container asks for, and their groups where they have some.
async fn classes(runtime: &Runtime, container: &Container) -> Result<ClassesFound, CreateError> {
    let asked = spec::classes_asked(&container.config, &container.pod.config);
    if asked == ClassesAsked::default() {
        return Ok(ClassesFound::default());
    }
    let classes = runtime.classes.clone();
    let find = move || {
        let failed = |asked: &ClassAsked, source| (asked.field.clone(), source);
        let block_io = asked.block_io.as_ref().map(|asked| {
            let class = classes.block_io(&asked.name);
            class.map_err(|error| failed(asked, error))
        });
        let rdt = asked.rdt.as_ref().map(|asked| {
            let class = classes.rdt(&asked.name, asked.asker);
            class.map_err(|error| failed(asked, error))
        });
        Ok(ClassesFound {
            block_io: block_io.transpose()?,
            rdt: rdt.transpose()?,
        })
    };
    let found = step(container, find).await?;
    found.map_err(|(field, source)| CreateError::Class {
        id: container.id.clone(),
        field,
        source,
    })
}

/// Whether the kernel has the profile and the labels that the container's processes and files are to have.
pub(super) async fn confinable(
    runtime: &Runtime,
    id: &ContainerId,
    spec: &ContainerSpec,
) -> Result<(), CreateError> {
    let (process, linux) = (spec.spec.process().as_ref(), spec.spec.linux().as_ref());
    if let Some(profile) = process.and_then(|process| process.apparmor_profile().as_deref()) {
        let ready = runtime.apparmor.ready(profile).await;
        ready.map_err(|error| CreateError::AppArmor(id.clone(), error))?;
    }
    if !runtime.selinux.labels() {
        return Ok(());
    }
    let label = process.and_then(|process| process.selinux_label().as_deref());
    let files = linux.and_then(|linux| linux.mount_label().as_deref());
    for label in label.into_iter().chain(files) {
        let known = runtime.selinux.check(label);
        known.map_err(|error| CreateError::Selinux(id.clone(), error))?;
    }
    Ok(())
}
