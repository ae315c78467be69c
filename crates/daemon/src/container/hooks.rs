//! Hooks of a container: which run where, and what becomes of it when one fails. [`crate::hooks`] has the stages.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use oci_plan::{Capabilities, Process};
use oci_spec::runtime::{Hook, Spec};
use rustix::{
    fs::CWD,
    mount::{OpenTreeFlags, open_tree},
    pipe::PipeFlags,
};
use supervisor_api::{CreateContainer, CreatePaused, ReplyBody, RequestBody};
use tokio::{io::AsyncWriteExt, net::unix::pipe};

use super::{
    Container, ExecError,
    create::slot,
    exec::{self, Command, Kind},
    outside,
};
use crate::{
    hooks::{self, DirectoryError, Failure, Output, Stage},
    id::{self, ContainerId},
    runtime::{BlockingError, DISK_BOUND, Runtime, blocking},
    supervisor::{CallError, Link, mismatch},
};

/// Why a hook did not do what it is there for, or could not be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    #[error("{} hook {}", stage.name(), path.display())]
    Run {
        stage: Stage,
        path: PathBuf,
        #[source]
        source: Failure,
    },
    #[error("{} hook {}: run it in the container", stage.name(), path.display())]
    Exec {
        stage: Stage,
        path: PathBuf,
        #[source]
        source: ExecError,
    },
    #[error("{} hook {}: the pod's supervisor is gone", stage.name(), path.display())]
    Lost { stage: Stage, path: PathBuf },
    #[error("make {} ready for hooks", path.display())]
    Bundle {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("wait before its root")]
    Supervisor(#[source] CallError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

/// Where a container's hooks are run from.
struct Stages<'a> {
    runtime: &'a Arc<Runtime>,
    container: &'a Arc<Container>,
    link: &'a Arc<Link>,
    spec: &'a Spec,
    bundle: PathBuf,
}

/// Adds the hooks of the node's directories to a specification that is complete but for them.
pub(super) async fn add_the_node_s(
    runtime: &Arc<Runtime>,
    container: &Container,
    spec: &mut Spec,
) -> Result<(), HookError> {
    if runtime.hooks.are_known_missing() {
        return Ok(());
    }
    let runtime = Arc::clone(runtime);
    let hooks = blocking(DISK_BOUND, move || runtime.hooks.look()).await??;
    if hooks.is_empty() {
        return Ok(());
    }
    let mut mounts = container.config.mounts.iter();
    let binds = mounts.any(|mount| mount.image.is_none());
    let mut annotations = container.pod.config.annotations.clone();
    annotations.extend(container.config.annotations.clone());
    let made = spec.annotations().iter().flatten();
    annotations.extend(made.map(|(key, value)| (key.clone(), value.clone())));
    hooks.add(spec, &annotations, binds);
    Ok(())
}

/// Has the supervisor make the container, with the hooks that come before it is created. Its init's pid.
pub(super) async fn make(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    link: &Arc<Link>,
    spec: &Spec,
    create: CreateContainer,
    mut descriptors: Vec<OwnedFd>,
) -> Result<i32, HookError> {
    let early = [
        Stage::Prestart,
        Stage::CreateRuntime,
        Stage::CreateContainer,
    ];
    let none = |stage: &Stage| hooks::of(spec, *stage).is_empty();
    // Another runtime runs the hooks of its containers itself, by the same specification.
    if container.pod.made_with.is_some() || early.iter().all(none) {
        let request = RequestBody::CreateContainer(Box::new(create));
        return created(link.call(request, descriptors).await);
    }
    let stages = Stages::new(runtime, container, link, spec);
    let root = runtime
        .overlay
        .container_dir(container.id.as_str())
        .join("rootfs");
    let prepared = {
        let (bundle, root) = (stages.bundle.clone(), root.clone());
        move || prepare(&bundle, &root)
    };
    descriptors.push(blocking(DISK_BOUND, prepared).await??);
    let request = RequestBody::CreatePaused(Box::new(CreatePaused {
        create,
        host: slot(descriptors.len() - 1),
        at: root.to_string_lossy().into_owned(),
    }));
    let pid = match link.call(request, descriptors).await {
        Ok((ReplyBody::Paused { pid }, _)) => pid,
        Ok((other, _)) => return Err(HookError::Supervisor(mismatch("CreatePaused", &other))),
        Err(error) => return Err(HookError::Supervisor(error)),
    };
    for stage in early {
        stages.run(stage, Some(pid)).await?;
    }
    let id = container.id.to_string();
    created(link.call(RequestBody::Resume { id }, Vec::new()).await)
}

fn created(reply: Result<(ReplyBody, Vec<OwnedFd>), CallError>) -> Result<i32, HookError> {
    match reply {
        Ok((ReplyBody::Created { pid }, _)) => Ok(pid),
        Ok((other, _)) => Err(HookError::Supervisor(mismatch("CreateContainer", &other))),
        Err(error) => Err(HookError::Supervisor(error)),
    }
}

/// What hooks expect of a bundle: `config.json`, and a directory for the root. Returns a detached copy of the node's tree, in which the root is
/// mounted there for as long as they run. Blocks.
fn prepare(bundle: &Path, root: &Path) -> Result<OwnedFd, HookError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| HookError::Bundle { path, source }
    };
    std::fs::create_dir_all(root).map_err(failed(root))?;
    let link = bundle.join("config.json");
    match std::os::unix::fs::symlink("spec.json", &link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed(&link)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, "/", flags).map_err(|error| failed(Path::new("/"))(error.into()))
}

/// The hooks between the request to start and the program.
pub(super) async fn before_start(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    link: &Arc<Link>,
    spec: &Spec,
    pid: i32,
) -> Result<(), HookError> {
    let stages = Stages::new(runtime, container, link, spec);
    stages.run(Stage::StartContainer, Some(pid)).await
}

/// The hooks after its program has begun.
pub(super) async fn after_start(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    link: &Arc<Link>,
    spec: &Spec,
    pid: i32,
) -> Result<(), HookError> {
    let stages = Stages::new(runtime, container, link, spec);
    stages.run(Stage::Poststart, Some(pid)).await
}

/// The hooks of its removal: nothing keeps a container from being removed.
pub(super) async fn after_stop(runtime: &Arc<Runtime>, container: &Container) {
    if !container.is_hooked() {
        return;
    }
    let spec = match container.spec(&runtime.records) {
        Ok(spec) => spec,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(container = %container.id, error, "its poststop hooks are not run");
            return;
        }
    };
    let bundle = bundle(runtime, container);
    let state = hooks::state(&spec, container.id.as_str(), Stage::Poststop, None, &bundle);
    for hook in hooks::of(&spec, Stage::Poststop) {
        if let Err(error) = hooks::run(hook, &state, runtime.config.hooks.timeout).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(container = %container.id, hook = %hook.path().display(), error, "a poststop hook failed");
        }
    }
}

fn bundle(runtime: &Runtime, container: &Container) -> PathBuf {
    runtime
        .records
        .container_directory(&container.pod.id, &container.id)
}

impl<'a> Stages<'a> {
    fn new(
        runtime: &'a Arc<Runtime>,
        container: &'a Arc<Container>,
        link: &'a Arc<Link>,
        spec: &'a Spec,
    ) -> Self {
        Self {
            runtime,
            container,
            link,
            spec,
            bundle: bundle(runtime, container),
        }
    }

    /// All of a stage, in order, until one fails.
    async fn run(&self, stage: Stage, pid: Option<i32>) -> Result<(), HookError> {
        let inside = matches!(stage, Stage::CreateContainer | Stage::StartContainer);
        let list = hooks::of(self.spec, stage);
        if list.is_empty() {
            return Ok(());
        }
        let pid = match inside {
            true => pid.map(own_pid),
            false => pid,
        };
        let id = self.container.id.as_str();
        let state = hooks::state(self.spec, id, stage, pid, &self.bundle);
        let bound = self.runtime.config.hooks.timeout;
        for hook in list {
            let path = hook.path().clone();
            tracing::debug!(container = id, stage = stage.name(), hook = %path.display(), "hook");
            match inside {
                true => self.inside(stage, hook, &state, bound).await?,
                false => {
                    hooks::run(hook, &state, bound)
                        .await
                        .map_err(|source| HookError::Run {
                            stage,
                            path,
                            source,
                        })?
                }
            }
        }
        Ok(())
    }

    /// In the namespaces of the container's init: a process of the supervisor's, as an exec.
    async fn inside(
        &self,
        stage: Stage,
        hook: &Hook,
        state: &[u8],
        bound: Duration,
    ) -> Result<(), HookError> {
        let path = || hook.path().clone();
        let bound = hooks::timeout(hook).unwrap_or(bound);
        let failed = |source| HookError::Exec {
            stage,
            path: path(),
            source,
        };
        let id = &self.container.id;
        let process = match stage {
            Stage::StartContainer => self.as_the_container_s(hook).map_err(failed)?,
            _ => self.as_the_runtime_s(hook),
        };
        let (stdin, feed) = pipe_ends(id).map_err(failed)?;
        let (read, stdout) = pipe_ends(id).map_err(failed)?;
        let made = |error| failed(ExecError::Pipe(id.clone(), error));
        let mut feed = pipe::Sender::from_owned_fd(feed).map_err(made)?;
        let mut read = pipe::Receiver::from_owned_fd(read).map_err(made)?;
        let stderr = stdout.try_clone().map_err(made)?;
        let exec_id = id::random_hex().map_err(made)?;
        let command = Command {
            args: process.args.clone(),
            stdin: Some(stdin),
            stdout: Some(stdout),
            stderr: Some(stderr),
            timeout: Some(bound),
            ..Command::default()
        };
        let begun = exec::launch(
            self.container,
            self.link,
            exec_id,
            process,
            command,
            Kind::Before,
        );
        let mut running = begun.await.map_err(failed)?;
        let mut said = Output::default();
        let end = {
            let feed = async {
                // One that does not want to know its container closes its end.
                let _uninterested = feed.write_all(state).await;
                drop(feed);
            };
            let talk = async {
                tokio::join!(feed, said.read(&mut read));
            };
            tokio::pin!(talk);
            tokio::select! {
                end = running.end.wait() => {
                    let _left_open = tokio::time::timeout(Duration::from_millis(200), talk).await;
                    end
                }
                () = &mut talk => running.end.wait().await,
            }
        };
        let said = said.text();
        let source = match end {
            Some((0, None)) => return Ok(()),
            Some((_, Some(_killed))) => Failure::TimedOut { bound, said },
            Some((code, None)) => Failure::Failed {
                status: format!("exit status: {code}"),
                said,
            },
            None => {
                return Err(HookError::Lost {
                    stage,
                    path: path(),
                });
            }
        };
        Err(HookError::Run {
            stage,
            path: path(),
            source,
        })
    }

    /// As confined as the container's own program: its path leads into what the container brings along.
    fn as_the_container_s(&self, hook: &Hook) -> Result<Process, ExecError> {
        let id = &self.container.id;
        let seccomp = self
            .runtime
            .seccomp
            .program(self.spec, &self.container.pod.config);
        let seccomp = seccomp.map_err(|error| ExecError::Seccomp(id.clone(), error))?;
        let planned = outside::planned(self.spec);
        let process = oci_plan::spec::exec_process(&planned, args(hook), None, seccomp);
        let process = process.map_err(|error| ExecError::Spec(id.clone(), error))?;
        Ok(Process {
            env: hook.env().clone().unwrap_or_default(),
            ..process
        })
    }

    /// A program of the node's, which is there to change what the container gets.
    fn as_the_runtime_s(&self, hook: &Hook) -> Process {
        let env = hook.env().clone().unwrap_or_default();
        // Within the supervisor's own, and its user namespace.
        let capabilities = Capabilities::of_root(u64::MAX);
        Process::of_root(args(hook), env, self.bundle.to_string_lossy(), capabilities)
    }
}

/// The program is found by its path, whatever it is called.
fn args(hook: &Hook) -> Vec<String> {
    let rest = hook.args().iter().flatten().skip(1).cloned();
    let path = hook.path().to_string_lossy().into_owned();
    std::iter::once(path).chain(rest).collect()
}

/// The reading end, and the writing end.
fn pipe_ends(id: &ContainerId) -> Result<(OwnedFd, OwnedFd), ExecError> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map_err(|error| ExecError::Pipe(id.clone(), error.into()))
}

/// A process's number in its own PID namespace, as hooks there know it.
fn own_pid(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let own = numbers.and_then(|line| line.split_whitespace().last()?.parse().ok());
    own.unwrap_or(pid)
}
