use std::os::fd::AsFd;
use std::process::{Command, Stdio as ProcessStdio};

use rustix::net::SendFlags;
use supervisor_api::*;

use crate::harness::*;

fn raw(client: &Client, datagram: &[u8]) {
    rustix::net::send(client.socket.as_fd(), datagram, SendFlags::NOSIGNAL).unwrap();
}

/// The connection answers with an error about itself and ends.
fn refused(mut client: Client, said: &str) {
    match client.message() {
        Some((
            Message::Reply {
                sequence: 0,
                result: Err(error),
            },
            _,
        )) => assert!(error.message.contains(said), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(client.message().is_none());
}

#[test]
fn a_malformed_datagram_ends_its_connection_only() {
    let mut pod = Pod::ready();
    pod.run("c", "sleep 1000");
    let directory = pod.directory.path().to_owned();
    let connect = || Client::connect(&directory);

    for datagram in [
        &[PROTOCOL_VERSION][..],
        &[PROTOCOL_VERSION, 0],
        &[PROTOCOL_VERSION, 0, 0xff, 0xff, 0xff, 0xff],
        &[PROTOCOL_VERSION, 7, 1, 2, 3],
        // Spilled, without a descriptor.
        &[PROTOCOL_VERSION, SPILLED],
    ] {
        let client = connect();
        raw(&client, datagram);
        refused(client, "the connection is closed");
    }
    let client = connect();
    raw(&client, &[PROTOCOL_VERSION + 1, 0, 1, 0]);
    refused(client, "speaks supervisor protocol 2");

    let client = connect();
    raw(&client, &vec![PROTOCOL_VERSION; INLINE_BYTES + 1]);
    refused(client, "cut off");

    // A file that is no sealed memfd.
    let client = connect();
    let file = pod.log_file("file");
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    let descriptors = [file.as_fd()];
    control.push(rustix::net::SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(
        &client.socket,
        &[std::io::IoSlice::new(&[PROTOCOL_VERSION, SPILLED])],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .unwrap();
    refused(client, "memfd");

    let mut client = connect();
    client.send(RequestBody::State, vec![]);
    refused(client, "Hello");

    // Pseudo-random bytes never do more than that.
    let mut state = 12_345_u64;
    for length in 1..200 {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 33) as u8
            })
            .collect();
        let mut client = connect();
        raw(
            &client,
            &[&[PROTOCOL_VERSION, 0], bytes.as_slice()].concat(),
        );
        // An error, or, if it happened to be a Hello, an answer.
        assert!(client.message().is_some());
    }

    assert_eq!(pod.state().containers.len(), 1);
    pod.finish();
}

#[test]
fn a_large_request_travels_in_a_memfd() {
    let mut pod = Pod::ready();
    let mut plan = pod.plan("c", "echo ${#LARGE}");
    plan.process
        .env
        .push(format!("LARGE={}", "x".repeat(100_000)));
    pod.create(plan).unwrap();
    pod.start("c").unwrap();
    assert_eq!(pod.client.exit("c").exit_code, 0);
    assert_eq!(pod.log("c").shown("stdout"), "100000\n");
    pod.finish();
}

#[test]
fn events_go_to_everybody_and_exits_wait_for_whoever_comes_back() {
    let mut pod = Pod::ready();
    let mut second = Client::connect(pod.directory.path());
    second.greet();
    assert_eq!(pod.run_to_end("one", "exit 1").exit_code, 1);
    assert_eq!(second.exit("one").exit_code, 1);

    // Nobody there.
    pod.run("two", "sleep 0.3; echo still here; exit 2");
    drop(second);
    let directory = pod.directory.path().to_owned();
    pod.client = Client::connect(&directory);
    let silent = std::mem::replace(&mut pod.client, Client::connect(&directory));
    drop(silent);
    within(|| pod.record("two"));
    assert_eq!(pod.record("two").unwrap().exit_code, 2);
    assert_eq!(pod.log("two").shown("stdout"), "still here\n");

    pod.client.greet();
    let state = pod.state();
    let codes: Vec<(String, i32)> = state
        .containers
        .into_iter()
        .map(|container| match container.status {
            ContainerStatus::Exited(exit) => (container.id, exit.exit_code),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(codes, [("one".to_owned(), 1), ("two".to_owned(), 2)]);
    pod.finish();
}

#[test]
fn a_daemon_that_is_killed_is_a_daemon_that_hangs_up() {
    let mut pod = Pod::ready();
    let pid = pod.run("c", "sleep 1000");
    let mut client = Client::connect(pod.directory.path());
    client.greet();
    let (mut request, output) = pod.exec("c", "bound", "sleep 1000");
    request.exec.bound_to_connection = true;
    client.start_exec(request).unwrap();
    // Another process has the connection, and gets no chance to close it.
    let mut holder = Command::new("sleep")
        .arg("1000")
        .stdin(ProcessStdio::from(client.socket.try_clone().unwrap()))
        .spawn()
        .unwrap();
    drop(client);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(
        pod.client.exec_exit("bound"),
        (137, Some(ExecKilled::ConnectionClosed))
    );
    assert_eq!(output.read_to_end(), "");
    assert!(alive(pid));
    pod.finish();
}

#[test]
fn a_daemon_that_does_not_read_is_disconnected() {
    let mut pod = Pod::ready();
    let mut lazy = Client::connect(pod.directory.path());
    lazy.greet();
    // Answers that nobody takes.
    let datagram_sent = |client: &mut Client| {
        let outgoing = Outgoing::new(
            &Request {
                sequence: 7,
                body: RequestBody::State,
            },
            vec![],
        )
        .unwrap();
        outgoing.send(client.socket.as_fd()).is_ok()
    };
    within(|| (!datagram_sent(&mut lazy)).then_some(()));
    assert_eq!(pod.run_to_end("c", "exit 1").exit_code, 1);
    pod.finish();
}

#[test]
fn what_is_not_there_and_what_is_not_the_time() {
    let mut pod = Pod::bare();
    let id = || "nobody".to_owned();
    let kind = |pod: &mut Pod, body| pod.client.error(body).kind;

    let plan = pod.plan("early", "true");
    assert_eq!(
        pod.create(plan).unwrap_err().kind,
        ErrorKind::FailedPrecondition
    );
    let plan = pod.sandbox_plan();
    pod.client
        .call(RequestBody::CreateSandbox(plan.clone()), vec![])
        .unwrap();
    assert_eq!(
        kind(&mut pod, RequestBody::StartContainer { id: id() }),
        ErrorKind::NotFound
    );
    let signal = RequestBody::Signal {
        id: id(),
        signal: 9,
        all: false,
    };
    assert_eq!(kind(&mut pod, signal), ErrorKind::NotFound);
    let update = RequestBody::UpdateResources {
        id: id(),
        resources: oci_plan::Resources::default(),
    };
    assert_eq!(kind(&mut pod, update), ErrorKind::NotFound);
    let file = pod.log_file("file");
    let reopen = RequestBody::ReopenLog {
        id: id(),
        log: oci_plan::FdSlot(0),
    };
    let error = pod.client.call(reopen, vec![file]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    pod.order(RequestBody::DeleteContainer { id: id() });
    pod.order(RequestBody::DeleteContainer {
        id: "../supervisor.sock".to_owned(),
    });
    pod.order(RequestBody::KillExec { exec_id: id() });
    assert_eq!(
        kind(&mut pod, RequestBody::Shutdown),
        ErrorKind::FailedPrecondition
    );

    for bad in ["", "a/b", "..", ".hidden"] {
        let plan = pod.plan(bad, "true");
        let log = pod.log_file("file");
        let error = pod.create_with(plan, log, false).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
    }
    let plan = pod.plan("twice", "true");
    pod.create(plan.clone()).unwrap();
    assert_eq!(
        pod.create(plan).unwrap_err().kind,
        ErrorKind::FailedPrecondition
    );
    pod.start("twice").unwrap();
    let start = RequestBody::StartContainer {
        id: "twice".to_owned(),
    };
    assert_eq!(kind(&mut pod, start), ErrorKind::FailedPrecondition);

    pod.order(RequestBody::StopSandbox);
    let again = pod.sandbox_plan();
    assert_eq!(
        kind(&mut pod, RequestBody::CreateSandbox(again)),
        ErrorKind::FailedPrecondition
    );
    pod.finish();
}
