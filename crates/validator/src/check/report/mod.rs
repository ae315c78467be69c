//! What a run has found, and the forms it is written in.

mod html;
mod junit;
mod testgrid;
mod text;

use serde::{Deserialize, Serialize};

pub use html::html;
pub use junit::junit;
pub use testgrid::testgrid;
pub use text::text;

use super::Settings;
use crate::bench::Machine;

/// What a run has found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Name and version of the runtime.
    pub runtime: String,
    /// Where it listens.
    pub endpoint: String,
    /// Where it ran.
    pub machine: Machine,
    /// When it began, seconds since 1970.
    pub began: u64,
    /// All of it.
    pub took_seconds: f64,
    /// What makes the order of the cases.
    pub seed: u64,
    /// How many cases at a time.
    pub parallel: usize,
    /// Whether what is not implemented is a failure.
    pub strict: bool,
    /// In the order in which they ended.
    pub cases: Vec<CaseReport>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// One case of one round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CaseReport {
    /// What it is about.
    pub suite: String,
    /// What it tries.
    pub name: String,
    /// From 1.
    pub round: u32,
    /// Since the run began.
    pub began_seconds: f64,
    /// With the removal of what it made.
    pub took_seconds: f64,
    /// How it ended.
    pub verdict: Verdict,
    /// Why it failed or was skipped.
    pub message: String,
}

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The runtime does it right.
    Passed,
    /// It does not.
    Failed,
    /// It could not be tried here.
    Skipped,
}

impl Verdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl Report {
    pub(super) fn begun(runtime: &str, machine: Machine, settings: &Settings, began: u64) -> Self {
        Self {
            runtime: runtime.to_owned(),
            endpoint: settings.endpoint.to_string(),
            machine,
            began,
            took_seconds: 0.0,
            seed: settings.seed,
            parallel: settings.parallel,
            strict: settings.strict,
            cases: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// How many ended so.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        let cases = self.cases.iter();
        cases.filter(|case| case.verdict == verdict).count()
    }

    /// Suites in the order of their names, each with its cases in the order of theirs.
    fn suites(&self) -> Vec<(&str, Vec<&CaseReport>)> {
        let mut cases: Vec<&CaseReport> = self.cases.iter().collect();
        cases.sort_by(|a, b| (&a.suite, &a.name, a.round).cmp(&(&b.suite, &b.name, b.round)));
        let mut suites: Vec<(&str, Vec<&CaseReport>)> = Vec::new();
        for case in cases {
            match suites.last_mut() {
                Some((name, cases)) if *name == case.suite => cases.push(case),
                _ => suites.push((&case.suite, vec![case])),
            }
        }
        suites
    }
}

/// The report as JSON, every field named as here.
///
/// # Errors
/// None that is known: there is nothing in it that JSON cannot hold.
pub fn json(report: &Report) -> serde_json::Result<String> {
    serde_json::to_string_pretty(report)
}

#[cfg(test)]
pub(super) fn example() -> Report {
    let case = |suite: &str, name: &str, verdict, message: &str| CaseReport {
        suite: suite.to_owned(),
        name: name.to_owned(),
        round: 1,
        began_seconds: 0.25,
        took_seconds: 1.5,
        verdict,
        message: message.to_owned(),
    };
    Report {
        runtime: "some 1.0".to_owned(),
        endpoint: "unix:///run/some.sock".to_owned(),
        machine: crate::bench::machine(),
        began: 1_700_000_000,
        took_seconds: 4.0,
        seed: 3,
        parallel: 2,
        strict: false,
        cases: vec![
            case("pod", "it runs", Verdict::Passed, ""),
            case(
                "image",
                "a <tag> & \"more\"",
                Verdict::Failed,
                "it says <b>\u{1}no</b>\nand why",
            ),
            case(
                "pod",
                "it has a profile",
                Verdict::Skipped,
                "no AppArmor here",
            ),
        ],
        notes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_back() {
        let text = json(&example()).unwrap();
        let back: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(json(&back).unwrap(), text);
        assert_eq!(back.count(Verdict::Failed), 1);
    }
}
