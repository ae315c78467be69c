//! The built-in network's ranges change while pods run.

#![allow(clippy::unwrap_used)] // the lint's exemption ends at the helpers of tests

mod support;

use longshore_cni::builtin::{Attachment, Bridge, BridgeConfig, RangeError, Ranges};
use support::{Net, Site};

fn open(site: &Site) -> Bridge {
    let config = BridgeConfig {
        state_dir: site.state.path().to_owned(),
        ..BridgeConfig::default()
    };
    site.node.block_on(Bridge::open(config)).unwrap()
}

fn attach(site: &Site, bridge: &Bridge, id: &str, pod: &Net) -> Attachment {
    let attaching = bridge.attach(id, pod.descriptor(), &[]);
    site.node.block_on(attaching).unwrap()
}

fn detach(site: &Site, bridge: &Bridge, id: &str) {
    site.node.block_on(async {
        bridge.detach(id).await.unwrap();
        bridge.settled().await;
    });
}

fn ranges(ipv4: &str, ipv6: &str) -> Ranges {
    Ranges {
        ipv4: ipv4.parse().unwrap(),
        ipv6: Some(ipv6.parse().unwrap()),
    }
}

fn change(site: &Site, bridge: &Bridge, ranges: Ranges) -> Result<(), RangeError> {
    site.node.block_on(bridge.use_ranges(ranges, true))
}

/// The bridge's addresses but for the one of its link.
fn gateways(site: &Site) -> Vec<String> {
    let all = site
        .node
        .sh("ip -o addr show longshore0 | awk '{print $4}' | grep -v ^fe80 | sort");
    all.lines().map(str::to_owned).collect()
}

fn ip(attachment: &Attachment, index: usize) -> String {
    attachment.ips[index].to_string()
}

#[test]
fn the_next_pod_is_in_the_new_ranges_and_those_that_run_stay() {
    let site = Site::new();
    let bridge = open(&site);
    let (one, two, three) = (Net::new(), Net::new(), Net::new());
    let first = attach(&site, &bridge, "one", &one);
    let new = ranges("10.40.7.0/24", "fd00:40:7::/64");
    change(&site, &bridge, new).unwrap();
    change(&site, &bridge, new).unwrap();
    let second = attach(&site, &bridge, "two", &two);
    assert_eq!(ip(&second, 0), "10.40.7.2");
    assert_eq!(ip(&second, 1), "fd00:40:7::2");
    assert_eq!(second.gateways[0].to_string(), "10.40.7.1");
    assert_eq!(bridge.attachment("one"), Some(first.clone()));

    let _servers = [
        one.serve("one", 80),
        two.serve("two", 80),
        site.outside.serve("outside", 82),
    ];
    for family in [0, 1] {
        // Across the ranges, both ways; their sources are their own.
        let (from_one, from_two) = (ip(&first, family), ip(&second, family));
        assert_eq!(one.ask(&from_two, 80), format!("two {from_one}"));
        assert_eq!(two.ask(&from_one, 80), format!("one {from_two}"));
    }
    // Outside, both are the node.
    for pod in [&one, &two] {
        assert_eq!(pod.ask("192.0.2.2", 82), "outside 192.0.2.1");
        assert_eq!(pod.ask("2001:db8::2", 82), "outside 2001:db8::1");
    }

    // The next daemon goes on like that.
    drop(bridge);
    let bridge = open(&site);
    assert_eq!(bridge.ranges(), new);
    assert_eq!(bridge.attachment("one"), Some(first));
    let third = attach(&site, &bridge, "three", &three);
    assert_eq!(ip(&third, 0), "10.40.7.3");
    assert_eq!(gateways(&site).len(), 4);
    // The old range goes with its last pod.
    detach(&site, &bridge, "one");
    assert_eq!(gateways(&site), ["10.40.7.1/24", "fd00:40:7::1/64"]);
    detach(&site, &bridge, "two");
    detach(&site, &bridge, "three");
    assert_eq!(site.remains(), "ranges");
}

#[test]
fn a_range_within_another_gives_no_address_twice() {
    let site = Site::new();
    let bridge = open(&site);
    change(&site, &bridge, ranges("10.50.1.0/28", "fd00:50:1::/64")).unwrap();
    let pods: Vec<Net> = (0..8).map(|_| Net::new()).collect();
    let mut given: Vec<Attachment> = Vec::new();
    for (index, pod) in pods.iter().take(2).enumerate() {
        given.push(attach(&site, &bridge, &format!("old{index}"), pod));
    }
    // Wider, with the old pods' addresses and gateway at other places; and the other family where it was, at the same places.
    change(&site, &bridge, ranges("10.50.0.0/23", "fd00:50:1::/64")).unwrap();
    for (index, pod) in pods.iter().enumerate().skip(2) {
        given.push(attach(&site, &bridge, &format!("new{index}"), pod));
    }
    let mut addresses: Vec<String> = (0..given.len())
        .flat_map(|index| [ip(&given[index], 0), ip(&given[index], 1)])
        .collect();
    addresses.extend(["10.50.1.1".to_owned(), "10.50.0.1".to_owned()]);
    addresses.sort_unstable();
    let all = addresses.len();
    addresses.dedup();
    assert_eq!(addresses.len(), all);

    let _servers = [pods[0].serve("old", 80), pods[7].serve("new", 80)];
    let (old, new) = (ip(&given[0], 0), ip(&given[7], 0));
    assert_eq!(pods[7].ask(&old, 80), format!("old {new}"));
    assert_eq!(pods[0].ask(&new, 80), format!("new {old}"));
    // And back again, with pods of both.
    change(&site, &bridge, ranges("10.50.1.0/28", "fd00:50:1::/64")).unwrap();
    let again = attach(&site, &bridge, "again", &Net::new());
    assert!(!addresses.contains(&ip(&again, 0)) && !addresses.contains(&ip(&again, 1)));
}

#[test]
fn ranges_that_the_node_or_its_pods_have_are_refused() {
    let site = Site::new();
    let bridge = open(&site);
    let old = bridge.ranges();
    // The node's own address and network; both are in it.
    let error = change(&site, &bridge, ranges("192.0.0.0/16", "fd00:1::/64")).unwrap_err();
    assert!(
        matches!(&error, RangeError::Routed { link, .. } if link == "up0"),
        "{error}"
    );
    let error = change(&site, &bridge, ranges("10.1.0.0/24", "2001:db8::/48")).unwrap_err();
    assert!(error.to_string().contains("2001:db8::"), "{error}");
    site.node
        .sh("ip route add 10.2.4.0/24 via 192.0.2.2; ip route add 10.0.0.0/8 via 192.0.2.2");
    let error = change(&site, &bridge, ranges("10.2.0.0/16", "fd00:1::/64")).unwrap_err();
    assert!(error.to_string().contains("10.2.4.0/24"), "{error}");
    assert_eq!(bridge.ranges(), old);
    assert_eq!(site.remains(), "");
    // A wider route is no obstacle.
    change(&site, &bridge, ranges("10.3.0.0/24", "fd00:3::/64")).unwrap();

    let pod = Net::new();
    for _ in 0..2 {
        attach(&site, &bridge, "gone", &Net::new());
        detach(&site, &bridge, "gone");
    }
    let running = attach(&site, &bridge, "running", &pod);
    assert_eq!(ip(&running, 0), "10.3.0.4");
    change(&site, &bridge, ranges("10.3.0.0/23", "fd00:4::/64")).unwrap();
    let error = change(&site, &bridge, ranges("10.3.0.0/24", "fd00:3::/80")).unwrap_err();
    assert!(
        matches!(&error, RangeError::GatewayShared { .. }),
        "{error}"
    );
    // 10.3.0.4/30 would have the bridge at .5; 10.3.0.0/29 at .1, which is the old gateway and may stay.
    change(&site, &bridge, ranges("10.3.0.0/29", "fd00:5::/64")).unwrap();
    let next = attach(&site, &bridge, "next", &Net::new());
    assert_eq!(ip(&next, 0), "10.3.0.5");
    let error = change(&site, &bridge, ranges("10.3.0.4/30", "fd00:6::/64")).unwrap_err();
    assert!(
        matches!(&error, RangeError::GatewayTaken { holder, .. } if holder == "next"),
        "{error}"
    );
}
