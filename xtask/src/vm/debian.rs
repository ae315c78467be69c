//! The machine's system: a Debian root with systemd in it, and Debian's kernel for clouds, made once and kept in `target/vm`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};

use crate::{packages, step};

const LIMIT: Duration = Duration::from_secs(600);

/// How often a machine's Debian is asked for.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(15);

const SUITE: &str = "bookworm";

/// Beside what the tests of every machine need.
const PACKAGES: &[&str] = &[
    "systemd", "dbus", "kmod", "procps", "criu", "xfsprogs", "secilc", "apparmor",
];

/// What nobody reads in there.
const LEFT_OUT: &str = "path-exclude=/usr/share/doc/*";

/// Run by mmdebstrap with the root's directory as `$1`, while apt still knows its sources. Unpacked rather than installed: the
/// package would bring the tools that make initial RAM file systems.
const KERNEL: &str = "\
set -e
cd \"$1\"
export APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\"
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \\(linux-image-.*-cloud-amd64\\)$/\\1/p' | head -n1)
apt-get -qq download -o APT::Sandbox::User=root \"$kernel\"
dpkg-deb --extract \"$kernel\"_*.deb kernel
rm \"$kernel\"_*.deb
mv kernel/boot/vmlinuz-* kernel/vmlinuz
mv kernel/lib/modules lib/
chroot . depmod \"$(ls lib/modules)\"
mkdir -p longshore state
";

/// In the initial RAM file system, with the drivers that it loads.
const BOOT: &str = include_str!("../../vm/boot.sh");
const APPLETS: &[&str] = &[
    "sh",
    "mount",
    "mkdir",
    "cp",
    "insmod",
    "sleep",
    "switch_root",
    "[",
];
const DRIVERS: &[&str] = &[
    "virtio",
    "virtio_ring",
    "virtio_pci",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_blk",
    "virtio_console",
];

/// Files to start a machine from.
#[derive(Debug)]
pub(super) struct System {
    pub(super) kernel: PathBuf,
    pub(super) initial_ram: PathBuf,
    pub(super) root: PathBuf,
}

impl System {
    /// The one kept, or a new one.
    pub(super) fn get() -> anyhow::Result<System> {
        let kept = super::directory()?.join("debian");
        let recipe = recipe();
        let stamp = kept.join("recipe");
        if fs::read_to_string(&stamp).is_ok_and(|text| text == recipe) {
            println!("    kept in {}", kept.display());
            return Ok(System::in_directory(&kept));
        }
        let new = kept.with_extension("new");
        for old in [&new, &kept] {
            if old.exists() {
                fs::remove_dir_all(old).with_context(|| format!("remove {}", old.display()))?;
            }
        }
        fs::create_dir_all(&new).with_context(|| format!("make {}", new.display()))?;
        make(&new)?;
        fs::write(new.join("recipe"), &recipe).context("write the recipe")?;
        fs::rename(&new, &kept).with_context(|| format!("make {}", kept.display()))?;
        Ok(System::in_directory(&kept))
    }

    fn in_directory(directory: &Path) -> System {
        System {
            kernel: directory.join("vmlinuz"),
            initial_ram: directory.join("initial-ram"),
            root: directory.join("root.img"),
        }
    }
}

/// All that decides what comes out.
fn recipe() -> String {
    format!(
        "{SUITE}\n{}\n{LEFT_OUT}\n{KERNEL}\n{BOOT}\n{APPLETS:?}\n{DRIVERS:?}\n",
        packages()
    )
}

fn packages() -> String {
    let own = PACKAGES.iter().copied();
    own.chain(packages::of_machines())
        .collect::<Vec<_>>()
        .join(",")
}

fn make(directory: &Path) -> anyhow::Result<()> {
    let root = directory.join("root");
    bootstrap("mmdebstrap", &root, &sources(), PAUSE)?;

    fs::rename(root.join("kernel/vmlinuz"), directory.join("vmlinuz"))
        .context("keep the kernel")?;
    fs::remove_dir_all(root.join("kernel")).context("remove what else came with the kernel")?;
    initial_ram(&root, directory)?;
    let image = directory.join("root.img");
    disk(&image, "2G", Some(&root))?;
    fs::remove_dir_all(&root).context("remove the root's directory")
}

/// Has `program`, mmdebstrap, make Debian in `root`. Mirrors have bad minutes: it is tried again from the beginning.
fn bootstrap(
    program: &str,
    root: &Path,
    sources: &[PathBuf],
    pause: Duration,
) -> anyhow::Result<()> {
    let from: Vec<_> = sources
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let from = match from.is_empty() {
        true => "Debian's public mirror".to_owned(),
        false => from.join(", "),
    };
    step::retry(
        ATTEMPTS,
        pause,
        &format!("make Debian from {from}, which must be reachable"),
        || {
            if root.exists() {
                fs::remove_dir_all(root).with_context(|| format!("remove {}", root.display()))?;
            }
            step::run(&mut mmdebstrap(program, root, sources), LIMIT)
        },
    )
}

fn mmdebstrap(program: &str, root: &Path, sources: &[PathBuf]) -> Command {
    let mut bootstrap = Command::new(program);
    bootstrap
        .args([
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            "--format=dir",
        ])
        .arg(format!("--include={}", packages()))
        .arg(format!("--dpkgopt={LEFT_OUT}"))
        .arg(format!("--customize-hook={KERNEL}"))
        .arg(SUITE)
        .arg(root)
        .args(sources)
        .current_dir("/")
        .stdin(Stdio::null());
    bootstrap
}

/// This machine's own sources of Debian, mirrors and all; mmdebstrap knows the public ones.
fn sources() -> Vec<PathBuf> {
    let list = Path::new("/etc/apt/sources.list.d/debian.sources");
    match list.exists() {
        true => vec![list.to_owned()],
        false => Vec::new(),
    }
}

fn initial_ram(root: &Path, directory: &Path) -> anyhow::Result<()> {
    let tree = directory.join("initial-ram.d");
    for one in ["bin", "dev", "root"] {
        fs::create_dir_all(tree.join(one)).context("make the initial RAM file system")?;
    }
    fs::copy(root.join("bin/busybox"), tree.join("bin/busybox")).context("copy busybox")?;
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(applet))
            .with_context(|| format!("link {applet}"))?;
    }
    let init = tree.join("init");
    fs::write(&init, BOOT).context("write /init")?;
    super::payload::make_executable(&init)?;
    for driver in DRIVERS {
        let name = format!("{driver}.ko");
        let found = find(&root.join("lib/modules"), &name);
        let found = found.with_context(|| format!("the kernel's package has no {name}"))?;
        fs::copy(&found, tree.join(&name)).with_context(|| format!("copy {name}"))?;
    }
    let mut pack = Command::new("bash");
    pack.args(["-ec", "cd \"$1\"; find . | busybox cpio -o -H newc >\"$2\""])
        .arg("pack")
        .arg(&tree)
        .arg(directory.join("initial-ram"))
        .stdin(Stdio::null());
    step::run(&mut pack, LIMIT)?;
    fs::remove_dir_all(&tree).context("remove the initial RAM file system's tree")
}

fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => find(&path, name),
            false => (entry.file_name().to_str() == Some(name)).then_some(path),
        }
    })
}

/// An ext4 file system in a file that takes no more room than what is in it.
pub(super) fn disk(image: &Path, size: &str, content: Option<&Path>) -> anyhow::Result<()> {
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal"])
        .stdin(Stdio::null());
    if let Some(content) = content {
        make.arg("-d").arg(content);
    }
    step::run(make.arg(image).arg(size), LIMIT)?;
    ensure!(image.exists(), "mke2fs made no {}", image.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// In mmdebstrap's place: leaves something behind each time, and what it was called with in `calls`.
    fn program(directory: &Path, succeeds_at: u32) -> PathBuf {
        let path = directory.join("bootstrap");
        let script = format!(
            "#!/bin/sh\nwhile [ \"$1\" != {SUITE} ]; do shift; done\necho \"$@\" >> {calls}\n\
             mkdir \"$2\" && [ $(wc -l < {calls}) -ge {succeeds_at} ]\n",
            calls = directory.join("calls").display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    fn tried(succeeds_at: u32) -> (anyhow::Result<()>, usize) {
        let directory = std::env::temp_dir().join(format!(
            "longshore-xtask-{}-{succeeds_at}",
            std::process::id()
        ));
        fs::create_dir(&directory).unwrap();
        let program = program(&directory, succeeds_at);
        let mirror = PathBuf::from("/etc/apt/dead-mirror.sources");
        let result = bootstrap(
            program.to_str().unwrap(),
            &directory.join("root"),
            &[mirror],
            Duration::ZERO,
        );
        let calls = fs::read_to_string(directory.join("calls")).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert!(
            calls
                .lines()
                .all(|line| line.ends_with("/root /etc/apt/dead-mirror.sources")),
            "{calls}"
        );
        (result, calls.lines().count())
    }

    #[test]
    fn a_mirror_that_fails_for_a_moment_is_asked_again() {
        let (result, calls) = tried(3);
        result.unwrap();
        assert_eq!(calls, 3);
    }

    #[test]
    fn a_dead_mirror_is_named() {
        let (result, calls) = tried(100);
        let error = format!("{:#}", result.unwrap_err());
        assert!(
            error.starts_with(
                "make Debian from /etc/apt/dead-mirror.sources, which must be reachable: 3 attempts failed"
            ) && error.contains("exit status: 1"),
            "{error}"
        );
        assert_eq!(calls, 3);
    }
}
