use std::{fs, path::Path};

use anyhow::Context;

use super::Ledger;
use crate::sandbox::{Sandbox, cgroup_hierarchies};

pub(super) fn take(sandbox: &Sandbox) -> anyhow::Result<Ledger> {
    let mut ledger = Ledger::default();
    processes(&mut ledger, sandbox);
    mounts(&mut ledger, sandbox)?;
    for hierarchy in cgroup_hierarchies() {
        cgroups(&mut ledger, &hierarchy, &sandbox.cgroup());
    }
    network(&mut ledger, sandbox)?;
    for root in [sandbox.directory().join("lib"), "/run".into()] {
        let root = root.as_path();
        files(&mut ledger, &sandbox.view(root), root);
    }
    Ok(ledger)
}

/// By command line, not by PID: a daemon that was restarted is the same thing.
fn processes(ledger: &mut Ledger, sandbox: &Sandbox) {
    for mut process in sandbox.processes() {
        // A log process has its supervisor's name until it has given itself one.
        if process.name == "longshore-log" {
            process.name = "longshore-pod".to_owned();
        }
        ledger.add(
            "process",
            format!("{} {}", process.name, process.args.join(" ")),
        );
    }
}

fn mounts(ledger: &mut Ledger, sandbox: &Sandbox) -> anyhow::Result<()> {
    let path = format!("/proc/{}/mountinfo", sandbox.holder_pid());
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    for line in text.lines() {
        // `id parent device root target options … - type source …` (proc(5)); only the ids change from boot to boot.
        let Some((place, kind)) = line.split_once(" - ") else {
            continue;
        };
        let target = place.split(' ').nth(4).unwrap_or("?");
        let mut kind = kind.split(' ');
        let (kind, source) = (kind.next().unwrap_or("?"), kind.next().unwrap_or("?"));
        ledger.add("mount", format!("{kind} {source} on {target}"));
    }
    Ok(())
}

fn cgroups(ledger: &mut Ledger, hierarchy: &Path, name: &str) {
    let path = hierarchy.join(name.trim_start_matches('/'));
    let Ok(entries) = fs::read_dir(&path) else {
        return;
    };
    ledger.add("cgroup", path.display().to_string());
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let leaf = entry.file_name();
            cgroups(
                ledger,
                hierarchy,
                &format!("{name}/{}", leaf.to_string_lossy()),
            );
        }
    }
}

fn network(ledger: &mut Ledger, sandbox: &Sandbox) -> anyhow::Result<()> {
    // One process in place of three.
    let text = sandbox.sh("ip -o link; echo --; ip -o address; echo --; nft -n list ruleset")?;
    let mut parts = text.splitn(3, "--\n");
    for line in parts.next().unwrap_or("").lines() {
        // `7: name@peer: <flags> …`
        let name = line.split(": ").nth(1).unwrap_or("?");
        let name = name.split_once('@').map_or(name, |(name, _)| name);
        ledger.add("link", name);
    }
    for line in parts.next().unwrap_or("").lines() {
        // `7: name    inet 10.0.0.1/16 …`. A bridge has a link-local address as long as it has a carrier.
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [_, name, _, address, ..] = words[..]
            && !address.starts_with("fe80:")
        {
            ledger.add("address", format!("{address} on {name}"));
        }
    }
    nftables(ledger, parts.next().unwrap_or(""));
    Ok(())
}

/// Each line with the blocks around it, counters left out.
fn nftables(ledger: &mut Ledger, ruleset: &str) {
    let mut blocks: Vec<&str> = Vec::new();
    for line in ruleset.lines().map(str::trim) {
        if let Some(block) = line.strip_suffix(" {") {
            blocks.push(block);
        } else if line == "}" && !blocks.is_empty() {
            ledger.add("nftables", blocks.join(" / "));
            blocks.pop();
        } else if !line.is_empty() {
            let block = blocks.join(" / ");
            ledger.add("nftables", format!("{block}: {}", without_counters(line)));
        }
    }
}

fn without_counters(line: &str) -> String {
    let mut words = line.split(' ').peekable();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        kept.push(word);
        if word == "counter" && words.peek() == Some(&"packets") {
            // `packets N bytes N`
            words.nth(3);
        }
    }
    kept.join(" ")
}

/// `view` is how the host sees what the sandbox calls `inside`.
fn files(ledger: &mut Ledger, view: &Path, inside: &Path) {
    let Ok(entries) = fs::read_dir(view) else {
        return;
    };
    for entry in entries.flatten() {
        let inside = inside.join(entry.file_name());
        // mount(8)'s own notes.
        if inside == Path::new("/run/mount") {
            continue;
        }
        ledger.add("file", inside.display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(ledger, &entry.path(), &inside);
        }
    }
}
