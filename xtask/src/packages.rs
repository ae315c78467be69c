//! What a Debian 12 machine with rustup's cargo and gcc does not have yet.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};

use crate::{step, workspace};

/// The target of `longshore-pod`.
pub(crate) const MUSL: &str = "x86_64-unknown-linux-musl";

/// Debian packages, and what wants them.
const PACKAGES: &[(&str, &str)] = &[
    (
        "busybox-static",
        "the programs in the images of demo and tests",
    ),
    (
        "libseccomp-dev",
        "the oracle that seccomp programs are tested against",
    ),
    ("iproute2", "sets up and looks into the test networks"),
    (
        "nftables",
        "shows port mappings and masquerading to ledgers and tests",
    ),
];

/// Installs what is missing.
pub(crate) fn install() -> anyhow::Result<()> {
    for (package, reason) in PACKAGES {
        println!("    {package:<16} {reason}");
    }
    let missing: Vec<&str> = PACKAGES
        .iter()
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

fn is_installed(package: &str) -> bool {
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
