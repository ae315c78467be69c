use std::fmt::Write as _;

use super::{CaseReport, Report, Verdict, junit::escaped};

/// Widths of the plots, in the units of their pictures.
const WIDE: f64 = 900.0;

/// One page that needs nothing else: what did not pass, a bar for each suite, when each case ran, and how long the longest took.
#[must_use]
pub fn html(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>longshore check: {}</title>\n<style>{STYLE}</style></head><body>\n<h1>{}</h1>\n",
        escaped(&report.runtime),
        escaped(&report.runtime)
    );
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
    page.push_str("</body></html>\n");
    page
}

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
h1{margin-bottom:0}h2{margin-top:2.2rem;font-size:1.15rem}.sum{font-size:1.3rem;margin:.3rem 0}.where{color:#666;margin:0}\
svg{width:100%;height:auto;display:block}svg text{font:12px system-ui,sans-serif;fill:currentColor}\
b.passed{color:#2e7d4f}b.failed,p.failed{color:#c0392b}b.skipped{color:#8a7a2f}\
rect.passed{fill:#4caf7a}rect.failed{fill:#d9534f}rect.skipped{fill:#d8c66a}line{stroke:#ccc}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2rem .6rem .2rem 0;border-bottom:1px solid #eee;vertical-align:top}\
td.n{text-align:right;white-space:nowrap}td.failed{color:#c0392b}td.skipped{color:#8a7a2f}td.passed{color:#2e7d4f}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181a1b}td,th{border-color:#333}line{stroke:#444}}";

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
    picture(page, suites.len() as f64 * 22.0, |page| {
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
                bar(
                    page,
                    (x, y + 2.0, count as f64 * unit, 16.0),
                    verdict,
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
    picture(page, height + 22.0, |page| {
        for (row, case) in bars {
            let x = WIDE * case.began_seconds / whole;
            let width = (WIDE * case.took_seconds / whole).max(0.6);
            let title = format!("{}: {} ({:.2} s)", case.suite, case.name, case.took_seconds);
            bar(
                page,
                (x, row as f64 * 16.0, width - 0.3, 13.0),
                case.verdict,
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
    picture(page, cases.len() as f64 * 22.0, |page| {
        for (row, case) in cases.iter().enumerate() {
            let y = row as f64 * 22.0;
            let width = 330.0 * case.took_seconds / most;
            bar(page, (0.0, y + 2.0, width, 16.0), case.verdict, "");
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

fn picture(page: &mut String, height: f64, draw: impl FnOnce(&mut String)) {
    let _ = write!(page, "<svg viewBox=\"0 0 {WIDE} {height}\" role=\"img\">");
    draw(page);
    page.push_str("</svg>\n");
}

/// Left, top, width and height.
fn bar(
    page: &mut String,
    (x, y, width, height): (f64, f64, f64, f64),
    verdict: Verdict,
    title: &str,
) {
    if width <= 0.0 {
        return;
    }
    let _ = write!(
        page,
        "<rect class=\"{}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\"><title>{}</title></rect>",
        verdict.word(),
        escaped(title)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_else_and_escapes_everything() {
        let page = html(&super::super::example());
        for elsewhere in ["http:", "https:", "src=", "<script", "@import", "<link"] {
            assert!(!page.contains(elsewhere), "{elsewhere}");
        }
        assert!(
            !page.contains("<b>no") && page.contains("&lt;b&gt;"),
            "{page}"
        );
        assert_eq!(page.matches("<svg").count(), 3);
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert!(page.contains("no AppArmor here"));
    }
}
