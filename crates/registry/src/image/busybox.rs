use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

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

/// Why there is no image of busybox.
#[derive(Debug, thiserror::Error)]
pub enum BusyboxError {
    #[error("there is no busybox at /bin/busybox or in PATH; install the package busybox-static")]
    Missing,
    #[error("run or read {}", .path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: {reason}; a static one is wanted, as of the package busybox-static", .path.display())]
    Unfit { path: PathBuf, reason: &'static str },
}

/// An image of Debian's `busybox-static`, with `sh` as its command. Add to it what a test needs:
/// `busybox()?.user("www-data").build()`.
///
/// # Errors
/// `busybox-static` is not installed.
pub fn busybox() -> Result<ImageBuilder, BusyboxError> {
    Ok(builder(busybox_layer()?))
}

/// As [`busybox`], of the program at `path`.
///
/// # Errors
/// It is not there, or not static.
pub fn busybox_of(path: &Path) -> Result<ImageBuilder, BusyboxError> {
    Ok(builder(read_busybox(path)?))
}

/// `/bin/busybox`, or the first in `PATH`.
#[must_use]
pub fn find_busybox() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let others = env::split_paths(&path).map(|directory| directory.join("busybox"));
    let mut all = std::iter::once(PathBuf::from("/bin/busybox")).chain(others);
    all.find(|path| path.is_file())
}

fn builder(layer: Layer) -> ImageBuilder {
    ImageBuilder::new()
        .layer(layer)
        .env(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
        .command(["sh"])
}

/// The layer of [`busybox`]: `/bin/busybox` with every applet as a hard link of it, `/etc/passwd`, `/etc/group`,
/// and the usual empty directories.
///
/// # Errors
/// `busybox-static` is not installed.
pub fn busybox_layer() -> Result<Layer, BusyboxError> {
    static LAYER: OnceLock<Layer> = OnceLock::new();
    if let Some(layer) = LAYER.get() {
        return Ok(layer.clone());
    }
    let layer = read_busybox(&find_busybox().ok_or(BusyboxError::Missing)?)?;
    Ok(LAYER.get_or_init(|| layer).clone())
}

fn read_busybox(program: &Path) -> Result<Layer, BusyboxError> {
    let failed = |source| BusyboxError::Io {
        path: program.to_owned(),
        source,
    };
    let unfit = |reason| BusyboxError::Unfit {
        path: program.to_owned(),
        reason,
    };
    let binary = fs::read(program).map_err(failed)?;
    is_static(&binary).map_err(unfit)?;
    let applets = Command::new(program)
        .arg("--list")
        .output()
        .map_err(failed)?;
    if !applets.status.success() {
        return Err(unfit("it does not list its applets"));
    }
    let mut layer = Layer::new()
        .directory("bin", 0o755)
        .file("bin/busybox", 0o755, binary);
    for applet in String::from_utf8_lossy(&applets.stdout).lines() {
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
fn is_static(elf: &[u8]) -> Result<(), &'static str> {
    const PT_INTERP: u32 = 3;
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return Err("it is not a little-endian 64-bit ELF file");
    }
    let number = |at: usize, length: usize| {
        let bytes = elf
            .get(at..at + length)
            .ok_or("its ELF header is cut short")?;
        let bytes = bytes.iter().rev();
        Ok::<_, &str>(bytes.fold(0, |sum, byte| (sum << 8) | usize::from(*byte)))
    };
    let (table, entry_size, entries) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    for entry in 0..entries {
        if number(table + entry * entry_size, 4)? == PT_INTERP as usize {
            return Err("it is dynamically linked");
        }
    }
    Ok(())
}
