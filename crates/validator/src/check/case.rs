use std::{fmt, pin::Pin};

use super::{calls::Refused, scene::Scene, suites};

/// One thing that a runtime does right or wrong.
pub struct Case {
    /// What it is about.
    pub suite: &'static str,
    /// A sentence that holds or does not. No two of a suite are the same.
    pub name: &'static str,
    /// It looks at the whole node, or disturbs the runtime: nothing else may run beside it.
    pub alone: bool,
    pub(super) play: Play,
}

pub(super) type Play = for<'a> fn(&'a Scene<'a>) -> Pin<Box<dyn Future<Output = Verdict> + 'a>>;

impl Case {
    /// `suite: name`, which is what expressions are matched with.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}: {}", self.suite, self.name)
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title())
    }
}

/// Every case, suite by suite.
#[must_use]
pub fn cases() -> Vec<&'static Case> {
    suites::ALL.iter().flat_map(|suite| suite.iter()).collect()
}

/// How a case ends; without an error it has passed.
pub(super) type Verdict<T = ()> = Result<T, Ended>;

/// Why a case did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// The runtime is wrong.
    Failed(String),
    /// It cannot be tried here.
    Skipped(String),
    /// The runtime does not have this call.
    Unimplemented(&'static str),
}

impl From<Refused> for Ended {
    fn from(refused: Refused) -> Self {
        match refused.status.code() {
            tonic::Code::Unimplemented => Self::Unimplemented(refused.rpc),
            _ => Self::Failed(refused.to_string()),
        }
    }
}

/// What is wrong on this side is no verdict about the runtime, but nobody may take the case for passed.
impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A row of a suite's table: its sentence, and the function that tries it.
macro_rules! case {
    ($suite:literal, $name:literal, $play:path) => {
        crate::check::case::Case {
            suite: $suite,
            name: $name,
            alone: false,
            play: |scene| Box::pin($play(scene)),
        }
    };
    (alone $suite:literal, $name:literal, $play:path) => {
        crate::check::case::Case {
            suite: $suite,
            name: $name,
            alone: true,
            play: |scene| Box::pin($play(scene)),
        }
    };
}

/// Ends the case as failed unless this holds.
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(crate::check::case::Ended::Failed(format!($($why)+)));
        }
    };
}

/// Ends the case as failed unless both are the same; the text says what of.
macro_rules! ensure_eq {
    ($seen:expr, $wanted:expr, $($what:tt)+) => {
        match (&$seen, &$wanted) {
            (seen, wanted) => if seen != wanted {
                let what = format!($($what)+);
                return Err(crate::check::case::Ended::Failed(format!("{what}: {seen:?}, not {wanted:?}")));
            },
        }
    };
}

/// Ends the case as one that cannot be tried here.
macro_rules! skip {
    ($($why:tt)+) => {
        return Err(crate::check::case::Ended::Skipped(format!($($why)+)))
    };
}

pub(super) use {case, ensure, ensure_eq, skip};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn titles_are_unique_sentences() {
        let mut seen = BTreeSet::new();
        for case in cases() {
            assert!(seen.insert(case.title()), "{case:?} is there twice");
            assert!(!case.name.ends_with('.') && case.name == case.name.trim());
        }
    }
}
