//! Profiles of the node by name.

use std::{fs, os::unix::fs::symlink};

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
    let outside = tempfile::tempdir().unwrap();
    let directory = outside.path().join("seccomp");
    fs::create_dir_all(directory.join("sub")).unwrap();
    let profile = r#"{"defaultAction": "SCMP_ACT_LOG"}"#;
    fs::write(outside.path().join("secret.json"), profile).unwrap();
    fs::write(directory.join("sub/a.json"), profile).unwrap();
    fs::write(
        directory.join("bad.json"),
        r#"{"defaultAction": "SCMP_ACT_LOG", "archMap": [1]}"#,
    )
    .unwrap();
    let pipe = directory.join("pipe");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    symlink(directory.join("sub"), directory.join("operator")).unwrap();
    let profiles = SeccompProfiles::new(directory.clone());
    let read = |reference: &str| profiles.localhost(&container(reference));

    let absolute = directory.join("sub/a.json");
    for good in ["sub/a.json", absolute.to_str().unwrap(), "operator/a.json"] {
        assert!(read(good).unwrap().is_some(), "{good}");
    }
    let secret = outside.path().join("secret.json");
    let beside = format!("{}x/a.json", directory.display());
    let escapes = [
        "../secret.json",
        "sub/../../secret.json",
        secret.to_str().unwrap(),
        &beside,
        "/",
        "",
        ".",
    ];
    for escape in escapes {
        assert!(
            matches!(read(escape), Err(ProfileError::Outside { .. })),
            "{escape}"
        );
    }
    assert!(matches!(
        read("none.json"),
        Err(ProfileError::Missing { .. })
    ));
    assert!(matches!(
        read("pipe"),
        Err(ProfileError::NotAProfile { .. })
    ));
    assert!(matches!(read("sub"), Err(ProfileError::NotAProfile { .. })));
    assert!(matches!(read("bad.json"), Err(ProfileError::Parse { .. })));
    // Nothing to read for the others.
    assert_eq!(
        profiles.localhost(&ContainerConfig::default()).unwrap(),
        None
    );
}
