//! Real nodes, in a directory of the test's own.

use std::{fs, os::unix::fs::symlink, path::Path};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::super::{DeviceError, host_devices, requested_devices};
use crate::container::config::Device;

fn device(host: &Path, container: &str, permissions: &str) -> Device {
    Device {
        container_path: container.to_owned(),
        host_path: host.to_str().unwrap().to_owned(),
        permissions: permissions.to_owned(),
    }
}

fn node(path: &Path, kind: FileType, major: u32, minor: u32) {
    mknodat(
        CWD,
        path,
        kind,
        Mode::from_raw_mode(0o640),
        makedev(major, minor),
    )
    .unwrap();
}

#[test]
fn a_node_a_link_to_it_and_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir_all(root.join("sub/pts")).unwrap();
    node(&root.join("b"), FileType::BlockDevice, 7, 300);
    node(&root.join("sub/a"), FileType::CharacterDevice, 1, 3);
    // None of these is a device.
    node(&root.join("sub/pts/0"), FileType::CharacterDevice, 136, 0);
    node(&root.join("pipe"), FileType::Fifo, 0, 0);
    fs::write(root.join("file"), "").unwrap();
    symlink(root.join("b"), root.join("link")).unwrap();

    let found = requested_devices(&[
        device(&root.join("link"), "/dev/../dev//x", "r"),
        device(root, "/dev/all", ""),
    ])
    .unwrap();
    let shown: Vec<_> = found
        .iter()
        .map(|d| {
            (
                d.path.as_str(),
                d.block,
                d.major,
                d.minor,
                d.mode,
                d.permissions.as_str(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("/dev/x", true, 7, 300, 0o640, "r"),
            ("/dev/all/b", true, 7, 300, 0o640, "rwm"),
            ("/dev/all/sub/a", false, 1, 3, 0o640, "rwm"),
        ]
    );
}

#[test]
fn what_is_no_device() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = requested_devices(&[device(&file, "", "")]).unwrap_err();
    assert!(matches!(refused, DeviceError::NotADevice { path } if path == file));
    let missing = directory.path().join("missing");
    let refused = requested_devices(&[device(&missing, "", "")]).unwrap_err();
    assert!(matches!(refused, DeviceError::Look { path, .. } if path == missing));
    let mut deep = directory.path().to_owned();
    (0..12).for_each(|_| deep.push("d"));
    fs::create_dir_all(&deep).unwrap();
    let refused = requested_devices(&[device(directory.path(), "", "")]).unwrap_err();
    assert!(matches!(refused, DeviceError::TooDeep { .. }));
}

#[test]
fn the_nodes_own() {
    let found = host_devices().unwrap();
    let null = found
        .iter()
        .find(|device| device.path == "/dev/null")
        .unwrap();
    assert_eq!((null.block, null.major, null.minor), (false, 1, 3));
    let kept = |path: &str| found.iter().any(|device| device.path == path);
    assert!(!kept("/dev/ptmx") && !kept("/dev/console") && !kept("/dev/tty"));
    assert!(
        !found
            .iter()
            .any(|device| device.path.starts_with("/dev/pts/"))
    );
}
