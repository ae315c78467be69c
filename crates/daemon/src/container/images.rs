//! The images that a container is made from: its own, and those that it mounts as volumes. All are held on to until it is removed.

use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc};

use image::{Image, PinError};
use oci_spec::runtime::Spec;
use snapshot::UserMapping;
use supervisor_api::CreateContainer;

use super::{
    Container, CreateError,
    config::ContainerConfig,
    hooks::{self, HookError},
};
use crate::{
    checkpoint::{self, Restoring},
    container::config::ImageSpec,
    id::ContainerId,
    pod::{Pod, config::PodConfig},
    runtime::Runtime,
    spec::{ImageTree, SpecError},
    supervisor::Link,
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageConfigError {
    #[error(transparent)]
    Store(#[from] image::StoreError),
    #[error("the store has none for {0}")]
    Missing(String),
    #[error("it does not decode")]
    Decode(#[source] serde_json::Error),
}

/// What is needed of a container's images to make it.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    pub(super) image: Arc<Image>,
    /// By the position of the mount.
    pub(super) volumes: BTreeMap<usize, Arc<Image>>,
    /// What it is made from beside them.
    pub(super) checkpoint: Option<Restoring>,
}

impl Sources {
    /// Finds every image that the request names: from memory, but for a checkpoint.
    pub(super) async fn find(
        runtime: &Arc<Runtime>,
        config: &ContainerConfig,
    ) -> Result<Self, CreateError> {
        let checkpoint = Restoring::find(runtime, config).await.map_err(|source| {
            let image = config.image.image.clone();
            CreateError::Checkpoint { image, source }
        })?;
        let image = match &checkpoint {
            Some(checkpoint) => Arc::clone(&checkpoint.image),
            None => find(runtime, "config.image.image", &config.image)?,
        };
        let mut volumes = BTreeMap::new();
        for (index, mount) in config.mounts.iter().enumerate() {
            if let Some(spec) = &mount.image {
                let field = format!("config.mounts[{index}].image.image");
                volumes.insert(index, find(runtime, &field, spec)?);
            }
        }
        Ok(Self {
            image,
            volumes,
            checkpoint,
        })
    }

    /// Whether the policy for signatures lets all of them run in the pod's namespace.
    pub(super) async fn admit(
        &self,
        runtime: &Runtime,
        pod: &Pod,
        config: &ContainerConfig,
    ) -> Result<(), CreateError> {
        let mut all = vec![("config.image.image".to_owned(), &config.image, &self.image)];
        for (index, image) in &self.volumes {
            if let Some(spec) = &config.mounts[*index].image {
                all.push((format!("config.mounts[{index}].image.image"), spec, image));
            }
        }
        for (field, spec, image) in all {
            // The kubelet asks for an id, and tells the name that the pod has.
            let name = match spec.user_specified_image.as_str() {
                // A checkpoint's name is not its image's.
                _ if self.checkpoint.is_some() && Arc::ptr_eq(image, &self.image) => image.name(),
                "" => &spec.image,
                name => name,
            };
            let namespace = &pod.config.metadata.namespace;
            let admitted = runtime.images.admit(image, name, namespace).await;
            admitted.map_err(|source| CreateError::Signature {
                field,
                image: name.to_owned(),
                source,
            })?;
        }
        Ok(())
    }

    /// Makes the container's processes, which wait to be started. Returns the pid of its init.
    pub(super) async fn make(
        &self,
        runtime: &Arc<Runtime>,
        container: &Arc<Container>,
        link: &Arc<Link>,
        spec: &Spec,
        request: CreateContainer,
        descriptors: Vec<OwnedFd>,
    ) -> Result<i32, CreateError> {
        let id = || container.id.clone();
        if self.checkpoint.is_some() {
            let made = checkpoint::make(runtime, container, link, spec, request, descriptors).await;
            return made.map_err(|error| CreateError::Restore(id(), error));
        }
        let made = hooks::make(runtime, container, link, spec, request, descriptors).await;
        made.map_err(|error| match error {
            HookError::Supervisor(error) => CreateError::Supervisor(id(), error),
            error => CreateError::Hook(id(), error),
        })
    }

    pub(super) fn volume_ids(&self) -> BTreeMap<usize, String> {
        let volumes = self.volumes.iter();
        volumes
            .map(|(index, image)| (*index, image.id.clone()))
            .collect()
    }

    /// Keeps their layers until [`unpin`].
    pub(super) fn pin(&self, runtime: &Runtime, id: &ContainerId) -> Result<(), PinError> {
        runtime.images.pin(id.as_str(), &self.image.id)?;
        for (index, image) in &self.volumes {
            runtime.images.pin(&volume_pin(id, *index), &image.id)?;
        }
        Ok(())
    }

    /// Mounts what the container mounts of images, detached. Blocks.
    pub(super) fn mount_volumes(
        &self,
        runtime: &Runtime,
        container: &Container,
        mapping: Option<UserMapping<'_>>,
        label: Option<&str>,
    ) -> Result<Vec<(ImageTree, OwnedFd)>, CreateError> {
        let id = &container.id;
        let mut mounted = Vec::new();
        for (index, image) in &self.volumes {
            let mount = &container.config.mounts[*index];
            check_mappings(*index, container)
                .map_err(|error| CreateError::Spec(id.clone(), error))?;
            let tree = runtime
                .overlay
                .volume(&image.layers, &mount.image_sub_path, mapping, label)
                .map_err(|source| CreateError::ImageVolume {
                    id: id.clone(),
                    mount: *index,
                    image: image.id.clone(),
                    source,
                })?;
            let directory = runtime.records.container_directory(&container.pod.id, id);
            let path = directory.join("images").join(index.to_string());
            mounted.push((
                ImageTree {
                    mount: *index,
                    path,
                },
                tree,
            ));
        }
        Ok(mounted)
    }
}

/// An image's files belong to the pod's users, as those of its root file systems do; nothing else can be asked for.
fn check_mappings(index: usize, container: &Container) -> Result<(), SpecError> {
    let mount = &container.config.mounts[index];
    let pod: &PodConfig = &container.pod.config;
    let (uids, gids) = match pod.user_namespace() {
        Some(user) => (user.uids.as_slice(), user.gids.as_slice()),
        None => (&[][..], &[][..]),
    };
    let as_pod = mount.uid_mappings == uids && mount.gid_mappings == gids;
    if as_pod || mount.uid_mappings.is_empty() && mount.gid_mappings.is_empty() {
        return Ok(());
    }
    Err(SpecError::Field {
        field: format!("config.mounts[{index}].uidMappings"),
        value: "not those of the pod".to_owned(),
        remedy: "an image is mounted with the pod's mappings: give those, or none".to_owned(),
    })
}

fn find(runtime: &Runtime, field: &str, spec: &ImageSpec) -> Result<Arc<Image>, CreateError> {
    let image = &spec.image;
    let found = runtime.images.find(image);
    found
        .map_err(|source| CreateError::ImageName {
            field: field.to_owned(),
            image: image.clone(),
            source,
        })?
        .ok_or_else(|| CreateError::ImageMissing {
            field: field.to_owned(),
            image: image.clone(),
        })
}

/// What an image says of the containers made from it. Blocks.
pub(super) fn image_config(
    runtime: &Runtime,
    image: &Image,
) -> Result<oci_spec::image::ImageConfiguration, ImageConfigError> {
    let json = runtime.images.config_json(&image.id)?;
    let json = json.ok_or_else(|| ImageConfigError::Missing(image.id.clone()))?;
    serde_json::from_slice(&json).map_err(ImageConfigError::Decode)
}

/// Lets go of all of a container's images.
pub(super) fn unpin(runtime: &Runtime, container: &Container) -> Result<(), PinError> {
    for index in container.volume_images.keys() {
        runtime.images.unpin(&volume_pin(&container.id, *index))?;
    }
    runtime.images.unpin(container.id.as_str())
}

/// Ids hold no dot.
fn volume_pin(id: &ContainerId, mount: usize) -> String {
    format!("{id}.{mount}")
}

/// The id of the container that a pin is for.
pub(crate) fn pin_holder(pin: &str) -> &str {
    pin.split_once('.').map_or(pin, |(id, _)| id)
}
