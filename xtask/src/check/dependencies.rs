//! Who may link whom (ARCHITECTURE.md, "What links what").

use std::collections::BTreeSet;

use anyhow::{Context, ensure};

use super::none_of;
use crate::workspace;

/// A package, and packages that must not be in its program, however indirectly.
const NEVER: &[(&str, &[&str])] = &[
    (
        "longshored",
        &[
            "longshore-pod",
            "longshore-oci-runtime",
            "longshore-testkit",
            "longshore",
        ],
    ),
    (
        "longshore",
        &[
            "longshored",
            "longshore-pod",
            "longshore-oci-runtime",
            "longshore-image",
            "longshore-snapshot",
            "longshore-cni",
            "longshore-testkit",
        ],
    ),
    (
        "longshore-validator",
        &[
            "longshored",
            "longshore-pod",
            "longshore-oci-runtime",
            "longshore-image",
            "longshore-snapshot",
            "longshore-cni",
            "longshore-testkit",
        ],
    ),
    (
        "longshore-registry",
        &[
            "longshored",
            "longshore-image",
            "longshore-cri",
            "longshore-sys",
            "longshore-testkit",
        ],
    ),
    (
        "longshore-copy",
        &["longshored", "longshore-cri", "longshore-sys", "tokio"],
    ),
    ("longshore-pod", SMALL),
    (
        "longshore-oci",
        &[
            "tokio",
            "tracing",
            "prost",
            "tonic",
            "longshore-cri",
            "longshore-testkit",
            "longshored",
        ],
    ),
    ("longshore-oci-runtime", SMALL),
    ("longshore-cgroup", SMALL),
    ("longshore-sys", SMALL),
    (
        "longshore-nri",
        &["tonic", "longshore-cri", "longshore-sys"],
    ),
    // Only `cri`, the daemon's `rpc/` and clients know protobuf.
    ("longshore-image", PROTOBUF),
    ("longshore-snapshot", PROTOBUF),
    ("longshore-cni", PROTOBUF),
    ("longshore-seccomp", PROTOBUF),
    ("longshore-supervisor-api", PROTOBUF),
    ("longshore-streaming", PROTOBUF),
];

/// What a program of one thread and a third of a megabyte has no room for.
const SMALL: &[&str] = &[
    "tokio",
    "serde_json",
    "tracing",
    "clap",
    "prost",
    "tonic",
    "longshore-cri",
    "longshore-testkit",
];

const PROTOBUF: &[&str] = &["prost", "tonic", "longshore-cri", "longshore-testkit"];

pub(crate) fn check() -> anyhow::Result<()> {
    let mut found = Vec::new();
    for (package, never) in NEVER {
        let linked = linked(package)?;
        for unwanted in never.iter().filter(|name| linked.contains(**name)) {
            found.push(format!(
                "{package} links {unwanted} (cargo tree --package {package} --invert {unwanted} --edges normal)"
            ));
        }
    }
    none_of(&found)
}

/// Names of everything that building this package alone links. `cargo metadata` would not do: it unites the features that any
/// package of the workspace asks for.
fn linked(package: &str) -> anyhow::Result<BTreeSet<String>> {
    let mut tree = workspace::cargo();
    tree.args(["tree", "--locked", "--package", package])
        .args(["--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    let output = tree.output().context("run cargo tree")?;
    ensure!(
        output.status.success(),
        "cargo tree --package {package}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split(' ').next());
    Ok(names.map(str::to_owned).collect())
}
