//! The built-in network with real namespaces: pods, a node, and an outside that knows of no pod.

#![allow(clippy::unwrap_used)] // the lint's exemption ends at the helpers of tests

mod support;

use std::collections::BTreeSet;
use std::net::IpAddr;

use longshore_cni::builtin::{
    AttachError, Attachment, Bridge, BridgeConfig, Condition, PortMapping, Protocol,
};
use support::{Net, Site};

fn config(site: &Site) -> BridgeConfig {
    BridgeConfig {
        state_dir: site.state.path().to_owned(),
        ..BridgeConfig::default()
    }
}

fn open(site: &Site) -> Bridge {
    site.node.block_on(Bridge::open(config(site))).unwrap()
}

fn attach(
    site: &Site,
    bridge: &Bridge,
    id: &str,
    pod: &Net,
    ports: &[PortMapping],
) -> Result<Attachment, AttachError> {
    site.node
        .block_on(bridge.attach(id, pod.descriptor(), ports))
}

fn detach(site: &Site, bridge: &Bridge, id: &str) {
    site.node.block_on(async {
        bridge.detach(id).await.unwrap();
        bridge.settled().await;
    });
}

fn collect(site: &Site, bridge: &Bridge, live: &[&str]) -> Vec<String> {
    let live: BTreeSet<String> = live.iter().map(|id| (*id).to_owned()).collect();
    site.node.block_on(async {
        let collected = bridge.collect(&live).await.unwrap();
        bridge.settled().await;
        collected
    })
}

/// The same mapping for TCP and UDP.
fn both(container_port: u16, host_port: u16, host_ip: Option<&str>) -> Vec<PortMapping> {
    [Protocol::Tcp, Protocol::Udp]
        .map(|protocol| PortMapping {
            protocol,
            container_port,
            host_port,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        })
        .to_vec()
}

fn ip(attachment: &Attachment, index: usize) -> String {
    attachment.ips[index].to_string()
}

#[test]
fn pods_reach_each_other_the_node_and_the_outside() {
    let site = Site::new();
    let (one, two) = (Net::new(), Net::new());
    let bridge = open(&site);
    assert_eq!(
        site.node.sh("ip link | grep -c longshore0 || true").trim(),
        "0"
    );
    let first = attach(&site, &bridge, "one", &one, &[]).unwrap();
    let second = attach(&site, &bridge, "two", &two, &[]).unwrap();
    assert_eq!(first.interface, "eth0");
    assert!(matches!(first.ips[..], [IpAddr::V4(_), IpAddr::V6(_)]));
    assert_eq!(bridge.attachment("one"), Some(first.clone()));
    let mac = first.mac.map(|byte| format!("{byte:02x}")).join(":");
    assert!(one.sh("ip link show eth0").contains(&mac));
    for net in [&one, &site.node] {
        let tentative = net.sh("ip -6 addr show tentative");
        assert!(
            !tentative.contains("eth0") && !tentative.contains("longshore0"),
            "{tentative}"
        );
    }

    let _servers = [
        one.serve("one", 80),
        two.serve("two", 80),
        site.node.serve("node", 81),
        site.outside.serve("outside", 82),
    ];
    for family in [0, 1] {
        let from_one = ip(&first, family);
        assert_eq!(one.ask(&ip(&second, family), 80), format!("two {from_one}"));
        assert_eq!(
            two.ask(&from_one, 80),
            format!("one {}", ip(&second, family))
        );
        let gateway = first.gateways[family].to_string();
        assert_eq!(one.ask(&gateway, 81), format!("node {from_one}"));
        assert_eq!(site.node.ask(&from_one, 80), format!("one {gateway}"));
    }
    assert_eq!(one.ask("192.0.2.2", 82), "outside 192.0.2.1");
    assert_eq!(one.ask("2001:db8::2", 82), "outside 2001:db8::1");
    assert_eq!(one.ask("127.0.0.1", 80), "one 127.0.0.1");
    detach(&site, &bridge, "one");
    detach(&site, &bridge, "two");
    assert_eq!(site.remains(), "");
}

#[test]
fn host_ports_are_reached_from_everywhere() {
    let site = Site::new();
    let (one, two) = (Net::new(), Net::new());
    let bridge = open(&site);
    let first = attach(&site, &bridge, "one", &one, &both(80, 8080, None)).unwrap();
    let second = attach(&site, &bridge, "two", &two, &[]).unwrap();
    let _server = one.serve("one", 80);
    let (gateway4, gateway6) = (first.gateways[0].to_string(), first.gateways[1].to_string());

    // From outside with the outside's address.
    assert_eq!(site.outside.ask("192.0.2.1", 8080), "one 192.0.2.2");
    assert_eq!(site.outside.ask("2001:db8::1", 8080), "one 2001:db8::2");
    // From another pod and from itself, by any address of the node, as the bridge.
    for pod in [&two, &one] {
        for node in ["192.0.2.1", &gateway4] {
            assert_eq!(pod.ask(node, 8080), format!("one {gateway4}"));
        }
        for node in ["2001:db8::1", &gateway6] {
            assert_eq!(pod.ask(node, 8080), format!("one {gateway6}"));
        }
    }
    // From the node: its loopback as the bridge, its other addresses as they are.
    assert_eq!(site.node.ask("127.0.0.1", 8080), format!("one {gateway4}"));
    assert_eq!(site.node.ask("127.0.0.9", 8080), format!("one {gateway4}"));
    assert!(site.node.ask("192.0.2.1", 8080).starts_with("one "));
    assert!(site.node.ask("2001:db8::1", 8080).starts_with("one "));
    // The pod's own loopback is its own.
    assert_eq!(one.ask("127.0.0.1", 80), "one 127.0.0.1");
    // Other ports and other hosts' ports lead nowhere.
    site.outside.ask_in_vain("192.0.2.1", 8081);
    two.ask_in_vain("192.0.2.2", 8080);
    two.ask_in_vain(&ip(&second, 0), 8080);

    detach(&site, &bridge, "one");
    site.outside.ask_in_vain("192.0.2.1", 8080);
    detach(&site, &bridge, "two");
    assert_eq!(site.remains(), "");
}

#[test]
fn ipv6_loopback_is_the_nodes_own() {
    let site = Site::new();
    let pod = Net::new();
    let bridge = open(&site);
    attach(&site, &bridge, "one", &pod, &both(80, 8080, None)).unwrap();
    let _server = pod.serve("one", 80);
    site.node.ask_in_vain("::1", 8080);
    let _own = site.node.serve("node", 8080);
    assert_eq!(site.node.ask("::1", 8080), "node ::1");
    assert!(site.node.ask("127.0.0.1", 8080).starts_with("one "));
    detach(&site, &bridge, "one");
}

#[test]
fn a_udp_client_follows_its_host_port_from_pod_to_pod() {
    let site = Site::new();
    let (one, two) = (Net::new(), Net::new());
    let bridge = open(&site);
    // Makes the node track connections.
    attach(&site, &bridge, "two", &two, &both(80, 9000, None)).unwrap();
    for node in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
        let client = site.outside.udp_client(node);
        client.ask().unwrap_err();
        let pod = Net::new();
        attach(&site, &bridge, "one", &one, &both(80, 8080, None)).unwrap();
        let servers = [one.serve("one", 80), pod.serve("new", 80)];
        assert!(client.ask().unwrap().starts_with("one "), "{node}");
        detach(&site, &bridge, "one");
        attach(&site, &bridge, "new", &pod, &both(80, 8080, None)).unwrap();
        assert!(client.ask().unwrap().starts_with("new "), "{node}");
        detach(&site, &bridge, "new");
        drop(servers);
    }
    detach(&site, &bridge, "two");
}

#[test]
fn a_host_ip_limits_a_host_port() {
    let site = Site::new();
    let (one, two, three) = (Net::new(), Net::new(), Net::new());
    let bridge = open(&site);
    site.node.sh("ip addr add 192.0.2.10/24 dev up0");
    let ports = both(80, 8080, Some("192.0.2.10"));
    attach(&site, &bridge, "one", &one, &ports).unwrap();
    attach(
        &site,
        &bridge,
        "two",
        &two,
        &both(80, 8080, Some("192.0.2.1")),
    )
    .unwrap();
    let mut local = both(80, 8081, Some("127.0.0.1"));
    local.extend(both(80, 8082, Some("::")));
    local.extend(both(80, 8083, Some("2001:db8::1")));
    attach(&site, &bridge, "three", &three, &local).unwrap();
    let _servers = [
        one.serve("one", 80),
        two.serve("two", 80),
        three.serve("three", 80),
    ];
    assert_eq!(site.outside.ask("192.0.2.10", 8080), "one 192.0.2.2");
    assert_eq!(site.outside.ask("192.0.2.1", 8080), "two 192.0.2.2");
    site.outside.ask_in_vain("2001:db8::1", 8080);
    site.node.ask_in_vain("127.0.0.1", 8080);
    assert!(site.node.ask("127.0.0.1", 8081).starts_with("three "));
    site.outside.ask_in_vain("192.0.2.1", 8081);
    assert_eq!(site.outside.ask("2001:db8::1", 8082), "three 2001:db8::2");
    site.outside.ask_in_vain("192.0.2.1", 8082);
    assert_eq!(site.outside.ask("2001:db8::1", 8083), "three 2001:db8::2");
    assert_eq!(collect(&site, &bridge, &[]), ["one", "three", "two"]);
    assert_eq!(site.remains(), "");
}

#[test]
fn refusals_come_before_anything_is_touched() {
    let site = Site::new();
    let (one, two) = (Net::new(), Net::new());
    let bridge = open(&site);
    attach(&site, &bridge, "one", &one, &both(80, 8080, None)).unwrap();
    let before = site.remains();
    let refused = |ports: &[PortMapping]| {
        let error = attach(&site, &bridge, "two", &two, ports).unwrap_err();
        assert_eq!(site.remains(), before);
        error.to_string()
    };
    assert_eq!(
        refused(&both(1, 8080, Some("192.0.2.1"))),
        "host port 8080/TCP on 192.0.2.1 is taken by one"
    );
    let mut sctp = both(1, 9000, None);
    sctp[1].protocol = Protocol::Sctp;
    assert!(refused(&sctp).starts_with("port_mappings[1].protocol = SCTP: "));
    assert!(refused(&both(0, 9000, None)).starts_with("port_mappings[0].container_port = 0: "));
    let error = attach(&site, &bridge, "a/b", &two, &[]).unwrap_err();
    assert!(matches!(error, AttachError::InvalidId { .. }));
    let error = attach(&site, &bridge, "one", &two, &both(80, 8080, None)).unwrap_err();
    assert!(matches!(error, AttachError::Different { .. }));
    let error = attach(&site, &bridge, "one", &one, &[]).unwrap_err();
    assert!(matches!(error, AttachError::Different { .. }));
    detach(&site, &bridge, "one");
    attach(&site, &bridge, "two", &two, &both(80, 8080, None)).unwrap();
    detach(&site, &bridge, "two");
    assert_eq!(site.remains(), "");
}

#[test]
fn a_repeated_attach_gets_the_same_and_a_repeated_detach_is_fine() {
    let site = Site::new();
    let pod = Net::new();
    let bridge = open(&site);
    let (first, second) = site.node.block_on(async {
        let join = |bridge: Bridge| {
            let netns = pod.descriptor();
            tokio::spawn(async move { bridge.attach("one", netns, &[]).await })
        };
        let (first, second) = (join(bridge.clone()), join(bridge.clone()));
        (
            first.await.unwrap().unwrap(),
            second.await.unwrap().unwrap(),
        )
    });
    assert_eq!(first, second);
    assert_eq!(attach(&site, &bridge, "one", &pod, &[]).unwrap(), first);
    assert_eq!(pod.sh("ip -o link | wc -l").trim(), "2");

    // A daemon that was killed finds it again.
    drop(bridge);
    let bridge = open(&site);
    assert_eq!(bridge.attachment("one"), Some(first.clone()));
    assert_eq!(attach(&site, &bridge, "one", &pod, &[]).unwrap(), first);
    assert!(collect(&site, &bridge, &["one"]).is_empty());

    site.node.block_on(async {
        let (first, second) = tokio::join!(bridge.detach("one"), bridge.detach("one"));
        first.unwrap();
        second.unwrap();
    });
    detach(&site, &bridge, "one");
    detach(&site, &bridge, "never");
    assert_eq!(bridge.attachment("one"), None);
    assert_eq!(site.remains(), "");
    let again = attach(&site, &bridge, "one", &pod, &[]).unwrap();
    assert_ne!(again.ips, first.ips, "an address rests");
    drop(pod);
    detach(&site, &bridge, "one");
    assert_eq!(site.remains(), "");
}

#[test]
fn a_call_that_was_dropped_is_joined_by_the_next() {
    let site = Site::new();
    let pod = Net::new();
    let bridge = open(&site);
    let attachment = site.node.block_on(async {
        let dropped = bridge.attach("one", pod.descriptor(), &[]);
        let _ = tokio::time::timeout(std::time::Duration::ZERO, dropped).await;
        bridge.attach("one", pod.descriptor(), &[]).await
    });
    let attachment = attachment.unwrap();
    assert!(pod.sh("ip addr show eth0").contains(&ip(&attachment, 0)));
    detach(&site, &bridge, "one");
}

#[test]
fn a_namespace_that_is_gone_is_detached() {
    let site = Site::new();
    let bridge = open(&site);
    for round in 0..3 {
        let pod = Net::new();
        attach(&site, &bridge, "one", &pod, &both(80, 8080, None)).unwrap();
        drop(pod);
        detach(&site, &bridge, "one");
        assert_eq!(site.remains(), "", "round {round}");
    }
}

#[test]
fn addresses_run_out_and_come_back() {
    let site = Site::new();
    let small = BridgeConfig {
        ipv4: "10.99.0.0/29".parse().unwrap(),
        ..config(&site)
    };
    let bridge = site.node.block_on(Bridge::open(small.clone())).unwrap();
    let pods: Vec<Net> = (0..6).map(|_| Net::new()).collect();
    let mut ips = BTreeSet::new();
    for (index, pod) in pods[..5].iter().enumerate() {
        let id = format!("pod{index}");
        let attachment = attach(&site, &bridge, &id, pod, &[]).unwrap();
        ips.insert(attachment.ips);
    }
    assert_eq!(ips.len(), 5);
    let error = attach(&site, &bridge, "pod5", &pods[5], &[]).unwrap_err();
    assert_eq!(error.to_string(), "no address is left in 10.99.0.0/29");
    // Nor after a restart, until one is given back.
    drop(bridge);
    let bridge = site.node.block_on(Bridge::open(small)).unwrap();
    assert!(attach(&site, &bridge, "pod5", &pods[5], &[]).is_err());
    detach(&site, &bridge, "pod2");
    attach(&site, &bridge, "pod5", &pods[5], &[]).unwrap();
    assert_eq!(collect(&site, &bridge, &[]).len(), 5);
    assert_eq!(site.remains(), "");
}

#[test]
fn an_address_that_comes_free_in_a_moment_is_waited_for() {
    let site = Site::new();
    let bridge = site.node.block_on(Bridge::open(BridgeConfig {
        ipv4: "10.99.0.0/30".parse().unwrap(),
        ..config(&site)
    }));
    let bridge = bridge.unwrap();
    let (one, two) = (Net::new(), Net::new());
    site.node.block_on(async {
        let ports = both(80, 8080, None);
        let first = bridge
            .attach("one", one.descriptor(), &ports)
            .await
            .unwrap();
        // The namespace lives on, so the link goes by name, a while after the answer.
        bridge.detach("one").await.unwrap();
        bridge.detach("one").await.unwrap();
        let second = bridge
            .attach("two", two.descriptor(), &ports)
            .await
            .unwrap();
        assert_eq!(first.ips[0], second.ips[0]);
        // So is an attachment of the same name.
        bridge.detach("two").await.unwrap();
        bridge
            .attach("two", two.descriptor(), &ports)
            .await
            .unwrap();
    });
    detach(&site, &bridge, "two");
    assert_eq!(site.remains(), "");
}

#[test]
fn a_link_that_was_let_go_before_a_death_is_seen_off_after_it() {
    let site = Site::new();
    let pod = Net::new();
    let bridge = open(&site);
    attach(&site, &bridge, "one", &pod, &both(80, 8080, None)).unwrap();
    drop(bridge);
    let path = site.state.path().join("one.json");
    let record = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, record.replace("\"attached\"", "\"detaching\"")).unwrap();
    let bridge = open(&site);
    // The pod is there, stopped; its attachment is nobody's.
    assert_eq!(collect(&site, &bridge, &["one"]), ["one"]);
    assert_eq!(site.remains(), "");
}

#[test]
fn pods_at_once_get_addresses_of_their_own() {
    let site = Site::new();
    let bridge = open(&site);
    let pods: Vec<Net> = (0..12).map(|_| Net::new()).collect();
    let ips: BTreeSet<IpAddr> = site.node.block_on(async {
        let attaching: Vec<_> = (0..)
            .zip(&pods)
            .map(|(index, pod)| {
                let (bridge, netns) = (bridge.clone(), pod.descriptor());
                tokio::spawn(async move {
                    let ports = both(80, 8000 + index, None);
                    bridge.attach(&format!("pod{index}"), netns, &ports).await
                })
            })
            .collect();
        let mut ips = BTreeSet::new();
        for attached in attaching {
            ips.extend(attached.await.unwrap().unwrap().ips);
        }
        ips
    });
    assert_eq!(ips.len(), 24);
    let _servers: Vec<_> = pods.iter().map(|pod| pod.serve("pod", 80)).collect();
    for port in 8000..8012 {
        assert_eq!(site.outside.ask("192.0.2.1", port), "pod 192.0.2.2");
    }
    assert_eq!(collect(&site, &bridge, &[]).len(), 12);
    assert_eq!(site.remains(), "");
}

#[test]
fn thousands_of_host_ports_are_one_request() {
    let site = Site::new();
    let (one, two) = (Net::new(), Net::new());
    let bridge = open(&site);
    let ports = |from: u16| -> Vec<PortMapping> {
        (from..from + 1500)
            .flat_map(|port| both(80, port, None))
            .collect()
    };
    attach(&site, &bridge, "one", &one, &ports(10_000)).unwrap();
    attach(&site, &bridge, "two", &two, &ports(20_000)).unwrap();
    drop(bridge);
    let bridge = open(&site);
    collect(&site, &bridge, &["one", "two"]);
    let _servers = [one.serve("one", 80), two.serve("two", 80)];
    for (port, answer) in [(10_000, "one "), (11_499, "one "), (21_499, "two ")] {
        assert!(
            site.outside.ask("192.0.2.1", port).starts_with(answer),
            "{port}"
        );
        assert!(
            site.outside.ask("2001:db8::1", port).starts_with(answer),
            "{port}"
        );
    }
    assert_eq!(collect(&site, &bridge, &["two"]), ["one"]);
    site.outside.ask_in_vain("192.0.2.1", 10_000);
    assert!(site.outside.ask("192.0.2.1", 20_000).starts_with("two "));
    detach(&site, &bridge, "two");
    assert_eq!(site.remains(), "");
}

#[test]
fn a_chain_that_drops_forwarded_packets_is_reported() {
    let site = Site::new();
    site.node.sh("nft add table ip filter
         nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'
         nft add chain ip filter INPUT '{ type filter hook input priority 0; policy accept; }'");
    let pod = Net::new();
    let bridge = open(&site);
    attach(&site, &bridge, "one", &pod, &[]).unwrap();
    let dropped = Condition::ForwardDropped {
        family: "ip",
        table: "filter".to_owned(),
        chain: "FORWARD".to_owned(),
    };
    let conditions = bridge.conditions();
    assert!(conditions.contains(&dropped), "{conditions:?}");
    let changed = |condition: &Condition| matches!(condition, Condition::SysctlChanged { name, .. } if name == "net.ipv4.ip_forward");
    assert!(conditions.iter().any(changed), "{conditions:?}");
    site.node.sh("nft delete table ip filter");
    collect(&site, &bridge, &["one"]);
    assert!(!bridge.conditions().contains(&dropped));
    detach(&site, &bridge, "one");
}

#[test]
fn a_node_that_cannot_be_prepared_is_in_trouble_until_it_can() {
    let site = Site::new();
    let bridge = open(&site);
    assert_eq!(bridge.trouble(), None);
    // Somebody else's interface of that name: no bridge can be made.
    site.node
        .sh("ip link add longshore0 type veth peer name other0");
    let pod = Net::new();
    let fail = || attach(&site, &bridge, "one", &pod, &[]).unwrap_err();
    fail();
    let trouble = bridge.trouble().unwrap();
    assert!(trouble.contains("bridge longshore0: "), "{trouble}");
    site.node.sh("ip link delete longshore0");
    attach(&site, &bridge, "one", &pod, &[]).unwrap();
    assert_eq!(bridge.trouble(), None);
    detach(&site, &bridge, "one");

    // And without any attach: nobody sends a pod to a node in trouble.
    site.node.sh("ip link delete longshore0
         ip link add longshore0 type veth peer name other0");
    fail();
    assert!(bridge.trouble().is_some());
    site.node.sh("ip link delete longshore0");
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while let Some(trouble) = bridge.trouble() {
        assert!(std::time::Instant::now() < patience, "{trouble}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    site.node.sh("ip link show dev longshore0 type bridge up");
}

#[test]
fn a_pod_does_not_reach_services_on_the_nodes_loopback() {
    let site = Site::new();
    let pod = Net::new();
    let bridge = open(&site);
    let attachment = attach(&site, &bridge, "one", &pod, &both(80, 8080, None)).unwrap();
    let _server = site.node.serve("node", 81);
    assert_eq!(site.node.ask("127.0.0.1", 81), "node 127.0.0.1");
    let gateway = attachment.gateways[0].to_string();
    pod.sh(&format!(
        "ip addr del 127.0.0.1/8 dev lo
         echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
         ip route add 127.0.0.1 via {gateway}"
    ));
    pod.ask_in_vain("127.0.0.1", 81);
    // It is the guard that keeps it out.
    site.node.sh("nft flush chain inet longshore guard");
    let answer = pod.ask_by_tcp("127.0.0.1", 81);
    assert_eq!(answer, format!("node {}", ip(&attachment, 0)));
    detach(&site, &bridge, "one");
}

#[test]
fn what_others_removed_is_made_again() {
    let site = Site::new();
    let (one, two) = (Net::new(), Net::new());
    let bridge = open(&site);
    attach(&site, &bridge, "one", &one, &[]).unwrap();
    site.node
        .sh("ip link del longshore0; nft delete table inet longshore");
    attach(&site, &bridge, "two", &two, &both(80, 8080, None)).unwrap();
    let _server = two.serve("two", 80);
    assert_eq!(site.outside.ask("192.0.2.1", 8080), "two 192.0.2.2");
    site.node.sh("nft flush ruleset");
    collect(&site, &bridge, &["one", "two"]);
    assert_eq!(site.outside.ask("192.0.2.1", 8080), "two 192.0.2.2");
    collect(&site, &bridge, &[]);
    assert_eq!(site.remains(), "");
}

#[test]
fn records_of_another_boot_name_nothing() {
    let site = Site::new();
    let pod = Net::new();
    let bridge = open(&site);
    attach(&site, &bridge, "one", &pod, &[]).unwrap();
    drop(bridge);
    let path = site.state.path().join("one.json");
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let record = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, record.replace(boot_id.trim(), "earlier")).unwrap();
    let bridge = open(&site);
    assert_eq!(bridge.attachment("one"), None);
    // Had it only been an unreadable record, the sweep would find the link.
    assert!(collect(&site, &bridge, &[]).is_empty());
    assert_eq!(site.remains(), "");
}
