use std::{fmt, io, ops::Range, path::PathBuf};

use super::{files::Source, value::Wrong};

/// Everything that is wrong with the configuration; never empty.
#[derive(Debug)]
pub(crate) struct ConfigErrors(pub(crate) Vec<Problem>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.0.as_slice() {
            return only.fmt(f);
        }
        write!(f, "{} errors in the configuration", self.0.len())?;
        self.0
            .iter()
            .try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// One thing that is wrong, and where.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("read the configuration {}: {source}", path.display())]
    Read {
        path: PathBuf,
        /// Part of the text: problems are listed, not chained.
        source: io::Error,
    },
    #[error("{place}: {message}")]
    Syntax { place: Place, message: String },
    #[error("{place}: unknown key `{key}`{}", suggestion(*nearest))]
    Unknown {
        place: Place,
        key: String,
        nearest: Option<&'static str>,
    },
    #[error("{place}: `{key}` is a table: write [{key}] and its keys below")]
    NotATable { place: Place, key: &'static str },
    #[error("{flag}: {found} is not {expected}")]
    Flag {
        flag: &'static str,
        found: String,
        expected: String,
    },
    #[error("{place}: {key}: {found} is not {expected}")]
    Value {
        place: Place,
        key: &'static str,
        /// As it is written.
        found: String,
        expected: String,
    },
}

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Line and column from 1; columns count characters.
    File {
        path: PathBuf,
        line: usize,
        column: usize,
    },
    Flag(&'static str),
    /// The default of a key: a mistake in this program, which a test rules out.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Flag(flag) => f.write_str(flag),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Problem {
    pub(super) fn syntax(source: &Source, error: &toml::de::Error) -> Self {
        let start = error.span().map_or(0, |span| span.start);
        Self::Syntax {
            place: source.place(start),
            message: error.message().replace('\n', ", "),
        }
    }

    pub(super) fn value(place: Place, key: &'static str, text: &str, wrong: Wrong) -> Self {
        let found = excerpt(text, wrong.span);
        let expected = wrong.expected;
        match place {
            Place::Flag(flag) => Self::Flag {
                flag,
                found,
                expected,
            },
            Place::File { .. } | Place::Default => Self::Value {
                place,
                key,
                found,
                expected,
            },
        }
    }
}

fn suggestion(nearest: Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |key| format!("; is `{key}` meant?"))
}

/// What stands at `span`, cut to what fits in a line.
fn excerpt(text: &str, span: Range<usize>) -> String {
    const LONGEST: usize = 60;
    let found = text.get(span).unwrap_or_default();
    let line = found.lines().next().unwrap_or_default();
    let cut: String = line.chars().take(LONGEST).collect();
    match cut.len() < found.len() {
        true => format!("{cut}…"),
        false => cut,
    }
}
