//! A further process in a running container: how it begins, and how it is sure to end.

use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};

use oci_plan::{FdSlot, Process, TerminalSize, spec::SpecError};
use oci_spec::runtime::Spec;
use rustix::{fs::Uid, pipe::PipeFlags};
use supervisor_api::{Exec, ExecKilled, ReplyBody, RequestBody};
use tokio::sync::oneshot;

use super::{Container, OutsideError, Phase, outside};
use crate::{
    handlers::{BundleError, write_process},
    id::{self, ContainerId},
    pod::Pod,
    runtime::Runtime,
    state::RecordError,
    supervisor::{CallError, Link, mismatch},
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    #[error("cmd is empty: give the program to run and its arguments")]
    NoCommand,
    #[error("cmd[{index}] holds a NUL character: remove it")]
    Nul { index: usize },
    #[error("exec in container {0}: it is not running")]
    NotRunning(ContainerId),
    #[error("exec in container {0}: read how the container was made")]
    Record(ContainerId, #[source] RecordError),
    #[error("exec in container {0}: translate its specification")]
    Spec(ContainerId, #[source] SpecError),
    #[error("exec in container {0}: compile its seccomp profile")]
    Seccomp(ContainerId, #[source] seccomp::CompileError),
    #[error("exec in container {0}")]
    Process(ContainerId, #[source] BundleError),
    #[error("exec in container {0}")]
    Outside(ContainerId, #[source] OutsideError),
    #[error("exec in container {0}: make pipes")]
    Pipe(ContainerId, #[source] io::Error),
    #[error("exec {command:?} in container {id}")]
    Supervisor {
        id: ContainerId,
        command: String,
        #[source]
        source: CallError,
    },
    #[error("exec in container {0}: read its output")]
    Read(ContainerId, #[source] io::Error),
    #[error("exec in container {0}: the pod's supervisor is gone")]
    Lost(ContainerId),
    #[error("exec {command:?} in container {id}: killed after the timeout of {} s; its output ended: {tail:?}", timeout.as_secs())]
    TimedOut {
        id: ContainerId,
        command: String,
        timeout: Duration,
        tail: String,
    },
}

/// Exit code, and why we killed it, if we did.
pub(crate) type ExecEnd = (i32, Option<ExecKilled>);

/// A command to run, and its ends of its streams; one that is `None` is `/dev/null`.
#[derive(Debug, Default)]
pub(crate) struct Command {
    pub(crate) args: Vec<String>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    /// Instead of the three.
    pub(crate) terminal: Option<TerminalSize>,
    /// When the supervisor kills it.
    pub(crate) timeout: Option<Duration>,
}

/// A command that runs. Dropping it kills the command's whole process tree.
#[derive(Debug)]
pub(crate) struct Running {
    /// The master of its terminal, non-blocking.
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) end: End,
    pid: i32,
}

/// The end of a command, to be waited for.
#[derive(Debug)]
pub(crate) struct End {
    told: oneshot::Receiver<ExecEnd>,
    leash: Leash,
}

impl End {
    /// `None`: nobody will ever tell of it. Cancel safe; not to be called again after it has returned.
    pub(crate) async fn wait(&mut self) -> Option<ExecEnd> {
        let end = (&mut self.told).await.ok();
        self.leash.held = end.is_none();
        end
    }
}

/// Whether a command can be run there now.
pub(crate) fn check_exec(container: &Container, args: &[String]) -> Result<(), ExecError> {
    if args.is_empty() {
        return Err(ExecError::NoCommand);
    }
    if let Some(index) = args.iter().position(|arg| arg.contains('\0')) {
        return Err(ExecError::Nul { index });
    }
    match container.phase() {
        Phase::Running { .. } => Ok(()),
        _ => Err(ExecError::NotRunning(container.id.clone())),
    }
}

/// A pipe, for the container's user: a program that is not root opens its own `/dev/stdout`, and that is a question of the pipe's mode.
/// The reading end comes first.
pub(crate) fn pipe(
    runtime: &Runtime,
    container: &Container,
) -> Result<(OwnedFd, OwnedFd), ExecError> {
    let id = &container.id;
    let spec = container
        .spec(&runtime.records)
        .map_err(|error| ExecError::Record(id.clone(), error))?;
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .and_then(|(read, write)| {
            rustix::fs::fchown(&read, Some(host_user(&spec)), None)?;
            Ok((read, write))
        })
        .map_err(|error| ExecError::Pipe(id.clone(), error.into()))
}

/// The container's user as the host numbers it.
fn host_user(spec: &Spec) -> Uid {
    let user = spec.process().as_ref().map_or(0, |one| one.user().uid());
    let mappings = spec
        .linux()
        .as_ref()
        .and_then(|one| one.uid_mappings().as_ref());
    let mapped = mappings.into_iter().flatten().find_map(|map| {
        let offset = user.checked_sub(map.container_id())?;
        (offset < map.size()).then(|| map.host_id().checked_add(offset))?
    });
    Uid::from_raw(mapped.unwrap_or(user))
}

/// Starts a command. Execs are never joined.
pub(crate) async fn begin(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    command: Command,
) -> Result<Running, ExecError> {
    let id = &container.id;
    check_exec(container, &command.args)?;
    let link = container
        .pod
        .link()
        .ok_or_else(|| ExecError::NotRunning(id.clone()))?;
    let spec = container
        .spec(&runtime.records)
        .map_err(|error| ExecError::Record(id.clone(), error))?;
    let seccomp = runtime
        .seccomp
        .program(&spec, &container.pod.config)
        .map_err(|error| ExecError::Seccomp(id.clone(), error))?;
    let args = command.args.clone();
    let planned = outside::planned(&spec);
    let process = oci_plan::spec::exec_process(&planned, args.clone(), command.terminal, seccomp)
        .map_err(|error| ExecError::Spec(id.clone(), error))?;
    let exec_id = id::random_hex().map_err(|error| ExecError::Pipe(id.clone(), error))?;
    if container.pod.made_with.is_some() {
        write_process(
            &container.pod.directory,
            id.as_str(),
            &exec_id,
            &spec,
            args,
            command.terminal,
            runtime.limits(),
        )
        .map_err(|error| ExecError::Process(id.clone(), error))?;
    }
    let running = launch(container, &link, exec_id, process, command, Kind::Running).await?;
    if container.pod.made_with.is_none() {
        let given = outside::give(&spec, id, running.pid).await;
        given.map_err(|error| ExecError::Outside(id.clone(), error))?;
    }
    Ok(running)
}

/// Which containers a command may be started in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Running,
    /// One whose init waits.
    Before,
}

/// Starts a process in a container. Of `command` only its streams and its timeout are looked at.
pub(super) async fn launch(
    container: &Container,
    link: &Arc<Link>,
    exec_id: String,
    process: Process,
    command: Command,
    kind: Kind,
) -> Result<Running, ExecError> {
    let id = &container.id;
    let program = process.args.first().cloned().unwrap_or_default();
    let told = container.pod.execs.expect(&exec_id);
    let mut leash = Leash {
        pod: Arc::clone(&container.pod),
        link: Arc::clone(link),
        exec_id: exec_id.clone(),
        held: true,
    };
    let mut descriptors = Vec::new();
    let mut slot = |descriptor: Option<OwnedFd>| {
        descriptor.map(|descriptor| {
            descriptors.push(descriptor);
            FdSlot((descriptors.len() - 1) as u16)
        })
    };
    let request = Box::new(Exec {
        container_id: id.to_string(),
        exec_id,
        process,
        stdin: slot(command.stdin),
        stdout: slot(command.stdout),
        stderr: slot(command.stderr),
        timeout_ms: command
            .timeout
            .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        bound_to_connection: true,
    });
    let request = match kind {
        Kind::Running => RequestBody::Exec(request),
        Kind::Before => RequestBody::ExecBefore(request),
    };
    let failed = |source| ExecError::Supervisor {
        id: id.clone(),
        command: program.clone(),
        source,
    };
    let (pid, terminal) = match link.call(request, descriptors).await {
        Ok((ReplyBody::Started { pid, .. }, descriptors)) => (pid, descriptors.into_iter().next()),
        Ok((other, _)) => {
            return Err(failed(mismatch("Exec", &other)));
        }
        Err(error) => {
            leash.held = !matches!(error, CallError::Refused(_));
            return Err(failed(error));
        }
    };
    Ok(Running {
        terminal,
        end: End { told, leash },
        pid,
    })
}

/// Kills the command when its caller goes away.
#[derive(Debug)]
struct Leash {
    pod: Arc<Pod>,
    link: Arc<Link>,
    exec_id: String,
    held: bool,
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.pod.execs.forget(&self.exec_id);
        if self.held {
            let (link, exec_id) = (Arc::clone(&self.link), self.exec_id.clone());
            tokio::spawn(async move {
                let request = RequestBody::KillExec { exec_id };
                if let Err(error) = link.order("KillExec", request, Vec::new()).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "kill an exec whose client has gone");
                }
            });
        }
    }
}
