//! A plugin: how it comes, what it is asked, and how it goes.
//!
//! ```text
//!  connects ──RegisterPlugin──▶ ──Configure──▶ listed ──Synchronize──▶ asked ──▶ gone
//!                     └── any of them fails, or takes too long ────────────────▶ gone
//! ```
//!
//! In one step it is listed, and what there is is noted for it: whatever happens from then on waits until it is synchronized, and it loses
//! nothing. It is asked one thing at a time. One that does not answer in time, or sends what makes no sense, is gone.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use nri::{Call, CallError, Code, HOST, PLUGIN, Peer, RUNTIME, Side, api};
use prost::Message;
use tokio::{
    net::UnixStream,
    process::Child,
    sync::{mpsc, oneshot},
};

use super::{Event, Nri};

/// Calls of a plugin that wait to be looked at.
const CALLS: usize = 8;

/// How much of the node's state goes into one message: below what a message may have, with room for one that is large.
const CHUNK_BYTES: usize = 2 << 20;

#[derive(Debug)]
pub(super) struct Plugin {
    /// As `10-example`.
    pub(super) name: String,
    pub(super) index: String,
    pub(super) base: String,
    events: u32,
    pub(super) peer: Peer,
    /// It is asked one thing at a time; the first is to synchronize.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
}

/// Why a plugin did not come to be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum RegisterError {
    #[error("it did not register within {} s", .0.as_secs_f32())]
    Silent(Duration),
    #[error("it registered as {0:?}: {1}")]
    Name(String, &'static str),
    #[error("{0} failed")]
    Call(&'static str, #[source] CallError),
    #[error("it subscribes to events that there are not: {0:#x}")]
    Events(u32),
    #[error("it does not take the node's state in several messages")]
    Split,
    #[error("run {}", .0.display())]
    Launch(PathBuf, #[source] std::io::Error),
    #[error("{0}")]
    Closed(String),
}

impl Plugin {
    pub(super) fn subscribes(&self, event: Event) -> bool {
        self.events & (1 << (i32::from(event) - 1)) != 0
    }

    pub(super) fn is_gone(&self) -> bool {
        self.peer.closed().is_some()
    }

    /// Asks it, once it has answered what it was asked before.
    pub(super) async fn ask<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
        bound: Duration,
    ) -> Result<A, CallError> {
        let _turn = self.turn.lock().await;
        self.peer.call(PLUGIN, method, request, bound).await
    }
}

/// A plugin that the daemon starts.
#[derive(Debug)]
pub(super) struct Installed {
    path: PathBuf,
    index: String,
    base: String,
    config: String,
}

impl Installed {
    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.index, self.base)
    }
}

/// The programs of a directory, `NN-NAME`, each with its configuration: `NN-NAME.conf`, or `NAME.conf`. What is wrong with the others is
/// told. Blocks.
pub(super) fn installed(programs: &Path, configurations: &Path) -> (Vec<Installed>, Vec<String>) {
    use std::os::unix::fs::PermissionsExt;
    let (mut found, mut trouble) = (Vec::new(), Vec::new());
    let entries = match std::fs::read_dir(programs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (found, trouble),
        Err(error) => {
            trouble.push(format!("{}: {error}", programs.display()));
            return (found, trouble);
        }
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let executable = std::fs::metadata(&path)
            .is_ok_and(|status| status.is_file() && status.permissions().mode() & 0o111 != 0);
        if !executable {
            continue;
        }
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let (index, base) = name.split_once('-').unwrap_or_default();
        if let Err(why) = check_name(index, base) {
            trouble.push(format!("{}: {why}", path.display()));
            continue;
        }
        let named = [format!("{name}.conf"), format!("{base}.conf")];
        let mut texts = named
            .iter()
            .map(|name| std::fs::read_to_string(configurations.join(name)));
        let config = texts.find(|text| {
            !text
                .as_ref()
                .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        });
        match config.transpose() {
            Ok(config) => found.push(Installed {
                index: index.to_owned(),
                base: base.to_owned(),
                config: config.unwrap_or_default(),
                path,
            }),
            Err(error) => trouble.push(format!("{name}: its configuration: {error}")),
        }
    }
    found.sort_by(|a, b| (&a.index, &a.base).cmp(&(&b.index, &b.base)));
    (found, trouble)
}

fn check_name(index: &str, base: &str) -> Result<(), &'static str> {
    if index.len() != 2 || !index.chars().all(|c| c.is_ascii_digit()) {
        return Err("an index is two digits");
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    if base.is_empty() || !base.chars().all(allowed) {
        return Err("a name has letters, digits, '-', '_', '.' and '+'");
    }
    Ok(())
}

/// Starts a plugin and serves it until it goes. `ready` is told, or dropped, once it is asked, or will never be.
pub(super) async fn launch(
    nri: &Arc<Nri>,
    installed: Installed,
    ready: oneshot::Sender<()>,
) -> Result<(), RegisterError> {
    let failed = |error| RegisterError::Launch(installed.path.clone(), error);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    let stream = UnixStream::from_std(ours).map_err(failed)?;
    let child = tokio::process::Command::new(&installed.path)
        .env_clear()
        .env("NRI_PLUGIN_NAME", &installed.base)
        .env("NRI_PLUGIN_IDX", &installed.index)
        .env("NRI_PLUGIN_SOCKET", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    serve(nri, stream, Some((installed, child)), Some(ready)).await
}

/// Serves a plugin until it goes. `Err`: it never came to be asked.
pub(super) async fn serve(
    nri: &Arc<Nri>,
    stream: UnixStream,
    installed: Option<(Installed, Child)>,
    ready: Option<oneshot::Sender<()>>,
) -> Result<(), RegisterError> {
    let (sender, mut calls) = mpsc::channel(CALLS);
    let peer = Peer::start(stream, Side::Runtime, sender);
    let (given, child) = installed.unzip();
    let bound = nri.config.registration_timeout;
    let registered = tokio::time::timeout(bound, register(&mut calls, &peer, given.as_ref()));
    let (index, base) = registered
        .await
        .map_err(|_elapsed| RegisterError::Silent(bound))??;
    let name = format!("{index}-{base}");
    let met = meet(nri, peer, (index, base), given.as_ref()).await;
    let plugin = met.inspect_err(|error| {
        let mut why = error.to_string();
        if let Some(source) = std::error::Error::source(error) {
            why = format!("{why}: {source}");
        }
        nri.complain(&name, &why);
    })?;
    drop(ready);
    tokio::select! {
        () = answer(nri, &plugin, &mut calls) => {}
        why = plugin.peer.ended() => {
            tracing::info!(plugin = plugin.name, why, "an NRI plugin has gone");
        }
    }
    nri.forget(&plugin);
    // Killed, if it still runs.
    drop(child);
    Ok(())
}

/// Tells a plugin that has a name how things are, and lists it.
async fn meet(
    nri: &Arc<Nri>,
    peer: Peer,
    (index, base): (String, String),
    given: Option<&Installed>,
) -> Result<Arc<Plugin>, RegisterError> {
    let bound = nri.config.registration_timeout;
    let request = api::ConfigureRequest {
        config: given.map(|given| given.config.clone()).unwrap_or_default(),
        runtime_name: "longshore".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        registration_timeout: milliseconds(bound),
        request_timeout: milliseconds(nri.config.request_timeout),
        nri_version: nri::VERSION.to_owned(),
    };
    let configured = peer.call(PLUGIN, "Configure", &request, bound);
    let configured: api::ConfigureResponse = configured
        .await
        .map_err(|error| RegisterError::Call("Configure", error))?;
    let all = (1_u32 << (i32::from(Event::Last) - 1)) - 1;
    // The mask is written as a signed number.
    let events = match u32::from_ne_bytes(configured.events.to_ne_bytes()) {
        0 => all,
        events if events & !all != 0 => return Err(RegisterError::Events(events & !all)),
        events => events,
    };
    let plugin = Arc::new(Plugin {
        name: format!("{index}-{base}"),
        index,
        base,
        events,
        peer,
        turn: Arc::default(),
    });
    let turn = Arc::clone(&plugin.turn).lock_owned().await;
    let state = nri.list(&plugin);
    tracing::info!(plugin = plugin.name, "an NRI plugin is connected");
    let updates = match synchronize(nri, &plugin, state).await {
        Ok(updates) => updates,
        Err(error) => {
            plugin.peer.close(&error.to_string());
            nri.forget(&plugin);
            return Err(error);
        }
    };
    drop(turn);
    nri.apply_updates(&plugin.name, updates).await;
    Ok(plugin)
}

/// Waits for its name. One that the daemon has started has its name from there.
async fn register(
    calls: &mut mpsc::Receiver<Call>,
    peer: &Peer,
    given: Option<&Installed>,
) -> Result<(String, String), RegisterError> {
    loop {
        let call = tokio::select! {
            call = calls.recv() => call,
            why = peer.ended() => return Err(RegisterError::Closed(why)),
        };
        let Some(call) = call else {
            return Err(RegisterError::Closed(peer.ended().await));
        };
        if (call.service.as_str(), call.method.as_str()) != (RUNTIME, "RegisterPlugin") {
            call.reply.refuse(Code::INVALID_ARGUMENT, "register first");
            continue;
        }
        let Ok(request) = api::RegisterPluginRequest::decode(call.payload.as_slice()) else {
            call.reply
                .refuse(Code::INVALID_ARGUMENT, "it does not decode");
            continue;
        };
        let (index, base) = match given {
            Some(given) => (given.index.clone(), given.base.clone()),
            None => (request.plugin_idx, request.plugin_name),
        };
        if let Err(why) = check_name(&index, &base) {
            call.reply.refuse(Code::INVALID_ARGUMENT, why);
            return Err(RegisterError::Name(format!("{index}-{base}"), why));
        }
        call.reply.ok(&api::Empty {});
        return Ok((index, base));
    }
}

/// Tells it of all that there is, in messages that are not too long. What it wants changed comes with the last answer.
async fn synchronize(
    nri: &Arc<Nri>,
    plugin: &Plugin,
    state: super::Noted,
) -> Result<Vec<api::ContainerUpdate>, RegisterError> {
    let (pods, containers) = nri.describe_all(state).await;
    let (mut pods, mut containers) = (
        pods.into_iter().peekable(),
        containers.into_iter().peekable(),
    );
    loop {
        let mut request = api::SynchronizeRequest::default();
        let mut bytes = 0;
        while bytes < CHUNK_BYTES
            && let Some(pod) = pods.next()
        {
            bytes += pod.encoded_len();
            request.pods.push(pod);
        }
        while bytes < CHUNK_BYTES
            && let Some(container) = containers.next()
        {
            bytes += container.encoded_len();
            request.containers.push(container);
        }
        request.more = pods.peek().is_some() || containers.peek().is_some();
        // It holds up nobody's pod for longer than its registration may take.
        let answer = plugin.peer.call(
            PLUGIN,
            "Synchronize",
            &request,
            nri.config.registration_timeout,
        );
        let answer: api::SynchronizeResponse = answer
            .await
            .map_err(|error| RegisterError::Call("Synchronize", error))?;
        if !request.more {
            return Ok(answer.update);
        }
        if !answer.more || !answer.update.is_empty() {
            return Err(RegisterError::Split);
        }
    }
}

/// What it asks of the runtime.
async fn answer(nri: &Arc<Nri>, plugin: &Arc<Plugin>, calls: &mut mpsc::Receiver<Call>) {
    while let Some(call) = calls.recv().await {
        match (call.service.as_str(), call.method.as_str()) {
            (RUNTIME, "UpdateContainers") => {
                let Ok(request) = api::UpdateContainersRequest::decode(call.payload.as_slice())
                else {
                    call.reply
                        .refuse(Code::INVALID_ARGUMENT, "it does not decode");
                    continue;
                };
                let (nri, name) = (Arc::clone(nri), plugin.name.clone());
                tokio::spawn(async move {
                    nri.evict(&name, request.evict);
                    let failed = nri.apply_updates(&name, request.update).await;
                    call.reply.ok(&api::UpdateContainersResponse { failed });
                });
            }
            (HOST, "Log") => {
                if let Ok(request) = api::LogRequest::decode(call.payload.as_slice()) {
                    log(&plugin.name, &request);
                }
                call.reply.ok(&api::Empty {});
            }
            (_, method) => {
                let message = format!("there is no {method} for a plugin that has registered");
                call.reply.refuse(Code::UNIMPLEMENTED, message);
            }
        }
    }
}

fn log(plugin: &str, request: &api::LogRequest) {
    use api::log_request::Level;
    let message = &request.msg;
    match request.level() {
        Level::Debug => tracing::debug!(plugin, message, "said by a plugin"),
        Level::Unspecified | Level::Info => tracing::info!(plugin, message, "said by a plugin"),
        Level::Warn => tracing::warn!(plugin, message, "said by a plugin"),
        Level::Error => tracing::error!(plugin, message, "said by a plugin"),
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
