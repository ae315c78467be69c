use super::*;
use crate::pod::config::SelinuxOptions;

/// Files where a node with SELinux has them.
fn node(policy: &str) -> (tempfile::TempDir, Places) {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("selinuxfs")).unwrap();
    for (file, text) in [
        ("selinuxfs/enforce", "1"),
        ("selinuxfs/context", ""),
        ("own", "system_u:system_r:runtime_t:s0\0"),
    ] {
        fs::write(at(file), text).unwrap();
    }
    let contexts = at("policy/targeted/contexts");
    fs::create_dir_all(&contexts).unwrap();
    fs::write(at("policy/config"), "SELINUXTYPE=targeted\n").unwrap();
    fs::write(contexts.join("lxc_contexts"), policy).unwrap();
    let places = Places {
        kernel: at("selinuxfs"),
        policy: at("policy"),
        own: at("own"),
    };
    (directory, places)
}

const POLICY: &str = "process = \"system_u:system_r:container_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\n";

fn pod(options: SelinuxOptions) -> PodConfig {
    let mut config = PodConfig::default();
    config.linux.security_context.selinux_options = options;
    config
}

#[test]
fn each_pod_has_a_level_of_its_own() {
    let (_directory, places) = node(POLICY);
    let selinux = Selinux::open(true, &places);
    assert!(selinux.labels() && selinux.trouble().is_none());
    let draw = || selinux.of_pod(&pod(SelinuxOptions::default())).unwrap();
    let ((one, held), (two, _held)) = (draw().unwrap(), draw().unwrap());
    assert_ne!(one, two);
    let level = one.process.level().unwrap().to_owned();
    assert!(level.starts_with("s0:c"), "{level}");
    let says = |kind: &str, role| format!("system_u:{role}:{kind}:{level}");
    assert_eq!(one.process.to_string(), says("container_t", "system_r"));
    assert_eq!(one.files.to_string(), says("container_file_t", "object_r"));
    let unconfined = one.unconfined.as_ref().unwrap().to_string();
    assert_eq!(unconfined, "system_u:system_r:spc_t:s0");
    // A daemon that finds the pod's record holds them again.
    drop(held);
    assert_eq!(selinux.hold(&one).unwrap().at("s0"), level);
    let json = serde_json::to_string(&one).unwrap();
    assert_eq!(serde_json::from_str::<PodLabels>(&json).unwrap(), one);
}

#[test]
fn what_a_user_gives_is_kept() {
    let (_directory, places) = node(POLICY);
    let selinux = Selinux::open(true, &places);
    let asked = SelinuxOptions {
        level: "s0:c123,c456".into(),
        kind: "web_t".into(),
        ..SelinuxOptions::default()
    };
    let (labels, held) = selinux.of_pod(&pod(asked)).unwrap().unwrap();
    assert_eq!(
        labels.process.to_string(),
        "system_u:system_r:web_t:s0:c123,c456"
    );
    assert_eq!(
        labels.files.to_string(),
        "system_u:object_r:container_file_t:s0:c123,c456"
    );
    assert!(held.is_some());
}

#[test]
fn without_levels_in_the_policy_a_pod_has_none() {
    let (_directory, places) = node("process = u:r:p_t\nfile = u:o:f_t\n");
    let selinux = Selinux::open(true, &places);
    let (labels, held) = selinux.of_pod(&PodConfig::default()).unwrap().unwrap();
    assert_eq!(
        (labels.process.to_string(), labels.files.to_string()),
        ("u:r:p_t".to_owned(), "u:o:f_t".to_owned())
    );
    assert!(held.is_none());
}

#[test]
fn a_node_without_it_or_that_does_not_want_it_has_no_labels() {
    let (directory, places) = node(POLICY);
    let unwanted = Selinux::open(false, &places);
    assert!(is_enabled(&places) && !unwanted.labels());
    assert!(unwanted.of_pod(&PodConfig::default()).unwrap().is_none());
    // No policy is loaded yet.
    fs::write(directory.path().join("own"), "kernel\0").unwrap();
    assert!(!is_enabled(&places));
    let selinux = Selinux::open(true, &places);
    assert!(!selinux.labels() && selinux.of_pod(&PodConfig::default()).unwrap().is_none());
}

#[test]
fn a_policy_that_says_nothing_of_containers_lets_no_pod_run() {
    let (_directory, places) = node("process = \"u:r:p_t:s0\"\n");
    let selinux = Selinux::open(true, &places);
    assert!(selinux.labels());
    let error = selinux.of_pod(&PodConfig::default()).unwrap_err();
    for text in [streaming::chain(&error), selinux.trouble().unwrap()] {
        assert!(text.contains("container-selinux"), "{text}");
        assert!(
            text.contains("selinux = false") && text.contains("file is missing"),
            "{text}"
        );
    }
}

#[test]
fn a_label_that_the_kernel_does_not_judge_is_refused() {
    let (directory, places) = node(POLICY);
    let selinux = Selinux::open(true, &places);
    fs::remove_file(directory.path().join("selinuxfs/context")).unwrap();
    let error = selinux.of_pod(&PodConfig::default()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(FIELD) && text.contains("container_t"),
        "{text}"
    );
}
