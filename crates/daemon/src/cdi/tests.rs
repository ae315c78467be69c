use std::{fs, path::Path, sync::Arc};

use oci_spec::runtime::{LinuxDeviceType, Spec};
use supervisor_api::DeviceNode as HostNode;

use super::{
    Cdi, CdiError, Requested,
    file::{self, FileError},
    inject,
};

fn minimal(version: &str, more: &str) -> String {
    format!(
        r#"{{"cdiVersion": "{version}", "kind": "example.com/gpu", "devices": [{{"name": "one", "containerEdits": {{"env": ["A=b"]}}}}] {more}}}"#
    )
}

fn refused(text: &str) -> String {
    file::parse(text, true).unwrap_err().to_string()
}

#[test]
fn files_are_checked_and_the_field_is_named() {
    file::parse(&minimal("0.3.0", ""), true).unwrap();
    let edits = |edits: &str| {
        refused(&minimal(
            "1.1.0",
            &format!(r#", "containerEdits": {edits}"#),
        ))
    };
    for (text, words) in [
        (edits(r#"{"env": ["A"]}"#), "containerEdits.env[0]: \"A\""),
        (edits(r#"{"env": ["=b"]}"#), "NAME=value"),
        (
            edits(r#"{"deviceNodes": [{"path": "null"}]}"#),
            "deviceNodes[0].path",
        ),
        (
            edits(r#"{"deviceNodes": [{"path": "/x", "type": "d"}]}"#),
            "deviceNodes[0].type: \"d\"",
        ),
        (
            edits(r#"{"deviceNodes": [{"path": "/x", "permissions": "rx"}]}"#),
            "permissions: \"rx\"",
        ),
        (
            edits(r#"{"deviceNodes": [{"path": "/x", "type": "c", "major": -1, "minor": 3}]}"#),
            "deviceNodes[0].major: \"-1\"",
        ),
        (
            edits(r#"{"mounts": [{"hostPath": "a", "containerPath": "/a"}]}"#),
            "mounts[0].hostPath",
        ),
        (
            edits(r#"{"hooks": [{"hookName": "never", "path": "/a"}]}"#),
            "never",
        ),
        (
            edits(r#"{"hooks": [{"hookName": "poststop", "path": "a"}]}"#),
            "hooks[0].path",
        ),
        (
            edits(r#"{"hooks": [{"hookName": "poststop", "path": "/a", "timeout": 0}]}"#),
            "timeout",
        ),
        (edits(r#"{"intelRdt": {"closID": "../x"}}"#), "closID"),
        (
            edits(r#"{"intelRdt": {"enableCMT": true}}"#),
            "enableMonitoring",
        ),
        (
            edits(r#"{"netDevices": [{"hostInterfaceName": "a", "name": ""}]}"#),
            "netDevices[0].name",
        ),
        (edits(r#"{"surprise": 1}"#), "surprise"),
        (refused(&minimal("0.9.0", "")), "cdiVersion: \"0.9.0\""),
        (
            refused(&minimal(
                "0.6.0",
                r#", "containerEdits": {"additionalGids": [5]}"#,
            )),
            "additionalGids needs cdiVersion 0.7.0",
        ),
        (
            refused(&minimal(
                "1.0.0",
                r#", "containerEdits": {"intelRdt": {"schemata": []}}"#,
            )),
            "needs cdiVersion 1.1.0",
        ),
        (
            refused(r#"{"cdiVersion": "0.6.0", "kind": "gpu", "devices": []}"#),
            "VENDOR/CLASS",
        ),
        (
            refused(r#"{"cdiVersion": "0.6.0", "kind": "a.b/c", "devices": []}"#),
            "describe at least one",
        ),
        (
            refused(
                r#"{"cdiVersion": "0.6.0", "kind": "a.b/c", "devices": [{"name": "x", "containerEdits": {}}, {"name": "x", "containerEdits": {}}]}"#,
            ),
            "devices[1].name: \"x\": another device has it",
        ),
        (refused("{"), "does not parse"),
    ] {
        assert!(text.contains(words), "{words:?} is not in {text:?}");
    }
}

#[test]
fn yaml_is_read_as_well() {
    let text = "cdiVersion: \"0.6.0\"\nkind: example.com/gpu\ndevices:\n- name: all\n  containerEdits:\n    env: [A=b]\n";
    let file = file::parse(text, false).unwrap();
    assert_eq!(file.devices[0].name, "all");
    assert!(matches!(
        file::parse("- 1", false),
        Err(FileError::Parse(_))
    ));
}

fn described(device: &str, env: &str) -> String {
    format!(
        r#"{{"cdiVersion": "0.6.0", "kind": "example.com/gpu", "containerEdits": {{"env": ["FILE={env}"]}},
            "devices": [{{"name": "{device}", "containerEdits": {{"env": ["DEVICE={env}"]}}}}]}}"#
    )
}

fn ask(names: &[&str]) -> Vec<Requested> {
    let names = names.iter().map(|name| Requested {
        origin: "config.CDI_devices[0]".to_owned(),
        name: (*name).to_owned(),
    });
    names.collect()
}

async fn env(cdi: &Arc<Cdi>, names: &[&str]) -> Result<Vec<String>, CdiError> {
    let edits = cdi.edits(&ask(names)).await?;
    Ok(edits.into_iter().flat_map(|(_, edits)| edits.env).collect())
}

fn write(directory: &Path, name: &str, text: &str) {
    fs::write(directory.join(name), text).unwrap();
}

#[tokio::test]
async fn later_directories_win_and_equals_conflict() {
    let (etc, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let missing = etc.path().join("not-there");
    let cdi = Arc::new(Cdi::open(vec![
        etc.path().to_owned(),
        run.path().to_owned(),
        missing,
    ]));
    let one = "example.com/gpu=one";
    let error = env(&cdi, &[one]).await.unwrap_err().to_string();
    assert!(
        error.contains("no file is about example.com/gpu"),
        "{error}"
    );

    write(etc.path(), "a.json", &described("one", "etc"));
    write(etc.path(), "notes.txt", "no specification");
    assert_eq!(
        env(&cdi, &[one, one]).await.unwrap().len(),
        3,
        "the file's own once"
    );
    assert_eq!(env(&cdi, &[one]).await.unwrap(), ["FILE=etc", "DEVICE=etc"]);
    write(run.path(), "a.json", &described("one", "run"));
    assert_eq!(env(&cdi, &[one]).await.unwrap(), ["FILE=run", "DEVICE=run"]);

    write(run.path(), "b.json", &described("one", "again"));
    let error = env(&cdi, &[one]).await.unwrap_err().to_string();
    for file in ["a.json", "b.json"] {
        let file = run.path().join(file).display().to_string();
        assert!(error.contains(&file), "{error}");
    }
    fs::remove_file(run.path().join("b.json")).unwrap();
    fs::remove_file(run.path().join("a.json")).unwrap();
    assert_eq!(env(&cdi, &[one]).await.unwrap(), ["FILE=etc", "DEVICE=etc"]);

    write(run.path(), "broken.json", "{");
    assert_eq!(env(&cdi, &[one]).await.unwrap().len(), 2, "others go on");
    assert!(
        cdi.trouble()[0].contains("broken.json"),
        "{:?}",
        cdi.trouble()
    );
    let error = env(&cdi, &["example.com/gpu=two"])
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("a.json has one"), "{error}");
    assert!(error.contains("broken.json"), "{error}");
    for name in [
        "gpu",
        "example.com/gpu",
        "example.com/gpu=",
        "1.com/gpu=x",
        "a/b=c=d",
    ] {
        let error = env(&cdi, &[name]).await.unwrap_err();
        assert!(matches!(error, CdiError::Name { .. }), "{name}: {error}");
    }
}

#[test]
fn a_device_that_belongs_to_nobody_belongs_to_the_container_s_user() {
    let text = minimal(
        "1.1.0",
        r#", "containerEdits": {
            "deviceNodes": [
                {"path": "/dev/gpu", "hostPath": "/dev/null", "permissions": "rw"},
                {"path": "/dev/pipe", "type": "p"},
                {"path": "/dev/quiet", "type": "c", "major": 9, "minor": 8, "permissions": "none"}
            ],
            "intelRdt": {"closID": "fast", "schemata": ["L3:0=f"]},
            "netDevices": [{"hostInterfaceName": "eth1", "name": "net1"}],
            "hooks": [{"hookName": "createContainer", "path": "/bin/hook"}],
            "additionalGids": [0, 44, 44]
        }"#,
    );
    let file = file::parse(&text, true).unwrap();
    let mut spec = Spec::default();
    let mut process = spec.process().clone().unwrap();
    let mut user = process.user().clone();
    user.set_uid(1000).set_gid(1001);
    process.set_user(user);
    spec.set_process(Some(process));
    let path = Path::new("/etc/cdi/gpu.json");
    assert_eq!(
        inject::host_nodes(&file.container_edits),
        [Path::new("/dev/null")]
    );
    let null = HostNode {
        below: String::new(),
        block: false,
        major: 1,
        minor: 3,
        mode: 0o666,
        uid: 0,
        gid: 0,
    };
    let found = vec![vec![null]];
    inject::inject(&mut spec, path, &file.container_edits, found, false).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    let devices = linux.devices().as_ref().unwrap();
    let gpu = devices
        .iter()
        .find(|one| one.path() == Path::new("/dev/gpu"))
        .unwrap();
    assert_eq!(
        (gpu.major(), gpu.minor(), gpu.typ()),
        (1, 3, LinuxDeviceType::C)
    );
    assert_eq!((gpu.uid(), gpu.gid()), (Some(1000), Some(1001)));
    let rules = linux
        .resources()
        .as_ref()
        .unwrap()
        .devices()
        .as_ref()
        .unwrap();
    let access: Vec<_> = rules
        .iter()
        .filter(|rule| rule.major() == Some(1) && rule.minor() == Some(3))
        .collect();
    assert_eq!(access.last().unwrap().access().as_deref(), Some("rw"));
    assert!(
        !rules.iter().any(|rule| rule.major() == Some(9)),
        "none is none"
    );
    assert_eq!(
        linux.intel_rdt().as_ref().unwrap().clos_id().as_deref(),
        Some("fast")
    );
    assert!(linux.net_devices().as_ref().unwrap().contains_key("eth1"));
    let groups = spec
        .process()
        .as_ref()
        .unwrap()
        .user()
        .additional_gids()
        .clone();
    assert_eq!(groups.unwrap_or_default(), [44]);
    let hooks = spec
        .hooks()
        .as_ref()
        .unwrap()
        .create_container()
        .as_ref()
        .unwrap();
    assert_eq!(
        hooks[0].args().as_deref(),
        Some(["/bin/hook".to_owned()].as_slice())
    );

    let block = HostNode {
        below: String::new(),
        block: true,
        major: 8,
        minor: 0,
        mode: 0o660,
        uid: 0,
        gid: 6,
    };
    let typed = minimal(
        "1.1.0",
        r#", "containerEdits": {"deviceNodes": [{"path": "/dev/sda", "type": "c"}]}"#,
    );
    let typed = file::parse(&typed, true).unwrap().container_edits;
    let error = inject::inject(&mut spec, path, &typed, vec![vec![block]], false).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("/etc/cdi/gpu.json: device node /dev/sda"),
        "{error}"
    );
}

#[test]
fn what_a_container_mounts_is_shown_to_the_node_if_it_is_privileged() {
    for option in ["shared", "rshared"] {
        let edits = format!(
            r#", "containerEdits": {{"mounts": [{{"hostPath": "/opt", "containerPath": "/vendor", "options": ["rbind", "{option}"]}}]}}"#
        );
        let file = file::parse(&minimal("1.1.0", &edits), true).unwrap();
        let path = Path::new("/etc/cdi/gpu.json");
        let inject = |privileged| {
            let mut spec = Spec::default();
            inject::inject(
                &mut spec,
                path,
                &file.container_edits,
                Vec::new(),
                privileged,
            )
        };
        inject(true).unwrap();
        let error = inject(false).unwrap_err().to_string();
        assert!(
            error.contains("/etc/cdi/gpu.json: mount /vendor"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn what_only_looks_like_a_file_is_told_and_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    write(directory.path(), "good.json", &described("one", "good"));
    let pipe = std::process::Command::new("mkfifo")
        .arg(path("pipe.json"))
        .status();
    assert!(pipe.unwrap().success());
    fs::create_dir(path("directory.yaml")).unwrap();
    std::os::unix::fs::symlink(path("not-there"), path("link.json")).unwrap();
    let cdi = Arc::new(Cdi::open(vec![directory.path().to_owned()]));
    let trouble = cdi.trouble();
    assert_eq!(trouble.len(), 3, "{trouble:?}");
    for name in ["directory.yaml: ", "link.json: ", "pipe.json: "] {
        assert!(trouble.iter().any(|one| one.contains(name)), "{trouble:?}");
    }
    let one = "example.com/gpu=one";
    assert_eq!(env(&cdi, &[one]).await.unwrap().len(), 2);
    // What the link names is read once it is there.
    write(directory.path(), "not-there", &described("two", "linked"));
    let two = "example.com/gpu=two";
    assert_eq!(env(&cdi, &[two]).await.unwrap()[1], "DEVICE=linked");
}
