//! Networks of CNI plugins (specification 0.3.1 to 1.1).
//!
//! ```text
//!                    configuration       plugins there,
//!    (no file) ────▶ found ───────────▶ versions agreed ──▶ serving ◀──▶ in trouble (STATUS)
//!        ▲             │ wrong             │ missing
//!        │             ▼                   ▼
//!        └──────── not ready ◀─────────────┘            looked at again at every change of a directory
//! ```
//!
//! An attachment's life; what is in brackets is on disk before the step begins:
//!
//! ```text
//!   (nothing) ─▶ [adding] ─ ADD ─▶ [added]
//!       ▲            │ failure        │ detach
//!       │            ▼                ▼
//!       └── DEL ── [deleting] ◀───────┘
//!                   │     ▲
//!                   └─────┘ DEL fails: tried again in the background, for as long as it takes
//! ```
//!
//! A record has the configuration that ADD had, so DEL has it too, whatever became of the file. Records outlive the daemon and the boot.
//! Plugins are children with a deadline for all plugins of a network together; what happens to one attachment holds up no other.

mod attachments;
mod chain;
mod config;
mod error;
mod health;
mod journal;
mod neighbours;
mod pin;
mod process;
mod result;
mod version;

pub use attachments::{AttachRequest, Attachment, DetachError, Detached};
pub use error::{AttachError, PinError, PluginError, Reason};
pub use health::Readiness;
pub use pin::{pin, unpin};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::records::RecordsError;
use attachments::Entry;
use chain::Runner;
use health::Health;
use journal::{Journal, Stage};

/// Where things are.
#[derive(Debug, Clone)]
pub struct PluginsConfig {
    /// Where configurations are looked for; `None`: there are none. What was attached is detached all the same.
    pub configurations: Option<PathBuf>,
    /// Where plugins are looked for, in this order.
    pub directories: Vec<PathBuf>,
    /// Records; made if missing. Must survive reboots.
    pub state_dir: PathBuf,
    /// How long an operation on all plugins of a network may take together.
    pub bound: Duration,
    /// Where the reference library, and so other runtimes, keep what they have attached. GC leaves that alone.
    pub neighbours: PathBuf,
}

/// The networks of CNI plugins of one node. Cheap to clone. Needs a tokio runtime with time and I/O.
#[derive(Debug, Clone)]
pub struct Plugins {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: PluginsConfig,
    runner: Runner,
    journal: Journal,
    entries: Mutex<BTreeMap<String, Entry>>,
    health: Mutex<Health>,
    /// Background work is done by few at a time: what has failed before may hang now.
    background: tokio::sync::Semaphore,
    reloading: tokio::sync::Mutex<()>,
}

/// How many attachments are worked on in the background at once.
const BACKGROUND: usize = 4;

impl Plugins {
    /// Loads the records and looks for a configuration. What plugins of an earlier daemon are still doing is ended first, so that nothing is
    /// added any more when it is removed.
    pub async fn open(config: PluginsConfig) -> Result<Plugins, RecordsError> {
        let (journal, records) = Journal::open(&config.state_dir)?;
        let interrupted = records.iter().filter(|record| record.stage != Stage::Added);
        let marks: Vec<String> = interrupted
            .map(|record| process::mark(journal.records.path(), &record.id))
            .collect();
        let ended = tokio::task::spawn_blocking(move || {
            marks.iter().try_for_each(|mark| process::end_marked(mark))
        });
        if let Ok(Err(error)) = ended.await {
            tracing::warn!(%error, "look for plugins of an earlier daemon");
        }
        let runner = Runner {
            directories: config.directories.clone(),
            bound: config.bound,
            journal: journal.records.path().to_owned(),
        };
        let entries = records
            .into_iter()
            .map(|record| (record.id.clone(), Entry::new(record)))
            .collect();
        let plugins = Plugins {
            shared: Arc::new(Shared {
                config,
                runner,
                journal,
                entries: Mutex::new(entries),
                health: Mutex::default(),
                background: tokio::sync::Semaphore::new(BACKGROUND),
                reloading: tokio::sync::Mutex::default(),
            }),
        };
        plugins.reload().await;
        Ok(plugins)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is changed in single steps, so a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
