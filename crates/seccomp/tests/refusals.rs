//! What cannot be honoured is refused by name.

#![allow(clippy::unwrap_used)]

use longshore_seccomp::{Cache, compile, parse};
use serde_json::{Value, json};

fn refusal(profile: Value) -> String {
    let json = serde_json::to_vec(&profile).unwrap();
    match parse(&json) {
        Err(error) => error.to_string(),
        Ok(profile) => compile(&profile).expect_err("refused").to_string(),
    }
}

#[test]
fn each_by_its_field() {
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    let cases = [
        (
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "defaultAction: a listener is not supported",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"})),
            "syscalls[0]: a listener is not supported",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent.sock"}),
            "listenerPath: a listener is not supported",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}),
            "flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is not supported",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096})),
            "syscalls[0] (errnoRet): 4096: out of the kernel's range",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_LOG", "errnoRet": 1})),
            "syscalls[0] (errnoRet): 1: only SCMP_ACT_ERRNO and SCMP_ACT_TRACE take one",
        ),
        (
            rule(
                json!({"names": ["read"], "action": "SCMP_ACT_LOG", "args": [
                {"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}),
            ),
            "syscalls[0].args[0].index: 6: a system call has arguments 0 to 5",
        ),
        (
            rule(
                json!({"names": ["read"], "action": "SCMP_ACT_LOG", "excludes": {"caps": ["CAP_BPF"]}}),
            ),
            "syscalls[0].excludes is not a field",
        ),
        (
            rule(json!({"name": "read", "action": "SCMP_ACT_LOG"})),
            "syscalls[0].name is not a field",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}),
            "archMap is not a field",
        ),
        (json!({"syscalls": []}), "not the JSON of a seccomp profile"),
        (json!("text"), "not the JSON of a seccomp profile"),
    ];
    for (profile, expected) in cases {
        let said = refusal(profile.clone());
        assert!(said.contains(expected), "{profile}: {said}");
    }
}

#[test]
fn what_says_nothing_is_accepted() {
    let json = br#"{"defaultAction": "SCMP_ACT_ERRNO", "comment": "ours", "archMap": null, "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "x", "includes": {}, "excludes": {}}]}"#;
    compile(&parse(json).unwrap()).unwrap();
}

#[test]
fn the_most_restrictive_of_the_rules_that_match_wins() {
    let conditional = json!({"names": ["getpid"], "action": "SCMP_ACT_KILL_PROCESS",
        "args": [{"index": 0, "value": 5, "op": "SCMP_CMP_EQ"}]});
    let always = json!({"names": ["getpid"], "action": "SCMP_ACT_ALLOW"});
    let program = |rules: Value| {
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules});
        compile(&parse(&serde_json::to_vec(&profile).unwrap()).unwrap()).unwrap()
    };
    let one = program(json!([conditional, always]));
    assert_eq!(one, program(json!([always, conditional])));
    assert_ne!(one, program(json!([always])));
}

#[test]
fn a_profile_is_compiled_once() {
    let cache = Cache::default();
    let profile = longshore_seccomp::default_profile(0);
    let first = cache.compile(&profile).unwrap();
    let again = cache.compile(&profile.clone()).unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &again));
    let other = cache
        .compile(&longshore_seccomp::default_profile(1 << 21))
        .unwrap();
    assert_ne!(first, other);
    // 40 others push it out, and it comes back equal.
    for errno in 100..140 {
        let json = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": {errno}}}"#);
        cache.compile(&parse(json.as_bytes()).unwrap()).unwrap();
    }
    let later = cache.compile(&profile).unwrap();
    assert!(!std::sync::Arc::ptr_eq(&first, &later));
    assert_eq!(first, later);
}
