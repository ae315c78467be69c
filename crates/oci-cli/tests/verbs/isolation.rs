//! What a container has of its own.

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use crate::node::Node;

#[test]
fn clocks_and_names_are_its_own() {
    let node = Node::new();
    node.change(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({ "type": "time" }));
        spec["linux"]["timeOffsets"] = json!({
            "boottime": { "secs": 1_000_000_000 },
            "monotonic": { "secs": 2_000_000_000, "nanosecs": 5 },
        });
        spec["hostname"] = json!("inside");
        spec["domainname"] = json!("example");
        spec["linux"]["personality"] = json!({ "domain": "LINUX32" });
        spec["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 });
        spec["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 });
    });
    node.script("sleep 1000");
    node.create("one").fine();
    node.run(&["start", "one"]).fine();
    let script = "cat /proc/uptime /proc/self/timens_offsets; hostname; \
        cat /proc/sys/kernel/domainname /proc/self/personality; cat /proc/self/stat; cat /proc/1/personality";
    let said = node.run(&["exec", "one", "sh", "-c", script]).fine();
    let lines: Vec<&str> = said.lines().collect();
    let uptime: f64 = lines[0].split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 1e9, "{said}");
    assert!(lines[1].contains("2000000000"), "{said}");
    assert!(lines[2].contains("1000000000"), "{said}");
    assert_eq!(lines[3..6], ["inside", "example", "00000008"], "{said}");
    // Behind the name: nice is field 19, and the policy (3, batch) field 41.
    let fields: Vec<&str> = lines[6].rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!((fields[19 - 3], fields[41 - 3]), ("5", "3"), "{said}");
    assert_eq!(lines[7], "00000008");
    node.run(&["delete", "--force", "one"]).fine();
    node.is_bare();
}

#[test]
fn ids_are_mapped_where_it_has_a_user_namespace() {
    let node = Node::new();
    node.change(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({ "type": "user" }));
        let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
        spec["mounts"][5]["options"] = json!(["nosuid", "noexec", "nodev", "ro"]);
    });
    node.script("cat /proc/self/uid_map; id -u; stat -c %u /bin; cat /dev/zero | false");
    let said = node.with_bundle("run", &["one"]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    let words: Vec<&str> = said.out.split_whitespace().collect();
    // The bundle's files belong to nobody there.
    assert_eq!(
        words,
        ["0", "100000", "65536", "0", "65534"],
        "{}",
        said.err
    );
    node.is_bare();
}

#[test]
fn namespaces_may_be_those_of_others() {
    let node = Node::new();
    node.change(|spec| spec["hostname"] = json!("first"));
    node.script("sleep 1000");
    node.create("one").fine();
    let pid = node.state("one")["pid"].as_i64().unwrap();
    node.change(|spec| {
        spec["hostname"] = json!(null);
        spec["linux"]["cgroupsPath"] = json!(format!("{}/two", node.sandbox.cgroup()));
        for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
            let name = match namespace["type"].as_str().unwrap() {
                "uts" => "uts",
                "ipc" => "ipc",
                "network" => "net",
                "pid" => "pid",
                _ => continue,
            };
            namespace["path"] = json!(format!("/proc/{pid}/ns/{name}"));
        }
    });
    node.script("hostname; ls -l /proc/self/ns");
    let said = node.with_bundle("run", &["two"]).fine();
    assert!(said.starts_with("first\n"), "{said}");
    for name in ["uts", "ipc", "net", "pid"] {
        let links = format!("readlink /proc/{pid}/ns/{name}");
        let link = node.sandbox.sh(&links).unwrap();
        assert!(said.contains(&format!(" {name} -> {link}")), "{said}");
    }
    node.run(&["delete", "--force", "one"]).fine();
    node.is_bare();
}

/// `unshare -r` takes it.
fn may_map_root(spec: &mut Value) {
    for set in ["bounding", "effective", "permitted"] {
        let set = &mut spec["process"]["capabilities"][set];
        set.as_array_mut().unwrap().push(json!("CAP_SETFCAP"));
    }
}

/// An unprivileged process in a user namespace of its own gets a `/proc` without masks where one is in full view in its mount namespace.
#[test]
fn without_a_pivot_nothing_of_the_old_tree_is_left() {
    let node = Node::new();
    node.change(may_map_root);
    let mut masks = [json!([]), json!([])];
    // Exchanges those that it has for those that it had.
    let mut exchange_masks = || {
        node.change(|spec| {
            std::mem::swap(&mut spec["linux"]["maskedPaths"], &mut masks[0]);
            std::mem::swap(&mut spec["linux"]["readonlyPaths"], &mut masks[1]);
        });
    };
    node.script("busybox unshare -mrpf busybox mount -t proc none /proc && echo bare");
    let try_it = || node.with_bundle("run", &["--no-pivot", "one"]);
    let hook = json!({ "createRuntime": [{ "path": "/bin/true" }] });
    for hooks in [json!({}), hook] {
        node.change(|spec| spec["hooks"] = hooks);
        let said = try_it();
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(!said.out.contains("bare"), "{said:?}");
        // It is the masks that forbid it.
        exchange_masks();
        let said = try_it();
        assert!(said.out.contains("bare"), "{said:?}");
        exchange_masks();
    }
    // Its root is that of whoever enters its mount namespace, wherever it was mounted before.
    node.script("sleep 1000");
    let bundle = node.bundle().display().to_string();
    let created = node.begin(&["create", "--no-pivot", "--bundle", &bundle, "one"]);
    assert!(created.wait_with_output().unwrap().status.success());
    node.run(&["start", "one"]).fine();
    let look = format!(
        "nsenter -t {} -m /bin/busybox ls /",
        node.state("one")["pid"]
    );
    let seen = node.sandbox.sh(&look).unwrap();
    let seen: Vec<&str> = seen.split_whitespace().collect();
    assert_eq!(seen, ["bin", "dev", "etc", "proc", "sys", "tmp"]);
    assert_eq!(node.run(&["exec", "one", "ls", "/etc"]).fine(), "");
    node.run(&["delete", "--force", "one"]).fine();
    node.is_bare();
}

/// Its old tree is locked together: it cannot be detached, and is covered.
#[test]
fn without_a_pivot_a_user_namespace_sees_no_old_proc() {
    let node = Node::new();
    node.change(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({ "type": "user" }));
        let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
        may_map_root(spec);
    });
    node.script(
        "busybox unshare -mrpf busybox mount -t proc none /proc && echo bare; ls /proc/1/stat",
    );
    let said = node.with_bundle("run", &["--no-pivot", "one"]);
    assert_eq!(said.out, "/proc/1/stat\n", "{said:?}");
    node.is_bare();
}

#[test]
fn a_terminal_has_its_place_in_a_dev_that_is_read_only() {
    let node = Node::new();
    node.change(|spec| {
        spec["process"]["terminal"] = json!(true);
        for mount in spec["mounts"].as_array_mut().unwrap() {
            if mount["destination"] == "/dev" {
                let options = mount["options"].as_array_mut().unwrap();
                options.push(json!("ro"));
            }
        }
    });
    node.script("touch /dev/x || stat -c %n /dev/console");
    let said = node.with_bundle("run", &["one"]);
    assert!(said.out.ends_with("/dev/console\r\n"), "{said:?}");
    assert!(said.out.contains("Read-only"), "{said:?}");
    node.is_bare();
}

#[test]
fn a_terminals_master_goes_to_the_console_socket() {
    let node = Node::new();
    node.change(|spec| spec["process"]["terminal"] = json!(true));
    node.script("test -t 0 && test -t 1 && echo a terminal; sleep 1000");
    let error = node.create("one").refused();
    assert!(error.contains("--console-socket"), "{error}");
    let path = node.sandbox.directory().join("console");
    let listener = UnixListener::bind(&path).unwrap();
    let socket = path.display().to_string();
    let create = ["--console-socket", &socket, "one"];
    let bundle = node.bundle().display().to_string();
    let create = [&["create", "--bundle", &bundle], &create[..]].concat();
    let said = node.begin(&create).wait().unwrap();
    assert!(said.success(), "{said}");
    let (connection, _) = listener.accept().unwrap();
    let mut master = receive(&connection);
    node.run(&["start", "one"]).fine();
    let mut text = [0_u8; 64];
    let count = master.read(&mut text).unwrap();
    assert_eq!(&text[..count], b"a terminal\r\n");
    node.run(&["delete", "--force", "one"]).fine();
    node.is_bare();
}

fn receive(connection: &std::os::unix::net::UnixStream) -> fs::File {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0_u8; 64];
    let mut name = [std::io::IoSliceMut::new(&mut name)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(connection, &mut name, &mut ancillary, flags).unwrap();
    let message = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    message.unwrap().into()
}

#[test]
fn descriptors_are_handed_down_when_asked_for() {
    let node = Node::new();
    node.script("cat <&4; ls /proc/self/fd | grep -c '^[345]$'");
    let given = node.sandbox.directory().join("given");
    fs::write(&given, "handed down\n").unwrap();
    let program = env!("CARGO_BIN_EXE_longshore-oci");
    let run = |preserve: &str| {
        let script = format!(
            "exec 3</dev/null 4<{} 5</dev/null; {program} --root {} run {preserve} -b {} one",
            given.display(),
            node.root().display(),
            node.bundle().display(),
        );
        let output = node
            .sandbox
            .command("bash")
            .args(["-c", &script])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    // ls opens the directory itself at the number after them.
    assert_eq!(run("--preserve-fds 2"), "handed down\n3\n");
    assert_eq!(run(""), "1\n");
    let error = node
        .with_bundle("run", &["--preserve-fds", "5", "one"])
        .refused();
    assert!(error.contains("--preserve-fds"), "{error}");
    node.is_bare();
}
