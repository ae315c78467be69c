//! The kernel takes the default profile, and does with it what is meant.

#![allow(clippy::unwrap_used)]

mod oracle;

use std::collections::BTreeMap;

use longshore_seccomp::{compile, default_profile};
use oracle::ask;

const EPERM: i32 = 1;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;
const DONE: i32 = 0;

/// The errors, 0 for none, of calls made under the default profile for these capabilities.
fn calls(capabilities: u64, names: &[&str]) -> BTreeMap<String, i32> {
    let program = compile(&default_profile(capabilities)).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &program.instructions).unwrap();
    let answer = ask(&["load", file.path().to_str().unwrap()], &names.join("\n"));
    let answer = String::from_utf8(answer).unwrap();
    let parsed = answer.lines().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[0].to_owned(), words[2].parse().unwrap())
    });
    parsed.collect()
}

fn check(capabilities: u64, expected: &[(&str, i32)]) {
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    let got = calls(capabilities, &names);
    for (name, errno) in expected {
        assert_eq!(
            got[*name], *errno,
            "{name} with capabilities {capabilities:#x}"
        );
    }
}

#[test]
fn without_capabilities() {
    check(
        0,
        &[
            ("getpid", DONE),
            ("fork", DONE),
            ("socket_unix", DONE),
            ("personality_ask", DONE),
            ("unshare", EPERM),
            ("clone_newuts", EPERM),
            ("clone3", ENOSYS),
            ("socket_vsock", EPERM),
            ("personality_no_randomize", EPERM),
            ("keyctl", EPERM),
            ("mount", EPERM),
            ("not_yet_there", ENOSYS),
        ],
    );
}

#[test]
fn with_sys_admin() {
    check(
        1 << 21,
        &[
            ("getpid", DONE),
            ("unshare", DONE),
            // The kernel's own word on an argument block of no size.
            ("clone3", EINVAL),
            ("socket_vsock", EPERM),
            ("keyctl", EPERM),
            ("not_yet_there", ENOSYS),
        ],
    );
}
