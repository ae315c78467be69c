//! From what a client asks (a checked [`ContainerConfig`]) to an OCI runtime specification, complete enough for any OCI runtime.
//!
//! What has to be looked up is looked up first, by the caller, because it may block: the image's [`Accounts`], the node's
//! [`HostDevice`]s, a localhost [`SeccompProfiles`] file, and once the [`Host`]'s abilities. [`container_spec`] itself is pure.

mod accounts;
mod annotations;
mod apparmor;
mod capabilities;
mod classes;
mod devices;
mod error;
mod host;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod seccomp;
mod selinux;
mod signal;
mod sysctl;
#[cfg(test)]
mod tests;
mod user;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

pub(crate) use accounts::{Accounts, AccountsError};
pub(crate) use annotations::{Notifier, check_handler, notifier};
pub(crate) use apparmor::{AppArmor, AppArmorError};
pub(crate) use classes::{ClassAsked, ClassesAsked, ClassesFound, classes_asked};
pub(crate) use devices::{HostDevice, device_paths, devices};
pub(crate) use error::SpecError;
pub(crate) use host::Host;
pub(crate) use mounts::{ImageTree, Volume, image_volumes};
pub(crate) use namespaces::{NamespacePaths, check_pod};
use oci_spec::{
    image::ImageConfiguration,
    runtime::{Linux, LinuxSeccomp, Root, Spec},
};
pub(crate) use resources::change_resources;
pub(crate) use seccomp::{ProfileError, SeccompProfiles};
pub(crate) use selinux::files_label;
pub(crate) use signal::Signal;
pub(crate) use sysctl::{SysctlDefaults, pod_sysctls};
pub(crate) use user::User;

use crate::{container::config::ContainerConfig, pod::config::PodConfig, selinux::PodLabels};

/// The version of the runtime specification that we write.
const VERSION: &str = "1.2.0";

/// Everything that a container's specification is made from.
#[derive(Debug, Clone)]
pub(crate) struct SpecInput<'a> {
    pub(crate) sandbox_id: &'a str,
    pub(crate) pod: &'a PodConfig,
    pub(crate) container: &'a ContainerConfig,
    pub(crate) image: &'a ImageConfiguration,
    pub(crate) accounts: &'a Accounts,
    /// Where the root file system is, or would be, mounted: shown to operators and read by external runtimes.
    pub(crate) root: &'a Path,
    pub(crate) files: Files<'a>,
    /// What the pod is called inside.
    pub(crate) hostname: &'a str,
    /// Directories of the node for the image's volumes, one for each of [`image_volumes`].
    pub(crate) volumes: &'a [Volume],
    /// One for each mount of an image.
    pub(crate) image_trees: &'a [ImageTree],
    /// Of [`devices()`].
    pub(crate) devices: &'a [HostDevice],
    pub(crate) namespaces: &'a NamespacePaths,
    /// Of a seccomp profile of type `Localhost`, which [`SeccompProfiles::localhost`] reads.
    pub(crate) localhost_seccomp: Option<LinuxSeccomp>,
    /// What the classes are that [`classes_asked`] names.
    pub(crate) classes: &'a ClassesFound,
    pub(crate) cgroups_path: &'a str,
    pub(crate) host: &'a Host,
    /// The pod's SELinux labels, where it has some.
    pub(crate) labels: Option<&'a PodLabels>,
}

/// The pod's generated files on the node. `None` is not mounted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Files<'a> {
    pub(crate) hosts: Option<&'a Path>,
    pub(crate) hostname: Option<&'a Path>,
    pub(crate) resolv_conf: Option<&'a Path>,
    /// The pod's shared memory; the node's where the pod is in the node's IPC namespace.
    pub(crate) shm: Option<&'a Path>,
}

/// A container's specification, and who it runs as.
#[derive(Debug, Clone)]
pub(crate) struct ContainerSpec {
    pub(crate) spec: Spec,
    pub(crate) user: User,
}

pub(crate) fn container_spec(input: SpecInput<'_>) -> Result<ContainerSpec, SpecError> {
    let security = &input.container.linux.security_context;
    if security.privileged && !input.pod.linux.security_context.privileged {
        return Err(SpecError::PrivilegedInPlainPod);
    }
    annotations::check(&input.container.annotations)?;
    let labels = selinux::labels(&input)?;
    let user = user::resolve(security, input.image, input.accounts)?;
    let capabilities = capabilities::resolve(security, input.host.capabilities)?;
    let process = process::process(&input, &user, &capabilities, labels.process)?;
    let namespaces = namespaces::resolve(&input)?;
    let mounts = mounts::mounts(&input, &namespaces)?;
    let privileged = security.privileged;

    let mut linux = Linux::default();
    linux
        .set_uid_mappings(namespaces.uid_mappings())
        .set_gid_mappings(namespaces.gid_mappings())
        .set_sysctl(None)
        .set_resources(Some(resources::container_resources(&input)?))
        .set_cgroups_path(Some(PathBuf::from(input.cgroups_path)))
        .set_namespaces(Some(namespaces.list()))
        .set_devices(devices::nodes(input.devices))
        .set_intel_rdt(input.classes.rdt.clone())
        .set_seccomp(seccomp::profile(&input, &capabilities)?)
        .set_mount_label(labels.files.map(String::from))
        .set_rootfs_propagation(mounts.rootfs_propagation.map(str::to_owned))
        // Exactly what is asked: kubelets send the field's usual lists, and an empty one asks for none.
        .set_masked_paths(if privileged {
            None
        } else {
            paths(&security.masked_paths)
        })
        .set_readonly_paths(if privileged {
            None
        } else {
            paths(&security.readonly_paths)
        });

    let mut root = Root::default();
    root.set_path(input.root.to_owned())
        .set_readonly(Some(security.readonly_rootfs));

    let mut spec = Spec::default();
    spec.set_version(VERSION.to_owned())
        .set_root(Some(root))
        .set_mounts(Some(mounts.list))
        .set_process(Some(process))
        .set_hostname(None)
        .set_domainname(None)
        .set_hooks(None)
        .set_annotations(Some(peers_annotations(&input)))
        .set_linux(Some(linux));
    Ok(ContainerSpec { spec, user })
}

fn paths(given: &[String]) -> Option<Vec<String>> {
    (!given.is_empty()).then(|| given.to_vec())
}

/// The peers' annotations, which external runtimes and tools on the node go by.
fn peers_annotations(input: &SpecInput<'_>) -> HashMap<String, String> {
    let pod = &input.pod.metadata;
    let image = &input.container.image;
    let image_name = if image.user_specified_image.is_empty() {
        &image.image
    } else {
        &image.user_specified_image
    };
    let named = [
        ("container-type", "container"),
        ("sandbox-id", input.sandbox_id),
        ("sandbox-name", &pod.name),
        ("sandbox-namespace", &pod.namespace),
        ("sandbox-uid", &pod.uid),
        ("container-name", &input.container.metadata.name),
        ("image-name", image_name),
    ];
    let named = named.into_iter();
    named
        .map(|(name, value)| (format!("io.kubernetes.cri.{name}"), value.to_owned()))
        .collect()
}
