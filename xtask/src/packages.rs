//! What a Debian 12 machine with rustup's cargo and gcc does not have yet.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};

use crate::{step, workspace};

/// The target of `longshore-pod`.
pub(crate) const MUSL: &str = "x86_64-unknown-linux-musl";

/// Debian packages of demo and tests, and what wants them.
const BOTH: &[(&str, &str)] = &[
    ("busybox-static", "the programs in the images"),
    ("iproute2", "sets up and looks into the networks"),
    ("nftables", "shows port mappings and masquerading"),
];

/// Packages of the tests alone.
const TESTS: &[(&str, &str)] = &[
    (
        "containernetworking-plugins",
        "CNI plugins that are not ours",
    ),
    (
        "docker-registry",
        "a registry that is not ours, to pull from",
    ),
    ("skopeo", "fills that registry"),
    ("crun", "a runtime behind a handler"),
    ("runc", "another one"),
    ("runsc", "one whose containers have a kernel of their own"),
    ("umoci", "makes images that are not ours"),
    ("openssl", "makes that registry's certificate"),
    (
        "nginx-light",
        "stands in front of it as a mirror that misbehaves",
    ),
    (
        "python3-websocket",
        "a client of WebSocket that is not ours",
    ),
    (
        "python3-kubernetes",
        "one that speaks exec over it, as Python programs do",
    ),
    (
        "kubernetes-client",
        "kubectl, whose streams pass through the runtime",
    ),
    (
        "libseccomp-dev",
        "the oracle that seccomp programs are tested against",
    ),
    ("e2fsprogs", "makes the small disks that tests fill up"),
    ("xfsprogs", "makes one whose quotas limit writable layers"),
    ("criu", "writes containers down, where the kernel suits it"),
];

/// Packages of the virtual machine, beside those of the tests.
const MACHINES: &[(&str, &str)] = &[
    ("qemu-system-x86", "the machine with cgroup v2"),
    ("mmdebstrap", "makes that machine's Debian"),
    ("binutils", "strips what is put on its disks"),
];

/// What the end-to-end tests find in a virtual machine as well.
pub(crate) fn of_machines() -> impl Iterator<Item = &'static str> {
    BOTH.iter().map(|(package, _)| *package)
}

/// Who needs packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Demo,
    Tests,
    Machines,
}

/// Installs what is missing.
pub(crate) fn install(purpose: Purpose) -> anyhow::Result<()> {
    let (tests, machines) = match purpose {
        Purpose::Demo => (&[][..], &[][..]),
        Purpose::Tests => (TESTS, &[][..]),
        Purpose::Machines => (TESTS, MACHINES),
    };
    let packages = || BOTH.iter().chain(tests).chain(machines);
    for (package, reason) in packages() {
        println!("    {package:<16} {reason}");
    }
    let missing: Vec<&str> = packages()
        .map(|(package, _)| *package)
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        println!("    all are installed");
    } else {
        apt_install(&missing)?;
    }
    install_musl()
}

fn apt_install(missing: &[&str]) -> anyhow::Result<()> {
    println!("    missing: {}", missing.join(" "));
    let limit = Duration::from_secs(600);
    let install = |names: &[&str]| {
        let mut command = apt_get();
        command.args(["install", "-y", "--no-install-recommends"]);
        step::run(command.args(names), limit)
    };
    // The lists of a fresh machine are empty or old.
    if install(missing).is_err() {
        step::run(apt_get().arg("update"), limit)?;
        install(missing)?;
    }
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .arg("--quiet")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    command
}

/// Others than Debian package it as well, and none of them would share its path.
const KUBECTL: (&str, &str) = ("kubernetes-client", "/usr/bin/kubectl");

fn is_installed(package: &str) -> bool {
    if package == KUBECTL.0 && std::path::Path::new(KUBECTL.1).exists() {
        return true;
    }
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .stderr(Stdio::null())
        .output();
    output.is_ok_and(|output| output.stdout == b"installed")
}

/// rust-toolchain.toml names the target, but a toolchain that was there before may lack it.
pub(crate) fn install_musl() -> anyhow::Result<()> {
    let output = rustc()
        .args(["--print", "target-libdir", "--target", MUSL])
        .output()
        .context("run rustc")?;
    ensure!(output.status.success(), "rustc does not know {MUSL}");
    let directory = String::from_utf8(output.stdout)?;
    if std::path::Path::new(directory.trim()).exists() {
        println!("    Rust target {MUSL} is installed");
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    rustup
        .args(["target", "add", MUSL])
        .current_dir(workspace::root())
        .stdin(Stdio::null());
    step::run(&mut rustup, Duration::from_secs(600))
}

fn rustc() -> Command {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.current_dir(workspace::root()).stdin(Stdio::null());
    command
}
