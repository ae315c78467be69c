use std::path::PathBuf;
use std::time::Duration;

use crate::Proxies;

/// What the image store and its registry client need to know.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// Holds `meta.redb` and `pins/`; layers lie where the snapshotter has them, on the same file system or another.
    pub root: PathBuf,
    /// Registries (`host` or `host:port`) that are spoken to in plain HTTP. Loopback addresses always may.
    pub insecure_registries: Vec<String>,
    /// Holds `HOST/hosts.toml`, containerd's way to name mirrors and certificates; read at each pull.
    pub hosts_directory: Option<PathBuf>,
    /// The node's credentials, in the format of docker's `config.json`; read at each pull.
    pub credentials_file: Option<PathBuf>,
    /// Where programs that the credentials file names are looked for, before `PATH`.
    pub credential_programs: Option<PathBuf>,
    /// Which images may be pulled and run, and what they must be signed with; read again when it changes. None: all, with nothing.
    pub signature_policy: Option<PathBuf>,
    /// On the way to registries.
    pub proxies: Proxies,
    /// Images that must not be collected: references as people write them; a final `*` stands for any rest.
    pub pinned: Vec<String>,
    /// Certificate authorities (PEM files) trusted beside the system's.
    pub ca_files: Vec<PathBuf>,
    /// Layers that are fetched and unpacked at a time, over all pulls.
    pub layers_at_once: usize,
    /// How much of a large layer one of several requests at once asks for; 0 asks for all of it in one.
    pub range_bytes: u64,
    /// The most that one layer may unpack to, in bytes of its archive and of its files each.
    pub max_layer_bytes: u64,
    /// Whether the compressed form of a layer that is fetched is kept beside the unpacked one.
    pub keep_blobs: bool,
    /// Bounds in time.
    pub timeouts: Timeouts,
}

/// How long the registry client waits, and how often it tries.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the head of a response.
    pub response: Duration,
    /// For the next bytes of a body.
    pub idle: Duration,
    /// The least that a body must bring, in bytes a second, measured over `rate_window` of waiting for the network.
    pub min_rate_bytes: u64,
    /// See `min_rate_bytes`.
    pub rate_window: Duration,
    /// For all that one pull asks of a mirror; then the next is asked. The last host has the whole pull's.
    pub mirror: Duration,
    /// For a whole pull.
    pub pull: Duration,
    /// How long a pull goes on when nobody waits for it any more.
    pub abandon: Duration,
    /// How long after a pull its layers are made to reach the disk. Until then a power cut costs the image, never its soundness.
    pub sync_after: Duration,
    /// How often a request is tried in all.
    pub attempts: u32,
    /// Before the second attempt; doubles with each further one, with jitter, up to 20 s.
    pub backoff: Duration,
}

impl ImagesConfig {
    /// The defaults, for a store in `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            insecure_registries: Vec::new(),
            hosts_directory: None,
            credentials_file: None,
            credential_programs: None,
            signature_policy: None,
            proxies: Proxies::default(),
            pinned: Vec::new(),
            ca_files: Vec::new(),
            layers_at_once: 3,
            range_bytes: 2 << 20,
            max_layer_bytes: 64 << 30,
            keep_blobs: false,
            timeouts: Timeouts::default(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            response: Duration::from_secs(60),
            idle: Duration::from_secs(30),
            min_rate_bytes: 1024,
            rate_window: Duration::from_secs(30),
            mirror: Duration::from_secs(30 * 60),
            pull: Duration::from_secs(2 * 3600),
            abandon: Duration::from_secs(300),
            sync_after: Duration::from_secs(2),
            attempts: 5,
            backoff: Duration::from_millis(250),
        }
    }
}
