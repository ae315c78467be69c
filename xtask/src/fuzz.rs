//! Fuzz targets, guided by what their inputs reach (`fuzz/`).

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, bail, ensure};

use crate::{step, workspace};

/// What has LLVM count which edges an input takes, and note what it is compared with. All are stable options; the sanitizers, which are
/// not, would find little in safe code.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];

/// Named, so that the flags are the targets' and not those of build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";

const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Runs one target, or each in turn, for so many seconds each.
pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let (mut wanted, mut seconds) = (None, 60_u64);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--seconds" => {
                let value = rest.next().context("--seconds wants a number")?;
                seconds = value.parse().context("--seconds wants a number")?;
            }
            name => wanted = Some(name),
        }
    }
    let home = workspace::root().join("fuzz");
    let all = targets(&home)?;
    if let Some(name) = wanted {
        ensure!(
            all.iter().any(|known| known == name),
            "no target {name}: there are {}",
            all.join(", ")
        );
    }
    let chosen = all
        .iter()
        .filter(|name| wanted.is_none_or(|wanted| wanted == name.as_str()));
    let built = workspace::root().join("target/fuzz");
    let mut build = workspace::cargo();
    build
        .args(["build", "--locked", "--release", "--target", TARGET])
        .arg("--manifest-path")
        .arg(home.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&built)
        .env("RUSTFLAGS", FLAGS.join(" "));
    step::run(&mut build, BUILD_LIMIT)?;
    for name in chosen {
        fuzz(&home, &built, name, seconds).with_context(|| format!("fuzz {name}"))?;
    }
    Ok(())
}

/// That the targets still compile: they use what the rest may change. Without the passes, and without anything built: whatever is broken shows
/// in seconds.
pub(crate) fn check() -> anyhow::Result<()> {
    let root = workspace::root();
    let mut clippy = workspace::cargo();
    clippy
        .args(["clippy", "--locked", "--quiet", "--manifest-path"])
        .arg(root.join("fuzz/Cargo.toml"))
        .arg("--target-dir")
        .arg(root.join("target/fuzz"))
        // Nothing is linked, so libFuzzer's runtime need not be compiled.
        .env("CUSTOM_LIBFUZZER_PATH", "/nonexistent/libfuzzer.a")
        .args(["--", "--deny=warnings"]);
    step::run(&mut clippy, BUILD_LIMIT)
}

/// The corpus grows in `target/fuzz/corpus`; what breaks a target is left in `target/fuzz/broken`.
fn fuzz(home: &Path, built: &Path, name: &str, seconds: u64) -> anyhow::Result<()> {
    println!("==> {name}, {seconds} s");
    let (corpus, broken) = (built.join("corpus").join(name), built.join("broken"));
    for directory in [&corpus, &broken] {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let mut fuzzer = Command::new(built.join(TARGET).join("release").join(name));
    fuzzer
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/{name}-", broken.display()))
        .args([
            "-max_len=8192",
            "-timeout=10",
            "-print_final_stats=1",
            "-verbosity=0",
        ])
        .arg(&corpus)
        .arg(home.join("seeds").join(name));
    step::run(&mut fuzzer, Duration::from_secs(seconds + 120))
}

/// Each is a file.
fn targets(home: &Path) -> anyhow::Result<Vec<String>> {
    let directory = home.join("targets");
    let mut names = Vec::new();
    let describe = || format!("list {}", directory.display());
    for entry in fs::read_dir(&directory).with_context(describe)? {
        let path = entry.with_context(describe)?.path();
        names.extend(
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned()),
        );
    }
    if names.is_empty() {
        bail!("{} has no targets", directory.display());
    }
    names.sort();
    Ok(names)
}
