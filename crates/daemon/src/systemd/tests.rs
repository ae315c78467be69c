//! Against a systemd of the test's own at the other end of the socket; the real one is met in the virtual machine.

use std::os::fd::OwnedFd;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{message::Writer, *};

const OK: &str = "OK 0123456789abcdef0123456789abcdef\r\n";

fn scope() -> Scope {
    Scope {
        unit: "longshore-1.scope".to_owned(),
        slice: "a-b.slice".to_owned(),
        description: OF_POD,
    }
}

#[test]
fn supervisors_have_a_scope_in_a_slice() {
    let scope = Scope::of_supervisors("/a.slice/a-b.slice/s.scope").unwrap();
    assert_eq!((&*scope.unit, &*scope.slice), ("s.scope", "a-b.slice"));
    assert!(Scope::of_supervisors("system.slice/s.scope").is_ok());
    for path in [
        "s.scope",
        "/system.slice/s",
        "/system.slice/.scope",
        "/system.slice/a b.scope",
        "/system.slice/s.scope/",
        "/a-b.slice/s.scope/s.scope",
        "/a.slice/b.slice/s.scope",
        "/-.slice/s.scope",
        "/s.scope",
    ] {
        assert!(Scope::of_supervisors(path).is_err(), "{path}");
    }
}

/// What the scope's start comes to when systemd answers with these bytes, and what systemd was sent.
async fn answered(answer: Vec<u8>, within: Duration) -> (Result<(), ScopeError>, Vec<u8>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let ours = OwnedFd::from(ours.into_std().unwrap());
    let peer = async {
        theirs.write_all(&answer).await.unwrap();
        let mut sent = Vec::new();
        // Until the other end is closed; it is only reset when it has not read everything.
        let _ = theirs.read_to_end(&mut sent).await;
        sent
    };
    tokio::join!(async { scope().start_within(ours, within).await }, peer)
}

fn greeting_and(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = OK.as_bytes().to_vec();
    messages.iter().for_each(|message| bytes.extend(message));
    bytes
}

/// As systemd says that a job has gone.
fn job_removed(unit: &str, result: &str) -> Vec<u8> {
    let mut body = Writer::default();
    // `u`: a number is as long as the length of a string.
    body.number(7);
    for text in ["/org/freedesktop/systemd1/job/7", unit, result] {
        body.string(text);
    }
    message::signal("JobRemoved", "uoss", body)
}

const SOON: Duration = Duration::from_millis(100);
const GUARD: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_scope_is_there_when_its_job_is_done() {
    let messages = [
        message::signal("UnitNew", "", Writer::default()),
        job_removed("another.scope", "failed"),
        job_removed("longshore-1.scope", "done"),
    ];
    let (result, sent) = answered(greeting_and(&messages), GUARD).await;
    result.unwrap();
    let sent = String::from_utf8_lossy(&sent).into_owned();
    assert!(
        sent.starts_with("\0AUTH EXTERNAL 30\r\nBEGIN\r\n"),
        "{sent:?}"
    );
    for part in [
        "StartTransientUnit",
        "longshore-1.scope",
        "a-b.slice",
        "Delegate",
    ] {
        assert!(sent.contains(part), "{part}: {sent:?}");
    }
}

#[tokio::test]
async fn what_systemd_says_against_it_is_told() {
    let mut body = Writer::default();
    body.string("Unit longshore-1.scope already exists.");
    let refusal = message::error(1, "org.freedesktop.systemd1.UnitExists", "s", body);
    let (result, _) = answered(greeting_and(&[refusal]), GUARD).await;
    let error = result.unwrap_err();
    assert!(error.is_there_already());
    let text = error.to_string();
    for part in ["a-b.slice", "UnitExists", "already exists"] {
        assert!(text.contains(part), "{text}");
    }
    let failed = job_removed("longshore-1.scope", "failed");
    let (result, _) = answered(greeting_and(&[failed]), GUARD).await;
    assert!(matches!(result, Err(ScopeError::Job { .. })), "{result:?}");
    let (result, _) = answered(b"REJECTED EXTERNAL\r\n".to_vec(), GUARD).await;
    assert!(matches!(
        result,
        Err(ScopeError::Connection(ConnectionError::Denied(_)))
    ));
    let (result, _) = answered(greeting_and(&[vec![b'x'; 64]]), GUARD).await;
    assert!(matches!(
        result,
        Err(ScopeError::Connection(ConnectionError::Malformed(_)))
    ));
}

#[tokio::test]
async fn a_systemd_that_says_nothing_holds_nobody_up() {
    for silent in [Vec::new(), greeting_and(&[])] {
        // More than have a turn at once, and nobody waits longer than its own time.
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..3 * AT_ONCE {
            all.spawn(answered(silent.clone(), SOON));
        }
        for (result, _) in all.join_all().await {
            assert!(matches!(result, Err(ScopeError::Late { .. })), "{result:?}");
        }
    }
}
