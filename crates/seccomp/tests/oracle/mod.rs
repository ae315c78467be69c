//! The C program that asks libseccomp and the kernel.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// Compiled once a test run with the system's C compiler and libseccomp (Debian: gcc, libseccomp-dev).
fn oracle() -> &'static Path {
    static ORACLE: OnceLock<PathBuf> = OnceLock::new();
    ORACLE.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let binary = directory.join(concat!("oracle-", env!("CARGO_CRATE_NAME")));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/oracle.c");
        let status = Command::new("cc")
            .args(["-Wall", "-Werror", "-o"])
            .args([&binary, &source])
            .arg("-lseccomp")
            .status()
            .expect("run cc (Debian package gcc)");
        assert!(
            status.success(),
            "compile {} (Debian package libseccomp-dev)",
            source.display()
        );
        binary
    })
}

/// Runs the oracle with a text as its input.
pub(crate) fn ask(args: &[&str], input: &str) -> Vec<u8> {
    let mut child = Command::new(oracle())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run the oracle");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("wait for the oracle");
    writer.join().unwrap().expect("write to the oracle");
    assert!(output.status.success(), "{:?}", output.status);
    output.stdout
}
