//! A pod from a real image, as a person would run it.
//!
//! Everything happens in a sandbox (see the test kit): a network, mounts and processes of the demo's own, and a directory under
//! `target/demo`. Ctrl-C, SIGTERM and even SIGKILL end it; what is left then goes at once, or when the demo is started again.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use testkit::{
    ledger::{Ledger, SETTLES_WITHIN},
    sandbox::{Sandbox, cgroup_hierarchies},
};

use crate::{
    build::{self, Profile},
    packages, workspace,
};

/// Where the registry listens in the demo's network, and what it serves.
const REGISTRY: &str = "127.0.0.1:5000";
const IMAGE: &str = "127.0.0.1:5000/library/busybox:latest";
const SOCKET: &str = "/run/longshore/longshore.sock";

/// How long one command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn run() -> anyhow::Result<()> {
    say("What a fresh machine lacks");
    packages::install(packages::Purpose::Demo)?;
    say("Build (the first time takes minutes)");
    let stage = build::run(Profile::Release)?;

    let parent = workspace::target()?.join("demo");
    fs::create_dir_all(&parent).with_context(|| format!("make {}", parent.display()))?;
    let sandbox = Sandbox::named("lsdemo", &parent)?;
    let traces = Traces::of(&sandbox);
    let result = Demo::start(&stage, &sandbox).and_then(Demo::show);
    drop(sandbox);
    result?;
    traces.report()
}

/// The processes of the demo.
struct Demo<'a> {
    stage: &'a Path,
    sandbox: &'a Sandbox,
    registry: Process,
    daemon: Process,
    log: PathBuf,
}

impl<'a> Demo<'a> {
    fn start(stage: &'a Path, sandbox: &'a Sandbox) -> anyhow::Result<Self> {
        say("A network, mounts and processes of its own; in it, a registry with one small image");
        let mut command = sandbox.command(stage.join("testkit-registry"));
        command
            .args([REGISTRY, "library/busybox:latest"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut registry = Process::spawn(&mut command)?;
        registry
            .first_line()
            .context("the registry did not start")?;

        say("The daemon, with its defaults except for where it keeps things");
        let log = sandbox.directory().join("longshored.log");
        let out = File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let root = sandbox.directory().join("lib");
        let config = sandbox.directory().join("config.toml");
        // A cgroup of the demo's own, so that two of them do not meet.
        let settings = format!("cgroup_parent = {:?}\n", sandbox.cgroup());
        fs::write(&config, settings).with_context(|| format!("write {}", config.display()))?;
        println!(
            "$ longshored --root {} --config {} &",
            root.display(),
            config.display()
        );
        let start = Instant::now();
        let mut command = sandbox.command(stage.join("longshored"));
        command
            .arg("--root")
            .arg(&root)
            .arg("--config")
            .arg(&config)
            .stdout(out.try_clone()?)
            .stderr(out);
        let mut demo = Self {
            stage,
            sandbox,
            registry,
            daemon: Process::spawn(&mut command)?,
            log,
        };
        demo.wait_for_socket()?;
        println!("listens after {} ms", start.elapsed().as_millis());
        Ok(demo)
    }

    fn wait_for_socket(&mut self) -> anyhow::Result<()> {
        let socket = self.sandbox.view(SOCKET);
        let end = Instant::now() + Duration::from_secs(20);
        while !socket.exists() {
            let ended = self.daemon.child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("longshored does not listen\n{log}");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn show(mut self) -> anyhow::Result<()> {
        let result = self.story();
        if result.is_err() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            println!("\nthe daemon's log:\n{log}");
        }
        self.registry.end();
        self.daemon.end();
        result
    }

    fn story(&self) -> anyhow::Result<()> {
        self.longshore(&["version"])?;
        let before = Ledger::take(self.sandbox)?;

        say("An image");
        self.longshore(&["pull", IMAGE])?;
        self.longshore(&["images"])?;

        say("A pod: two containers that share a network");
        let example = workspace::root().join("examples/pod.yaml");
        let example = example.to_string_lossy();
        let image = format!("busybox={IMAGE}");
        self.longshore(&["run", "--image", &image, &example])?;
        self.longshore(&["pods"])?;
        self.longshore(&["ps"])?;
        // The client asks once a second.
        thread::sleep(Duration::from_secs(2));
        self.longshore(&["logs", "client"])?;
        self.longshore(&["exec", "-s", "server", "ip", "address", "show", "eth0"])?;
        self.longshore(&["exec", "-s", "client", "id"])?;
        self.longshore(&["stats"])?;

        say("Stop and remove everything");
        self.longshore(&["stop", "--timeout", "2", "client", "server"])?;
        self.longshore(&["ps", "--all"])?;
        self.longshore(&["stopp", "example"])?;
        self.longshore(&["rmp", "example"])?;
        self.longshore(&["rmi", IMAGE])?;

        say("What is left while the daemon still runs");
        let end = Instant::now() + SETTLES_WITHIN;
        loop {
            let mut left = before.difference(&Ledger::take(self.sandbox)?);
            // The first pod made them, and every pod shares them.
            let shared = left.take_out(|kind, thing| match kind {
                "link" => thing == "longshore0",
                "address" => thing.ends_with(" on longshore0"),
                "nftables" => thing.starts_with("table inet longshore"),
                _ => false,
            });
            if left.is_empty() {
                println!("of the pod and its image: nothing");
                if shared {
                    println!("for the next pod: the bridge longshore0, the table inet longshore");
                }
                return Ok(());
            }
            if Instant::now() >= end {
                print!("{left}");
                bail!("the pod left something behind");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Shows and runs a command as a person types it.
    fn longshore(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let name = format!("longshore {}", arguments.join(" "));
        println!("$ {name}");
        let status = self
            .sandbox
            // A bound, should the daemon hang.
            .command("timeout")
            .arg("--kill-after=1")
            .arg(COMMAND_LIMIT.as_secs().to_string())
            .arg(self.stage.join("longshore"))
            .args(arguments)
            .status()
            .with_context(|| format!("run {name}"))?;
        ensure!(status.success(), "{name}: {status}");
        Ok(())
    }
}

/// A process of the sandbox. Killed with it at the latest.
struct Process {
    child: Child,
}

impl Process {
    fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let child = command
            .spawn()
            .context("run nsenter (package util-linux)")?;
        Ok(Self { child })
    }

    fn first_line(&mut self) -> anyhow::Result<String> {
        let output = self.child.stdout.take().context("its output is not ours")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(!line.is_empty(), "it ended at once");
        Ok(line)
    }

    /// Closes its standard input; the sandbox's end does the rest.
    fn end(&mut self) {
        drop(self.child.stdin.take());
    }
}

/// Where the sandbox could have left something on the host.
struct Traces {
    places: Vec<PathBuf>,
}

impl Traces {
    fn of(sandbox: &Sandbox) -> Self {
        let mut places = vec![sandbox.directory().to_owned()];
        for hierarchy in cgroup_hierarchies() {
            places.push(hierarchy.join(sandbox.cgroup().trim_start_matches('/')));
        }
        places.push(PathBuf::from(format!("/proc/{}", sandbox.holder_pid())));
        Self { places }
    }

    fn report(&self) -> anyhow::Result<()> {
        say("What is left on this machine");
        let left: Vec<String> = self
            .places
            .iter()
            .filter(|place| place.exists())
            .map(|place| place.display().to_string())
            .collect();
        ensure!(left.is_empty(), "left behind: {}", left.join(", "));
        println!("nothing: no process, no mount, no link, no cgroup, no file outside target/");
        Ok(())
    }
}

fn say(text: &str) {
    println!("\n# {text}");
}
