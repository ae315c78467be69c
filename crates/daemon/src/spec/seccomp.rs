//! Which seccomp profile a container has, and its compiled form.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};

use oci_spec::runtime::{LinuxSeccomp, Spec};
use seccomp::{Cache, CompileError};

use super::{SpecError, SpecInput, capabilities::Sets};
use crate::{container::config::ContainerConfig, pod::config::ProfileType};

const PATH: &str = "config.linux.security_context.seccomp";

/// Larger profiles are refused.
const BOUND: u64 = 1024 * 1024;

/// Profiles of the node, and programs that were compiled before.
#[derive(Debug)]
pub(crate) struct SeccompProfiles {
    directory: PathBuf,
    programs: Cache,
}

/// Why a profile of type `Localhost` cannot be used. INVALID_ARGUMENT, but for `Read`.
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
        source: io::Error,
    },
    #[error("{PATH}: {} is not a file of at most {BOUND} bytes", path.display())]
    NotAProfile { path: PathBuf },
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

    /// The profile that the container names, if it names one. Blocks on the directory's file system.
    pub(crate) fn localhost(
        &self,
        container: &ContainerConfig,
    ) -> Result<Option<LinuxSeccomp>, ProfileError> {
        let security = &container.linux.security_context;
        match &security.seccomp {
            Some(profile) if profile.profile_type == ProfileType::Localhost => {
                if security.privileged {
                    return Ok(None);
                }
                self.read(&profile.localhost_ref).map(Some)
            }
            Some(_) | None => Ok(None),
        }
    }

    /// The compiled form of `linux.seccomp`, from the cache where the same profile was compiled before.
    pub(crate) fn program(&self, spec: &Spec) -> Result<Option<oci_plan::Seccomp>, CompileError> {
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
            flags: program.flags,
        }))
    }

    fn read(&self, reference: &str) -> Result<LinuxSeccomp, ProfileError> {
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
        let bytes = read_bounded(&path)?;
        seccomp::parse(&bytes).map_err(|source| ProfileError::Parse { path, source })
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, ProfileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ProfileError::Missing {
            path: path.to_owned(),
        },
        _ => ProfileError::Read {
            path: path.to_owned(),
            source,
        },
    };
    // Without NONBLOCK, a pipe in the file's place would wait for a writer.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut options = OpenOptions::new();
    let file: File = options
        .read(true)
        .custom_flags(nonblock)
        .open(path)
        .map_err(failed)?;
    let not_a_profile = || ProfileError::NotAProfile {
        path: path.to_owned(),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(not_a_profile());
    }
    let mut bytes = Vec::new();
    file.take(BOUND + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > BOUND {
        return Err(not_a_profile());
    }
    Ok(bytes)
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
