//! Deprecated fields, and requests that are odd rather than wrong.

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::pod::config::ProfileType;

#[test]
#[allow(deprecated)]
fn deprecated_profiles() {
    let decoded = |apparmor: &str, seccomp: &str| {
        decode_container(|config| {
            let security = security_of(config);
            (security.apparmor, security.seccomp) = (None, None);
            security.apparmor_profile = apparmor.to_owned();
            security.seccomp_profile_path = seccomp.to_owned();
        })
        .map(|config| config.linux.security_context)
    };
    let security = decoded("runtime/default", "docker/default").unwrap();
    assert_eq!(
        security.apparmor.unwrap().profile_type,
        ProfileType::RuntimeDefault
    );
    assert_eq!(
        security.seccomp.unwrap().profile_type,
        ProfileType::RuntimeDefault
    );
    let security = decoded("unconfined", "localhost//var/lib/kubelet/seccomp/a.json").unwrap();
    assert_eq!(
        security.apparmor.unwrap().profile_type,
        ProfileType::Unconfined
    );
    let seccomp = security.seccomp.unwrap();
    assert_eq!(seccomp.profile_type, ProfileType::Localhost);
    assert_eq!(seccomp.localhost_ref, "/var/lib/kubelet/seccomp/a.json");
    assert_eq!(decoded("", "").unwrap().seccomp, None);
    let apparmor = decoded("localhost/p", "").unwrap().apparmor.unwrap();
    assert_eq!(apparmor.profile_type, ProfileType::Localhost);
    assert_eq!(apparmor.localhost_ref, "p");
    decoded("localhost/p\u{1}", "").unwrap_err();
    decoded("", "nonsense").unwrap_err();
}

#[test]
fn a_user_namespace_of_the_node_is_none() {
    let config = decode_pod(|config| {
        let options = pod_security(config).namespace_options.as_mut().unwrap();
        let mode = v1::NamespaceMode::Node.into();
        options.userns_options = Some(v1::UserNamespace {
            mode,
            ..Default::default()
        });
    });
    let options = config.unwrap().linux.security_context.namespace_options;
    assert_eq!(options.userns_options, None);
}

#[test]
fn long_values_are_cut_where_they_are_quoted() {
    let error = decode_container(|config| config.working_dir = "ü".repeat(5000)).unwrap_err();
    assert!(error.to_string().len() < 400, "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    /// Bytes of a good request changed here and there are mostly requests still.
    #[test]
    fn decoding_never_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let (mut pod, mut container) = (pod().encode_to_vec(), container().encode_to_vec());
        for (place, byte) in changes {
            let at = place.index(pod.len());
            pod[at] = byte;
            let at = place.index(container.len());
            container[at] = byte;
        }
        if let Ok(message) = v1::PodSandboxConfig::decode(pod.as_slice()) {
            let _ = pod_config("config", message);
        }
        if let Ok(message) = v1::ContainerConfig::decode(container.as_slice()) {
            let _ = container_config("config", message);
        }
    }
}
