//! Attach interrupted after every step: by a failure, which undoes everything at once, and by the death of the daemon, after which
//! `collect` or a retry does.

#![allow(clippy::unwrap_used)] // the lint's exemption ends at the helpers of tests

#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;

use super::error::StepError;
use super::failpoint::{FAILED, Failpoint, KILLED};
use super::work::{Step, lock};
use super::{AttachError, Attachment, Bridge, BridgeConfig, PortMapping, Protocol};
use support::{Net, Site};

const STEPS: [Step; 5] = [
    Step::Recorded,
    Step::Prepared,
    Step::Linked,
    Step::Configured,
    Step::Mapped,
];

const PORT: PortMapping = PortMapping {
    protocol: Protocol::Tcp,
    container_port: 80,
    host_port: 8080,
    host_ip: None,
};

fn open(site: &Site) -> Bridge {
    let config = BridgeConfig {
        state_dir: site.state.path().to_owned(),
        ..BridgeConfig::default()
    };
    site.node.block_on(Bridge::open(config)).unwrap()
}

fn stop(bridge: &Bridge, failpoint: Option<(Step, &'static str)>) {
    *lock(&bridge.work.failpoint) = failpoint.map(|(after, how)| Failpoint { after, how });
}

fn attach(site: &Site, bridge: &Bridge, pod: &Net) -> Result<Attachment, AttachError> {
    let attaching = bridge.attach("one", pod.descriptor(), &[PORT]);
    site.node.block_on(attaching)
}

fn detach(site: &Site, bridge: &Bridge, id: &str) {
    site.node.block_on(async {
        bridge.detach(id).await.unwrap();
        bridge.settled().await;
    });
}

fn collect(site: &Site, bridge: &Bridge) -> Vec<String> {
    site.node.block_on(async {
        let collected = bridge.collect(&BTreeSet::new()).await.unwrap();
        bridge.settled().await;
        collected
    })
}

#[test]
fn a_failure_after_any_step_undoes_everything() {
    let site = Site::new();
    let bridge = open(&site);
    for step in STEPS {
        let pod = Net::new();
        stop(&bridge, Some((step, FAILED)));
        let error = attach(&site, &bridge, &pod).unwrap_err();
        let clean = matches!(error, AttachError::Step { cleanup: None, .. });
        assert!(clean, "{step:?}: {error}");
        assert_eq!(site.remains(), "", "{step:?}");
        assert_eq!(pod.sh("ip -o link | wc -l").trim(), "1", "{step:?}");
        stop(&bridge, None);
        attach(&site, &bridge, &pod).unwrap();
        detach(&site, &bridge, "one");
        assert_eq!(site.remains(), "", "{step:?}");
    }
}

#[test]
fn after_a_death_at_any_step_collect_leaves_nothing() {
    let site = Site::new();
    for step in STEPS {
        for pod_lives in [true, false] {
            let pod = Net::new();
            let bridge = open(&site);
            stop(&bridge, Some((step, KILLED)));
            attach(&site, &bridge, &pod).unwrap_err();
            drop(bridge);
            assert!(site.remains().contains("one.json"), "{step:?}");
            let kept = pod_lives.then_some(pod);
            let bridge = open(&site);
            assert_eq!(bridge.attachment("one"), None, "{step:?}");
            let collected = collect(&site, &bridge);
            assert_eq!(collected, ["one"], "{step:?}");
            assert_eq!(site.remains(), "", "{step:?}");
            drop(kept);
        }
    }
}

#[test]
fn after_a_death_at_any_step_a_retry_succeeds() {
    let site = Site::new();
    for step in STEPS {
        let pod = Net::new();
        let bridge = open(&site);
        stop(&bridge, Some((step, KILLED)));
        attach(&site, &bridge, &pod).unwrap_err();
        drop(bridge);
        let bridge = open(&site);
        let attachment = attach(&site, &bridge, &pod).unwrap();
        let _server = pod.serve("one", 80);
        let answer = site.outside.ask_by_tcp("192.0.2.1", 8080);
        assert_eq!(answer, "one 192.0.2.2", "{step:?} {attachment:?}");
        detach(&site, &bridge, "one");
        assert_eq!(site.remains(), "", "{step:?}");
    }
}

#[test]
fn trouble_on_the_way_to_a_node_that_is_prepared_passes_too() {
    let site = Site::new();
    let bridge = open(&site);
    for id in ["one", "two"] {
        bridge.work.tried(Some(&StepError::Lost));
        assert!(bridge.trouble().is_some());
        let pod = Net::new();
        let attaching = bridge.attach(id, pod.descriptor(), &[]);
        site.node.block_on(attaching).unwrap();
        assert_eq!(bridge.trouble(), None);
    }
    for id in ["one", "two"] {
        detach(&site, &bridge, id);
    }
}

#[test]
fn a_lost_record_is_made_up_for_by_the_sweep() {
    let site = Site::new();
    let pod = Net::new();
    let bridge = open(&site);
    attach(&site, &bridge, &pod).unwrap();
    drop(bridge);
    std::fs::remove_file(site.state.path().join("one.json")).unwrap();
    let bridge = open(&site);
    let collected = collect(&site, &bridge);
    assert!(collected.is_empty());
    assert_eq!(site.remains(), "");
}

#[test]
fn a_machine_without_pods_is_left_alone() {
    let site = Site::new();
    let bridge = open(&site);
    let collected = collect(&site, &bridge);
    assert!(collected.is_empty());
    assert_eq!(site.node.sh("nft list ruleset"), "");
    assert_eq!(
        site.node.sh("cat /proc/sys/net/ipv4/ip_forward").trim(),
        "0"
    );
}
