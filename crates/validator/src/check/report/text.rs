use std::fmt::Write as _;

use super::{Report, Verdict};

/// For people: what did not pass and why, then one line a suite, then one of all.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    for verdict in [Verdict::Skipped, Verdict::Failed] {
        for case in report.cases.iter().filter(|case| case.verdict == verdict) {
            let round = if case.round > 1 {
                format!(" (round {})", case.round)
            } else {
                String::new()
            };
            let _ = writeln!(
                text,
                "{}: {}: {}{round}: {}",
                verdict.word(),
                case.suite,
                case.name,
                case.message.trim()
            );
        }
    }
    for (suite, cases) in report.suites() {
        let count = |verdict| cases.iter().filter(|case| case.verdict == verdict).count();
        let _ = writeln!(
            text,
            "{suite:<14}{:>5} passed{:>5} failed{:>5} skipped",
            count(Verdict::Passed),
            count(Verdict::Failed),
            count(Verdict::Skipped),
        );
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let _ = writeln!(
        text,
        "{}: {} passed, {} failed, {} skipped in {:.1} s (seed {})",
        report.runtime,
        report.count(Verdict::Passed),
        report.count(Verdict::Failed),
        report.count(Verdict::Skipped),
        report.took_seconds,
        report.seed
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_pass_says_why() {
        let text = text(&super::super::example());
        assert!(
            text.contains("skipped: pod: it has a profile: no AppArmor here\n"),
            "{text}"
        );
        assert!(text.contains("and why"), "{text}");
        assert!(
            text.ends_with("some 1.0: 1 passed, 1 failed, 1 skipped in 4.0 s (seed 3)\n"),
            "{text}"
        );
    }
}
