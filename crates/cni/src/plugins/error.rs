use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use crate::records::RecordError;

/// What a plugin did not do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{command} of plugin {plugin} for network {network}: {reason}")]
pub struct PluginError {
    pub plugin: String,
    /// `ADD`, `DEL`, …
    pub command: &'static str,
    pub network: String,
    pub reason: Reason,
}

/// Why not. What a plugin says is cut short and has no control characters.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Reason {
    #[error("there is no such executable in {directories}")]
    Missing { directories: String },
    #[error("run {}: {source}", path.display())]
    Start {
        path: PathBuf,
        source: Arc<io::Error>,
    },
    /// An error as the specification has it.
    #[error("{message} (code {code})")]
    Refused { code: u64, message: String },
    #[error("{how}, saying {said:?}")]
    Failed { how: String, said: String },
    #[error("not done after {bound:?}; it was killed")]
    Late { bound: Duration },
    #[error("it printed more than {bytes} bytes and was killed")]
    TooMuch { bytes: usize },
    #[error("it printed {said:?}, which is no result: {why}")]
    Garbage { said: String, why: String },
    #[error("look after its process: {0}")]
    Process(Arc<io::Error>),
}

/// Why a pod was not attached. What the plugins did is not undone yet: detach it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AttachError {
    #[error("attachment id {id:?} is not made of letters, digits, dots, underscores and hyphens")]
    InvalidId { id: String },
    #[error("{key}={value:?} cannot be told to plugins: CNI_ARGS has no way to write it")]
    Argument { key: String, value: String },
    #[error("the network takes no pods: {reason}")]
    NotReady { reason: String },
    #[error("{id} is attached already, or not yet detached")]
    Taken { id: String },
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Plugin(#[from] PluginError),
    #[error("network {network} gave {interface} no address: {result}")]
    NoAddress {
        network: String,
        interface: String,
        result: String,
    },
}

/// A pin of a network namespace.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{doing} the network namespace's pin {}", path.display())]
pub struct PinError {
    pub doing: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: Errno,
}
