use std::fmt;
use std::path::{Path, PathBuf};

/// A mistake in a file of the operator's: which file, where in it, and what is wrong; never a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigurationError {
    /// The file.
    pub file: PathBuf,
    /// Counted from 1; none where the mistake has no one place.
    pub line: Option<usize>,
    /// Such as `host."https://mirror".ca`; empty where the mistake is in no key.
    pub key: String,
    /// What is wrong.
    pub reason: String,
}

impl ConfigurationError {
    pub(crate) fn of_file(file: &Path, reason: impl fmt::Display) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            key: String::new(),
            reason: reason.to_string(),
        }
    }
}

impl fmt::Display for ConfigurationError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(formatter, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(formatter, ": {}", self.key)?;
        }
        write!(formatter, ": {}", self.reason)
    }
}

impl std::error::Error for ConfigurationError {}
