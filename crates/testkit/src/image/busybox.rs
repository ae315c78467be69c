use std::{fs, process::Command, sync::OnceLock};

use anyhow::{Context, bail, ensure};

use super::{ImageBuilder, Layer};

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
";

/// `www-data` is in `audio` and `staff`, so that tests see additional groups.
const GROUP: &str = "\
root:x:0:
daemon:x:1:
audio:x:29:www-data
www-data:x:33:
staff:x:50:www-data
nogroup:x:65534:
";

/// An image of Debian's `busybox-static`, with `sh` as its command. Add to it what a test needs:
/// `busybox()?.user("www-data").build()`.
///
/// # Errors
/// `busybox-static` is not installed.
pub fn busybox() -> anyhow::Result<ImageBuilder> {
    Ok(ImageBuilder::new()
        .layer(busybox_layer()?)
        .env(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
        .command(["sh"]))
}

/// The layer of [`busybox`]: `/bin/busybox` with every applet as a hard link of it, `/etc/passwd`, `/etc/group`,
/// and the usual empty directories.
///
/// # Errors
/// `busybox-static` is not installed.
pub fn busybox_layer() -> anyhow::Result<Layer> {
    static LAYER: OnceLock<Layer> = OnceLock::new();
    if let Some(layer) = LAYER.get() {
        return Ok(layer.clone());
    }
    let layer = read_busybox().context("build the busybox layer from Debian's busybox-static")?;
    Ok(LAYER.get_or_init(|| layer).clone())
}

fn read_busybox() -> anyhow::Result<Layer> {
    let program = "/bin/busybox";
    let binary = fs::read(program).with_context(|| format!("read {program}"))?;
    ensure_static(&binary)?;
    let applets = Command::new(program)
        .arg("--list")
        .output()
        .with_context(|| format!("run {program} --list"))?;
    ensure!(applets.status.success(), "{program} --list failed");
    let mut layer = Layer::new()
        .directory("bin", 0o755)
        .file("bin/busybox", 0o755, binary);
    for applet in String::from_utf8(applets.stdout)?.lines() {
        if applet != "busybox" && !applet.is_empty() {
            layer = layer.hard_link(&format!("bin/{applet}"), "bin/busybox");
        }
    }
    for directory in [
        "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "var", "var/www",
    ] {
        layer = layer.directory(directory, 0o755);
    }
    Ok(layer
        .directory("root", 0o700)
        .directory("tmp", 0o1777)
        .file("etc/passwd", 0o644, PASSWD)
        .file("etc/group", 0o644, GROUP))
}

/// Debian has a dynamic `busybox` too, which finds no loader in an image: its program headers have a PT_INTERP.
fn ensure_static(elf: &[u8]) -> anyhow::Result<()> {
    const PT_INTERP: u32 = 3;
    ensure!(
        elf.starts_with(b"\x7fELF\x02\x01"),
        "it is not a little-endian 64-bit ELF file"
    );
    let number = |at: usize, length: usize| -> anyhow::Result<usize> {
        let bytes = elf
            .get(at..at + length)
            .context("its ELF header is cut short")?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| (sum << 8) | usize::from(*byte)))
    };
    let (table, entry_size, entries) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    for entry in 0..entries {
        if number(table + entry * entry_size, 4)? == PT_INTERP as usize {
            bail!("it is dynamically linked; install the package busybox-static");
        }
    }
    Ok(())
}
