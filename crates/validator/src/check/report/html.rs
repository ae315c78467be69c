use std::fmt::Write as _;

use super::{CaseReport, Report, Verdict};
use crate::page::{self, WIDE, escaped};

/// One page that needs nothing else: what did not pass, a bar for each suite, when each case ran, and how long the longest took.
#[must_use]
pub fn html(report: &Report) -> String {
    let title = format!("longshore check: {}", report.runtime);
    let mut page = page::begin(&title, STYLE, "");
    let _ = writeln!(page, "<h1>{}</h1>", escaped(&report.runtime));
    let _ = writeln!(
        page,
        "<p class=\"sum\"><b class=\"passed\">{}</b> passed <b class=\"failed\">{}</b> failed <b class=\"skipped\">{}</b> skipped, in {:.1} s</p>",
        report.count(Verdict::Passed),
        report.count(Verdict::Failed),
        report.count(Verdict::Skipped),
        report.took_seconds
    );
    let machine = &report.machine;
    let _ = writeln!(
        page,
        "<p class=\"where\">{}; Linux {}, {} processors, cgroups {}; {} cases at a time, seed {}</p>",
        escaped(&report.endpoint),
        escaped(&machine.kernel),
        machine.processors,
        escaped(&machine.cgroups),
        report.parallel,
        report.seed
    );
    for note in &report.notes {
        let _ = writeln!(page, "<p class=\"failed\">{}</p>", escaped(note));
    }
    for (verdict, title) in [(Verdict::Failed, "Failed"), (Verdict::Skipped, "Skipped")] {
        list(&mut page, report, verdict, title);
    }
    page.push_str("<h2>Suites</h2>\n");
    suites(&mut page, report);
    page.push_str("<h2>When each case ran</h2>\n");
    timeline(&mut page, report);
    page.push_str("<h2>The longest</h2>\n");
    longest(&mut page, report);
    page.push_str("<h2>All</h2>\n");
    all(&mut page, report);
    page::end(&mut page);
    page
}

const STYLE: &str = "\
.sum{font-size:1.3rem;margin:.3rem 0}\
b.passed{color:#2e7d4f}b.failed,p.failed{color:#c0392b}b.skipped{color:#8a7a2f}\
rect.passed{fill:#4caf7a}rect.failed{fill:#d9534f}rect.skipped{fill:#d8c66a}\
td.failed{color:#c0392b}td.skipped{color:#8a7a2f}td.passed{color:#2e7d4f}";

fn list(page: &mut String, report: &Report, verdict: Verdict, title: &str) {
    if report.count(verdict) == 0 {
        return;
    }
    let _ = writeln!(page, "<h2>{title}</h2>\n<table>");
    for case in report.cases.iter().filter(|case| case.verdict == verdict) {
        let _ = writeln!(
            page,
            "<tr><td class=\"{}\">{}</td><td>{}</td><td>{}</td></tr>",
            verdict.word(),
            escaped(&case.suite),
            escaped(&case.name),
            escaped(&case.message)
        );
    }
    page.push_str("</table>\n");
}

/// A bar a suite, as long as it has cases.
fn suites(page: &mut String, report: &Report) {
    let suites = report.suites();
    let most = suites.iter().map(|(_, cases)| cases.len()).max();
    let unit = (WIDE - 220.0) / most.unwrap_or(1) as f64;
    page::picture(page, (WIDE, suites.len() as f64 * 22.0), |page| {
        for (row, (name, cases)) in suites.iter().enumerate() {
            let y = row as f64 * 22.0;
            let _ = write!(
                page,
                "<text x=\"0\" y=\"{}\">{}</text>",
                y + 14.0,
                escaped(name)
            );
            let mut x = 150.0;
            for verdict in [Verdict::Passed, Verdict::Failed, Verdict::Skipped] {
                let count = cases.iter().filter(|case| case.verdict == verdict).count();
                page::bar(
                    page,
                    (x, y + 2.0, count as f64 * unit, 16.0),
                    verdict.word(),
                    &format!("{count} {}", verdict.word()),
                );
                x += count as f64 * unit;
            }
            let _ = write!(
                page,
                "<text x=\"{:.1}\" y=\"{}\">{}</text>",
                x + 6.0,
                y + 14.0,
                cases.len()
            );
        }
    });
}

/// Cases over time, in as many rows as ran beside each other.
fn timeline(page: &mut String, report: &Report) {
    let mut cases: Vec<&CaseReport> = report.cases.iter().collect();
    cases.sort_by(|a, b| a.began_seconds.total_cmp(&b.began_seconds));
    let whole = report.took_seconds.max(0.001);
    let mut rows: Vec<f64> = Vec::new();
    let mut bars = Vec::new();
    for case in cases {
        let free = rows.iter().position(|end| *end <= case.began_seconds);
        let row = free.unwrap_or(rows.len());
        if row == rows.len() {
            rows.push(0.0);
        }
        rows[row] = case.began_seconds + case.took_seconds;
        bars.push((row, case));
    }
    let height = rows.len() as f64 * 16.0;
    page::picture(page, (WIDE, height + 22.0), |page| {
        for (row, case) in bars {
            let x = WIDE * case.began_seconds / whole;
            let width = (WIDE * case.took_seconds / whole).max(0.6);
            let title = format!("{}: {} ({:.2} s)", case.suite, case.name, case.took_seconds);
            page::bar(
                page,
                (x, row as f64 * 16.0, width - 0.3, 13.0),
                case.verdict.word(),
                &title,
            );
        }
        for tick in 0..=5 {
            let x = WIDE * f64::from(tick) / 5.0;
            let anchor = ["start", "middle", "end"][usize::from(tick > 0) + usize::from(tick == 5)];
            let _ = write!(
                page,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{height}\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{:.1} s</text>",
                height + 16.0,
                whole * f64::from(tick) / 5.0
            );
        }
    });
}

fn longest(page: &mut String, report: &Report) {
    let mut cases: Vec<&CaseReport> = report.cases.iter().collect();
    cases.sort_by(|a, b| b.took_seconds.total_cmp(&a.took_seconds));
    cases.truncate(20);
    let most = cases
        .first()
        .map_or(1.0, |case| case.took_seconds.max(0.001));
    page::picture(page, (WIDE, cases.len() as f64 * 22.0), |page| {
        for (row, case) in cases.iter().enumerate() {
            let y = row as f64 * 22.0;
            let width = 330.0 * case.took_seconds / most;
            page::bar(page, (0.0, y + 2.0, width, 16.0), case.verdict.word(), "");
            let _ = write!(
                page,
                "<text x=\"{:.1}\" y=\"{}\">{:.2} s {}: {}</text>",
                width + 6.0,
                y + 14.0,
                case.took_seconds,
                escaped(&case.suite),
                escaped(&case.name)
            );
        }
    });
}

fn all(page: &mut String, report: &Report) {
    page.push_str("<table>\n<tr><th>suite</th><th>case</th><th></th><th>s</th></tr>\n");
    for (_, cases) in report.suites() {
        for case in cases {
            let word = case.verdict.word();
            let _ = writeln!(
                page,
                "<tr><td>{}</td><td>{}</td><td class=\"{word}\">{word}</td><td class=\"n\">{:.2}</td></tr>",
                escaped(&case.suite),
                escaped(&case.name),
                case.took_seconds
            );
        }
    }
    page.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_else_and_escapes_everything() {
        let page = html(&super::super::example());
        page::assert_self_contained(&page);
        assert!(
            !page.contains("<b>no") && page.contains("&lt;b&gt;"),
            "{page}"
        );
        assert_eq!(page.matches("<svg").count(), 3);
        assert!(page.contains("no AppArmor here"));
    }
}
