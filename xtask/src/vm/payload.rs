//! The disk with the tests on it.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{Boot, SUITES, debian};
use crate::{step, workspace};

const LIMIT: Duration = Duration::from_secs(20 * 60);

/// How long one program of tests may take, seconds.
const PROGRAM_LIMIT: u32 = 1500;

/// A directory that becomes a disk, once it is known what shall run.
#[derive(Debug)]
pub(super) struct Payload {
    directory: PathBuf,
}

impl Payload {
    /// Builds the tests, and puts them beside the staged binaries.
    pub(super) fn build(stage: &Path) -> anyhow::Result<Payload> {
        let directory = super::directory()?.join("payload");
        if directory.exists() {
            fs::remove_dir_all(&directory).context("remove the last payload")?;
        }
        let describe = || format!("fill {}", directory.display());
        for one in ["tests", "stage", "target/debug"] {
            fs::create_dir_all(directory.join(one)).with_context(describe)?;
        }
        for (name, text) in [
            ("init.sh", include_str!("../../vm/init.sh")),
            ("tests.sh", include_str!("../../vm/tests.sh")),
            (
                "longshore-tests.service",
                include_str!("../../vm/longshore-tests.service"),
            ),
        ] {
            let path = directory.join(name);
            fs::write(&path, text).with_context(describe)?;
            make_executable(&path)?;
        }
        let programs = build_tests()?;
        for suite in SUITES {
            let program = programs.get(&(suite.package.into(), suite.target.into()));
            let program = program.with_context(|| format!("{} was not built", suite.name()))?;
            strip(program, &directory.join("tests").join(suite.name()))?;
        }
        for entry in fs::read_dir(stage).with_context(|| format!("read {}", stage.display()))? {
            let entry = entry?;
            strip(
                &entry.path(),
                &directory.join("stage").join(entry.file_name()),
            )?;
        }
        // CARGO_BIN_EXE_longshore-pod, as its tests know it.
        let pod = workspace::target()?.join("debug/longshore-pod");
        strip(&pod, &directory.join("target/debug/longshore-pod"))?;
        Ok(Payload { directory })
    }

    /// Makes the disk.
    pub(super) fn write(
        &self,
        image: &Path,
        boot: Boot,
        filter: Option<&str>,
    ) -> anyhow::Result<()> {
        let mut list = String::new();
        for suite in SUITES {
            if let Some(filters) = suite.filters(boot, filter) {
                let mut arguments = vec!["--color=never".into(), "--test-threads=2".into()];
                if boot != Boot::V2 && suite.target == "e2e" {
                    // Those that are ignored elsewhere want systemd, SELinux or AppArmor.
                    arguments.push("--include-ignored".into());
                }
                let words = [suite.name()].into_iter().chain(arguments).chain(filters);
                list.push_str(&words.collect::<Vec<_>>().join(" "));
                list.push('\n');
            }
        }
        fs::write(self.directory.join("list"), list).context("write the list of tests")?;
        let target = workspace::target()?;
        let environment = format!(
            "target_directory='{}'\nprogram_limit={PROGRAM_LIMIT}\nexport LONGSHORE_TEST_CRIU=/usr/sbin/criu\n{}",
            target.display(),
            match boot {
                Boot::V2 | Boot::SeLinux | Boot::AppArmor => "",
                Boot::Systemd => "export LONGSHORE_TEST_CGROUP_DRIVER=systemd\n",
            }
        );
        fs::write(self.directory.join("environment"), environment)
            .context("write the environment of the tests")?;
        debian::disk(image, "1G", Some(&self.directory))
    }
}

/// Where cargo put each test program, by package and target.
fn build_tests() -> anyhow::Result<HashMap<(String, String), PathBuf>> {
    let mut command = workspace::cargo();
    command.args(["test", "--locked", "--no-run", "--quiet", "--tests"]);
    command.arg("--message-format=json-render-diagnostics");
    for suite in SUITES {
        command.arg("--package").arg(suite.package);
    }
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo test --no-run")?;
    ensure!(output.status.success(), "the tests do not compile");
    let mut programs = HashMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let kinds = message["target"]["kind"].as_array();
        let is_test = kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "test"));
        if let (true, Some(executable), Some(target), Some(package)) = (
            is_test,
            message["executable"].as_str(),
            message["target"]["name"].as_str(),
            package_name(&message["package_id"]),
        ) {
            programs.insert((package, target.to_owned()), executable.into());
        }
    }
    Ok(programs)
}

/// Of `path+file:///…/crates/cgroup#longshore-cgroup@0.1.0`.
fn package_name(id: &Value) -> Option<String> {
    let (_, name) = id.as_str()?.rsplit_once('#')?;
    Some(name.split('@').next()?.to_owned())
}

/// A copy without what only debuggers read.
fn strip(from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("objcopy");
    command.arg("--strip-debug").args([from, to]);
    step::run(&mut command, LIMIT)
}

pub(super) fn make_executable(path: &Path) -> anyhow::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {} executable", path.display()))
}
