use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt::socket_peercred;
use supervisor_api::{ErrorKind, ReplyBody, RequestBody};

use crate::harness::{Pod, alive, kill, within};

fn anchored(pod: &mut Pod, listener: &std::path::Path) -> (i32, OwnedFd) {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let socket = rustix::fs::open(listener, flags, Mode::empty()).unwrap();
    let request = RequestBody::Anchor {
        socket: oci_plan::FdSlot(0),
    };
    match pod.client.call(request, vec![socket]).unwrap() {
        (ReplyBody::Anchored { pid }, mut descriptors) => (pid, descriptors.pop().unwrap()),
        (other, _) => panic!("{other:?}"),
    }
}

#[test]
fn an_anchor_is_who_has_connected_and_lives_as_long_as_its_supervisor() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("listener");
    let listener = UnixListener::bind(&path).unwrap();
    let mut pod = Pod::bare();
    let (anchor, ours) = anchored(&mut pod, &path);
    let (theirs, _) = listener.accept().unwrap();
    let peer = socket_peercred(&theirs).unwrap().pid;
    assert_eq!(peer.as_raw_nonzero().get(), anchor);
    assert_ne!(anchor, pod.process.id() as i32);
    rustix::io::write(&ours, b"x").unwrap();
    let error = pod.client.error(RequestBody::Anchor {
        socket: oci_plan::FdSlot(0),
    });
    assert_eq!(error.kind, ErrorKind::InvalidArgument, "no descriptor");

    // Neither a stray of the pod, nor anything that keeps it from stopping.
    let plan = pod.sandbox_plan();
    let create = RequestBody::CreateSandbox(plan);
    pod.client.call(create, vec![]).unwrap();
    pod.run("c", "read forever");
    pod.order(RequestBody::StopSandbox);
    assert!(alive(anchor));
    pod.order(RequestBody::DeleteContainer { id: "c".into() });
    pod.order(RequestBody::Shutdown);
    within(|| (!alive(anchor)).then_some(()));
}

#[test]
fn nobody_at_the_socket_is_an_error_and_a_killed_anchor_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("listener");
    let listener = UnixListener::bind(&path).unwrap();
    let mut pod = Pod::bare();
    let (first, _connection) = anchored(&mut pod, &path);
    kill(first);
    within(|| pod.diagnostics().contains("anchor").then_some(()));
    let (second, _connection) = anchored(&mut pod, &path);
    assert_ne!(first, second);
    drop(listener);
    let mut other = Pod::bare();
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let socket = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
    let request = RequestBody::Anchor {
        socket: oci_plan::FdSlot(0),
    };
    let error = other.client.call(request, vec![socket]).unwrap_err();
    assert!(error.message.contains("refused"), "{error:?}");
    assert_eq!(error.kind, ErrorKind::Unavailable);
}

#[test]
fn a_supervisor_connects_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("listener");
    let listener = UnixListener::bind(&path).unwrap();
    let mut pod = Pod::bare();
    let connect = |pod: &mut Pod| {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let socket = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        let request = RequestBody::Connect {
            socket: oci_plan::FdSlot(0),
        };
        pod.client.call(request, vec![socket])
    };
    let (reply, descriptors) = connect(&mut pod).unwrap();
    assert_eq!((reply, descriptors.len()), (ReplyBody::Connected, 1));
    let (theirs, _) = listener.accept().unwrap();
    let peer = socket_peercred(&theirs).unwrap().pid;
    assert_eq!(peer.as_raw_nonzero().get(), pod.process.id() as i32);
    drop(listener);
    assert_eq!(connect(&mut pod).unwrap_err().kind, ErrorKind::Unavailable);
}
