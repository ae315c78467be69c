//! Who may link whom (ARCHITECTURE.md, "What links what").

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use serde_json::Value;

use super::{none_of, text};

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
    ("longshore-pod", SMALL),
    ("longshore-oci-runtime", SMALL),
    ("longshore-cgroup", SMALL),
    ("longshore-sys", SMALL),
    // Only `cri`, the daemon's `rpc/` and clients know protobuf.
    ("longshore-image", PROTOBUF),
    ("longshore-snapshot", PROTOBUF),
    ("longshore-cni", PROTOBUF),
    ("longshore-seccomp", PROTOBUF),
    ("longshore-supervisor-api", PROTOBUF),
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

pub(crate) fn check(metadata: &Value) -> anyhow::Result<()> {
    let graph = Graph::read(metadata)?;
    let mut found = Vec::new();
    for (package, never) in NEVER {
        let linked = graph.linked(package)?;
        for unwanted in never.iter().filter(|name| linked.contains_key(**name)) {
            found.push(format!("{package} links {}", path(&linked, unwanted)));
        }
    }
    none_of(&found)
}

/// Normal dependencies only: tests and build scripts may use what they like.
struct Graph<'a> {
    /// By package id.
    names: BTreeMap<&'a str, &'a str>,
    edges: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Graph<'a> {
    fn read(metadata: &'a Value) -> anyhow::Result<Self> {
        let mut names = BTreeMap::new();
        for package in array(&metadata["packages"])? {
            names.insert(text(package, "id")?, text(package, "name")?);
        }
        let mut edges = BTreeMap::new();
        for node in array(&metadata["resolve"]["nodes"])? {
            let mut linked = Vec::new();
            for dependency in array(&node["deps"])? {
                let kinds = array(&dependency["dep_kinds"])?;
                // A normal dependency has no kind.
                if kinds.iter().any(|kind| kind["kind"].is_null()) {
                    linked.push(text(dependency, "pkg")?);
                }
            }
            edges.insert(text(node, "id")?, linked);
        }
        Ok(Self { names, edges })
    }

    /// Names of everything in the package's program, each with the name of a package that brings it in.
    fn linked(&self, package: &str) -> anyhow::Result<BTreeMap<&'a str, &'a str>> {
        let (start, _) = self
            .names
            .iter()
            .find(|(_, name)| **name == package)
            .with_context(|| format!("there is no package {package}"))?;
        let mut seen = BTreeSet::from([*start]);
        let mut queue = vec![*start];
        let mut linked = BTreeMap::new();
        while let Some(id) = queue.pop() {
            for next in self.edges.get(id).into_iter().flatten() {
                if seen.insert(next) {
                    linked.insert(self.names[next], self.names[id]);
                    queue.push(next);
                }
            }
        }
        Ok(linked)
    }
}

/// `tokio (through hyper, through longshore-image)`.
fn path(linked: &BTreeMap<&str, &str>, name: &str) -> String {
    let mut text = name.to_owned();
    let mut at = name;
    while let Some(by) = linked.get(at).filter(|by| linked.contains_key(**by)) {
        text = format!("{text}, through {by}");
        at = by;
    }
    text
}

fn array(value: &Value) -> anyhow::Result<&Vec<Value>> {
    value.as_array().context("cargo metadata lacks a list")
}
