//! The whole daemon, composed in one place.

use std::{
    io, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration,
};

use anyhow::{Context, ensure};
use cgroup::{Controller, Hierarchies, Slice};
use cni::{
    builtin::{Bridge, BridgeConfig},
    plugins::{Plugins, PluginsConfig},
};
use cri::{
    progress::{
        files_server::FilesServer, images_server::ImagesServer,
        operations_server::OperationsServer, progress_server::ProgressServer,
        store_server::StoreServer,
    },
    v1::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer},
};
use image::{Images, ImagesConfig, Proxies};
use rustix::process::{Resource, Rlimit};
use snapshot::Overlay;
use tokio::{net::UnixListener, sync::Notify};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::{
    cdi::Cdi,
    checkpoint::{self, Checkpoints},
    classes::Classes,
    config::{Arguments, CgroupDriver, Config, Reload},
    container,
    events::Events,
    files::Files,
    handlers::Handlers,
    hooks::HookDirectories,
    inventory::Inventory,
    metrics,
    nri::{self, Nri},
    paths::Paths,
    pod,
    rpc::{CallersDeadline, Cri, Metered, RewriteOlderPackage},
    runtime::{DISK_BOUND, Features, Runtime, RuntimeFlights, blocking},
    selinux::{Places, Selinux},
    service::ServiceManager,
    sessions::{self, Sessions, Sockets},
    socket::Socket,
    spec::{AppArmor, Host, SeccompProfiles},
    state::{BootId, Lock, Records, recover},
    stats::{self, Stats},
    supervisor::{Executable, Nest},
    systemd::{self, Scope},
    watch,
};

/// Builds the daemon, recovers what an earlier one left, and serves until asked to end.
pub(crate) async fn run(config: Config, arguments: &Arguments) -> anyhow::Result<()> {
    let manager = ServiceManager::from_environment();
    manager.starting("taking over what an earlier daemon left");
    let address = config.address.clone();
    let runtime = Arc::new(build(config).await?);
    recover(&runtime).await;
    // Clients' paths may hang, and nobody waits for what is undone.
    tokio::spawn(checkpoint::settle(Arc::clone(&runtime)));
    nri::start(&runtime).await;
    tokio::spawn(stats::keep_fresh(Arc::downgrade(&runtime)));
    runtime
        .handlers
        .probe(&runtime.executable, &runtime.config)
        .await;
    let streaming = streaming_server(&runtime).await?;
    serve_metrics(&runtime).await?;
    let (socket, listener) = Socket::listen(&address)?;
    let beside = match &runtime.config.images.address {
        Some(address) => Some(Socket::listen_beside(address)?),
        None => None,
    };
    let beside = beside.map(|(socket, listener)| {
        tokio::spawn(accept_images(
            Arc::clone(&runtime),
            streaming.clone(),
            listener,
        ));
        socket
    });
    tracing::info!(
        address = %address.display(),
        streaming = %streaming.address(),
        pods = runtime.inventory.pods().len(),
        containers = runtime.inventory.containers().len(),
        "serving"
    );
    let status = format!("serving on {}", address.display());
    manager.ready(&status);
    pod::try_handlers(&runtime, pod::Occasion::Start);
    tokio::select! {
        result = serve(Arc::clone(&runtime), streaming, listener, &manager) => result?,
        () = reload_when_asked(&runtime, arguments, &manager, &status) => {}
        () = manager.watch() => {}
    }
    // Pods outlive the daemon; only its socket goes.
    socket.remove();
    if let Some(beside) = beside {
        beside.remove();
    }
    tracing::info!("ended; pods go on");
    Ok(())
}

/// Figures of containers are read through descriptors that stay open, so the daemon needs more than the usual 1,024. Supervisors, and so
/// containers, get the limit back that the daemon was started with.
fn raise_descriptors() -> anyhow::Result<Rlimit> {
    let given = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: given.maximum,
        maximum: given.maximum,
    };
    rustix::process::setrlimit(Resource::Nofile, raised)
        .context("raise the limit of descriptors")?;
    Ok(given)
}

async fn build(config: Config) -> anyhow::Result<Runtime> {
    let descriptors = raise_descriptors()?;
    let volumes = container::volumes_root(&config.root);
    // The socket is reached through the state directory. Nobody else has business with what is below; a volume may hold a set-uid
    // program.
    for (directory, mode) in [
        (&config.root, 0o711),
        (&config.state, 0o711),
        (&volumes, 0o700),
    ] {
        make_directory(directory, mode)
            .with_context(|| format!("make the directory {}", directory.display()))?;
    }
    ensure!(
        config.root != config.state,
        "root and state are one directory, {}: each needs its own",
        config.root.display()
    );
    let lock = Lock::take(&config.state)?;
    let root_lock = Lock::take(&config.root)?;
    checkpoint::sweep(&config.root);
    let hierarchies = Hierarchies::open()?;
    match config.cgroup_driver {
        // Pods whose request names no parent get this one; it stays.
        CgroupDriver::Cgroupfs => {
            hierarchies.ensure(&config.cgroup_parent, &oci_plan::Resources::default())?;
        }
        CgroupDriver::Systemd => {
            Slice::parse(&config.cgroup_parent)?;
            if let Some(why) = systemd::unusable(&hierarchies) {
                anyhow::bail!("cgroup_driver = \"systemd\": {why}");
            }
        }
    }
    let nest = match (&config.supervisor_cgroup, config.cgroup_driver) {
        (Some(path), CgroupDriver::Cgroupfs) => Some(Nest::open(&hierarchies, path)?),
        (Some(path), CgroupDriver::Systemd) => {
            let scope = Scope::of_supervisors(path).context("supervisor_cgroup")?;
            Some(Nest::of_scope(&hierarchies, path, scope)?)
        }
        (None, _) => None,
    };
    let overlay = Overlay::open(&config.root)?
        .with_stores(&config.images.additional_stores)
        .context("open the stores of images.additional_stores")?;
    if config.containers.writable_layer_limit.is_some() {
        let limits = overlay.limits().map_err(Clone::clone);
        limits.context("containers.writable_layer_limit is set")?;
    }
    let overlay = Arc::new(overlay);
    let images = Images::open(images(&config), Arc::clone(&overlay)).await?;
    let network = Bridge::open(bridge(&config)).await?;
    let plugins = Plugins::open(plugins(&config)).await?;
    watch_networks(&config, &plugins);
    let cdi = Arc::new(Cdi::open(config.cdi.directories.clone()));
    watch_devices(&cdi);
    let capabilities = bounding_set()?;
    let executable = Arc::new(Executable::load(&config.supervisor, descriptors, nest)?);
    let own = [
        &config.root,
        &config.state,
        Path::new("/"),
        Path::new("/dev"),
    ];
    let hugetlb = hierarchies.has(Controller::Hugetlb);
    let selinux = Selinux::open(config.selinux, &Places::default());
    let mut host = Host::discover(capabilities, hugetlb);
    host.selinux_labels = selinux.labels();
    let user_namespaces = host.maps_layers && Path::new("/proc/self/ns/user").exists();
    Ok(Runtime {
        boot: BootId::current().context("read the boot id")?,
        records: Records::open(&config.state)?,
        inventory: Inventory::default(),
        events: Events::default(),
        flights: RuntimeFlights::default(),
        paths: Paths::new(Arc::clone(&executable), &own),
        executable,
        hierarchies,
        images,
        overlay,
        network,
        plugins,
        cdi,
        nri: Nri::new(config.nri.clone()),
        classes: Classes::new(&config.classes),
        hooks: HookDirectories::new(config.hooks.directories.clone()),
        apparmor: AppArmor::default(),
        selinux,
        seccomp: SeccompProfiles::new(config.seccomp_directory.clone()),
        stats: Stats::default(),
        host,
        features: Features {
            // mount_setattr(2) is older than the oldest kernel we run on.
            recursive_read_only: true,
            user_namespaces,
        },
        handlers: Handlers::default(),
        checkpoints: Checkpoints::default(),
        files: Files::default(),
        calls: Arc::default(),
        metrics: Arc::default(),
        reload: Reload::default(),
        config,
        _locks: [lock, root_lock],
    })
}

fn images(config: &Config) -> ImagesConfig {
    let registries = &config.registries;
    let mut images = ImagesConfig::new(&config.root);
    images.insecure_registries = registries.insecure.get().to_vec();
    images.hosts_directory = Some(registries.hosts.get().to_path_buf());
    images.credentials_file = Some(registries.credentials.get().to_path_buf());
    images.credential_programs = (*registries.credential_programs.get()).clone();
    images
        .signature_policy
        .clone_from(&registries.signature_policy);
    images.proxies = Proxies::from_environment();
    images.timeouts.min_rate_bytes = registries.min_rate.get().get().into();
    images.timeouts.mirror = *registries.mirror_deadline.get();
    images.timeouts.pull = *registries.pull_deadline.get();
    images.keep_blobs = config.images.keep_blobs;
    images.max_layer_bytes = config.images.layer_limit.bytes();
    images.pinned = config.images.pinned.get().to_vec();
    images
}

fn bridge(config: &Config) -> BridgeConfig {
    let network = &config.network;
    BridgeConfig {
        name: network.bridge.to_string(),
        state_dir: config.root.join("network"),
        masquerade: network.masquerade,
        mtu: network.mtu.get(),
        ipv4: network.ipv4,
        ipv6: network.ipv6,
    }
}

fn plugins(config: &Config) -> PluginsConfig {
    let cni = &config.cni;
    PluginsConfig {
        configurations: cni.enabled.then(|| cni.configurations.clone()),
        directories: cni.plugins.clone(),
        // Unlike links, what plugins keep outlives the boot.
        state_dir: config.root.join("cni"),
        bound: cni.timeout,
        neighbours: cni.others.clone(),
    }
}

/// Configurations and plugins are installed while the daemon runs.
fn watch_networks(config: &Config, plugins: &Plugins) {
    if !config.cni.enabled {
        return;
    }
    let mut directories = config.cni.plugins.clone();
    directories.push(config.cni.configurations.clone());
    let changed = watch::directories(directories);
    let plugins = plugins.clone();
    tokio::spawn(async move {
        loop {
            changed.notified().await;
            plugins.reload().await;
        }
    });
}

/// Files of devices are left out, or taken in, when they change; a container that asks for a device waits for no watch.
fn watch_devices(cdi: &Arc<Cdi>) {
    let changed = watch::directories(cdi.directories().to_vec());
    let cdi = Arc::clone(cdi);
    tokio::spawn(async move {
        loop {
            changed.notified().await;
            if let Err(error) = cdi.refresh().await {
                tracing::warn!(%error, "specifications of devices are not read again");
            }
        }
    });
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
}

fn bounding_set() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let set = line.context("/proc/self/status has no CapBnd")?.trim();
    u64::from_str_radix(set, 16).with_context(|| format!("CapBnd {set:?}"))
}

/// Requests under way have this long to end once the daemon is asked to; what they began goes on in the next daemon.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

async fn serve(
    runtime: Arc<Runtime>,
    streaming: sessions::Server,
    listener: UnixListener,
    manager: &ServiceManager,
) -> anyhow::Result<()> {
    let asked = Arc::new(Notify::new());
    let streams = streaming.clone();
    tokio::spawn(async move { streams.serve().await });
    let served = accept(
        Arc::clone(&runtime),
        streaming.clone(),
        listener,
        Arc::clone(&asked),
    );
    tokio::pin!(served);
    tokio::select! {
        result = &mut served => return result,
        () = asked_to_end() => asked.notify_one(),
    }
    // Streams that never end by themselves must not be waited for.
    runtime.events.close();
    manager.stopping();
    let ended = async {
        // Clients are told; what they ran ends with them.
        let (served, ()) = tokio::join!(served, streaming.shutdown());
        served
    };
    tokio::select! {
        result = ended => result,
        () = tokio::time::sleep(DRAIN_WITHIN) => Ok(()),
        // Whoever asks twice does not want to wait.
        () = asked_to_end() => Ok(()),
    }
}

/// Listens for streaming clients.
async fn streaming_server(runtime: &Arc<Runtime>) -> anyhow::Result<sessions::Server> {
    let settings = &runtime.config.streaming;
    let tls = match (&settings.tls_cert, &settings.tls_key) {
        (Some(certificate), Some(key)) => Some(streaming::TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
        }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            anyhow::bail!("configuration: streaming.tls_cert and streaming.tls_key go together")
        }
    };
    let config = streaming::Config {
        listen: SocketAddr::new(settings.address, settings.port),
        advertise: settings.advertise.clone(),
        tls,
        limits: streaming::Limits {
            creation: settings.creation_timeout,
            idle: settings.idle_timeout,
            vanished: settings.client_timeout,
            ..streaming::Limits::default()
        },
    };
    let sockets = Sockets::start().context("start the thread that makes pods' sockets")?;
    let sessions = Arc::new(Sessions::new(Arc::clone(runtime), sockets));
    Ok(sessions::Server::bind(config, sessions).await?)
}

/// Listens for those who collect metrics, where that is configured.
async fn serve_metrics(runtime: &Arc<Runtime>) -> anyhow::Result<()> {
    let Some(address) = runtime.config.metrics.address else {
        return Ok(());
    };
    let server = metrics::Server::bind(address, Arc::clone(runtime));
    let server = server
        .await
        .with_context(|| format!("listen on metrics.address, {address}"))?;
    tokio::spawn(server.serve());
    Ok(())
}

async fn accept(
    runtime: Arc<Runtime>,
    streaming: sessions::Server,
    listener: UnixListener,
    asking: Arc<Notify>,
) -> anyhow::Result<()> {
    let metered = metered(&runtime);
    let cri = Cri { runtime, streaming };
    let limit = cri::MAX_MESSAGE_BYTES;
    let runtime_service = RuntimeServiceServer::new(cri.clone())
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit);
    let image_service = ImageServiceServer::new(cri.clone())
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit);
    Server::builder()
        .layer(metered)
        .layer(CallersDeadline)
        .layer(RewriteOlderPackage)
        .add_service(runtime_service)
        .add_service(image_service)
        .add_service(ProgressServer::new(cri.clone()))
        .add_service(ImagesServer::new(cri.clone()))
        .add_service(StoreServer::new(cri.clone()))
        .add_service(FilesServer::new(cri.clone()))
        .add_service(OperationsServer::new(cri))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), asking.notified())
        .await
        .context("serve CRI")
}

/// Images alone. What is asked here when the daemon ends is cut off; a pull is there to be joined by the next request.
async fn accept_images(runtime: Arc<Runtime>, streaming: sessions::Server, listener: UnixListener) {
    let metered = metered(&runtime);
    let cri = Cri { runtime, streaming };
    let limit = cri::MAX_MESSAGE_BYTES;
    let image_service = ImageServiceServer::new(cri.clone())
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit);
    let served = Server::builder()
        .layer(metered)
        .layer(CallersDeadline)
        .layer(RewriteOlderPackage)
        .add_service(image_service)
        .add_service(ProgressServer::new(cri.clone()))
        .add_service(ImagesServer::new(cri.clone()))
        .add_service(StoreServer::new(cri))
        .serve_with_incoming(UnixListenerStream::new(listener));
    if let Err(error) = served.await {
        tracing::error!(%error, "images are not served on their own socket any more");
    }
}

/// Whatever socket a call comes by, it is counted.
fn metered(runtime: &Runtime) -> Metered {
    Metered {
        calls: Arc::clone(&runtime.calls),
        metrics: Arc::clone(&runtime.metrics),
    }
}

/// SIGHUP; never ends.
async fn reload_when_asked(
    runtime: &Arc<Runtime>,
    arguments: &Arguments,
    manager: &ServiceManager,
    status: &str,
) {
    use tokio::signal::unix::{SignalKind, signal};
    let mut asked = match signal(SignalKind::hangup()) {
        Ok(asked) => asked,
        Err(error) => {
            tracing::warn!(%error, "SIGHUP cannot be waited for: a changed configuration needs a restart");
            return std::future::pending().await;
        }
    };
    while asked.recv().await.is_some() {
        manager.reloading();
        let probed = runtime;
        let (runtime, arguments) = (Arc::clone(runtime), arguments.clone());
        let reload = move || {
            runtime.reload.run(&arguments, &runtime.config);
            // Its keys hold for the next pull.
            runtime.images.reconfigure(&images(&runtime.config));
        };
        if let Err(error) = blocking(DISK_BOUND, reload).await {
            tracing::error!(%error, "configuration not reloaded");
        }
        probed
            .handlers
            .probe(&probed.executable, &probed.config)
            .await;
        pod::try_handlers(probed, pod::Occasion::Start);
        manager.ready(status);
    }
    std::future::pending().await
}

async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        // Without handlers the signals' default ends us.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
