//! Hooks: programs of the node that are told a container's state on their standard input.
//!
//! | | when | where |
//! |---|---|---|
//! | prestart, createRuntime | its namespaces and mounts are made | here |
//! | createContainer | the same | in its namespaces, with the host's tree in sight |
//! | startContainer | it is being started | in its namespaces and root, confined as its program is |
//! | poststart | its program runs | here |
//! | poststop | it has been deleted | here |

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use oci_plan::{Capabilities, Process};
use oci_runtime::{ChildStdio, ExecPlan, Host, Launch, Placement, Progress, Standalone};
use oci_spec::runtime::{Hook, Hooks, Spec};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions};

use crate::bundle;

/// Of what a hook has written, told with its failure.
const OUTPUT_BYTES: u64 = 4096;

/// When hooks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// And the older `prestart`, before them.
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    fn of(self, hooks: &Hooks) -> Vec<&Hook> {
        let (first, second) = match self {
            Self::CreateRuntime => (hooks.prestart(), hooks.create_runtime()),
            Self::CreateContainer => (&None, hooks.create_container()),
            Self::StartContainer => (&None, hooks.start_container()),
            Self::Poststart => (&None, hooks.poststart()),
            Self::Poststop => (&None, hooks.poststop()),
        };
        first.iter().chain(second).flatten().collect()
    }
}

/// Those of a stage.
pub(crate) fn of(spec: &Spec, stage: Stage) -> Vec<&Hook> {
    let hooks = spec.hooks().as_ref();
    hooks.map_or_else(Vec::new, |hooks| stage.of(hooks))
}

/// Runs them in order, here. The first failure ends it.
pub(crate) fn run(hooks: &[&Hook], stage: Stage, state: &[u8]) -> anyhow::Result<()> {
    for (index, hook) in hooks.iter().enumerate() {
        run_here(hook, state).with_context(|| described(stage, index, hook))?;
    }
    Ok(())
}

/// Runs them in order in a container's namespaces, by a descriptor of its init. Of `startContainer` the program is the container's own, and
/// may do what the container may: its user, capabilities and filter.
pub(crate) fn run_inside(
    hooks: &[&Hook],
    stage: Stage,
    state: &[u8],
    host: &Host,
    init: BorrowedFd<'_>,
    spec: &Spec,
) -> anyhow::Result<()> {
    for (index, hook) in hooks.iter().enumerate() {
        let process = match stage {
            Stage::StartContainer => confined(hook, spec),
            _ => free(hook, host),
        };
        process
            .and_then(|process| run_in(hook, &process, state, host, init))
            .with_context(|| described(stage, index, hook))?;
    }
    Ok(())
}

fn described(stage: Stage, index: usize, hook: &Hook) -> String {
    // The first words are runc's, by which others tell such an error.
    format!(
        "error running hook hooks.{}[{index}] {}",
        stage.name(),
        hook.path().display()
    )
}

fn run_here(hook: &Hook, state: &[u8]) -> anyhow::Result<()> {
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(rest);
    }
    if let Some(env) = hook.env() {
        command.env_clear();
        command.envs(env.iter().filter_map(|entry| entry.split_once('=')));
    }
    let output = memory("output")?;
    let mut child = command
        .stdin(Stdio::from(input(state)?))
        .stdout(Stdio::from(output.try_clone()?))
        .stderr(Stdio::from(output.try_clone()?))
        .spawn()
        .context("run it")?;
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let pid = pid.context("its process has no number")?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let in_time = wait(pidfd.as_fd(), hook);
    if !in_time {
        child.kill()?;
    }
    let status = child.wait()?;
    judge(in_time, status.code(), status.signal(), output)
}

fn run_in(
    hook: &Hook,
    process: &Process,
    state: &[u8],
    host: &Host,
    init: BorrowedFd<'_>,
) -> anyhow::Result<()> {
    let (stdin, output) = (input(state)?, memory("output")?);
    let mut launch = Launch::standalone_exec(
        host,
        ExecPlan {
            process,
            container: init,
        },
        Placement::default(),
        ChildStdio {
            stdin: Some(stdin.as_fd()),
            stdout: Some(output.as_fd()),
            stderr: Some(output.as_fd()),
        },
        Standalone::NONE,
    )?;
    loop {
        match launch.advance()? {
            Progress::Started { .. } => break,
            Progress::Pending
            | Progress::Listening(_)
            | Progress::Paused
            | Progress::Created { .. } => {
                let handshake = launch.handshake();
                let mut said = [PollFd::new(&handshake, PollFlags::IN)];
                rustix::io::retry_on_intr(|| rustix::event::poll(&mut said, None))?;
            }
        }
    }
    let pidfd = launch.into_pidfd();
    let in_time = wait(pidfd.as_fd(), hook);
    if !in_time {
        rustix::process::pidfd_send_signal(&pidfd, Signal::KILL)?;
    }
    let ended = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?;
    let ended = ended.context("it has not ended")?;
    judge(
        in_time,
        ended.exit_status(),
        ended.terminating_signal(),
        output,
    )
}

/// As root, with all that this program may do.
fn free(hook: &Hook, host: &Host) -> anyhow::Result<Process> {
    let env = hook.env().clone().unwrap_or_default();
    let capabilities = Capabilities::of_root(host.bounding());
    Ok(Process::of_root(arguments(hook)?, env, "/", capabilities))
}

/// As the container's own program, with its environment unless the hook has one.
fn confined(hook: &Hook, spec: &Spec) -> anyhow::Result<Process> {
    let seccomp = bundle::seccomp(spec.linux().as_ref())?;
    let mut process = oci_plan::spec::exec_process(spec, arguments(hook)?, None, seccomp)?;
    if let Some(env) = hook.env() {
        process.env.clone_from(env);
    }
    Ok(process)
}

fn arguments(hook: &Hook) -> anyhow::Result<Vec<String>> {
    let path = hook.path().to_str().context("its path is not UTF-8")?;
    let mut args = hook.args().clone().unwrap_or_default();
    match args.first_mut() {
        // The core finds the program by the first one.
        Some(first) => path.clone_into(first),
        None => args.push(path.to_owned()),
    }
    Ok(args)
}

/// Whether it ended before its time was over.
fn wait(pidfd: BorrowedFd<'_>, hook: &Hook) -> bool {
    let bound = hook.timeout().map(|seconds| Timespec {
        tv_sec: seconds.max(0),
        tv_nsec: 0,
    });
    let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
    let polled = rustix::io::retry_on_intr(|| rustix::event::poll(&mut ended, bound.as_ref()));
    polled.is_ok_and(|count| count > 0)
}

fn judge(
    in_time: bool,
    code: Option<i32>,
    signal: Option<i32>,
    mut output: File,
) -> anyhow::Result<()> {
    let how = match (in_time, code, signal) {
        (true, Some(0), _) => return Ok(()),
        (false, _, _) => "did not end in its time".to_owned(),
        (true, Some(code), _) => format!("exited with status {code}"),
        (true, None, Some(signal)) if signal == Signal::SYS.as_raw() => {
            format!("was killed by signal {signal} (bad system call)")
        }
        (true, None, Some(signal)) => format!("was killed by signal {signal}"),
        (true, None, None) => "ended".to_owned(),
    };
    let mut said = Vec::new();
    output.rewind()?;
    output.take(OUTPUT_BYTES).read_to_end(&mut said)?;
    match String::from_utf8_lossy(&said).trim() {
        "" => bail!("it {how}"),
        said => bail!("it {how}: {said}"),
    }
}

/// One that need not be read.
fn input(state: &[u8]) -> anyhow::Result<File> {
    let mut file = memory("state")?;
    file.write_all(state)?;
    file.rewind()?;
    Ok(file)
}

fn memory(name: &str) -> anyhow::Result<File> {
    let file: OwnedFd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
    Ok(File::from(file))
}
