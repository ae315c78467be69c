//! Which seccomp profile a container has, and its compiled form.

use std::{
    io,
    path::{Component, PathBuf},
};

use oci_spec::runtime::{LinuxSeccomp, Spec};
use seccomp::{Cache, CompileError};

use super::{SpecError, SpecInput, annotations, capabilities::Sets};
use crate::{
    container::config::ContainerConfig,
    paths::{PathError, Paths},
    pod::config::{PodConfig, ProfileType, SecurityProfile},
};

const PATH: &str = "config.linux.security_context.seccomp";

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`: the supervisor tells of denied calls.
const TELL: u32 = 1 << 3;

/// Larger profiles are refused.
const MOST_BYTES: u64 = 1024 * 1024;

/// Profiles of the node, and programs that were compiled before.
#[derive(Debug)]
pub(crate) struct SeccompProfiles {
    directory: PathBuf,
    programs: Cache,
}

/// Why a profile of type `Localhost` cannot be used. INVALID_ARGUMENT, but for `Read`, whose source says what it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("{PATH}: {}: not below the profile directory {}", path.display(), directory.display())]
    Outside { path: PathBuf, directory: PathBuf },
    #[error("{PATH}: there is no profile {}", path.display())]
    Missing { path: PathBuf },
    #[error("{PATH}: read profile {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: PathError,
    },
    #[error("{PATH}: profile {}", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: seccomp::ParseError,
    },
}

impl SeccompProfiles {
    /// `directory` is the kubelet's, whose profiles requests name by absolute or relative path.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            programs: Cache::default(),
        }
    }

    /// The profile that the container names, if it names one.
    pub(crate) async fn localhost(
        &self,
        paths: &Paths,
        container: &ContainerConfig,
    ) -> Result<Option<LinuxSeccomp>, ProfileError> {
        let path = self.path(container)?;
        self.read(paths, path).await
    }

    /// Whether what the pod names is a profile. A pod has no process of its own to confine by it, but who asks for a profile that is not
    /// there is mistaken.
    pub(crate) async fn check_pod(
        &self,
        paths: &Paths,
        pod: &PodConfig,
    ) -> Result<(), ProfileError> {
        let security = &pod.linux.security_context;
        let path = self.named(security.seccomp.as_ref(), security.privileged)?;
        self.read(paths, path).await.map(drop)
    }

    async fn read(
        &self,
        paths: &Paths,
        path: Option<PathBuf>,
    ) -> Result<Option<LinuxSeccomp>, ProfileError> {
        let Some(path) = path else {
            return Ok(None);
        };
        match paths.text(&path, MOST_BYTES).await {
            Ok(text) => seccomp::parse(&text)
                .map(Some)
                .map_err(|source| ProfileError::Parse { path, source }),
            Err(PathError::System(error)) if error.kind() == io::ErrorKind::NotFound => {
                Err(ProfileError::Missing { path })
            }
            Err(source) => Err(ProfileError::Read { path, source }),
        }
    }

    /// Where the profile is that the container names.
    pub(super) fn path(
        &self,
        container: &ContainerConfig,
    ) -> Result<Option<PathBuf>, ProfileError> {
        let security = &container.linux.security_context;
        self.named(security.seccomp.as_ref(), security.privileged)
    }

    fn named(
        &self,
        profile: Option<&SecurityProfile>,
        privileged: bool,
    ) -> Result<Option<PathBuf>, ProfileError> {
        match profile {
            Some(profile) if profile.profile_type == ProfileType::Localhost => match privileged {
                true => Ok(None),
                false => self.below(&profile.localhost_ref).map(Some),
            },
            Some(_) | None => Ok(None),
        }
    }

    /// The compiled form of `linux.seccomp`, from the cache where the same profile was compiled before. Where the pod has a notifier, denied calls
    /// are told.
    pub(crate) fn program(
        &self,
        spec: &Spec,
        pod: &PodConfig,
    ) -> Result<Option<oci_plan::Seccomp>, CompileError> {
        let profile = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.seccomp().as_ref());
        let Some(profile) = profile else {
            return Ok(None);
        };
        let program = self.programs.compile(profile)?;
        Ok(Some(oci_plan::Seccomp {
            program: program.instructions.clone(),
            flags: match annotations::notifier(pod) {
                Ok(None) => program.flags,
                // What is wrong with it was said when the pod was run.
                Ok(Some(_)) | Err(_) => program.flags | TELL,
            },
        }))
    }

    fn below(&self, reference: &str) -> Result<PathBuf, ProfileError> {
        let path = self.directory.join(reference);
        let outside = || ProfileError::Outside {
            path: path.clone(),
            directory: self.directory.clone(),
        };
        // By its parts alone: links below the directory are the node's owner's, and operators of profiles make them.
        let below = path.strip_prefix(&self.directory).map_err(|_| outside())?;
        let mut parts = below.components();
        if parts.next().is_none()
            || below
                .components()
                .any(|part| !matches!(part, Component::Normal(_)))
        {
            return Err(outside());
        }
        Ok(path)
    }
}

/// `linux.seccomp`: none for a privileged container, and none where nothing is asked for, as on the peers.
pub(super) fn profile(
    input: &SpecInput<'_>,
    capabilities: &Sets,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    let security = &input.container.linux.security_context;
    if security.privileged {
        return Ok(None);
    }
    let profile = security.seccomp.as_ref();
    match profile.map(|profile| profile.profile_type) {
        None | Some(ProfileType::Unconfined) => Ok(None),
        Some(ProfileType::RuntimeDefault) => {
            Ok(Some(seccomp::default_profile(capabilities.bounding)))
        }
        Some(ProfileType::Localhost) => match &input.localhost_seccomp {
            Some(profile) => Ok(Some(profile.clone())),
            None => Err(SpecError::field(
                PATH,
                "Localhost",
                "the profile was not read",
            )),
        },
    }
}
