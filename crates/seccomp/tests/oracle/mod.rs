//! The program that asks libseccomp and the kernel.

use std::{path::Path, sync::OnceLock};

use testkit::seccomp::Oracle;

/// Runs the oracle with a text as its input. It is compiled once.
pub(crate) fn ask(args: &[&str], input: &str) -> Vec<u8> {
    static ORACLE: OnceLock<Oracle> = OnceLock::new();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let oracle = ORACLE.get_or_init(|| Oracle::compile(directory, env!("CARGO_CRATE_NAME")));
    oracle.ask(args, input)
}
