//! A sandbox with a bundle, and the program in it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::sandbox::{Sandbox, poll};

/// Against a test that hangs.
pub(crate) const GUARD: Duration = Duration::from_secs(60);

const APPLETS: [&str; 14] = [
    "sh", "cat", "echo", "false", "grep", "hostname", "id", "ls", "mkdir", "sleep", "stat",
    "touch", "tr", "true",
];

pub(crate) struct Node {
    pub(crate) sandbox: Sandbox,
}

/// What a command has said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// What it printed, of one that succeeded.
    pub(crate) fn fine(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.err);
        self.out
    }

    /// What it complained about.
    pub(crate) fn refused(self) -> String {
        assert_eq!(self.code, Some(1), "{}", self.out);
        self.err
    }
}

impl Node {
    pub(crate) fn new() -> Self {
        let node = Self {
            sandbox: Sandbox::new().unwrap(),
        };
        let binaries = node.bundle().join("rootfs/bin");
        fs::create_dir_all(&binaries).unwrap();
        for directory in ["proc", "sys", "dev", "tmp", "etc"] {
            fs::create_dir(node.bundle().join("rootfs").join(directory)).unwrap();
        }
        fs::copy("/bin/busybox", binaries.join("busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", binaries.join(applet)).unwrap();
        }
        let bundle = node.bundle().display().to_string();
        node.run(&["spec", "--bundle", &bundle]).fine();
        node.change(|spec| {
            spec["process"]["terminal"] = json!(false);
            spec["root"]["readonly"] = json!(false);
            spec["linux"]["cgroupsPath"] = json!(format!("{}/one", node.sandbox.cgroup()));
        });
        node
    }

    /// The same for each of its containers.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.sandbox.directory().join("bundle")
    }

    /// A file of the container's, by its path on the host.
    pub(crate) fn inside(&self, path: &str) -> PathBuf {
        self.bundle()
            .join("rootfs")
            .join(path.trim_start_matches('/'))
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Value)) {
        let path = self.bundle().join("config.json");
        let mut spec = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut spec);
        fs::write(path, spec.to_string()).unwrap();
    }

    /// What its containers run, by `sh`.
    pub(crate) fn script(&self, script: &str) {
        self.change(|spec| spec["process"]["args"] = json!(["sh", "-c", script]));
    }

    /// The program, with this node's containers.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.command(env!("CARGO_BIN_EXE_longshore-oci"));
        command.arg("--root").arg(self.root()).args(arguments);
        command
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.sandbox.directory().join("containers")
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments).output().unwrap())
    }

    /// As `run`, of a verb that takes a bundle.
    pub(crate) fn with_bundle(&self, verb: &str, arguments: &[&str]) -> Said {
        let bundle = self.bundle().display().to_string();
        let all = [&[verb, "--bundle", &bundle], arguments].concat();
        self.run(&all)
    }

    /// A container on its way. Its streams are no pipes: they would be held open by it.
    pub(crate) fn create(&self, id: &str) -> Said {
        let bundle = self.bundle().display().to_string();
        let out = fs::File::create(self.sandbox.directory().join("out")).unwrap();
        let err = self.sandbox.directory().join("err");
        let status = self
            .command(&["create", "--bundle", &bundle, id])
            .stdout(out)
            .stderr(fs::File::create(&err).unwrap())
            .status()
            .unwrap();
        Said {
            code: status.code(),
            out: String::new(),
            err: fs::read_to_string(err).unwrap(),
        }
    }

    pub(crate) fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// What a created container has printed until now.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.sandbox.directory().join("out")).unwrap()
    }

    pub(crate) fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.run(&["state", id]).fine()).unwrap()
    }

    pub(crate) fn await_status(&self, id: &str, status: &str) {
        let seen = poll(GUARD, || (self.state(id)["status"] == status).then_some(()));
        assert!(seen.is_some(), "{id} is {}", self.state(id));
    }

    /// Nothing of any container is left: no directory, cgroup or process.
    pub(crate) fn is_bare(&self) {
        let left: Vec<_> = fs::read_dir(self.root())
            .map(|entries| {
                entries
                    .filter_map(|one| Some(one.ok()?.file_name()))
                    .collect()
            })
            .unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
        for hierarchy in testkit::sandbox::cgroup_hierarchies() {
            let cgroup =
                hierarchy.join(format!("{}/one", self.sandbox.cgroup()).trim_start_matches('/'));
            assert!(!cgroup.exists(), "{}", cgroup.display());
        }
        let gone = poll(GUARD, || self.sandbox.processes().is_empty().then_some(()));
        assert!(gone.is_some(), "{:?}", self.sandbox.processes());
    }

    /// Its text in a file that the container, or a hook, writes.
    pub(crate) fn await_text(&self, path: &Path, text: &str) {
        let read = || fs::read_to_string(path).ok();
        let seen = poll(GUARD, || read()?.contains(text).then_some(()));
        assert!(seen.is_some(), "{}: {:?}", path.display(), read());
    }
}

fn said(output: Output) -> Said {
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
