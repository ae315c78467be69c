//! `ContainerConfig` and `ImageSpec`.

use cri::v1;

use super::{
    field::{
        InvalidField, absolute_path, ids, invalid, missing, name, no_climbing, number, optional_id,
        optional_path, text, texts,
    },
    linux::{
        Deprecated, Owner, apparmor_profile, id_mappings, namespace_options, profile, resources,
        selinux_options,
    },
};
use crate::{
    container::config::{
        CapabilityChanges, CdiDevice, ContainerConfig, ContainerLinux, ContainerMetadata,
        ContainerSecurity, Device, ImageSpec, KeyValue, Mount, MountPropagation,
    },
    spec::Signal,
};

/// A `ContainerConfig` that stands at `path` (`config` in CreateContainer).
pub(crate) fn container_config(
    path: &str,
    config: v1::ContainerConfig,
) -> Result<ContainerConfig, InvalidField> {
    let at = |field: &str| format!("{path}.{field}");
    if config.windows.is_some() {
        return Err(invalid(&at("windows"), "set", "this is a Linux node"));
    }
    let metadata = config
        .metadata
        .ok_or_else(|| missing(&at("metadata"), "give the container's name"))?;
    let image = config
        .image
        .ok_or_else(|| missing(&at("image"), "name the image to run"))?;
    let stop_signal = match config.stop_signal {
        0 => None,
        signal => Some(Signal::from_cri_number(signal).map_err(|_| {
            invalid(
                &at("stop_signal"),
                signal,
                "use a signal that CRI v1 defines",
            )
        })?),
    };
    Ok(ContainerConfig {
        metadata: ContainerMetadata {
            name: name(&at("metadata.name"), metadata.name)?,
            attempt: metadata.attempt,
        },
        image: image_spec(&at("image"), image)?,
        command: texts(&at("command"), config.command)?,
        args: texts(&at("args"), config.args)?,
        working_dir: optional_path(&at("working_dir"), config.working_dir)?,
        envs: envs(&at("envs"), config.envs)?,
        mounts: mounts(&at("mounts"), config.mounts)?,
        devices: devices(&at("devices"), config.devices)?,
        cdi_devices: cdi_devices(&at("CDI_devices"), config.cdi_devices)?,
        labels: config.labels,
        annotations: config.annotations,
        log_path: no_climbing(&at("log_path"), config.log_path)?,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        linux: linux(&at("linux"), config.linux.unwrap_or_default())?,
        stop_signal,
        checkpoint: None,
    })
}

/// An `ImageSpec` that stands at `path`.
fn image_spec(path: &str, spec: v1::ImageSpec) -> Result<ImageSpec, InvalidField> {
    let field = format!("{path}.image");
    if spec.image.is_empty() {
        return Err(missing(&field, "name an image by name, digest or id"));
    }
    Ok(ImageSpec {
        image: name(&field, spec.image)?,
        annotations: spec.annotations,
        user_specified_image: spec.user_specified_image,
        runtime_handler: spec.runtime_handler,
        image_ref: spec.image_ref,
    })
}

fn envs(path: &str, envs: Vec<v1::KeyValue>) -> Result<Vec<KeyValue>, InvalidField> {
    let checked = envs.into_iter().enumerate().map(|(index, env)| {
        let field = format!("{path}[{index}]");
        let key = text(&format!("{field}.key"), env.key)?;
        if key.is_empty() || key.contains('=') {
            return Err(invalid(
                &format!("{field}.key"),
                format_args!("{key:?}"),
                "use a name without '='",
            ));
        }
        let value = String::from_utf8(env.value).map_err(|refused| {
            let at = refused.utf8_error().valid_up_to();
            invalid(
                &format!("{field}.value"),
                format_args!("variable {key:?}, not UTF-8 at byte {at}"),
                "values that are not UTF-8 are not supported by this runtime; encode the value",
            )
        })?;
        Ok(KeyValue {
            value: text(&format!("{field}.value"), value)?,
            key,
        })
    });
    checked.collect()
}

fn cdi_devices(path: &str, given: Vec<v1::CdiDevice>) -> Result<Vec<CdiDevice>, InvalidField> {
    let named = given.into_iter().enumerate().map(|(index, device)| {
        let name = name(&format!("{path}[{index}].name"), device.name)?;
        Ok(CdiDevice { name })
    });
    named.collect()
}

fn mounts(path: &str, mounts: Vec<v1::Mount>) -> Result<Vec<Mount>, InvalidField> {
    let checked = mounts.into_iter().enumerate();
    checked
        .map(|(index, given)| mount(&format!("{path}[{index}]"), given))
        .collect()
}

fn mount(path: &str, mount: v1::Mount) -> Result<Mount, InvalidField> {
    let at = |field: &str| format!("{path}.{field}");
    let propagation = number(&at("propagation"), mount.propagation)?;
    let image = match mount.image {
        Some(image) => Some(volume_image(path, image, mount.readonly, propagation)?),
        None => None,
    };
    let host_path = match &image {
        None => host_path(&at("host_path"), mount.host_path)?,
        Some(_) if mount.host_path.is_empty() => String::new(),
        Some(_) => {
            return Err(invalid(
                &at("host_path"),
                format_args!("{:?}", mount.host_path),
                "a mount has a host_path or an image, not both",
            ));
        }
    };
    for (index, option) in mount.mount_options.iter().enumerate() {
        if !MOUNT_OPTIONS.contains(&option.as_str()) {
            return Err(invalid(
                &at(&format!("mount_options[{index}]")),
                format_args!("{option:?}"),
                format!("use some of {}", MOUNT_OPTIONS.join(", ")),
            ));
        }
    }
    if mount.recursive_read_only && !mount.readonly {
        return Err(invalid(
            &at("recursive_read_only"),
            "true",
            "CRI allows it only where readonly is true",
        ));
    }
    if mount.recursive_read_only && propagation != MountPropagation::Private {
        return Err(invalid(
            &at("recursive_read_only"),
            "true",
            "CRI allows it only with PROPAGATION_PRIVATE",
        ));
    }
    let uid_mappings = id_mappings(&at("uidMappings"), mount.uid_mappings)?;
    let gid_mappings = id_mappings(&at("gidMappings"), mount.gid_mappings)?;
    for (field, of, other) in [
        ("uidMappings", &uid_mappings, &gid_mappings),
        ("gidMappings", &gid_mappings, &uid_mappings),
    ] {
        if of.is_empty() && !other.is_empty() {
            return Err(missing(
                &at(field),
                "map both uids and gids of a mount, or neither",
            ));
        }
    }
    Ok(Mount {
        container_path: container_path(&at("container_path"), mount.container_path)?,
        host_path,
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation,
        uid_mappings,
        gid_mappings,
        recursive_read_only: mount.recursive_read_only,
        image_sub_path: sub_path(&at("image_sub_path"), mount.image_sub_path, image.is_some())?,
        image,
        mount_options: mount.mount_options,
    })
}

/// What restricts a mount; nothing here lifts what its source restricts.
const MOUNT_OPTIONS: [&str; 9] = [
    "ro",
    "nosuid",
    "nodev",
    "noexec",
    "nosymfollow",
    "noatime",
    "nodiratime",
    "relatime",
    "strictatime",
];

/// Whatever is mounted of an image is read-only, and nothing can be mounted below it for it to pass on.
fn volume_image(
    path: &str,
    image: v1::ImageSpec,
    readonly: bool,
    propagation: MountPropagation,
) -> Result<ImageSpec, InvalidField> {
    if !readonly {
        return Err(invalid(
            &format!("{path}.readonly"),
            "false",
            "an image is mounted read-only: set it",
        ));
    }
    if propagation != MountPropagation::Private {
        return Err(invalid(
            &format!("{path}.propagation"),
            format_args!("{propagation:?}"),
            "an image is mounted with PROPAGATION_PRIVATE",
        ));
    }
    image_spec(&format!("{path}.image"), image)
}

fn sub_path(field: &str, value: String, of_image: bool) -> Result<String, InvalidField> {
    if value.is_empty() {
        return Ok(value);
    }
    if !of_image {
        return Err(invalid(
            field,
            format_args!("{value:?}"),
            "it is only for a mount with an image",
        ));
    }
    if value.starts_with('/') {
        return Err(invalid(
            field,
            format_args!("{value:?}"),
            "name a directory relative to the image's root",
        ));
    }
    no_climbing(field, value)
}

fn host_path(field: &str, path: String) -> Result<String, InvalidField> {
    if path.is_empty() {
        return Err(missing(field, "name a path of this node"));
    }
    absolute_path(field, path)
}

/// Clients write relative ones too (`etc/config`), and mean them from the root. They never climb out of it; a path that
/// is the root itself would hide the image.
fn container_path(field: &str, path: String) -> Result<String, InvalidField> {
    let path = text(field, path)?;
    let root = path
        .split('/')
        .all(|part| part.is_empty() || part == "." || part == "..");
    if root {
        return Err(invalid(
            field,
            format_args!("{path:?}"),
            "name a path below the container's root",
        ));
    }
    if path.starts_with('/') {
        return absolute_path(field, path);
    }
    no_climbing(field, path)
}

fn devices(path: &str, devices: Vec<v1::Device>) -> Result<Vec<Device>, InvalidField> {
    let checked = devices.into_iter().enumerate().map(|(index, device)| {
        let at = |field: &str| format!("{path}[{index}].{field}");
        let permissions = device.permissions;
        let repeated = permissions
            .char_indices()
            .any(|(at, c)| permissions[..at].contains(c));
        if repeated || permissions.chars().any(|c| !"rwm".contains(c)) {
            return Err(invalid(
                &at("permissions"),
                format_args!("{permissions:?}"),
                "use some of r, w and m, each once",
            ));
        }
        Ok(Device {
            container_path: no_climbing(
                &at("container_path"),
                optional_path(&at("container_path"), device.container_path)?,
            )?,
            host_path: host_path(&at("host_path"), device.host_path)?,
            permissions,
        })
    });
    checked.collect()
}

fn linux(path: &str, linux: v1::LinuxContainerConfig) -> Result<ContainerLinux, InvalidField> {
    Ok(ContainerLinux {
        resources: resources(
            &format!("{path}.resources"),
            linux.resources.unwrap_or_default(),
        )?,
        security_context: security(
            &format!("{path}.security_context"),
            linux.security_context.unwrap_or_default(),
        )?,
    })
}

fn security(
    path: &str,
    security: v1::LinuxContainerSecurityContext,
) -> Result<ContainerSecurity, InvalidField> {
    let at = |field: &str| format!("{path}.{field}");
    let run_as_user = optional_id(&at("run_as_user"), security.run_as_user)?;
    let run_as_username = user_name(&at("run_as_username"), security.run_as_username)?;
    let run_as_group = optional_id(&at("run_as_group"), security.run_as_group)?;
    if run_as_user.is_some() && !run_as_username.is_empty() {
        return Err(invalid(
            &at("run_as_username"),
            format_args!("{run_as_username:?}"),
            "set run_as_user or run_as_username, not both",
        ));
    }
    if run_as_group.is_some() && run_as_user.is_none() && run_as_username.is_empty() {
        return Err(invalid(
            &at("run_as_group"),
            "set without a user",
            "set run_as_user or run_as_username as well",
        ));
    }
    let capabilities = security.capabilities.unwrap_or_default();
    #[allow(deprecated)]
    let (deprecated_seccomp, deprecated_apparmor) =
        (security.seccomp_profile_path, security.apparmor_profile);
    Ok(ContainerSecurity {
        capabilities: CapabilityChanges {
            add_capabilities: texts(
                &at("capabilities.add_capabilities"),
                capabilities.add_capabilities,
            )?,
            drop_capabilities: texts(
                &at("capabilities.drop_capabilities"),
                capabilities.drop_capabilities,
            )?,
            add_ambient_capabilities: texts(
                &at("capabilities.add_ambient_capabilities"),
                capabilities.add_ambient_capabilities,
            )?,
        },
        privileged: security.privileged,
        namespace_options: namespace_options(
            &at("namespace_options"),
            security.namespace_options,
            Owner::Container,
        )?,
        selinux_options: selinux_options(&at("selinux_options"), security.selinux_options)?,
        run_as_user,
        run_as_username,
        run_as_group,
        readonly_rootfs: security.readonly_rootfs,
        supplemental_groups: ids(&at("supplemental_groups"), security.supplemental_groups)?,
        supplemental_groups_policy: number(
            &at("supplemental_groups_policy"),
            security.supplemental_groups_policy,
        )?,
        no_new_privs: security.no_new_privs,
        masked_paths: absolute_paths(&at("masked_paths"), security.masked_paths)?,
        readonly_paths: absolute_paths(&at("readonly_paths"), security.readonly_paths)?,
        seccomp: profile(
            &at("seccomp"),
            security.seccomp,
            Deprecated {
                field: &at("seccomp_profile_path"),
                value: &deprecated_seccomp,
            },
        )?,
        apparmor: apparmor_profile(
            &at("apparmor"),
            security.apparmor,
            Deprecated {
                field: &at("apparmor_profile"),
                value: &deprecated_apparmor,
            },
        )?,
    })
}

/// A field of /etc/passwd: a colon or a line end could never match.
fn user_name(field: &str, value: String) -> Result<String, InvalidField> {
    if value.chars().any(|c| c == ':' || c.is_control()) {
        return Err(invalid(
            field,
            format_args!("{value:?}"),
            "name a user of the image's /etc/passwd",
        ));
    }
    Ok(value)
}

fn absolute_paths(field: &str, paths: Vec<String>) -> Result<Vec<String>, InvalidField> {
    let checked = paths.into_iter().enumerate();
    checked
        .map(|(index, path)| absolute_path(&format!("{field}[{index}]"), path))
        .collect()
}
