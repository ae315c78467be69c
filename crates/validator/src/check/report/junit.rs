use std::fmt::Write as _;

use super::{Report, Verdict};
use crate::page::escaped;

/// JUnit's XML, as test dashboards read it: a `testsuite` for each suite.
#[must_use]
pub fn junit(report: &Report) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        xml,
        "<testsuites tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\" time=\"{:.3}\">",
        report.cases.len(),
        report.count(Verdict::Failed),
        report.count(Verdict::Skipped),
        report.took_seconds
    );
    for (suite, cases) in report.suites() {
        let count = |verdict| cases.iter().filter(|case| case.verdict == verdict).count();
        let seconds: f64 = cases.iter().map(|case| case.took_seconds).sum();
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\" time=\"{seconds:.3}\">",
            escaped(suite),
            cases.len(),
            count(Verdict::Failed),
            count(Verdict::Skipped),
        );
        for case in cases {
            let round = match case.round {
                1 => String::new(),
                round => format!(" (round {round})"),
            };
            let _ = write!(
                xml,
                "    <testcase classname=\"{}\" name=\"{}{round}\" time=\"{:.3}\"",
                escaped(&case.suite),
                escaped(&case.name),
                case.took_seconds
            );
            let message = escaped(&case.message);
            let _ = match case.verdict {
                Verdict::Passed => writeln!(xml, "/>"),
                Verdict::Failed => writeln!(
                    xml,
                    ">\n      <failure message=\"{message}\">{message}</failure>\n    </testcase>"
                ),
                Verdict::Skipped => writeln!(
                    xml,
                    ">\n      <skipped message=\"{message}\"/>\n    </testcase>"
                ),
            };
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_runtime_says_is_well_formed() {
        let xml = junit(&super::super::example());
        assert!(
            xml.contains("tests=\"3\" failures=\"1\" errors=\"0\" skipped=\"1\""),
            "{xml}"
        );
        assert!(
            xml.contains("it says &lt;b&gt; no&lt;/b&gt;&#10;and why"),
            "{xml}"
        );
        assert!(
            xml.contains("name=\"a &lt;tag&gt; &amp; &quot;more&quot;\""),
            "{xml}"
        );
        assert_eq!(xml.matches("<testcase").count(), 3);
        // Every element that is opened is closed.
        let opened = xml.matches('<').count() - xml.matches("</").count() - 1;
        let closed = xml.matches("</").count() + xml.matches("/>").count();
        assert_eq!(opened, closed, "{xml}");
    }
}
