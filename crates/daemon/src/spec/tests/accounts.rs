//! The image's accounts are foreign bytes.

use std::{
    fs,
    os::{fd::AsFd, unix::fs::symlink},
};

use proptest::prelude::*;

use super::super::{Accounts, AccountsError, user};
use crate::container::config::ContainerSecurity;

#[test]
fn links_do_not_lead_out_of_the_root() {
    let root = tempfile::tempdir().unwrap();
    let etc = root.path().join("etc");
    fs::create_dir(&etc).unwrap();
    fs::create_dir(root.path().join("real")).unwrap();
    fs::write(
        root.path().join("real/passwd"),
        "inside:x:7:8::/home:/bin/sh\n",
    )
    .unwrap();
    // Absolute, and climbing: both mean the image's own root.
    symlink("/real/passwd", etc.join("passwd")).unwrap();
    symlink("../../../../real/passwd", etc.join("group")).unwrap();
    let accounts = read(root.path()).unwrap();
    assert_eq!(accounts.by_name("inside").unwrap().uid, 7);
    assert_eq!(accounts.group("inside").unwrap().gid, 7);
}

#[test]
fn what_is_no_file_is_refused_without_waiting() {
    let root = tempfile::tempdir().unwrap();
    let etc = root.path().join("etc");
    fs::create_dir(&etc).unwrap();
    assert_eq!(read(root.path()).unwrap(), Accounts::default());
    symlink("passwd", etc.join("passwd")).unwrap();
    assert_eq!(read(root.path()).unwrap(), Accounts::default());
    fs::remove_file(etc.join("passwd")).unwrap();

    let pipe = etc.join("passwd");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(matches!(
        read(root.path()),
        Err(AccountsError::NotAFile { file: "etc/passwd" })
    ));
    fs::remove_file(&pipe).unwrap();

    let large = fs::File::create(&pipe).unwrap();
    large.set_len(64 * 1024 * 1024).unwrap();
    assert!(matches!(
        read(root.path()),
        Err(AccountsError::TooLarge { file: "etc/passwd" })
    ));
}

fn read(root: &std::path::Path) -> Result<Accounts, AccountsError> {
    let directory = fs::File::open(root).unwrap();
    Accounts::read(directory.as_fd())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn looking_up_never_panics(
        passwd in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "([a-z0-9:,\n]|root|4294967296|-1){0,60}".prop_map(String::into_bytes),
        ],
        group in "([a-z0-9:,\n]|root){0,60}",
        image_user in "([a-z0-9:]|root|4294967295|99999999999){0,6}",
        username in "[a-z0-9]{0,4}",
        uid in prop::option::of(any::<u32>()),
    ) {
        let accounts = Accounts::parse(&passwd, group.as_bytes());
        let image = serde_json::from_value(serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {"User": image_user},
            "rootfs": {"type": "layers", "diff_ids": []},
        })).unwrap();
        let security = ContainerSecurity {
            run_as_user: uid,
            run_as_username: if uid.is_some() { String::new() } else { username },
            ..ContainerSecurity::default()
        };
        if let Ok(user) = user::resolve(&security, &image, &accounts) {
            prop_assert!(user.groups.contains(&user.gid));
            prop_assert!(user.groups.is_sorted_by(|a, b| a < b));
            prop_assert!(!user.home.is_empty());
        }
    }
}
