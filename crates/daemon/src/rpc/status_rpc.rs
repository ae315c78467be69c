use std::{collections::BTreeMap, sync::Arc};

use cni::plugins::Readiness;
use cri::v1;
use serde_json::json;
use tonic::{Request, Status};

use super::{container_status::verbose, status::chain};
use crate::{
    config::{Cni, RuntimeKind, RuntimeSettings},
    handlers::{Handlers, Proven},
    pod::{Occasion, try_handlers},
    runtime::Runtime,
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
    let info = match request.into_inner().verbose {
        true => {
            // Whoever asks for everything wants to see what has been installed since.
            runtime
                .handlers
                .probe(&runtime.executable, &runtime.config)
                .await;
            try_handlers(runtime, Occasion::Look);
            verbose(&json!({
                "version": env!("CARGO_PKG_VERSION"),
                "root": runtime.config.root,
                "state": runtime.config.state,
                "cgroupDriver": runtime.config.cgroup_driver.name(),
                "cgroupMode": format!("{:?}", runtime.hierarchies.mode()),
                // Where one is false, RuntimeDefault and labels are taken and change nothing.
                "security": {
                    "apparmor": runtime.host.apparmor,
                    "selinux": runtime.host.selinux,
                    "selinuxLabels": runtime.selinux.labels(),
                },
                "writableLayers": writable_layers(runtime),
                "network": {
                    "bridge": &*runtime.config.network.bridge,
                    "ipv4": runtime.network.ranges().ipv4.to_string(),
                    "ipv6": runtime.network.ranges().ipv6.map(|ipv6| ipv6.to_string()),
                },
                "handlers": descriptions(runtime),
            }))
        }
        false => BTreeMap::new(),
    };
    Ok(v1::StatusResponse {
        status: Some(v1::RuntimeStatus { conditions }),
        info,
        runtime_handlers: handlers(runtime),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: runtime.features.user_namespaces,
            // Seen in a container by `e2e/volumes::mounts_are_restricted_as_asked`; handlers of OCI command lines have them in the specification.
            mount_options: true,
        }),
    })
}

/// Whether what containers write can be limited, or why not, and to how much it is.
fn writable_layers(runtime: &Runtime) -> serde_json::Value {
    let limits = runtime.overlay.limits();
    let limit = runtime.config.containers.writable_layer_limit;
    json!({
        "quota": limits.is_ok(),
        "reason": limits.err().map(|why| chain(why)),
        "limit": limit.map(|limit| limit.to_string()),
    })
}

/// Each handler for people: what it is, and what is missing.
fn descriptions(runtime: &Runtime) -> Vec<serde_json::Value> {
    let default = runtime.config.default_handler.get();
    let describe = |(name, settings): (String, RuntimeSettings)| {
        let probe = runtime.handlers.probed(&name);
        let native = settings.kind == RuntimeKind::Native;
        let (version, trouble) = match (&probe, native) {
            (_, true) => (Some(env!("CARGO_PKG_VERSION").to_owned()), None),
            (Some(probe), false) => (probe.version.clone(), probe.trouble.clone()),
            (None, false) => (None, Some("it has not been looked at".to_owned())),
        };
        let proven = match native {
            true => Proven {
                recursive_read_only: runtime.features.recursive_read_only,
                user_namespaces: runtime.features.user_namespaces,
            },
            false => proven(runtime, &name, &settings),
        };
        json!({
            "name": name,
            "default": name == *default,
            "kind": settings.kind.name(),
            "path": settings.path,
            "options": settings.options,
            "annotations": settings.annotations,
            "version": version,
            "recursiveReadOnlyMounts": proven.recursive_read_only,
            "userNamespaces": proven.user_namespaces,
            "trial": trial(runtime, &name, &settings),
            "trouble": trouble,
            "kernel": probe.as_ref().is_some_and(|probe| probe.own_kernel()).then(|| settings.kernel_of().name()),
            "seccomp": native || probe.as_ref().is_some_and(|probe| probe.seccomp),
            "missing": probe.as_ref().map(|probe| probe.missing(&settings)),
            "features": probe.and_then(|probe| probe.features.clone()),
        })
    };
    Handlers::all(&runtime.config)
        .into_iter()
        .map(describe)
        .collect()
}

/// What has come of the trial of a handler, for people; null where there is none.
fn trial(runtime: &Runtime, handler: &str, settings: &RuntimeSettings) -> Option<String> {
    let outcome = runtime.handlers.outcome(handler, settings)?;
    Some(match outcome.map(|outcome| outcome.trouble) {
        None => "under way".to_owned(),
        Some(None) => "passed".to_owned(),
        Some(Some(trouble)) => trouble,
    })
}

/// What a runtime and the node can do together.
fn proven(runtime: &Runtime, handler: &str, settings: &RuntimeSettings) -> Proven {
    let proven = runtime.handlers.proven(handler, settings);
    Proven {
        recursive_read_only: proven.recursive_read_only && runtime.features.recursive_read_only,
        user_namespaces: proven.user_namespaces && runtime.features.user_namespaces,
    }
}

/// Each handler with what it was seen to do; the empty name is that of the default.
fn handlers(runtime: &Runtime) -> Vec<v1::RuntimeHandler> {
    let default = runtime.config.default_handler.get();
    let mut handlers = Vec::new();
    for (name, settings) in Handlers::all(&runtime.config) {
        let features = match settings.kind {
            RuntimeKind::Native => v1::RuntimeHandlerFeatures {
                recursive_read_only_mounts: runtime.features.recursive_read_only,
                user_namespaces: runtime.features.user_namespaces,
            },
            RuntimeKind::Oci => {
                let proven = proven(runtime, &name, &settings);
                v1::RuntimeHandlerFeatures {
                    recursive_read_only_mounts: proven.recursive_read_only,
                    user_namespaces: proven.user_namespaces,
                }
            }
        };
        if name == *default {
            handlers.push(v1::RuntimeHandler {
                name: String::new(),
                features: Some(features),
            });
        }
        handlers.push(v1::RuntimeHandler {
            name,
            features: Some(features),
        });
    }
    handlers
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
