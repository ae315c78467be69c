//! Trials: a handler of kind `oci` is promised to know user namespaces and recursive read-only mounts once a pod of ours has had both with it.
//!
//! ```text
//!  start, reload, a look ──▶ new program? ──▶ pod (supervisor, user namespace) ──▶ container (sleeps) ──▶ exec (looks around)
//!                                                  └── taken apart, whatever came of it ◀──────────────────────┘
//! ```
//!
//! It is a pod as every other is, made and undone by the same code, but that it is in no list, has no network and no image. A daemon that dies
//! meanwhile leaves a pod that is being made, which the next one undoes. Nobody waits for a trial: until it is over nothing is promised.

use std::{io, os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use oci_plan::{
    FdSlot, NamespaceSource,
    spec::{Context, Reach, container_plan, exec_process},
};
use oci_spec::runtime::Spec;
use rustix::{
    fs::{AtFlags, Mode, StatxFlags},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, OpenTreeFlags},
};
use serde_json::{Value, json};
use supervisor_api::{
    Exec, PROOF_ARGUMENT, PROOF_TREE, Proof, ReplyBody, RequestBody, process_file,
};

use super::{
    Pod, RunError, bare_root,
    config::{IdMapping, NamespaceMode, PodConfig, PodMetadata, UserNamespace},
    remove::take_apart,
    run::{Reserved, new_pod},
    sandbox_container::{begin, place, sleeper},
};
use crate::{
    config::{RuntimeKind, RuntimeSettings},
    handlers::{
        BundleError, Handlers, MadeWith, Outcome, Program, Proven, write_bundle, write_process,
    },
    id,
    paths::PathError,
    runtime::Runtime,
    supervisor::{CallError, Link, mismatch},
};

/// For all that is asked of the runtime. The pod's end has bounds of its own.
const BOUND: Duration = Duration::from_secs(60);

/// Where the program is, in the container.
const PROGRAM: &str = "/trial";

/// Who its root is on the node. Others may be the same: for a moment, and with nothing in reach.
const MAPPING: IdMapping = IdMapping {
    container_id: 0,
    host_id: 100_000,
    length: 65_536,
};

/// Why trials are thought of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// The daemon has started, or read its configuration anew: what has failed is tried again.
    Start,
    /// Somebody looks closely: what is new is tried.
    Look,
}

#[derive(Debug, thiserror::Error)]
enum TrialError {
    #[error(transparent)]
    Made(RunError),
    #[error("specify its container")]
    Specify(#[source] serde_json::Error),
    #[error("plan its container")]
    Plan(#[source] oci_plan::spec::SpecError),
    #[error("make what its container mounts")]
    Mounts(#[source] io::Error),
    #[error("open its program")]
    Program(#[source] PathError),
    #[error(transparent)]
    Bundle(BundleError),
    #[error(transparent)]
    Supervisor(CallError),
    #[error("the process in its container ended with {0} and has not looked around")]
    NoProof(i32),
    #[error("it was not over within {} s", .0.as_secs())]
    Overdue(Duration),
}

/// Tries every handler whose program has not been tried yet, beside whatever else happens.
pub(crate) fn try_handlers(runtime: &Arc<Runtime>, occasion: Occasion) {
    for (handler, settings) in Handlers::all(&runtime.config) {
        if settings.kind != RuntimeKind::Oci {
            continue;
        }
        // What does not answer is not tried; a kernel of its own knows neither.
        let answers =
            |probe: Arc<crate::handlers::Probe>| probe.trouble.is_none() && !probe.own_kernel();
        if !runtime.handlers.probed(&handler).is_some_and(answers) {
            continue;
        }
        let runtime = Arc::clone(runtime);
        tokio::spawn(async move { try_one(&runtime, &handler, &settings, occasion).await });
    }
}

async fn try_one(
    runtime: &Arc<Runtime>,
    handler: &str,
    settings: &RuntimeSettings,
    occasion: Occasion,
) {
    let program = match identify(runtime, settings).await {
        Ok(program) => program,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            return tracing::warn!(
                handler,
                error,
                "a handler's program cannot be told from others"
            );
        }
    };
    let again = occasion == Occasion::Start;
    if !runtime.handlers.begin_trial(handler, &program, again) {
        return;
    }
    let outcome = judge(runtime, handler).await;
    match &outcome.trouble {
        None => tracing::info!(handler, "a handler has passed its trial"),
        Some(trouble) => tracing::warn!(handler, trouble, "a handler's trial"),
    }
    runtime.handlers.end_trial(handler, &program, outcome);
}

/// Which file it is: a trial of one says nothing of the next.
async fn identify(runtime: &Runtime, settings: &RuntimeSettings) -> Result<Program, PathError> {
    let path = settings.path.clone().unwrap_or_default();
    let file = runtime.paths.tree(&path, false).await?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let wanted = StatxFlags::INO | StatxFlags::SIZE | StatxFlags::MTIME;
    let found = rustix::fs::statx(&file, "", flags, wanted)
        .map_err(|errno| PathError::System(errno.into()))?;
    let written = found.stx_mtime;
    Ok(Program {
        path,
        options: settings.options.clone(),
        file: (
            found.stx_ino,
            found.stx_size,
            written.tv_sec,
            written.tv_nsec,
        ),
    })
}

/// Both in one pod; where that fails, what can be had without a user namespace.
async fn judge(runtime: &Arc<Runtime>, handler: &str) -> Outcome {
    let chain = crate::rpc::chain;
    let mut outcome = Outcome::default();
    if runtime.features.user_namespaces {
        match attempt(runtime, handler, true).await {
            Ok(proof) => {
                outcome.proven = Proven {
                    recursive_read_only: proof.read_only,
                    user_namespaces: proof.init_mapped && proof.exec_mapped,
                };
                outcome.exec_outside = proof.init_mapped && !proof.exec_mapped;
                outcome.trouble = complaint(proof);
                return outcome;
            }
            Err(error) => outcome.trouble = Some(format!("in a user namespace: {}", chain(&error))),
        }
    }
    match attempt(runtime, handler, false).await {
        Ok(proof) => {
            outcome.proven.recursive_read_only = proof.read_only;
            if !proof.read_only {
                outcome.trouble = Some(WRITES.to_owned());
            }
        }
        Err(error) => outcome.trouble = Some(chain(&error)),
    }
    outcome
}

const WRITES: &str = "a mount below one that is read-only to the last can be written to";

fn complaint(proof: Proof) -> Option<String> {
    let said = match proof {
        Proof {
            init_mapped: false, ..
        } => "its container is outside the pod's user namespace",
        Proof {
            exec_mapped: false, ..
        } => "an exec is outside its container's user namespace",
        Proof {
            read_only: false, ..
        } => WRITES,
        Proof { .. } => return None,
    };
    Some(said.to_owned())
}

/// Makes a pod, has a process in it look around, and takes the pod apart.
async fn attempt(runtime: &Arc<Runtime>, handler: &str, mapped: bool) -> Result<Proof, TrialError> {
    let made_with = runtime.handlers.choose(&runtime.config, handler);
    // The configuration may have changed.
    let unknown = |error| RunError::UnknownHandler(handler.to_owned(), error);
    let made_with = made_with.map_err(|error| TrialError::Made(unknown(error)))?;
    let config = config(handler, mapped);
    let pod = new_pod(runtime, config, handler.to_owned(), made_with).map_err(TrialError::Made)?;
    let pod = Arc::new(pod);
    let turn = pod.turn().await;
    // What fails here has been undone.
    let reserved = Reserved::enter(runtime, &pod, &turn)
        .await
        .map_err(TrialError::Made)?;
    let _supervised = reserved.supervise().await.map_err(TrialError::Made)?;
    let looked = tokio::time::timeout(BOUND, look(runtime, &pod, mapped)).await;
    if let Err(left) = take_apart(runtime, &pod, &turn).await {
        let error = &left as &dyn std::error::Error;
        tracing::error!(handler, pod = %pod.id, error, "a trial has left something behind, which the next daemon takes away");
    }
    looked.unwrap_or(Err(TrialError::Overdue(BOUND)))
}

fn config(handler: &str, mapped: bool) -> PodConfig {
    let mut config = PodConfig {
        metadata: PodMetadata {
            name: format!("trial-of-{handler}"),
            namespace: "longshore".to_owned(),
            ..PodMetadata::default()
        },
        ..PodConfig::default()
    };
    let options = &mut config.linux.security_context.namespace_options;
    options.pid = NamespaceMode::Container;
    options.userns_options = mapped.then(|| UserNamespace {
        mode: NamespaceMode::Pod,
        uids: vec![MAPPING],
        gids: vec![MAPPING],
    });
    config
}

/// Makes a container, starts it, and runs the process that looks around.
async fn look(runtime: &Runtime, pod: &Pod, mapped: bool) -> Result<Proof, TrialError> {
    let gone = || TrialError::Supervisor(CallError::Gone);
    let link = pod.link().ok_or_else(gone)?;
    let made_with = pod.made_with.as_ref().ok_or_else(gone)?;
    let spec = specify(runtime, pod, mapped).map_err(TrialError::Specify)?;
    begin_container(runtime, pod, made_with, &link, &spec, mapped).await?;
    let status = execute(runtime, pod, &link, &spec, mapped).await?;
    Proof::from_exit_status(status).ok_or(TrialError::NoProof(status))
}

async fn begin_container(
    runtime: &Runtime,
    pod: &Pod,
    made_with: &MadeWith,
    link: &Link,
    spec: &Spec,
    mapped: bool,
) -> Result<(), TrialError> {
    let mounts = |errno: Errno| TrialError::Mounts(errno.into());
    let places = ["proc", "dev", PROOF_TREE.trim_start_matches('/')];
    let root = bare_root::make(&places, PROGRAM).map_err(mounts)?;
    let program = runtime.paths.tree(&runtime.config.supervisor, false).await;
    let program = program.map_err(TrialError::Program)?;
    let tree = tree(&pod.directory).map_err(TrialError::Mounts)?;
    let descriptors = vec![root, program, tree];
    let namespaces: Vec<_> = namespaces(mapped)
        .into_iter()
        .map(|kind| (place(kind), NamespaceSource::Pod))
        .collect();
    let context = Context {
        id: pod.id.as_str(),
        rootfs: FdSlot(0),
        binds: &[(0, FdSlot(1)), (1, FdSlot(2))],
        namespaces: &namespaces,
        pod_shm: None,
        seccomp: None,
        reach: Reach::Supervisor,
    };
    let plan = container_plan(spec, context).map_err(TrialError::Plan)?;
    let bundle = write_bundle(
        runtime.records.bundles(),
        made_with,
        spec,
        &plan,
        &descriptors,
        std::iter::empty(),
        runtime.limits(),
    );
    bundle.map_err(TrialError::Bundle)?;
    // Where the runtime leaves its pid file: no record of a container has made it.
    let file = process_file(&pod.directory, pod.id.as_str(), "exec");
    let directory = file.parent().unwrap_or(&pod.directory);
    std::fs::create_dir_all(directory).map_err(TrialError::Mounts)?;
    begin(pod, link, plan, descriptors)
        .await
        .map_err(TrialError::Supervisor)
}

/// How the process ended that looked around.
async fn execute(
    runtime: &Runtime,
    pod: &Pod,
    link: &Link,
    spec: &Spec,
    mapped: bool,
) -> Result<i32, TrialError> {
    let mut args = vec![PROGRAM.to_owned(), PROOF_ARGUMENT.to_owned()];
    args.extend(mapped.then(|| MAPPING.host_id.to_string()));
    let process = exec_process(spec, args.clone(), None, None).map_err(TrialError::Plan)?;
    let exec_id = id::random_hex().map_err(TrialError::Mounts)?;
    let container = pod.id.as_str();
    let limits = runtime.limits();
    write_process(
        &pod.directory,
        container,
        &exec_id,
        spec,
        args,
        None,
        limits,
    )
    .map_err(TrialError::Bundle)?;
    let told = pod.execs.expect(&exec_id);
    let exec = RequestBody::Exec(Box::new(Exec {
        container_id: container.to_owned(),
        exec_id,
        process,
        stdin: None,
        stdout: None,
        stderr: None,
        timeout_ms: None,
        bound_to_connection: true,
    }));
    match link.call(exec, Vec::new()).await {
        Ok((ReplyBody::Started { .. }, _)) => {}
        Ok((other, _)) => return Err(TrialError::Supervisor(mismatch("Exec", &other))),
        Err(error) => return Err(TrialError::Supervisor(error)),
    }
    let ended = told.await;
    let (status, _killed) = ended.map_err(|_| TrialError::Supervisor(CallError::Gone))?;
    Ok(status)
}

/// As the specification calls them.
fn namespaces(mapped: bool) -> Vec<&'static str> {
    let mut kinds = vec!["network", "ipc", "uts"];
    kinds.extend(mapped.then_some("user"));
    kinds
}

/// The first two mounts are the ones that have a source on the node.
fn specify(runtime: &Runtime, pod: &Pod, mapped: bool) -> Result<Spec, serde_json::Error> {
    let mut spec = sleeper(runtime, pod, PROGRAM, &namespaces(mapped));
    if let Value::Array(mounts) = &mut spec["mounts"] {
        let tree = json!({
            "destination": PROOF_TREE,
            "type": "bind",
            "source": pod.directory,
            "options": ["rbind", "rro"]
        });
        mounts.insert(1, tree);
        mounts.push(json!({
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "mode=755", "size=65536k"]
        }));
    }
    if mapped {
        let mapping = json!([{
            "containerID": MAPPING.container_id, "hostID": MAPPING.host_id, "size": MAPPING.length
        }]);
        spec["linux"]["uidMappings"] = mapping.clone();
        spec["linux"]["gidMappings"] = mapping;
    }
    serde_json::from_value(spec)
}

/// A file system with another mounted at `below`, both for everybody to write to, and mounted nowhere. A thread of its own puts them together,
/// at `place` in a mount namespace that ends with it: older kernels mount nothing on what is not mounted.
fn tree(place: &Path) -> io::Result<OwnedFd> {
    let place = place.to_owned();
    let made = std::thread::Builder::new().spawn(move || {
        sys::unshare(sys::CloneFlags::NEWNS)?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)?;
        let below = place.join("below");
        let tmpfs = |at: &Path| {
            let options = c"mode=777,size=64k";
            rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::empty(), options)
        };
        tmpfs(&place)?;
        rustix::fs::mkdir(&below, Mode::from_raw_mode(0o777))?;
        tmpfs(&below)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        rustix::mount::open_tree(rustix::fs::CWD, &place, flags)
    })?;
    let made: Result<OwnedFd, Errno> = made
        .join()
        .map_err(|_panicked| io::Error::other("its thread has ended"))?;
    Ok(made?)
}
