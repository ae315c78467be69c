//! Descriptors that the caller has handed down.

use anyhow::ensure;

/// As many as there can be: numbers above are this program's own.
const MOST: u32 = 128;

/// `O_CLOEXEC`, in the octal numbers of `proc_pid_fdinfo(5)`: what has it was opened here.
const CLOSED_ON_EXEC: u32 = 0o2_000_000;

/// Of socket activation, `sd_listen_fds(3)`.
pub(crate) fn listening() -> u32 {
    let text = std::env::var("LISTEN_FDS").unwrap_or_default();
    text.parse().unwrap_or(0)
}

/// How many the program inherits: those of socket activation, and those of `--preserve-fds`.
pub(crate) fn preserved(asked: u32) -> anyhow::Result<u32> {
    let all = asked.saturating_add(listening());
    ensure!(all <= MOST, "--preserve-fds: at most {MOST}");
    for number in 3..3 + all {
        ensure!(
            is_inherited(number),
            "--preserve-fds: descriptor {number} is not open"
        );
    }
    Ok(all)
}

fn is_inherited(number: u32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")) else {
        return false;
    };
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & CLOSED_ON_EXEC == 0)
}
