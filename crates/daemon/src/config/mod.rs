//! What the daemon is told: files and the command line, merged key by key, then resolved once.
//!
//! ```text
//!  config.toml ─┐
//!  conf.d/*.toml├─▶ parse ─▶ check every value ─▶ merge (later wins) ─▶ Config + the origin of each value
//!  flags ───────┘            all problems at once
//! ```
//!
//! **To add a key**, add it to [`keys`] with its documentation, type and default: it is then parsed, merged, checked, documented in
//! `longshored config default`, shown by `longshored config dump`, and a field of [`Config`]. A value of another kind needs an
//! implementation of [`Value`]. A key whose type is `Live<T>` follows `SIGHUP`; who uses it asks [`live::Live::get`] each time, or waits for
//! [`live::Live::changes`]. Add no key that nothing reads.
//! `docs/guide/config.toml` follows by `UPDATE_GUIDE=1 cargo test -p longshored the_guide`.

mod arguments;
mod errors;
mod files;
mod keys;
mod live;
mod merge;
mod reload;
mod runtimes;
mod schema;
mod show;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;

pub(crate) use arguments::{Arguments, Command, ConfigCommand};
pub(crate) use errors::ConfigErrors;
pub(crate) use keys::{ClassSettings, Cni, Config, NriSettings};
pub(crate) use reload::Reload;
pub(crate) use runtimes::{KernelOf, NATIVE, RuntimeKind, RuntimeSettings, Runtimes};
pub(crate) use show::{default_text, dump, verdict};

use errors::Problem;
use files::Source;
use merge::Merged;
use schema::{Effect, Key};
use value::Value;
pub(crate) use value::{CgroupDriver, LayerLimit};

/// The configuration, with where each of its values comes from.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    sources: Vec<Source>,
    merged: Merged,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    /// A flag of the command line, such as `--root`.
    Flag(&'static str),
    File {
        path: std::path::PathBuf,
        /// From 1.
        line: usize,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Flag(flag) => f.write_str(flag),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// Reads and resolves everything that the command line names.
///
/// # Errors
/// Every problem of every file, in the order of the files.
pub(crate) fn load(arguments: &Arguments) -> Result<Loaded, ConfigErrors> {
    let (sources, mut problems) = files::read(arguments.config.as_deref());
    let mut merged = Merged::default();
    for source in &sources {
        merged.add_file(source, &mut problems);
    }
    for (flag, key, text) in arguments.overrides() {
        merged.add_flag(flag, key, text, &mut problems);
    }
    if !problems.is_empty() {
        return Err(ConfigErrors(problems));
    }
    let config = Config::resolve(&merged).map_err(|problem| ConfigErrors(vec![problem]))?;
    Ok(Loaded {
        config,
        sources,
        merged,
    })
}

impl Loaded {
    /// The files that were read; later ones win.
    pub(crate) fn files(&self) -> impl Iterator<Item = &std::path::Path> {
        self.sources.iter().map(|source| source.path.as_path())
    }

    /// Where the value of `key` comes from.
    pub(crate) fn origin(&self, key: &str) -> Origin {
        self.merged.origin(key)
    }
}
