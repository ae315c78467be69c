use std::{collections::BTreeMap, sync::Arc};

use cni::plugins::Readiness;
use cri::v1;
use serde_json::json;
use tonic::{Request, Status};

use super::container_status::verbose;
use crate::{
    config::Cni,
    runtime::{EMBEDDED_HANDLER, Runtime},
};

pub(super) async fn status(
    runtime: &Arc<Runtime>,
    request: Request<v1::StatusRequest>,
) -> Result<v1::StatusResponse, Status> {
    let good = |kind: &str, reason: &str, message: String| v1::RuntimeCondition {
        r#type: kind.to_owned(),
        status: true,
        reason: reason.to_owned(),
        message,
    };
    let mut conditions = vec![
        good(
            "RuntimeReady",
            "EmbeddedCore",
            "the embedded OCI core serves".to_owned(),
        ),
        network_condition(runtime),
    ];
    // Conditions of our own: the kubelet shows those it knows, people see the others. `status` is false where something is wrong.
    conditions.extend(
        runtime
            .conditions()
            .into_iter()
            .map(|condition| v1::RuntimeCondition {
                r#type: condition.kind.to_owned(),
                status: false,
                reason: condition.reason.to_owned(),
                message: condition.message,
            }),
    );
    let features = v1::RuntimeHandlerFeatures {
        recursive_read_only_mounts: runtime.features.recursive_read_only,
        user_namespaces: runtime.features.user_namespaces,
    };
    let handler = |name: &str| v1::RuntimeHandler {
        name: name.to_owned(),
        features: Some(features),
    };
    let info = match request.into_inner().verbose {
        true => verbose(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "root": runtime.config.root,
            "state": runtime.config.state,
            "cgroupDriver": runtime.config.cgroup_driver.name(),
            "cgroupMode": format!("{:?}", runtime.hierarchies.mode()),
            // Where one is false, RuntimeDefault and labels are taken and change nothing.
            "security": { "apparmor": runtime.host.apparmor, "selinux": runtime.host.selinux },
            "network": {
                "bridge": &*runtime.config.network.bridge,
                "ipv4": runtime.network.ranges().ipv4.to_string(),
                "ipv6": runtime.network.ranges().ipv6.map(|ipv6| ipv6.to_string()),
            },
        })),
        false => BTreeMap::new(),
    };
    Ok(v1::StatusResponse {
        status: Some(v1::RuntimeStatus { conditions }),
        info,
        runtime_handlers: vec![handler(""), handler(EMBEDDED_HANDLER)],
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
            mount_options: false,
        }),
    })
}

/// The kubelet sends no pod that needs the network where this is false.
fn network_condition(runtime: &Runtime) -> v1::RuntimeCondition {
    match runtime.plugins.readiness() {
        Readiness::Absent if !runtime.config.cni.required => {
            bridge_condition(&runtime.config.network.bridge, runtime.network.trouble())
        }
        readiness => plugins_condition(&runtime.config.cni, readiness),
    }
}

fn plugins_condition(cni: &Cni, readiness: Readiness) -> v1::RuntimeCondition {
    let (status, reason, message) = match readiness {
        Readiness::Ready { network, file } => (
            true,
            "CNIConfiguration",
            format!("the CNI network {network} of {file} serves"),
        ),
        Readiness::NotReady { reason, message } => (false, reason, message),
        Readiness::Absent => (
            false,
            "NoConfiguration",
            format!(
                "no CNI configuration is in {}, and cni.required keeps the built-in network from serving",
                cni.configurations.display()
            ),
        ),
    };
    v1::RuntimeCondition {
        r#type: "NetworkReady".to_owned(),
        status,
        reason: reason.to_owned(),
        message,
    }
}

fn bridge_condition(bridge: &str, trouble: Option<String>) -> v1::RuntimeCondition {
    let ready = trouble.is_none();
    let (reason, message) = match trouble {
        None => (
            "BuiltInBridge",
            format!("the built-in bridge network {bridge} serves"),
        ),
        Some(trouble) => (
            "BridgeNotPrepared",
            format!("the built-in bridge network {bridge} takes no pods: {trouble}"),
        ),
    };
    v1::RuntimeCondition {
        r#type: "NetworkReady".to_owned(),
        status: ready,
        reason: reason.to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_in_trouble_is_not_ready_and_says_why() {
        assert!(bridge_condition("longshore0", None).status);
        let condition = bridge_condition("longshore0", Some("no nf_tables".to_owned()));
        assert_eq!(condition.r#type, "NetworkReady");
        assert!(!condition.status);
        assert_eq!(condition.reason, "BridgeNotPrepared");
        assert!(condition.message.ends_with("takes no pods: no nf_tables"));
    }
}
