//! `process`, of a container's init and of what is executed beside it.

use oci_spec::runtime::{Linux, PosixRlimit, PosixRlimitType, Process as SpecProcess, Spec};

use super::{
    Reach, SpecError, alone, capability::bits, habits, invalid, memory_policy, refusal, text,
};
use crate::{
    Capabilities, Habits, Labels, OomScoreAdj, Process, Rlimit, Seccomp, TerminalSize, User,
};

/// A terminal's size until somebody says another.
const TERMINAL: TerminalSize = TerminalSize {
    rows: 24,
    columns: 80,
};

/// `linux` is what is said of the container as a whole.
pub(super) fn init(
    process: &SpecProcess,
    linux: Option<&Linux>,
    seccomp: Option<Seccomp>,
) -> Result<Process, SpecError> {
    let args = process.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(SpecError::Missing {
            field: "process.args",
        });
    }
    let cwd = text("process.cwd", process.cwd())?;
    if !cwd.starts_with('/') {
        return Err(invalid("process.cwd", cwd, "use an absolute path"));
    }
    let oom_score_adj = process
        .oom_score_adj()
        .map(|value| match i16::try_from(value) {
            Ok(value) if (-1000..=1000).contains(&value) => Ok(OomScoreAdj(value)),
            _ => Err(invalid("process.oomScoreAdj", value, "use -1000 to 1000")),
        })
        .transpose()?;
    let user = process.user();
    Ok(Process {
        args,
        env: process.env().clone().unwrap_or_default(),
        cwd,
        user: User {
            uid: user.uid(),
            gid: user.gid(),
            additional_gids: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask(),
        },
        capabilities: capabilities(process)?,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: rlimits(process),
        oom_score_adj,
        seccomp,
        terminal: terminal(process)?,
        labels: Labels {
            apparmor: label(process.apparmor_profile()),
            selinux: label(process.selinux_label()),
        },
        habits: Habits {
            memory_policy: linux
                .and_then(|linux| linux.memory_policy().as_ref())
                .map(memory_policy::memory_policy)
                .transpose()?,
            ..habits::habits(process)?
        },
    })
}

/// A process as a specification or a file of its own has it, for a plan that is executed here. `seccomp` is compiled already.
pub fn process(
    given: &SpecProcess,
    linux: Option<&Linux>,
    seccomp: Option<Seccomp>,
) -> Result<Process, SpecError> {
    refusal::check_process(given, Reach::Here)?;
    let mut process = init(given, linux, seccomp)?;
    process.habits.personality = linux
        .and_then(|linux| linux.personality().as_ref())
        .map(alone::personality)
        .transpose()?;
    Ok(process)
}

/// A process to run beside the container's init, with everything that restricts init: user, capabilities, no_new_privs,
/// seccomp, limits, memory policy, environment and directory. `seccomp` is `linux.seccomp`, compiled, where the specification has it.
/// A terminal brings a `TERM` along where init has none.
pub fn exec_process(
    spec: &Spec,
    args: Vec<String>,
    terminal: Option<TerminalSize>,
    seccomp: Option<Seccomp>,
) -> Result<Process, SpecError> {
    let given = spec
        .process()
        .as_ref()
        .ok_or(SpecError::Missing { field: "process" })?;
    refusal::check_process(given, Reach::Supervisor)?;
    let filtered = spec
        .linux()
        .as_ref()
        .is_some_and(|linux| linux.seccomp().is_some());
    if filtered && seccomp.is_none() {
        return Err(SpecError::Unsupported {
            field: "linux.seccomp without its compiled form".to_owned(),
        });
    }
    if args.is_empty() {
        return Err(SpecError::Missing { field: "cmd" });
    }
    let init = init(given, spec.linux().as_ref(), seccomp)?;
    let mut process = Process {
        args,
        terminal,
        ..init
    };
    if terminal.is_some() && !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
        process.env.push("TERM=xterm".to_owned());
    }
    Ok(process)
}

/// The limits of a process.
pub fn rlimits(process: &SpecProcess) -> Vec<Rlimit> {
    process.rlimits().iter().flatten().map(rlimit).collect()
}

/// An empty one is none.
fn label(given: &Option<String>) -> Option<String> {
    given.clone().filter(|label| !label.is_empty())
}

fn terminal(process: &SpecProcess) -> Result<Option<TerminalSize>, SpecError> {
    if !process.terminal().unwrap_or(false) {
        return Ok(None);
    }
    let Some(size) = process.console_size() else {
        return Ok(Some(TERMINAL));
    };
    match (u16::try_from(size.height()), u16::try_from(size.width())) {
        (Ok(rows), Ok(columns)) => Ok(Some(TerminalSize { rows, columns })),
        _ => Err(invalid(
            "process.consoleSize",
            format_args!("{} by {}", size.height(), size.width()),
            "at most 65535 by 65535",
        )),
    }
}

/// No sets at all means none of them, as the specification has it.
fn capabilities(process: &SpecProcess) -> Result<Capabilities, SpecError> {
    let Some(given) = process.capabilities() else {
        return Ok(Capabilities::default());
    };
    let sets = Capabilities {
        bounding: bits(given.bounding().as_ref()),
        effective: bits(given.effective().as_ref()),
        permitted: bits(given.permitted().as_ref()),
        inheritable: bits(given.inheritable().as_ref()),
        ambient: bits(given.ambient().as_ref()),
    };
    // The kernel would refuse these much later, and without a name.
    if sets.effective & !sets.permitted != 0 {
        return Err(invalid(
            "process.capabilities.effective",
            format_args!("{:#x}", sets.effective & !sets.permitted),
            "not a subset of the permitted ones",
        ));
    }
    if sets.ambient & !(sets.permitted & sets.inheritable) != 0 {
        return Err(invalid(
            "process.capabilities.ambient",
            format_args!("{:#x}", sets.ambient & !(sets.permitted & sets.inheritable)),
            "not both permitted and inheritable",
        ));
    }
    Ok(sets)
}

/// Numbers of `asm-generic/resource.h`.
fn rlimit(limit: &PosixRlimit) -> Rlimit {
    let resource = match limit.typ() {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    };
    Rlimit {
        resource,
        soft: limit.soft(),
        hard: limit.hard(),
    }
}
