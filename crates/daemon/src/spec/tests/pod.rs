//! What no pod of this node can be.

use super::super::{Host, Notifier, check_handler, check_pod, notifier};
use crate::pod::config::{NamespaceMode, PodConfig, UserNamespace};

#[test]
fn what_this_node_cannot_do_is_refused() {
    let mut labelled = PodConfig::default();
    let security = &mut labelled.linux.security_context;
    security.selinux_options.level = "s0:c1,c2".to_owned();
    let without = Host::default();
    let with = Host {
        selinux: true,
        ..Host::default()
    };
    check_pod(&labelled, &without).unwrap();
    let error = check_pod(&labelled, &with).unwrap_err().to_string();
    assert!(error.contains("selinux_options"), "{error}");
    check_pod(&PodConfig::default(), &with).unwrap();

    let mut mapped = PodConfig::default();
    let options = &mut mapped.linux.security_context.namespace_options;
    options.userns_options = Some(UserNamespace {
        mode: NamespaceMode::Pod,
        ..UserNamespace::default()
    });
    let error = check_pod(&mapped, &without).unwrap_err().to_string();
    assert!(error.contains("userns_options"), "{error}");
    let with = Host {
        maps_layers: true,
        ..Host::default()
    };
    check_pod(&mapped, &with).unwrap();
}

#[test]
fn annotations_that_ask_for_isolation_are_refused_by_name() {
    let check = |name: &str, value: &str| {
        let annotations = [(name.to_owned(), value.to_owned())].into();
        let pod = PodConfig {
            annotations,
            ..PodConfig::default()
        };
        check_pod(&pod, &Host::default()).map_err(|error| error.to_string())
    };
    for name in [
        "userns-mode.crio.io",
        "io.kubernetes.cri-o.userns-mode",
        "io.kubernetes.cri-o.seccompNotifierAction/web",
        "seccomp-profile.crio.io/POD",
        "seccomp-profile.kubernetes.cri-o.io",
        "io.kubernetes.cri.untrusted-workload",
    ] {
        let error = check(name, "true").unwrap_err();
        assert!(error.contains(name), "{error}");
        check(name, "").unwrap();
    }
    for name in ["userns-mode", "io.kubernetes.cri-o.Devices", "note"] {
        check(name, "true").unwrap();
    }
}

#[test]
fn a_notifier_stops_or_logs() {
    let pod = |name: &str, action: &str| PodConfig {
        annotations: [(name.to_owned(), action.to_owned())].into(),
        ..PodConfig::default()
    };
    for name in [
        "seccomp-notifier-action.crio.io",
        "io.kubernetes.cri-o.seccompNotifierAction",
    ] {
        for (action, expected) in [
            ("stop", Some(Notifier::Stop)),
            ("", Some(Notifier::Log)),
            ("log", Some(Notifier::Log)),
            ("false", None),
        ] {
            let pod = pod(name, action);
            assert_eq!(notifier(&pod).unwrap(), expected, "{action}");
            check_pod(&pod, &Host::default()).unwrap();
            let other = check_handler(&pod, "crun");
            assert_eq!(other.is_err(), expected.is_some(), "{other:?}");
        }
        let error = check_pod(&pod(name, "kill"), &Host::default()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(name) && text.contains("use stop or log"),
            "{text}"
        );
    }
    assert_eq!(notifier(&PodConfig::default()).unwrap(), None);
}
