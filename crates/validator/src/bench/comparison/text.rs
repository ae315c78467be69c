use std::fmt::Write as _;

use super::{Comparison, Group, figure};
use crate::bench::statistics::ratio;

/// Widths of a row's name and of each figure.
const NAME: usize = 60;
const FIGURE: usize = 10;

/// For a terminal: a row for each operation of each column, with the median, its interval of 95 %, and how many times the first column's it is.
#[must_use]
pub fn table(comparison: &Comparison) -> String {
    let mut text = String::new();
    for file in &comparison.files {
        let machine = &file.record.machine;
        let _ = writeln!(
            text,
            "Linux {}, {} processors, cgroups {}; {:.0} s",
            machine.kernel, machine.processors, machine.cgroups, file.record.took_seconds
        );
    }
    for column in &comparison.columns {
        if let Some(it) = &column.participant {
            let _ = writeln!(text, "{}: {} {}", column.label, it.runtime, it.version);
        }
    }
    for section in comparison.sections() {
        section_rows(&mut text, comparison, &section);
    }
    memory(&mut text, comparison);
    for note in comparison.notes() {
        let _ = writeln!(text, "\nnote: {note}");
    }
    text
}

fn section_rows(text: &mut String, comparison: &Comparison, section: &[&Group]) {
    let _ = write!(text, "\n  {:<NAME$}", section[0].section_title());
    for column in ["median", "from", "to", "p90", "max", "count", "times"] {
        let _ = write!(text, "{column:>FIGURE$}");
    }
    text.push('\n');
    for group in section {
        let (factor, unit) = group.unit.shown();
        for cell in &group.cells {
            let mut name = format!("{}, {unit}", group.operation);
            if let (Some(axis), Some(at)) = (&group.axis, cell.at) {
                let _ = write!(name, ", {at} {axis}");
            }
            if comparison.columns.len() > 1 {
                let _ = write!(name, ", {}", comparison.columns[cell.column].label);
            }
            let median = cell.samples.median();
            let figures = [
                median.value,
                median.low,
                median.high,
                cell.samples.percentile(90),
                cell.samples.percentile(100),
            ];
            let _ = write!(text, "  {name:<NAME$}");
            for value in figures {
                let _ = write!(text, "{:>FIGURE$}", figure(value * factor));
            }
            let _ = write!(text, "{:>FIGURE$}", cell.samples.count());
            let times = group.base(cell).and_then(|base| ratio(base, &cell.samples));
            if let Some(times) = times {
                let _ = write!(text, "{:>FIGURE$}", figure(times.value));
            }
            text.push('\n');
        }
    }
}

fn memory(text: &mut String, comparison: &Comparison) {
    if comparison.memory.is_empty() {
        return;
    }
    let _ = write!(text, "\n  {:<NAME$}", "memory, MB");
    for column in ["count", "rss", "pss", "private"] {
        let _ = write!(text, "{column:>FIGURE$}");
    }
    text.push('\n');
    for memory in &comparison.memory {
        for row in memory.classes.iter().filter(|row| row.count > 0) {
            let label = &comparison.columns[memory.column].label;
            let name = format!("{}, {} pods, {label}", row.class.word(), memory.pods);
            let megabytes = |bytes: u64| bytes as f64 / 1e6;
            let _ = writeln!(
                text,
                "  {name:<NAME$}{:>FIGURE$}{:>FIGURE$.2}{:>FIGURE$.2}{:>FIGURE$.2}",
                row.count,
                megabytes(row.memory.resident),
                megabytes(row.memory.proportional),
                megabytes(row.memory.private)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::tests::example;

    #[test]
    fn every_series_has_its_row() {
        let record = example();
        let series = record.series.len();
        let text = table(&Comparison::of(vec![("a".to_owned(), record)]));
        let rows = text
            .lines()
            .filter(|line| line.contains(", ms, ") || line.contains(", MB/s, "));
        assert_eq!(rows.count(), series, "{text}");
        assert!(
            text.contains("RemovePod, ms, 500 pods running, two"),
            "{text}"
        );
        assert!(text.contains("supervisors, 10 pods, one"), "{text}");
        assert!(text.contains("note: one & two"), "{text}");
        assert!(!text.contains("log processes"), "{text}");
    }
}
