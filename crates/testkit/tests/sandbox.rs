//! Sandboxes are hosts of their own and leave nothing.

use std::{fs, net::TcpListener, time::Duration};

use testkit::{
    ledger::{Ledger, SETTLES_WITHIN},
    sandbox::{Sandbox, cgroup_hierarchies, poll},
};

#[test]
fn the_inside_has_its_own_network_and_run() {
    let sandbox = Sandbox::new().unwrap();
    let listener = sandbox
        .on_network(|| TcpListener::bind("127.0.0.1:5000"))
        .unwrap()
        .unwrap();
    assert_eq!(listener.local_addr().unwrap().port(), 5000);
    // Another one can have the same port.
    let other = Sandbox::new().unwrap();
    other
        .on_network(|| TcpListener::bind("127.0.0.1:5000"))
        .unwrap()
        .unwrap();

    sandbox.sh("echo hello > /run/greeting").unwrap();
    assert!(!std::path::Path::new("/run/greeting").exists());
    assert_eq!(
        fs::read_to_string(sandbox.view("/run/greeting")).unwrap(),
        "hello\n"
    );
}

#[test]
fn a_ledger_sees_what_is_left_and_that_it_is_gone() {
    let sandbox = Sandbox::new().unwrap();
    let before = Ledger::take(&sandbox).unwrap();
    let hierarchy = &cgroup_hierarchies()[0];
    let cgroup = hierarchy.join(sandbox.cgroup().trim_start_matches('/'));
    fs::create_dir(&cgroup).unwrap();
    sandbox
        .sh("ip netns add left; ip link add dummy9 type veth peer name dummy8; ip addr add 10.9.9.9/32 dev dummy9; \
             nft add table inet left; nft add set inet left s '{ type ipv4_addr; elements = { 1.2.3.4 } }'; \
             touch /run/left; (sleep 300 >/dev/null 2>&1 &)")
        .unwrap();

    let text = before
        .difference(&Ledger::take(&sandbox).unwrap())
        .to_string();
    for expected in [
        "+ link: dummy9\n",
        "+ address: 10.9.9.9/32 on dummy9\n",
        "+ nftables: table inet left / set s: elements = { 1.2.3.4 }\n",
        "+ file: /run/left\n",
        "+ file: /run/netns/left\n",
        "+ process: sleep sleep 300\n",
        "+ mount: nsfs nsfs on /run/netns/left",
        "+ cgroup: ",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }

    let sleep = sandbox
        .processes()
        .into_iter()
        .find(|process| process.name == "sleep")
        .unwrap();
    sandbox.kill("KILL", &[sleep.pid]).unwrap();
    fs::remove_dir(&cgroup).unwrap();
    sandbox
        .sh("ip netns del left; ip link del dummy9; nft delete table inet left; rm /run/left; umount /run/netns")
        .unwrap();
    // An orphan is reaped by the holder, not by us.
    before
        .settles(&sandbox, SETTLES_WITHIN)
        .unwrap()
        .unwrap_or_else(|left| panic!("{left}"));
}

#[test]
fn a_reboot_kills_processes_and_empties_run() {
    let mut sandbox = Sandbox::new().unwrap();
    let boot_id = "cat /proc/sys/kernel/random/boot_id";
    let first = sandbox.sh(boot_id).unwrap();
    sandbox
        .sh("touch /run/x; (sleep 300 >/dev/null 2>&1 &)")
        .unwrap();
    fs::write(sandbox.directory().join("lib/kept"), "").unwrap();
    sandbox.reboot().unwrap();
    assert!(sandbox.processes().is_empty());
    assert!(!sandbox.view("/run/x").exists());
    assert!(sandbox.directory().join("lib/kept").exists());
    assert_ne!(first, sandbox.sh(boot_id).unwrap());
}

#[test]
fn nothing_is_left_of_a_dropped_sandbox() {
    let sandbox = Sandbox::new().unwrap();
    let directory = sandbox.directory().to_owned();
    let holder = sandbox.holder_pid();
    let cgroups: Vec<_> = cgroup_hierarchies()
        .iter()
        .map(|hierarchy| {
            hierarchy
                .join(sandbox.cgroup().trim_start_matches('/'))
                .join("a/b")
        })
        .collect();
    cgroups
        .iter()
        .for_each(|path| fs::create_dir_all(path).unwrap());
    sandbox.sh("(sleep 300 >/dev/null 2>&1 &)").unwrap();
    drop(sandbox);
    assert!(!directory.exists());
    assert!(
        cgroups
            .iter()
            .all(|path| !path.parent().unwrap().parent().unwrap().exists())
    );
    let gone = || (!std::path::Path::new(&format!("/proc/{holder}")).exists()).then_some(());
    poll(Duration::from_secs(10), gone).expect("the holder is gone");
}
