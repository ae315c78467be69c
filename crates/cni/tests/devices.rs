//! The node's devices, lent to pods and taken back, with real links between real namespaces.

#![allow(clippy::unwrap_used)] // the lint's exemption ends at the helpers of tests

mod support;

use std::path::PathBuf;

use longshore_cni::devices::{lend, take_back};
use support::Net;

/// Of both ends that hurry to take a device back, each should be the first often enough.
const ROUNDS: usize = 30;

struct Site {
    node: Net,
    pod: Net,
}

impl Site {
    /// A node with the device `lent`: down, with an alias and two addresses.
    fn new() -> Site {
        let (node, pod) = (Net::new(), Net::new());
        node.sh("ip link add lent type veth peer name kept
             ip link set kept up
             ip link set lent alias 'the uplink'
             ip addr add 192.0.2.9/24 dev lent
             ip addr add 2001:db8::9/64 dev lent nodad");
        Site { node, pod }
    }

    fn netns(&self) -> PathBuf {
        PathBuf::from(self.pod.path())
    }

    fn lend(&self) {
        let lent = self.node.run(|| lend(&self.netns(), "lent", None, "c1"));
        lent.unwrap();
        let gone = self.node.sh("ip -o link show type veth");
        assert!(!gone.contains("lent"), "{gone}");
        let shown = self.pod.sh("ip addr show lent");
        for words in ["192.0.2.9/24", "2001:db8::9/64", ",UP"] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
    }

    fn take_back(&self) {
        self.node.run(|| take_back(&self.netns(), "c1").unwrap());
    }

    /// It is as it was, but for its name.
    fn back_as(&self, name: &str) {
        let both = format!("ip addr show {name}; ip link show {name}");
        let shown = self.node.sh(&both);
        for words in [
            "alias the uplink",
            "192.0.2.9/24",
            "2001:db8::9/64",
            "state DOWN",
        ] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
    }
}

#[test]
fn two_that_take_back_at_once_leave_it_its_addresses() {
    let site = Site::new();
    for _ in 0..ROUNDS {
        site.lend();
        // The end of a container, and that of its pod.
        std::thread::scope(|scope| {
            scope.spawn(|| site.take_back());
            scope.spawn(|| site.take_back());
        });
        site.back_as("lent");
    }
}

#[test]
fn a_name_that_is_taken_meanwhile_becomes_another_one() {
    let site = Site::new();
    site.lend();
    site.node.sh("ip link add lent type veth peer name other");
    site.take_back();
    let named = r"ip -o link | sed -n 's/^[0-9]*: \(dev[0-9]*\)@.*/\1/p'";
    let name = site.node.sh(named);
    site.back_as(name.trim());
    // There is nothing more to take.
    site.take_back();
    site.back_as(name.trim());
}

#[test]
fn what_is_another_s_stays_and_what_is_gone_is_no_error() {
    let site = Site::new();
    site.lend();
    site.node.run(|| take_back(&site.netns(), "c2").unwrap());
    let shown = site.pod.sh("ip addr show lent");
    assert!(shown.contains("192.0.2.9/24"), "{shown}");
    let directory = tempfile::TempDir::new().unwrap();
    let unpinned = directory.path().join("pod");
    site.node.run(|| take_back(&unpinned, "c1").unwrap());
    std::fs::write(&unpinned, "").unwrap();
    site.node.run(|| take_back(&unpinned, "c1").unwrap());
    site.take_back();
    site.back_as("lent");
}
