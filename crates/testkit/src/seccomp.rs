//! libseccomp's word on a profile, and the kernel's on a program.

pub mod bpf;

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

pub use oci_spec::runtime::LinuxSeccomp;
use oci_spec::runtime::{Arch, LinuxSeccompAction, LinuxSeccompOperator, LinuxSyscall};

/// The C program that asks them.
#[derive(Debug)]
pub struct Oracle {
    binary: PathBuf,
}

impl Oracle {
    /// With the system's C compiler and libseccomp (Debian: gcc, libseccomp-dev). `name` tells it from others in `directory`.
    ///
    /// # Panics
    /// One of the two is missing.
    #[must_use]
    pub fn compile(directory: &Path, name: &str) -> Self {
        let binary = directory.join(format!("oracle-{name}"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/seccomp/oracle.c");
        compile(&source, &binary, &["-lseccomp"]);
        Self { binary }
    }

    /// Runs it with a text as its input.
    ///
    /// # Panics
    /// It fails.
    #[must_use]
    pub fn ask(&self, args: &[&str], input: &str) -> Vec<u8> {
        let mut child = Command::new(&self.binary)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run the oracle");
        let mut stdin = child.stdin.take().expect("it was piped");
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().expect("wait for the oracle");
        let written = writer.join().expect("the writer does not panic");
        written.expect("write to the oracle");
        assert!(output.status.success(), "{:?}", output.status);
        output.stdout
    }
}

/// Compiles a C program with the system's compiler (Debian: gcc).
///
/// # Panics
/// It does not compile.
pub fn compile(source: &Path, binary: &Path, further: &[&str]) {
    let status = Command::new("cc")
        .args(["-Wall", "-Werror", "-o"])
        .args([binary, source])
        .args(further)
        .status()
        .expect("run cc (Debian package gcc)");
    assert!(status.success(), "compile {}", source.display());
}

/// What a filter returns for it.
#[must_use]
pub fn action(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    match action {
        LinuxSeccompAction::ScmpActErrno => 0x0005_0000 | errno.unwrap_or(1),
        LinuxSeccompAction::ScmpActTrace => 0x7ff0_0000 | errno.unwrap_or(1),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => 0,
        LinuxSeccompAction::ScmpActKillProcess => 0x8000_0000,
        LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
        LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
        LinuxSeccompAction::ScmpActAllow => 0x7fff_0000,
        LinuxSeccompAction::ScmpActNotify => 0x7fc0_0000,
    }
}

/// The oracle's input for `filter`, made as runc makes its calls of libseccomp.
#[must_use]
pub fn rules(profile: &LinuxSeccomp) -> String {
    let default = action(profile.default_action(), profile.default_errno_ret());
    let mut text = format!("default {default:x}\n");
    for arch in profile.architectures().iter().flatten() {
        match arch {
            Arch::ScmpArchX86 => text.push_str("arch x86\n"),
            Arch::ScmpArchX32 => text.push_str("arch x32\n"),
            _ => {}
        }
    }
    for rule in profile.syscalls().iter().flatten() {
        let outcome = action(rule.action(), rule.errno_ret());
        if outcome == default {
            continue;
        }
        for name in rule.names() {
            for conditions in alternatives(rule) {
                text.push_str(&format!("rule {outcome:x} {name} {conditions}\n"));
            }
        }
    }
    text
}

fn alternatives(rule: &LinuxSyscall) -> Vec<String> {
    let args = rule.args().clone().unwrap_or_default();
    let mut seen = BTreeMap::new();
    for arg in &args {
        *seen.entry(arg.index()).or_insert(0) += 1;
    }
    let texts: Vec<String> = args
        .iter()
        .map(|arg| {
            let operator = match arg.op() {
                LinuxSeccompOperator::ScmpCmpNe => "NE",
                LinuxSeccompOperator::ScmpCmpLt => "LT",
                LinuxSeccompOperator::ScmpCmpLe => "LE",
                LinuxSeccompOperator::ScmpCmpEq => "EQ",
                LinuxSeccompOperator::ScmpCmpGe => "GE",
                LinuxSeccompOperator::ScmpCmpGt => "GT",
                LinuxSeccompOperator::ScmpCmpMaskedEq => "MASKED",
            };
            let second = arg.value_two().unwrap_or(0);
            format!("{} {operator} {:x} {second:x}", arg.index(), arg.value())
        })
        .collect();
    if seen.values().any(|count| *count > 1) {
        return texts.into_iter().map(|text| format!("1 {text}")).collect();
    }
    vec![format!("{} {}", texts.len(), texts.join(" "))]
}
