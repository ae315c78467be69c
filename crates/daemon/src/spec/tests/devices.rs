//! Nodes that were found, as a container gets them.

use std::path::Path;

use supervisor_api::DeviceNode;

use super::super::{device_paths, devices};
use crate::container::config::{ContainerConfig, Device};

fn node(below: &str) -> DeviceNode {
    DeviceNode {
        below: below.to_owned(),
        block: false,
        major: 1,
        minor: 3,
        mode: 0o640,
        uid: 0,
        gid: 0,
    }
}

fn requested(host: &str, container: &str, permissions: &str) -> Device {
    Device {
        container_path: container.to_owned(),
        host_path: host.to_owned(),
        permissions: permissions.to_owned(),
    }
}

#[test]
fn a_node_and_a_directory_of_them() {
    let container = ContainerConfig {
        devices: vec![
            requested("/srv/node", "/dev/../dev//x", "r"),
            requested("/srv/all", "", ""),
            requested("/srv/all", "/dev/all", "rw"),
        ],
        ..ContainerConfig::default()
    };
    let looked_at = device_paths(&container);
    assert_eq!(
        looked_at,
        ["/srv/node", "/srv/all", "/srv/all"].map(Path::new)
    );
    let directory = vec![node("/b"), node("/sub/a")];
    let found = vec![vec![node("")], directory.clone(), directory];
    let shown: Vec<_> = devices(&container, found)
        .into_iter()
        .map(|device| (device.path, device.permissions))
        .collect();
    let expected = [
        ("/dev/x", "r"),
        ("/srv/all/b", "rwm"),
        ("/srv/all/sub/a", "rwm"),
        ("/dev/all/b", "rw"),
        ("/dev/all/sub/a", "rw"),
    ];
    assert_eq!(
        shown,
        expected.map(|(path, words)| (path.to_owned(), words.to_owned()))
    );
}

#[test]
fn the_nodes_own_for_the_privileged() {
    let mut container = ContainerConfig::default();
    container.linux.security_context.privileged = true;
    container.devices = vec![requested("/srv/node", "", "")];
    assert_eq!(
        device_paths(&container),
        ["/dev", "/srv/node"].map(Path::new)
    );
    let own = ["/null", "/tty", "/ptmx", "/console", "/input/tty"].map(node);
    let found = devices(&container, vec![own.to_vec(), vec![node("")]]);
    let paths: Vec<_> = found.iter().map(|device| device.path.as_str()).collect();
    assert_eq!(paths, ["/dev/null", "/dev/input/tty", "/srv/node"]);
}
