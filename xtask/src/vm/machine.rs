//! The machine itself: QEMU, four disks, and one line of output that says how it went.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};

use super::{Boot, debian::System, payload::Payload};
use crate::{
    results::{Count, wait_counting},
    step,
};

/// A machine that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// On a busy host; two seconds on a quiet one.
const COMES_UP_WITHIN: Duration = Duration::from_secs(5 * 60);

const MEBIBYTES: &str = "3072";

/// The same in two nodes, as large machines have it.
const TWO_NODES: [&str; 8] = [
    "-object",
    "memory-backend-ram,id=near,size=1536M",
    "-object",
    "memory-backend-ram,id=far,size=1536M",
    "-numa",
    "node,memdev=near,cpus=0",
    "-numa",
    "node,memdev=far",
];

/// What is written while they run; none of it stays.
struct Run {
    directory: PathBuf,
}

/// The disks of one machine.
struct Disks {
    directory: PathBuf,
}

/// Boots all at once, runs their tests, powers off.
pub(super) fn run(
    boots: &[Boot],
    filter: Option<&str>,
    system: &System,
    payload: &Payload,
    count: &mut Count,
) -> anyhow::Result<()> {
    let run = Run::make()?;
    let mut machines = Vec::new();
    for &boot in boots {
        let disks = run.disks(boot)?;
        payload.write(&disks.file("payload"), boot, filter)?;
        disks.make_state()?;
        machines.push((boot, disks));
    }
    let ends: Vec<_> = thread::scope(|scope| {
        let start = |(boot, disks)| scope.spawn(move || one(boot, system, disks));
        let threads: Vec<_> = machines.iter().map(|(b, d)| start((*b, d))).collect();
        threads
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect()
    });
    let mut result = Ok(());
    for end in ends {
        let Ok((part, ended)) = end else {
            bail!("the thread that waits for a machine panicked");
        };
        count.add(part);
        result = result.and(ended);
    }
    result
}

/// A machine that soon ends, before its first test, has not come up, and is started once more: an emulated one on a busy host may lose its way.
fn one(boot: Boot, system: &System, disks: &Disks) -> (Count, anyhow::Result<()>) {
    let begun = Instant::now();
    let (count, result) = once(boot, system, disks);
    let Err(error) = &result else {
        return (count, result);
    };
    if count.has_begun() || begun.elapsed() > COMES_UP_WITHIN {
        return (count, result);
    }
    println!(
        "{}it did not come up, and is started again: {error:#}",
        boot.label()
    );
    if let Err(error) = disks.make_state() {
        return (count, Err(error));
    }
    let (count, result) = once(boot, system, disks);
    (
        count,
        result.context("it was started twice and never got to its tests"),
    )
}

fn once(boot: Boot, system: &System, disks: &Disks) -> (Count, anyhow::Result<()>) {
    let mut count = Count::default();
    let console = disks.file("console");
    let mut command = qemu(boot, system, disks, &console);
    let ended = step::start(&mut command)
        .and_then(|child| wait_counting(child, LIMIT, boot.describe(), boot.label(), &mut count));
    let judged = match (ended, count.guest_status) {
        (Err(error), _) => Err(error),
        // The failed tests are in the count.
        (Ok(_), Some(status)) if status == 0 || count.failed > 0 => return (count, Ok(())),
        (Ok(_), Some(_)) => Err(anyhow!("a program of tests did not come to its end")),
        (Ok(status), None) => Err(anyhow!("the machine ended ({status}) before its tests did")),
    };
    let last_words = || {
        let words = tail(&console);
        format!("{}: the kernel's last words:\n{words}", boot.describe())
    };
    let judged = judged.with_context(last_words);
    (count, judged)
}

fn qemu(boot: Boot, system: &System, disks: &Disks, console: &Path) -> Command {
    let init = match boot {
        Boot::V2 | Boot::SeLinux | Boot::AppArmor => "longshore_init=/longshore/init.sh",
        Boot::Systemd => {
            "longshore_init=/lib/systemd/systemd systemd.unit=longshore-tests.service systemd.show_status=no"
        }
    };
    // psi: Debian's kernels measure pressure only when asked to. Nobody attacks the emulated processor, and what would hinder them costs
    // half of its time: code that is elsewhere in each process is translated again for each.
    let hardening = "mitigations=off norandmaps";
    // Elsewhere tests are not to depend on a profile. SELinux does nothing before its test loads a policy.
    let security = match boot {
        Boot::V2 | Boot::Systemd => "apparmor=0",
        Boot::SeLinux => "security=selinux selinux=1 enforcing=0",
        Boot::AppArmor => "security=apparmor apparmor=1",
    };
    // Huge pages, for the tests that see them limited.
    let arguments =
        format!("console=ttyS0 quiet panic=-1 psi=1 hugepages=8 {hardening} {security} {init}");
    let drive = |image: &Path, options: &str| {
        let image = image.display();
        format!("file={image},format=raw,if=virtio,cache=unsafe,{options}")
    };
    // It dies with us, even when we are killed.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig=KILL", "qemu-system-x86_64"])
        .args([
            "-machine", "q35", "-cpu", "max", "-smp", "1", "-m", MEBIBYTES,
        ])
        .args(if boot == Boot::V2 {
            &TWO_NODES[..]
        } else {
            &[]
        })
        .args(["-accel", "tcg,thread=multi,tb-size=512"])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .arg("-kernel")
        .arg(&system.kernel)
        .arg("-initrd")
        .arg(&system.initial_ram)
        .args(["-append", &arguments])
        .args(["-drive", &drive(&system.root, "snapshot=on")])
        .args(["-drive", &drive(&disks.file("payload"), "readonly=on")])
        .args(["-drive", &drive(&disks.file("state"), "readonly=off")])
        .args(["-drive", &drive(&disks.file("swap"), "readonly=off")])
        .args(["-serial", &format!("file:{}", console.display())])
        .args([
            "-device",
            "virtio-serial",
            "-chardev",
            "stdio,id=tests,signal=off",
        ])
        .args(["-device", "virtconsole,chardev=tests"])
        // The root's snapshot.
        .env("TMPDIR", &disks.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

impl Run {
    fn make() -> anyhow::Result<Run> {
        let parent = super::directory()?;
        let directory = parent.join(format!("run-{}", std::process::id()));
        for entry in fs::read_dir(&parent).with_context(|| format!("read {}", parent.display()))? {
            sweep(&entry?.path());
        }
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        Ok(Run { directory })
    }

    fn disks(&self, boot: Boot) -> anyhow::Result<Disks> {
        let directory = self.directory.join(boot.name());
        fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        Ok(Disks { directory })
    }
}

impl Disks {
    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A file system with project quotas, and room to swap to.
    fn make_state(&self) -> anyhow::Result<()> {
        let limit = Duration::from_secs(60);
        let mut make = Command::new("mke2fs");
        make.args(["-q", "-F", "-t", "ext4", "-O", "quota,project"])
            .args(["-E", "quotatype=prjquota"])
            .arg(self.file("state"))
            .arg("4G");
        step::run(&mut make, limit)?;
        let swap = self.file("swap");
        let file = File::create(&swap).with_context(|| format!("make {}", swap.display()))?;
        file.set_len(512 << 20)
            .with_context(|| format!("size {}", swap.display()))?;
        let mut make = Command::new("mkswap");
        make.arg(&swap).stdout(Stdio::null()).stderr(Stdio::null());
        step::run(&mut make, limit)?;
        ensure!(swap.exists(), "mkswap made no {}", swap.display());
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // What stays is swept by the next run.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Removes `run-PID` of a process that is gone.
fn sweep(path: &Path) {
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(pid) = name.and_then(|name| name.strip_prefix("run-")) else {
        return;
    };
    if !Path::new("/proc").join(pid).exists() {
        let _ = fs::remove_dir_all(path);
    }
}

fn tail(console: &Path) -> String {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
