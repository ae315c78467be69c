//! The binaries, staged side by side as they would be installed: the daemon finds `longshore-pod` beside itself.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;

use crate::{
    packages::{self, MUSL},
    step, workspace,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Debug,
    Release,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }

    /// In a release the static programs have a profile of their own.
    fn pod_directory(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "pod",
        }
    }

    fn pod_flags(self) -> &'static [&'static str] {
        match self {
            Self::Debug => &[],
            Self::Release => &["--profile", "pod"],
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Debug => &[],
            Self::Release => &["--release"],
        }
    }
}

/// Programs that must start at once, and anywhere.
const STATIC: [&str; 2] = ["longshore-pod", "longshore-oci"];

/// Builds and stages; returns the directory.
pub(crate) fn run(profile: Profile) -> anyhow::Result<PathBuf> {
    let limit = Duration::from_secs(40 * 60);
    let mut native = workspace::cargo();
    native
        .args(["build", "--locked", "--bins"])
        .args(["--package=longshored", "--package=longshore"])
        .args(["--package=longshore-testkit"])
        .arg("--features=longshore-testkit/daemon")
        .args(profile.flags());
    step::run(&mut native, limit)?;
    // Each by itself: together, one would get the features that the other asks for.
    for package in STATIC {
        let mut musl = workspace::cargo();
        musl.args(["build", "--locked", "--package", package])
            .args(["--target", MUSL])
            .args(profile.pod_flags());
        if step::run(&mut musl, limit).is_err() {
            // Most likely the target is not installed.
            packages::install_musl()?;
            step::run(&mut musl, limit)?;
        }
    }

    let target = workspace::target()?;
    let stage = target.join("stage").join(profile.directory());
    fs::create_dir_all(&stage).with_context(|| format!("make {}", stage.display()))?;
    let built = target.join(profile.directory());
    for name in [
        "longshored",
        "longshore",
        "testkit-registry",
        "testkit-without",
        "testkit-nri-plugin",
    ] {
        put(&built.join(name), &stage.join(name))?;
    }
    let built = target.join(MUSL).join(profile.pod_directory());
    for name in STATIC {
        put(&built.join(name), &stage.join(name))?;
    }
    Ok(stage)
}

/// Replaces `to`, which may be running.
fn put(from: &Path, to: &Path) -> anyhow::Result<()> {
    let describe = || format!("put {} into {}", from.display(), to.display());
    let new = to.with_extension("new");
    fs::copy(from, &new).with_context(describe)?;
    fs::rename(&new, to).with_context(describe)
}
