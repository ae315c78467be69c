//! Profiles of the node by name.

use std::path::{Path, PathBuf};

use super::super::{ProfileError, SeccompProfiles};
use crate::{
    container::config::ContainerConfig,
    pod::config::{ProfileType, SecurityProfile},
};

fn container(reference: &str) -> ContainerConfig {
    let mut container = ContainerConfig::default();
    container.linux.security_context.seccomp = Some(SecurityProfile {
        profile_type: ProfileType::Localhost,
        localhost_ref: reference.to_owned(),
    });
    container
}

#[test]
fn only_below_the_directory() {
    let directory = PathBuf::from("/var/lib/kubelet/seccomp");
    let profiles = SeccompProfiles::new(directory.clone());
    let path = |reference: &str| profiles.path(&container(reference));
    let absolute = directory.join("sub/a.json");
    for good in ["sub/a.json", absolute.to_str().unwrap()] {
        assert_eq!(
            path(good).unwrap().as_deref(),
            Some(absolute.as_path()),
            "{good}"
        );
    }
    let escapes = [
        "../secret.json",
        "sub/../../secret.json",
        "/etc/secret.json",
        "/var/lib/kubelet/seccompx/a.json",
        "/",
        "",
        ".",
    ];
    for escape in escapes {
        let refused = path(escape).unwrap_err();
        assert!(matches!(refused, ProfileError::Outside { .. }), "{escape}");
    }
    // Nothing to read for the others.
    assert_eq!(
        profiles.path(&ContainerConfig::default()).unwrap(),
        None::<&Path>.map(Path::to_owned)
    );
}
