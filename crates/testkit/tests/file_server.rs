//! The file server serves, hangs, answers again, and dies.

use std::{
    fs,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use testkit::{file_server::FileServer, sandbox::Sandbox};

#[test]
fn a_server_that_hangs_on_demand() {
    let sandbox = Sandbox::new().unwrap();
    sandbox.sh("mkdir /run/far").unwrap();
    let server =
        FileServer::mount(&sandbox, "/run/far", &[("a/b", "served\n"), ("c", "too\n")]).unwrap();
    let listed = sandbox
        .sh("cat /run/far/a/b /run/far/c; ls /run/far")
        .unwrap();
    assert_eq!(listed, "served\ntoo\na\nc\n");
    assert!(sandbox.sh("cat /run/far/none").is_err());

    server.hang();
    let mut waits = sandbox
        .command("cat")
        .arg("/run/far/a/b")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(200));
    assert!(waits.try_wait().unwrap().is_none());
    server.resume();
    assert_eq!(waits.wait_with_output().unwrap().stdout, b"served\n");

    server.hang();
    waits = sandbox
        .command("cat")
        .arg("/run/far/a/b")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(100));
    drop(server);
    assert!(!waits.wait().unwrap().success());
    sandbox.sh("umount /run/far").unwrap();
}

#[test]
fn a_server_that_makes_its_clients_immortal() {
    let sandbox = Sandbox::new().unwrap();
    sandbox.sh("mkdir /run/far").unwrap();
    let server = FileServer::mount(&sandbox, "/run/far", &[("a", "served\n")]).unwrap();
    server.swallow();
    let mut waits = sandbox.command("cat").arg("/run/far/a").spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    // Its request is made, and then taken.
    let cat = loop {
        assert!(Instant::now() < deadline, "nobody asks for the file");
        let processes = sandbox.processes().into_iter();
        let waits = processes
            .filter(|process| process.name == "cat")
            .find(|cat| {
                let wchan = fs::read_to_string(sandbox.view(format!("/proc/{}/wchan", cat.pid)));
                wchan.is_ok_and(|function| function == "request_wait_answer")
            });
        match waits {
            Some(cat) => break cat,
            None => thread::sleep(Duration::from_millis(10)),
        }
    };
    thread::sleep(Duration::from_millis(200));
    sandbox.kill("KILL", &[cat.pid]).unwrap();
    thread::sleep(Duration::from_millis(200));
    assert!(waits.try_wait().unwrap().is_none());
    drop(server);
    assert!(!waits.wait().unwrap().success());
    sandbox.sh("umount /run/far").unwrap();
}
