use std::collections::BTreeMap;

use nri::api;
use oci_spec::runtime::Spec;

use super::{apply::apply, confine, limits, merge::Merged, validate};
use crate::{config::NriSettings, spec::Host};

fn settings() -> NriSettings {
    NriSettings {
        enabled: true,
        socket: None,
        plugins: "/none".into(),
        configurations: "/none".into(),
        required: Vec::new(),
        tolerate_missing: String::new(),
        reject: Vec::new(),
        registration_timeout: std::time::Duration::from_secs(5),
        request_timeout: std::time::Duration::from_secs(2),
    }
}

fn annotated(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn required_plugins_are_missed_unless_that_is_tolerated() {
    let none = BTreeMap::new();
    let mut config = settings();
    validate::required(&config, &[], &none, Some("main")).unwrap();
    config.required = vec!["logger".to_owned()];
    let error = validate::required(&config, &[], &none, None).unwrap_err();
    assert!(error.to_string().contains("logger is required"), "{error}");
    config.tolerate_missing = "tolerates".to_owned();
    let tolerant = annotated(&[("tolerates/container.main", "true"), ("tolerates", "false")]);
    validate::required(&config, &[], &tolerant, Some("main")).unwrap();
    validate::required(&config, &[], &tolerant, Some("other")).unwrap_err();
    let wrong = annotated(&[("tolerates/pod", "perhaps")]);
    let error = validate::required(&config, &[], &wrong, None).unwrap_err();
    assert!(error.to_string().contains("tolerates/pod"), "{error}");

    let config = settings();
    let asks = annotated(&[("required-plugins.noderesource.dev", "[ one ]")]);
    let error = validate::required(&config, &[], &asks, None).unwrap_err();
    assert!(error.to_string().contains("one is required"), "{error}");
    let wrong = annotated(&[("required-plugins.noderesource.dev", "{ one: two }")]);
    validate::required(&config, &[], &wrong, None).unwrap_err();
}

fn env(key: &str, value: &str) -> api::KeyValue {
    api::KeyValue {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

#[test]
fn two_plugins_change_one_thing_only_if_the_later_takes_the_first_s_away() {
    let adjust = |env: Vec<api::KeyValue>| api::ContainerAdjustment {
        env,
        ..Default::default()
    };
    let mut merged = Merged::default();
    merged
        .take(adjust(vec![env("A", "1"), env("B", "1")]), "10-a")
        .unwrap();
    merged
        .take(adjust(vec![env("-A", ""), env("A", "2")]), "20-b")
        .unwrap();
    let conflict = merged
        .take(adjust(vec![env("B", "3")]), "30-c")
        .unwrap_err();
    assert_eq!(
        (conflict.first.as_str(), conflict.second.as_str()),
        ("10-a", "30-c")
    );
    let mut spec = Spec::default();
    apply(&mut spec, &merged.adjust, &Host::default()).unwrap();
    let env = spec.process().as_ref().unwrap().env().clone().unwrap();
    assert!(
        env.contains(&"A=2".to_owned()) && env.contains(&"B=1".to_owned()),
        "{env:?}"
    );

    let memory = |value| api::ContainerAdjustment {
        linux: Some(api::LinuxContainerAdjustment {
            resources: Some(api::LinuxResources {
                memory: Some(api::LinuxMemory {
                    limit: Some(api::OptionalInt64 { value }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut merged = Merged::default();
    merged.take(memory(1), "10-a").unwrap();
    let conflict = merged.take(memory(2), "20-b").unwrap_err();
    assert_eq!(conflict.what, "MemLimit");
    assert_eq!(merged.everybody(), "10-a");
}

#[test]
fn a_narrower_seccomp_policy_passes_and_a_wider_one_does_not() {
    let policy = |json: serde_json::Value| {
        let mut spec = Spec::default();
        let linux = spec.linux_mut().as_mut().unwrap();
        linux.set_seccomp(Some(serde_json::from_value(json).unwrap()));
        spec
    };
    let allowing = |default: &str, names: &[&str]| {
        policy(serde_json::json!({
            "defaultAction": default,
            "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
        }))
    };
    let before = allowing("SCMP_ACT_ERRNO", &["read", "write"]);
    confine::check(&before, &allowing("SCMP_ACT_ERRNO", &["read"]), false).unwrap();
    confine::check(
        &before,
        &allowing("SCMP_ACT_KILL_PROCESS", &["read", "write"]),
        false,
    )
    .unwrap();
    let error = confine::check(
        &before,
        &allowing("SCMP_ACT_ERRNO", &["read", "mount"]),
        false,
    );
    assert!(error.unwrap_err().to_string().contains("mount"));
    confine::check(&before, &allowing("SCMP_ACT_LOG", &["read"]), false).unwrap_err();
    let unmitigated = policy(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "flags": ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
    }));
    let error = confine::check(&before, &unmitigated, false).unwrap_err();
    assert!(error.to_string().contains("SPEC_ALLOW"), "{error}");
    confine::check(&before, &allowing("SCMP_ACT_ALLOW", &[]), true).unwrap();
    confine::check(&allowing("SCMP_ACT_ALLOW", &[]), &before, false).unwrap();
}

#[test]
fn limits_that_requests_have_no_words_for_are_refused_by_name() {
    let given = api::LinuxResources {
        cpu: Some(api::LinuxCpu {
            shares: Some(api::OptionalUInt64 { value: 7 }),
            cpus: "0-1".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let asked = limits::asked(&given, &Host::default()).unwrap().asked;
    assert_eq!((asked.cpu_shares, asked.cpuset_cpus.as_str()), (7, "0-1"));
    let given = api::LinuxResources {
        memory: Some(api::LinuxMemory {
            kernel: Some(api::OptionalInt64 { value: 1 }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let error = limits::asked(&given, &Host::default()).unwrap_err();
    assert!(error.to_string().contains("memory.kernel"), "{error}");
}

#[test]
fn a_container_stays_below_its_pod() {
    let place = |path: &str| {
        let mut spec = Spec::default();
        let linux = spec.linux_mut().as_mut().unwrap();
        linux.set_cgroups_path(Some("/pods/c1".into()));
        let adjust = api::ContainerAdjustment {
            linux: Some(api::LinuxContainerAdjustment {
                cgroups_path: path.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        apply(&mut spec, &adjust, &Host::default())
    };
    for good in ["/pods/other", "pods/deep/er", "/pods/c1"] {
        place(good).unwrap();
    }
    for escape in [
        "/pods",
        "/",
        "/elsewhere/c1",
        "/podsalike/c1",
        "/pods/../c1",
        "pods.slice:cri:c1",
    ] {
        let error = place(escape).unwrap_err().to_string();
        assert!(error.contains("linux.cgroups_path"), "{escape}: {error}");
    }
}
