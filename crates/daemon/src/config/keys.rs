use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use cni::builtin::{Ipv4Subnet, Ipv6Subnet};

use super::{
    live::Live,
    runtimes::Runtimes,
    schema::settings,
    value::{CgroupDriver, CgroupParent, InRange, InterfaceName, LayerLimit, LogFilter, NriField},
};

settings! {
    /// The settings as the rest of the daemon sees them.
    Config {
        /// What survives a reboot: images, layers, writable layers, address allocations.
        root: PathBuf = "/var/lib/longshore";

        /// What does not: records and sockets of what runs.
        state: PathBuf = "/run/longshore";

        /// The CRI socket; by default `longshore.sock` in the state directory.
        address: PathBuf = "/run/longshore/longshore.sock" or state.join("longshore.sock");

        /// The supervisor's executable; by default `longshore-pod` beside `longshored`.
        supervisor: PathBuf = "/usr/bin/longshore-pod" or beside_the_daemon("longshore-pod");

        /// Who makes the cgroups of pods: `cgroupfs`, the daemon itself, or `systemd`, which then wants parents that are slices. As the
        /// kubelet's `cgroupDriver`; one that asks the runtime follows it.
        cgroup_driver: CgroupDriver = "cgroupfs";

        /// Parent cgroup of pods whose request names none; by default `/longshore.slice` with the systemd driver.
        cgroup_parent: CgroupParent = "/longshore" or cgroup_driver.default_parent();

        /// Cgroup of the pods' supervisors, so that neither a limit on the daemon nor one on a pod is theirs; empty leaves them in the
        /// daemon's own. Below no pod's parent, and no cgroup whose processes a service manager ends.
        /// With the systemd driver it is a scope in a slice, by default `/system.slice/longshore-supervisors.scope`.
        supervisor_cgroup: Option<CgroupParent> = "/longshore-supervisors" or cgroup_driver.default_supervisors();

        /// Where pods' network namespaces are pinned, so that other tools find them.
        netns_directory: PathBuf = "/run/netns";

        /// Where `Localhost` seccomp profiles are looked up.
        seccomp_directory: PathBuf = "/var/lib/kubelet/seccomp";

        /// Where SELinux is enabled, pods and their files get labels: those that they ask for, and categories that no other pod has. Off, what
        /// they run has the daemon's own, no volume is relabelled, and a request that asks for a label is refused.
        selinux: bool = true;

        /// In a pod with a network of its own, everybody may listen on ports below 1024; the pod's own sysctls win.
        unprivileged_ports: Live<bool> = true;

        /// In a pod with a network of its own, everybody may send pings; the pod's own sysctls win.
        unprivileged_ping: Live<bool> = true;

        /// A host path that a container mounts and that does not exist becomes a directory. These do not: the container is refused.
        reject_missing_mounts: Live<Vec<PathBuf>> = [];

        /// The handler of pods whose request names none.
        default_handler: Live<String> = "native";

        /// Handlers that a RuntimeClass may name beside `native`, the embedded core: tables such as `[runtimes.crun]` with `path = "/usr/bin/crun"`,
        /// a command line as runc's, and where wanted `kind = "oci"`, `options = []` (global ones, before its command) and
        /// `annotations = ["run.oci.*"]` (of pods and containers, which it gets to see), and
        /// `kernel = "pod"` or `"container"` (who has one of its own, with gVisor; by default each container with `--network=host`
        /// among the options, and else the pod). A pod goes on with what it was made with.
        runtimes: Live<Runtimes> = {} or Live::new(Runtimes::default());

        /// CRIU, which writes containers down and makes them again; by default the `criu` among the node's programs.
        criu: Option<PathBuf> = "";

        /// What is logged to stderr: a level, or per module as in `info,longshored::pod=debug`.
        log: Live<LogFilter> = "info";
    }

    /// What is kept of images.
    images: Images {
        /// Keep layers in their compressed form too, so that `longshore save` and `push` need no registry. They go with their images.
        keep_blobs: bool = false;

        /// Images that the kubelet must not collect when the disk fills up: names, as in a pod; a final `*` stands for any rest of the
        /// full name, as in `registry.example/base/*`.
        pinned: Live<Vec<String>> = [];

        /// Roots of other stores, such as a mounted file system that was filled by another node's daemon: layers that are there are not
        /// fetched. They are only read, and must be there as long as an image uses them. Looked through when the daemon starts.
        additional_stores: Vec<PathBuf> = [];

        /// The most that one layer may unpack to, and that an archive of images may have, so that no image fills the disk with zeros that
        /// travel as nothing. What is larger is refused (RESOURCE_EXHAUSTED), and leaves nothing.
        layer_limit: LayerLimit = "64Gi";

        /// A socket that serves images alone, for a kubelet with `--image-service-endpoint`; the CRI socket serves them all the same.
        address: Option<PathBuf> = "";
    }

    /// What containers may take.
    containers: Containers {
        /// The most that a container may write to its root file system, as in `10Gi`; a pod may ask for less, by annotation. Needs project
        /// quotas (see the guide on images); without them the daemon does not start. Empty: no limit but those that pods ask for.
        writable_layer_limit: Option<LayerLimit> = "";
    }

    /// The built-in bridge network.
    network: Network {
        /// The bridge's name.
        bridge: InterfaceName = "longshore0";

        /// The pods' IPv4 range.
        ipv4: Ipv4Subnet = "10.88.0.0/16";

        /// The pods' IPv6 range; empty switches IPv6 off.
        ipv6: Option<Ipv6Subnet> = "fd4c:6f6e:6773::/64";

        /// Whether traffic that leaves the pods' range takes the node's address.
        masquerade: bool = true;

        /// Of the bridge and of pods' interfaces, bytes.
        mtu: InRange<1280, 65535> = 1500;
    }

    /// Networks of CNI plugins, which win over the built-in one.
    cni: Cni {
        /// Whether configurations of CNI are looked for at all.
        enabled: bool = true;

        /// Whether pods wait for one; if not, the built-in network serves where there is none.
        required: bool = false;

        /// Where they are looked for; the first by name wins.
        configurations: PathBuf = "/etc/cni/net.d";

        /// Where plugins are looked for, in this order.
        plugins: Vec<PathBuf> = ["/opt/cni/bin", "/usr/lib/cni"];

        /// A template of a configuration, in Go's language: filled in with the ranges that a kubelet tells, and written to
        /// `10-longshore.conflist` where there is no other. As containerd's `conf_template`.
        template: Option<PathBuf> = "";

        /// How long all plugins of a network may take together to attach or detach a pod. They are killed then.
        timeout: Duration = "1m";

        /// Where other runtimes note what they have attached (in `results`); it is spared when plugins collect garbage.
        others: PathBuf = "/var/lib/cni";
    }

    /// Devices that vendors describe in files (the Container Device Interface).
    cdi: CdiSettings {
        /// Where the files are, `*.json` and `*.yaml`; of two that describe one device, that of the later directory wins.
        directories: Vec<PathBuf> = ["/etc/cdi", "/var/run/cdi"];
    }

    /// Programs that run at stages of containers' lives (OCI hooks).
    hooks: HookSettings {
        /// Where files say for which containers a hook is (oci-hooks(5), as for CRI-O and Podman); of two with one name, that of the later
        /// directory counts. No container is made while one of them is wrong.
        directories: Vec<PathBuf> = ["/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"];

        /// How long a hook may take that says nothing about it. It is killed then, and has failed.
        timeout: Duration = "2m";
    }

    /// Plugins of the Node Resource Interface, which are told of pods and containers and may change containers before they are made.
    nri: NriSettings {
        /// Whether there are any.
        enabled: bool = true;

        /// Where plugins connect; empty: none may.
        socket: Option<PathBuf> = "/var/run/nri/nri.sock";

        /// Plugins that the daemon starts, `NN-NAME`; they are asked in the order of their numbers.
        plugins: PathBuf = "/opt/nri/plugins";

        /// Their configurations, `NN-NAME.conf` or `NAME.conf`.
        configurations: PathBuf = "/etc/nri/conf.d";

        /// Plugins (`NAME` or `NN-NAME`) without which no pod is run and no container made. A pod can name others, in the annotation
        /// `required-plugins.noderesource.dev`.
        required: Vec<String> = [];

        /// Annotation by which a pod runs without the plugins that are required; empty: there is none.
        tolerate_missing: String = "";

        /// What no plugin may change: some of `hooks`, `seccomp`, `namespaces`, `sysctl`.
        reject: Vec<NriField> = [];

        /// How long a plugin may take from its connection until it is told of what there is, and then for that.
        registration_timeout: Duration = "5s";

        /// How long a plugin may take over one request. One that takes longer is let go, and what it was asked about goes on without it.
        request_timeout: Duration = "2s";
    }

    /// Classes of block I/O and of caches and memory bandwidth, for which pods ask by annotation, and plugins by name.
    classes: ClassSettings {
        /// File that defines classes of block I/O, in the format of containerd's `blockio_config_file`. Read whenever a class is asked for, as is the
        /// other; without it there are none.
        block_io: Option<PathBuf> = "";

        /// File that defines classes of RDT, in the format of containerd's `rdt_config_file`; without it the groups in `/sys/fs/resctrl` are the
        /// classes.
        rdt: Option<PathBuf> = "";
    }

    /// Where images come from.
    registries: Registries {
        /// `HOST[:PORT]` of registries that may be spoken to over plain HTTP. Loopback may always.
        insecure: Live<Vec<String>> = [];

        /// Mirrors and certificates, as for containerd: `HOST/hosts.toml`, read at each pull.
        hosts: Live<PathBuf> = "/etc/longshore/certs.d";

        /// The node's own credentials, in the format of docker's `config.json`; read at each pull. Those of a request win.
        credentials: Live<PathBuf> = "/etc/longshore/credentials.json";

        /// Where programs `docker-credential-NAME` are looked for before `PATH`.
        credential_programs: Live<Option<PathBuf>> = "";

        /// Which images may be pulled and run, and with what they must be signed; read again when it changes. Without it all may.
        signature_policy: Option<PathBuf> = "";

        /// The least that a registry must send while it is waited for, bytes a second over 30 s; 0 is no bound. Else the next host is asked.
        min_rate: Live<InRange<0, 4294967295>> = 1024;

        /// How long one pull may ask a mirror for things in all; then the next host is asked.
        mirror_deadline: Live<Duration> = "30m";

        /// How long a whole pull may take.
        pull_deadline: Live<Duration> = "2h";
    }

    /// What the daemon counts about itself.
    metrics: Metrics {
        /// Where Prometheus finds it at `/metrics`, over plain HTTP and for whoever reaches the address: `127.0.0.1:9095`, say. Off without it.
        address: Option<SocketAddr> = "";
    }

    /// Where clients of exec, attach and port-forward connect. The kubelet is one, for everybody who comes through the API server.
    streaming: Streaming {
        /// What is listened on.
        address: IpAddr = "127.0.0.1";

        /// 0 lets the kernel choose.
        port: u16 = 0;

        /// `HOST` or `HOST:PORT` in the URLs that clients get, where they reach the address by another name.
        advertise: Option<String> = "";

        /// PEM file: the certificate, then those of its issuers. With it URLs are `https`. Both files are read again when they change.
        tls_cert: Option<PathBuf> = "";

        /// PEM file: the certificate's key.
        tls_key: Option<PathBuf> = "";

        /// A connection that carries nothing for this long is closed.
        idle_timeout: Duration = "4h";

        /// How long a client may take from its connection to the last of its streams.
        creation_timeout: Duration = "30s";

        /// A client whose machine or network acknowledges nothing for this long has vanished, and its commands are killed.
        client_timeout: Duration = "150s";
    }
}

/// Programs of one release are installed together.
fn beside_the_daemon(name: &str) -> PathBuf {
    match std::env::current_exe() {
        Ok(daemon) => daemon.with_file_name(name),
        Err(_no_proc) => PathBuf::from("/usr/bin").join(name),
    }
}
