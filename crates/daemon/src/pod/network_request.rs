//! What plugins are told of a pod: who it is, and what its annotations ask for.

use std::{collections::BTreeMap, path::Path};

use cni::plugins::AttachRequest;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::config::{PodConfig, Protocol};
use crate::quantity;

/// The kubelet's documentation has had these for bandwidth since before CNI had a capability for it.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// The Network Plumbing Working Group's, for the default network: a list of one element with `ips`, `mac` and `infiniband-guid`.
const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";

/// Ours: nobody else has one for this capability. A list of lists of ranges, as host-local's.
const IP_RANGES: &str = "longshore.io/cni-ip-ranges";

/// Bits a second. The bounds are the kubelet's.
const LEAST_RATE: u64 = 1_000;
const GREATEST_RATE: u64 = 1_000_000_000_000_000;

/// No limit of its own: the largest that every bandwidth plugin takes, bits.
const BURST: u32 = u32::MAX;

#[derive(Debug, thiserror::Error)]
#[error("annotation {name} = {value:?} is not {expected}")]
pub(crate) struct AnnotationError {
    name: &'static str,
    value: String,
    expected: &'static str,
}

pub(super) fn of(
    id: &str,
    netns: &Path,
    config: &PodConfig,
    cgroup_parent: &str,
) -> Result<AttachRequest, AnnotationError> {
    let metadata = &config.metadata;
    let arguments = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &metadata.namespace),
        ("K8S_POD_NAME", &metadata.name),
        ("K8S_POD_INFRA_CONTAINER_ID", id),
        ("K8S_POD_UID", &metadata.uid),
    ];
    Ok(AttachRequest {
        id: id.to_owned(),
        netns: netns.to_owned(),
        arguments: arguments
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec(),
        capabilities: capabilities(config, cgroup_parent)?,
    })
}

fn capabilities(
    config: &PodConfig,
    cgroup_parent: &str,
) -> Result<Map<String, Value>, AnnotationError> {
    let mut told = Map::new();
    let mut tell = |capability: &str, value: Value| told.insert(capability.to_owned(), value);
    let ports = port_mappings(config);
    if !ports.is_empty() {
        tell("portMappings", ports.into());
    }
    if let Some(dns) = &config.dns_config {
        let dns = json!({
            "servers": dns.servers, "searches": dns.searches, "options": dns.options,
        });
        tell("dns", dns);
    }
    if let Some(bandwidth) = bandwidth(&config.annotations)? {
        tell("bandwidth", bandwidth);
    }
    let element = default_network(&config.annotations)?;
    if !element.ips.is_empty() {
        tell("ips", json!(element.ips));
    }
    if let Some(mac) = element.mac {
        tell("mac", mac.into());
    }
    if let Some(guid) = element.infiniband_guid {
        tell("infinibandGUID", guid.into());
    }
    if let Some(text) = config.annotations.get(IP_RANGES) {
        tell("ipRanges", ip_ranges(text)?);
    }
    tell("cgroupPath", cgroup_parent.into());
    // The peers' name for it, which plugins know.
    tell(
        "io.kubernetes.cri.pod-annotations",
        json!(config.annotations),
    );
    Ok(told)
}

fn port_mappings(config: &PodConfig) -> Vec<Value> {
    let published = config.port_mappings.iter();
    published
        // A port without a host port is a declaration.
        .filter(|mapping| mapping.host_port != 0)
        .map(|mapping| {
            let protocol = match mapping.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            };
            let mut told = json!({
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": protocol,
            });
            if let Some(ip) = mapping.host_ip {
                told["hostIP"] = ip.to_string().into();
            }
            told
        })
        .collect()
}

/// Shaped only in the direction that the pod asks for.
fn bandwidth(annotations: &BTreeMap<String, String>) -> Result<Option<Value>, AnnotationError> {
    let mut bandwidth = Map::new();
    for (name, rate_key, burst_key) in [
        (INGRESS, "ingressRate", "ingressBurst"),
        (EGRESS, "egressRate", "egressBurst"),
    ] {
        let Some(text) = annotations.get(name) else {
            continue;
        };
        let rate = quantity::parse(text).filter(|rate| (LEAST_RATE..=GREATEST_RATE).contains(rate));
        let rate = rate.ok_or_else(|| AnnotationError {
            name,
            value: text.clone(),
            expected: "a number of bits a second from 1k to 1P, such as 10M",
        })?;
        bandwidth.insert(rate_key.to_owned(), rate.into());
        bandwidth.insert(burst_key.to_owned(), BURST.into());
    }
    Ok((!bandwidth.is_empty()).then_some(Value::Object(bandwidth)))
}

/// A network selection element, as far as it concerns us.
#[derive(Debug, Default, Deserialize)]
struct Element {
    #[serde(default)]
    ips: Vec<String>,
    mac: Option<String>,
    #[serde(rename = "infiniband-guid")]
    infiniband_guid: Option<String>,
}

fn default_network(annotations: &BTreeMap<String, String>) -> Result<Element, AnnotationError> {
    let Some(text) = annotations.get(DEFAULT_NETWORK) else {
        return Ok(Element::default());
    };
    // The short form is a name, for the plugin that knows more networks than one.
    if !text.trim_start().starts_with(['[', '{']) {
        return Ok(Element::default());
    }
    let list = match text.trim_start().starts_with('[') {
        true => serde_json::from_str::<Vec<Element>>(text),
        false => serde_json::from_str::<Element>(text).map(|element| vec![element]),
    };
    match list {
        Ok(list) if list.len() <= 1 => Ok(list.into_iter().next().unwrap_or_default()),
        Ok(_) | Err(_) => Err(AnnotationError {
            name: DEFAULT_NETWORK,
            value: text.clone(),
            expected: "a name, or a JSON list of one element with ips, mac or infiniband-guid",
        }),
    }
}

fn ip_ranges(text: &str) -> Result<Value, AnnotationError> {
    match serde_json::from_str::<Vec<Vec<Map<String, Value>>>>(text) {
        Ok(ranges) => Ok(json!(ranges)),
        Err(_) => Err(AnnotationError {
            name: IP_RANGES,
            value: text.to_owned(),
            expected: "a JSON list of lists of ranges, such as [[{\"subnet\": \"10.1.0.0/24\"}]]",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::config::{DnsConfig, PodMetadata, PortMapping};

    fn annotated(annotations: &[(&str, &str)]) -> PodConfig {
        PodConfig {
            annotations: annotations
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..PodConfig::default()
        }
    }

    fn told(annotations: &[(&str, &str)]) -> Result<Map<String, Value>, String> {
        capabilities(&annotated(annotations), "/pods").map_err(|error| error.to_string())
    }

    #[test]
    fn a_pod_is_named_and_its_ports_and_dns_are_told() {
        let config = PodConfig {
            metadata: PodMetadata {
                name: "web".to_owned(),
                namespace: "shop".to_owned(),
                uid: "u1".to_owned(),
                attempt: 0,
            },
            dns_config: Some(DnsConfig {
                servers: vec!["10.96.0.10".to_owned()],
                ..DnsConfig::default()
            }),
            port_mappings: vec![
                PortMapping {
                    container_port: 80,
                    ..PortMapping::default()
                },
                PortMapping {
                    protocol: Protocol::Udp,
                    container_port: 53,
                    host_port: 5353,
                    host_ip: Some("127.0.0.1".parse().unwrap()),
                },
            ],
            ..PodConfig::default()
        };
        let request = of("abc", Path::new("/run/netns/x"), &config, "/pods").unwrap();
        let pairs: Vec<String> = request
            .arguments
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(
            pairs.join(";"),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u1"
        );
        let told = request.capabilities;
        assert_eq!(
            told["portMappings"],
            json!([{"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"}])
        );
        assert_eq!(told["dns"]["servers"], json!(["10.96.0.10"]));
        assert_eq!(told["cgroupPath"], "/pods");
        assert!(!told.contains_key("bandwidth"));
    }

    #[test]
    fn annotations_become_capabilities() {
        let asked = told(&[
            (INGRESS, "10M"),
            (DEFAULT_NETWORK, r#"[{"name": "x", "ips": ["10.1.0.9/24"], "mac": "02:00:00:00:00:01", "infiniband-guid": "c2:11"}]"#),
            (IP_RANGES, r#"[[{"subnet": "10.1.0.0/24"}]]"#),
        ])
        .unwrap();
        assert_eq!(
            asked["bandwidth"],
            json!({"ingressRate": 10_000_000, "ingressBurst": BURST})
        );
        assert_eq!(asked["ips"], json!(["10.1.0.9/24"]));
        assert_eq!(asked["mac"], "02:00:00:00:00:01");
        assert_eq!(asked["infinibandGUID"], "c2:11");
        assert_eq!(asked["ipRanges"], json!([[{"subnet": "10.1.0.0/24"}]]));
        assert_eq!(asked["io.kubernetes.cri.pod-annotations"][INGRESS], "10M");
        assert!(
            !told(&[(DEFAULT_NETWORK, "kube-system/net")])
                .unwrap()
                .contains_key("ips")
        );
    }

    #[test]
    fn annotations_that_say_nothing_are_refused_by_name() {
        for (name, value) in [
            (INGRESS, "fast"),
            (INGRESS, "999"),
            (EGRESS, "2P"),
            (EGRESS, "-1M"),
            (EGRESS, "."),
            (EGRESS, "99999999999999999999999999"),
            (DEFAULT_NETWORK, "[{\"ips\": 3}]"),
            (DEFAULT_NETWORK, "[{}, {}]"),
            (IP_RANGES, "10.1.0.0/24"),
        ] {
            let error = told(&[(name, value)]).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn quantities_are_bits_a_second() {
        for (text, bits) in [
            ("1k", 1_000),
            ("1.5M", 1_500_000),
            ("2Ki", 2_048),
            ("1G", 1_000_000_000),
            ("1500", 1_500),
        ] {
            assert_eq!(quantity::parse(text), Some(bits), "{text}");
        }
    }
}
