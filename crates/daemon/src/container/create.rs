//! CreateContainer: everything up to an init that waits to be started. Each step records what it makes before it makes it, and a
//! failure at any of them takes the container apart as RemoveContainer does.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use image::Image;
use oci_plan::{
    ContainerPlan, FdSlot, NamespaceSource,
    spec::{Context, bind_sources, container_plan},
};
use snapshot::UserMapping;
use supervisor_api::{CreateContainer, ReplyBody, RequestBody, Stdio};

use super::{
    Container, LogError, Phase, Turn,
    adjust::adjust,
    config::ContainerConfig,
    devices::DevicesError,
    found::{Found, confinable, look},
    hooks::{self, HookError},
    images::{ImageConfigError, Sources, image_config},
    limit::{self, LimitError},
    log,
    mounts::{self, MountError},
    net_devices::{self, NetDevicesError},
    outside::{self, OutsideError},
    place::PlaceError,
    relabel::relabel,
    remove::{RemoveError, take_apart},
    volumes::{self, VolumeError},
};
use crate::{
    checkpoint::{self, RestoreError},
    classes::ClassError,
    events::Kind,
    failpoint,
    flight::{self, Crashed},
    handlers::{BundleError, write_bundle},
    id::{ContainerId, PodId},
    nri::NriError,
    paths::PathError,
    pod::{FilesError, Pod, join_cgroup},
    runtime::{BlockingError, DISK_BOUND, Runtime, now_ns},
    selinux::SelinuxError,
    spec::{
        self, Accounts, AccountsError, AppArmorError, ContainerSpec, Files, NamespacePaths,
        ProfileError, Signal, SpecError, SpecInput,
    },
    state::{ContainerRecord, ContainerStage, RecordError},
    supervisor::{CallError, Link, mismatch},
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    #[error("create container {name} in pod {pod}: the pod is not ready; run another")]
    PodNotReady { name: String, pod: PodId },
    #[error(
        "container {name} attempt {attempt} exists already in its pod as {id}, with another configuration: remove it first, or use \
         another attempt"
    )]
    Conflict {
        name: String,
        attempt: u32,
        id: ContainerId,
    },
    #[error("{field} {image:?}")]
    ImageName {
        field: String,
        image: String,
        #[source]
        source: image::FindError,
    },
    #[error("{field} {image:?}: there is no such image on the node: pull it first")]
    ImageMissing { field: String, image: String },
    #[error("{field} {image:?}")]
    Signature {
        field: String,
        image: String,
        #[source]
        source: image::SignatureError,
    },
    #[error("container {id}: config.mounts[{mount}]: mount image {image}")]
    ImageVolume {
        id: ContainerId,
        mount: usize,
        image: String,
        #[source]
        source: snapshot::MountError,
    },
    #[error("container {name}")]
    Limit {
        name: String,
        #[source]
        source: LimitError,
    },
    #[error("container {0} was removed while it was being made")]
    Overtaken(ContainerId),
    #[error("container {0}: what an earlier attempt left of it cannot be removed")]
    Remains(ContainerId, #[source] Box<RemoveError>),
    #[error("container {0}: make an id")]
    Id(String, #[source] io::Error),
    #[error("container {0}: keep its record")]
    Record(ContainerId, #[source] RecordError),
    #[error("container {0}: hold on to its image")]
    Pin(ContainerId, #[source] image::PinError),
    #[error("container {0}: read its image's configuration")]
    ImageConfig(ContainerId, #[source] ImageConfigError),
    #[error("container {0}: make its writable layer")]
    Layer(ContainerId, #[source] snapshot::ContainerError),
    #[error("container {0}: make its volumes")]
    Volumes(ContainerId, #[source] VolumeError),
    #[error("container {0}: read its image's users")]
    Accounts(ContainerId, #[source] AccountsError),
    #[error("container {0}: config.devices")]
    Device(ContainerId, #[source] PathError),
    #[error("container {0}")]
    Devices(ContainerId, #[source] DevicesError),
    #[error("container {0}: seccomp profile")]
    Profile(ContainerId, #[source] ProfileError),
    #[error("container {id}: {field}")]
    Class {
        id: ContainerId,
        field: String,
        #[source]
        source: ClassError,
    },
    #[error("container {0}")]
    AppArmor(ContainerId, #[source] AppArmorError),
    #[error("container {0}")]
    Selinux(ContainerId, #[source] SelinuxError),
    #[error("container {0}: compile its seccomp profile")]
    Seccomp(ContainerId, #[source] seccomp::CompileError),
    #[error("container {0}")]
    Spec(ContainerId, #[source] SpecError),
    #[error("container {0}")]
    Plan(ContainerId, #[source] oci_plan::spec::SpecError),
    #[error("container {0}")]
    Mount(ContainerId, #[source] MountError),
    #[error("container {0}")]
    Nri(ContainerId, #[source] NriError),
    #[error("container {0}")]
    Hook(ContainerId, #[source] HookError),
    #[error("container {0}")]
    Outside(ContainerId, #[source] OutsideError),
    #[error("container {0}")]
    Place(ContainerId, #[source] PlaceError),
    #[error("container {0}")]
    NetDevices(ContainerId, #[source] NetDevicesError),
    #[error("container {0}")]
    Log(ContainerId, #[source] LogError),
    #[error("container {0}")]
    Bundle(ContainerId, #[source] BundleError),
    #[error("{image:?}")]
    Checkpoint {
        image: String,
        #[source]
        source: RestoreError,
    },
    #[error("container {0}: restore it")]
    Restore(ContainerId, #[source] RestoreError),
    #[error("container {0}: its hostname")]
    Hostname(ContainerId, #[source] FilesError),
    #[error("container {0}: make it")]
    Supervisor(ContainerId, #[source] CallError),
    #[error("container {0}")]
    Blocking(ContainerId, #[source] BlockingError),
    #[error(transparent)]
    Crashed(#[from] Crashed),
}

/// Makes a container, or returns the one that the same request made. Cancellation: the container is made to the end; the same
/// request joins.
pub(crate) async fn create(
    runtime: &Arc<Runtime>,
    pod: &Arc<Pod>,
    config: ContainerConfig,
) -> Result<Arc<Container>, Arc<CreateError>> {
    if !pod.is_ready() {
        let name = config.metadata.name.clone();
        return Err(Arc::new(CreateError::PodNotReady {
            name,
            pod: pod.id.clone(),
        }));
    }
    let container = match runtime.inventory.container_named(&pod.id, &config.metadata) {
        // Its image may have been removed since.
        Some(holder) => holder,
        None => {
            let sources = Sources::find(runtime, &config).await?;
            // The policy may have changed since the pull, and the image may have been pulled for somebody else.
            sources.admit(runtime, pod, &config).await?;
            limit::of(runtime, pod, &config)?;
            let fresh = prepare(pod, &config, sources)?;
            match runtime.inventory.claim_container_name(&fresh) {
                Ok(()) => fresh,
                Err(holder) => holder,
            }
        }
    };
    if container.config != config {
        return Err(Arc::new(CreateError::Conflict {
            name: config.metadata.name.clone(),
            attempt: config.metadata.attempt,
            id: container.id.clone(),
        }));
    }
    match container.phase() {
        Phase::Creating => {}
        Phase::Created { .. } | Phase::Running { .. } | Phase::Exited(_) => return Ok(container),
        Phase::Removed => return Err(Arc::new(CreateError::Overtaken(container.id.clone()))),
    }
    let joined = runtime
        .flights
        .create_container
        .join(container.id.clone(), || {
            let (runtime, container) = (Arc::clone(runtime), Arc::clone(&container));
            async move { make(&runtime, container).await.map_err(Arc::new) }
        });
    joined.await.map_err(|crashed| Arc::new(crashed.into()))?
}

/// A container that has nothing yet but its names and its image.
fn prepare(
    pod: &Arc<Pod>,
    config: &ContainerConfig,
    sources: Sources,
) -> Result<Arc<Container>, CreateError> {
    let image = &sources.image;
    let id = ContainerId::generate()
        .map_err(|error| CreateError::Id(config.metadata.name.clone(), error))?;
    let log_path = log::path(&pod.config.log_directory, &config.log_path)
        .map_err(|error| CreateError::Log(id.clone(), error))?;
    let record = ContainerRecord {
        pod: pod.id.clone(),
        config: config.clone(),
        created_at_ns: now_ns(),
        stage: ContainerStage::Creating,
        image_ref: image.repo_digests.first().unwrap_or(&image.id).clone(),
        image_id: image.id.clone(),
        cgroup: join_cgroup(&pod.cgroup_parent, id.as_str()),
        log_path,
        user: None,
        // An image's odd signal is no reason not to run it: SIGTERM stops it then.
        image_stop_signal: image.config.stop_signal.parse::<Signal>().ok(),
        resources: None,
        hooked: false,
        net_devices: false,
        forbidden: None,
        volume_images: sources.volume_ids(),
        id,
    };
    let container = Container::new(record, Arc::clone(pod), Phase::Creating);
    container.set_sources(Some(sources));
    Ok(Arc::new(container))
}

async fn make(
    runtime: &Arc<Runtime>,
    container: Arc<Container>,
) -> Result<Arc<Container>, CreateError> {
    let turn = container.turn().await;
    match container.phase() {
        Phase::Creating => {}
        Phase::Created { .. } | Phase::Running { .. } | Phase::Exited(_) => {
            return Ok(Arc::clone(&container));
        }
        Phase::Removed => return Err(CreateError::Overtaken(container.id.clone())),
    }
    if container.remains.load(Ordering::Acquire) {
        // The next request finds the name free.
        let id = container.id.clone();
        return match take_apart(runtime, &container, &turn).await {
            Ok(()) => Err(CreateError::Overtaken(id)),
            Err(error) => Err(CreateError::Remains(id, Box::new(error))),
        };
    }
    let Some(sources) = container.sources() else {
        return Err(CreateError::Overtaken(container.id.clone()));
    };
    let built = build(runtime, &container, &sources, &turn).await;
    if sources.checkpoint.is_some() {
        checkpoint::forget(runtime, &container.id).await;
    }
    match built {
        Ok(()) => {
            container.set_sources(None);
            Ok(Arc::clone(&container))
        }
        Err(error) => {
            if let Err(left) = take_apart(runtime, &container, &turn).await {
                tracing::error!(
                    container = %container.id,
                    error = &left as &dyn std::error::Error,
                    "undoing a container that could not be made left something behind; it is tried again with its pod's removal, or a retry"
                );
                container.remains.store(true, Ordering::Release);
            }
            Err(error)
        }
    }
}

async fn build(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    sources: &Sources,
    turn: &Turn<'_>,
) -> Result<(), CreateError> {
    let id = &container.id;
    let link = container.pod.link().ok_or_else(|| not_ready(container))?;
    flight::stage("record it");
    let record = runtime.records.create_container(&container.record());
    record.map_err(|error| CreateError::Record(id.clone(), error))?;
    failpoint::reach("container.recorded", &container.pod);
    let pinned = sources.pin(runtime, id);
    pinned.map_err(|error| CreateError::Pin(id.clone(), error))?;

    if let Some(checkpoint) = &sources.checkpoint {
        let unpacked = checkpoint.unpack(runtime, container).await;
        unpacked.map_err(|error| CreateError::Restore(id.clone(), error))?;
    }
    let user_namespace = user_namespace(container, &link).await?;
    flight::stage("look at the paths that it mounts");
    let found = look(runtime, container).await?;
    flight::stage("make its root file system");
    let on_disk = {
        let (runtime, container, sources) =
            (Arc::clone(runtime), Arc::clone(container), sources.clone());
        move || specify(&runtime, &container, &sources, user_namespace, found)
    };
    let mut specified = step(container, on_disk).await??;
    failpoint::reach("container.layered", &container.pod);
    flight::stage("give it devices, and ask NRI plugins");
    let others = adjust(runtime, container, &mut specified.spec.spec, turn).await?;
    let hooked = |error| CreateError::Hook(id.clone(), error);
    flight::stage("add the node's hooks");
    hooks::add_the_node_s(runtime, container, &mut specified.spec.spec)
        .await
        .map_err(hooked)?;
    confinable(runtime, id, &specified.spec).await?;
    flight::stage("open its log, and what it mounts");
    let (log, translated) = tokio::join!(
        log::open_for(&runtime.paths, container),
        translate(runtime, container, specified)
    );
    let (spec, plan, mut descriptors) = translated?;
    let log = log.map_err(|error| CreateError::Log(id.clone(), error))?;
    let log = log.map(|log| {
        descriptors.push(log);
        slot(descriptors.len() - 1)
    });
    if let Some(made_with) = &container.pod.made_with {
        let annotations = [
            &container.pod.config.annotations,
            &container.config.annotations,
        ];
        let bundle = write_bundle(
            runtime.records.bundles(),
            made_with,
            &spec.spec,
            &plan,
            &descriptors,
            annotations.into_iter().flatten(),
            runtime.limits(),
        );
        bundle.map_err(|error| CreateError::Bundle(id.clone(), error))?;
    }
    let kept = runtime.records.save_spec(&container.record(), &spec.spec);
    kept.map_err(|error| CreateError::Record(id.clone(), error))?;

    // Those of a container that another runtime makes are that runtime's to run.
    if spec.spec.hooks().is_some() && container.pod.made_with.is_none() {
        container
            .update(turn, &runtime.records, |record| record.hooked = true)
            .map_err(|error| CreateError::Record(id.clone(), error))?;
    }

    let stdio = Stdio {
        log,
        stdin: container.config.stdin,
        stdin_once: container.config.stdin_once,
    };
    // All that can be refused without the kernel is judged: others make room now.
    let changed = runtime.nri.change(&others).await;
    let changed = changed.map_err(|error| CreateError::Nri(id.clone(), error))?;
    flight::stage("have its supervisor make its init");
    let request = CreateContainer { plan, stdio };
    let made = async {
        let lent = net_devices::lend(runtime, container, &spec.spec, turn).await;
        lent.map_err(|error| CreateError::NetDevices(id.clone(), error))?;
        let made = sources.make(runtime, container, &link, &spec.spec, request, descriptors);
        let pid = made.await?;
        if container.pod.made_with.is_none() {
            // Limits first: a share of realtime is what lets a process be scheduled so.
            let limited = outside::limit(runtime, &spec.spec, container.cgroup()).await;
            limited.map_err(|error| CreateError::Outside(id.clone(), error))?;
            let given = outside::give(&spec.spec, id, pid).await;
            given.map_err(|error| CreateError::Outside(id.clone(), error))?;
        }
        Ok(pid)
    };
    let pid = match made.await {
        Ok(pid) => pid,
        Err(error) => {
            runtime.nri.give_back(changed).await;
            return Err(error);
        }
    };
    failpoint::reach("container.made", &container.pod);
    container
        .update(turn, &runtime.records, |record| {
            record.stage = ContainerStage::Created;
            record.user = Some(spec.user.clone());
        })
        .map_err(|error| CreateError::Record(id.clone(), error))?;
    failpoint::reach("container.created", &container.pod);
    runtime.happen(|news| {
        container.phase.send_replace(Phase::Created { pid });
        runtime.inventory.list_container(container);
        news.container(Kind::Created, container);
    });
    runtime.nri.settled_container(id);
    runtime.nri.end(others);
    // Its exit, told before it was listed, was no news to anyone; its record was there before that.
    if let Some(exit) = runtime.records.exit(&container.pod.id, id) {
        container.take_exit(runtime, &exit);
    }
    // The pod may have been stopped, or lost, while this container was on no list.
    if container.pod.link().is_none() {
        return Err(not_ready(container));
    }
    runtime.nri.created(runtime, container).await;
    Ok(())
}

/// A blocking step of making. One that outlives the bound is left behind where undoing waits for it.
pub(super) async fn step<T: Send + 'static>(
    container: &Container,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CreateError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let running = tokio::task::spawn_blocking(move || {
        // A maker that has given up does not want it.
        let _given_up = sender.send(call());
    });
    let error = match tokio::time::timeout(DISK_BOUND, receiver).await {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(_panicked)) => BlockingError::Crashed,
        Err(_elapsed) => BlockingError::Stuck(DISK_BOUND),
    };
    container.leave(running);
    Err(CreateError::Blocking(container.id.clone(), error))
}

fn not_ready(container: &Container) -> CreateError {
    CreateError::PodNotReady {
        name: container.config.metadata.name.clone(),
        pod: container.pod.id.clone(),
    }
}

pub(crate) fn slot(index: usize) -> FdSlot {
    // The link refuses more descriptors than a message holds, far below this type's range.
    FdSlot(u16::try_from(index).unwrap_or(u16::MAX))
}

/// Who root is outside of a user namespace.
pub(crate) fn mapping_root(mappings: &[crate::pod::config::IdMapping]) -> u32 {
    let root = mappings.iter().find(|mapping| mapping.container_id == 0);
    root.map_or(0, |mapping| mapping.host_id)
}

/// The pod's user namespace, where it has one: its supervisor holds it.
pub(crate) async fn user_namespace(
    container: &Container,
    link: &Link,
) -> Result<Option<OwnedFd>, CreateError> {
    if container.pod.config.user_namespace().is_none() {
        return Ok(None);
    }
    let failed = |error| CreateError::Supervisor(container.id.clone(), error);
    match link
        .call(RequestBody::UserNamespace, Vec::new())
        .await
        .map_err(failed)?
    {
        (ReplyBody::Done, mut descriptors) if !descriptors.is_empty() => Ok(descriptors.pop()),
        (other, _) => Err(failed(mismatch("UserNamespace", &other))),
    }
}

struct Specified {
    spec: ContainerSpec,
    /// The root file system, detached.
    root: OwnedFd,
    /// As the specification names them.
    namespaces: NamespacePaths,
    /// Of images, detached, under the names that the specification has for them.
    trees: Vec<(PathBuf, OwnedFd)>,
}

/// Makes what is on disk, and the specification from what is found there. Blocks.
fn specify(
    runtime: &Runtime,
    container: &Container,
    sources: &Sources,
    user_namespace: Option<OwnedFd>,
    found: Found,
) -> Result<Specified, CreateError> {
    let (id, pod) = (&container.id, &container.pod);
    let image: &Image = &sources.image;
    let mapping = match (&user_namespace, pod.config.user_namespace()) {
        (Some(namespace), Some(user)) => Some(UserMapping {
            namespace: namespace.as_fd(),
            root_uid: mapping_root(&user.uids),
            root_gid: mapping_root(&user.gids),
        }),
        (Some(_), None) | (None, _) => None,
    };
    let overlay = &runtime.overlay;
    let failed = |error| CreateError::Layer(id.clone(), error);
    overlay
        .create_limited(
            id.as_str(),
            &image.layers,
            mapping.as_ref(),
            limit::of(runtime, pod, &container.config)?,
        )
        .map_err(failed)?;
    if let Some(checkpoint) = &sources.checkpoint {
        let filled = checkpoint.fill(runtime, id);
        filled.map_err(|error| CreateError::Restore(id.clone(), error))?;
    }
    let labels = pod.labels();
    let label = (labels.as_ref())
        .map(|labels| spec::files_label(&container.config, labels))
        .map(|label| label.to_string());
    let root = overlay
        .mount(id.as_str(), &image.layers, mapping, label.as_deref())
        .map_err(failed)?;
    let (image_trees, trees): (Vec<_>, Vec<_>) = sources
        .mount_volumes(runtime, container, mapping, label.as_deref())?
        .into_iter()
        .map(|(named, tree)| {
            let path = named.path.clone();
            (named, (path, tree))
        })
        .unzip();

    let config = image_config(runtime, image)
        .map_err(|error| CreateError::ImageConfig(id.clone(), error))?;
    let targets = spec::image_volumes(&config, &container.config);
    let volumes = volumes::create(&runtime.config.root, id, &targets, root.as_fd())
        .map_err(|error| CreateError::Volumes(id.clone(), error))?;
    let accounts =
        Accounts::read(root.as_fd()).map_err(|error| CreateError::Accounts(id.clone(), error))?;
    let files = pod.files();
    let hostname = crate::pod::hostname(&pod.config)
        .map_err(|error| CreateError::Hostname(id.clone(), error))?;
    let namespaces = namespace_paths(runtime, container);
    let spec = spec::container_spec(SpecInput {
        sandbox_id: pod.id.as_str(),
        pod: &pod.config,
        container: &container.config,
        image: &config,
        accounts: &accounts,
        root: &overlay.container_dir(id.as_str()).join("rootfs"),
        files: Files {
            hosts: Some(&files.hosts),
            hostname: Some(&files.hostname),
            resolv_conf: Some(&files.resolv_conf),
            shm: Some(&mounts::shm_path(pod)),
        },
        hostname: &hostname,
        volumes: &volumes,
        image_trees: &image_trees,
        devices: &found.devices,
        namespaces: &namespaces,
        localhost_seccomp: found.seccomp,
        classes: &found.classes,
        cgroups_path: container.cgroup(),
        host: &runtime.host,
        labels: labels.as_ref(),
    })
    .map_err(|error| CreateError::Spec(id.clone(), error))?;
    Ok(Specified {
        spec,
        root,
        namespaces,
        trees,
    })
}

/// Namespaces as a specification names them. The network's path is real; for the others, which the supervisor holds by
/// descriptor, the path is a name that [`translate`] resolves.
fn namespace_paths(runtime: &Runtime, container: &Container) -> NamespacePaths {
    let pod = &container.pod;
    let own = pod.config.namespaces();
    let held = |name: &str| pod.directory.join("namespaces").join(name);
    let target = &container
        .config
        .linux
        .security_context
        .namespace_options
        .target_id;
    let target = runtime
        .inventory
        .find_container(target)
        .ok()
        .filter(|target| {
            target.pod.id == pod.id && matches!(target.phase(), Phase::Running { .. })
        });
    NamespacePaths {
        net: own.net.then(|| runtime.netns_path(&pod.id)),
        ipc: own.ipc.then(|| held("ipc")),
        uts: own.uts.then(|| held("uts")),
        pid: own.pid.then(|| held("pid")),
        user: pod.config.user_namespace().map(|_| held("user")),
        target_pid: target.map(|target| held("containers").join(target.id.as_str())),
    }
}

/// The specification, its plan, and the descriptors that the plan's slots count.
async fn translate(
    runtime: &Runtime,
    container: &Container,
    specified: Specified,
) -> Result<(ContainerSpec, ContainerPlan, Vec<OwnedFd>), CreateError> {
    let Specified {
        spec: made,
        root,
        namespaces: paths,
        mut trees,
    } = specified;
    let (id, pod) = (&container.id, &container.pod);
    let shm = mounts::shm_path(pod);
    let pod_shm: Option<&Path> = shm.starts_with(&pod.directory).then_some(shm.as_path());
    let planned = |error| CreateError::Plan(id.clone(), error);
    let mut descriptors = vec![root];
    let mut binds = Vec::new();
    for source in bind_sources(&made.spec, pod_shm).map_err(planned)? {
        let of_image = trees.iter().position(|(path, _)| *path == source.path);
        let tree = match of_image {
            Some(index) => trees.swap_remove(index).1,
            None => {
                let missing = mounts::when_missing(runtime, &container.config.mounts, &source.path);
                let tree =
                    mounts::open(&runtime.paths, &source.path, source.recursive, missing).await;
                let tree = tree.map_err(|error| CreateError::Mount(id.clone(), error))?;
                relabel(runtime, &container.config.mounts, &source.path, &made.spec)
                    .await
                    .map_err(|error| CreateError::Mount(id.clone(), error))?;
                tree
            }
        };
        descriptors.push(tree);
        binds.push((source.index, slot(descriptors.len() - 1)));
    }
    let pods = [paths.net, paths.ipc, paths.uts, paths.pid, paths.user];
    let mut namespaces: Vec<(PathBuf, NamespaceSource)> = pods
        .into_iter()
        .flatten()
        .map(|path| (path, NamespaceSource::Pod))
        .collect();
    if let Some(path) = paths.target_pid {
        let target = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        namespaces.push((path, NamespaceSource::Container(target)));
    }
    let seccomp = runtime
        .seccomp
        .program(&made.spec, &pod.config)
        .map_err(|error| CreateError::Seccomp(id.clone(), error))?;
    let context = Context {
        id: id.as_str(),
        rootfs: FdSlot(0),
        binds: &binds,
        namespaces: &namespaces,
        pod_shm,
        seccomp,
        reach: oci_plan::spec::Reach::Supervisor,
    };
    let plan = container_plan(&outside::planned(&made.spec), context).map_err(planned)?;
    Ok((made, plan, descriptors))
}
