use std::fmt::Write as _;

use super::{
    Comparison, Group, figure,
    plots::{class, lines, stacks, strips},
};
use crate::{
    bench::{
        record::{Class, Suite},
        statistics::{Median, ratio},
    },
    page::{self, escaped},
};

/// One page that needs nothing else: who was measured where, and for each experiment its plots and its table, the columns side by side.
#[must_use]
pub fn page(comparison: &Comparison) -> String {
    let endpoints = comparison
        .columns
        .iter()
        .filter(|it| it.participant.is_some());
    let names: Vec<&str> = endpoints.map(|column| &*column.label).collect();
    let title = format!("longshore bench: {}", names.join(", "));
    let mut page = page::begin(&title, STYLE, DARK);
    let _ = writeln!(page, "<h1>{}</h1>", escaped(&names.join(", ")));
    for note in comparison.notes() {
        let _ = writeln!(page, "<p class=\"note\">{}</p>", escaped(&note));
    }
    participants(&mut page, comparison);
    runs(&mut page, comparison);
    page.push_str(METHOD);
    let mut suite = None;
    for section in comparison.sections() {
        if suite.is_some_and(|suite| suite == Suite::Scale) && section[0].suite != Suite::Scale {
            memory(&mut page, comparison);
        }
        suite = Some(section[0].suite);
        let _ = writeln!(page, "<h2>{}</h2>", escaped(&section[0].section_title()));
        legend(&mut page, comparison);
        plots(&mut page, comparison, &section);
        table(&mut page, comparison, &section);
    }
    if suite == Some(Suite::Scale) {
        memory(&mut page, comparison);
    }
    page::end(&mut page);
    page
}

const STYLE: &str = "\
.note{color:#a15c00}.key{margin:.2rem 0 .6rem}.key span{margin-right:1.2rem}.key i{display:inline-block;width:.8rem;height:.8rem;margin-right:.35rem}\
details{margin:.6rem 0}summary{cursor:pointer;color:#666}.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(24rem,1fr));gap:1rem}\
circle{opacity:.3}polyline{fill:none!important;stroke-width:1.8}td.first{white-space:nowrap}\
.c0{fill:#1f77b4;background:#1f77b4;stroke:#1f77b4}.c1{fill:#e0711a;background:#e0711a;stroke:#e0711a}\
.c2{fill:#2a9d5c;background:#2a9d5c;stroke:#2a9d5c}.c3{fill:#b5443c;background:#b5443c;stroke:#b5443c}\
.c4{fill:#8a63b8;background:#8a63b8;stroke:#8a63b8}.c5{fill:#94732b;background:#94732b;stroke:#94732b}\
.m{fill:#888;background:#888;stroke:#888}rect,circle{stroke:none}\
.k0{fill:#1f77b4;background:#1f77b4}.k1{fill:#e0711a;background:#e0711a}.k2{fill:#2a9d5c;background:#2a9d5c}\
.k3{fill:#8a63b8;background:#8a63b8}.k4{fill:#aaa;background:#aaa}.k5{fill:#94732b;background:#94732b}";

const DARK: &str = ".note{color:#e0a458}summary{color:#999}";

/// What the figures mean.
const METHOD: &str = "<p class=\"where\">The endpoints took turns, round by round, in a shuffled order. A dot is a sample (80 at most, by rank); the tick is \
the median, the bar around it the interval that holds the true median in 95 of 100 cases, by order statistics: no distribution is supposed. With fewer than six \
samples the interval is from the smallest to the largest, and holds it less often. &#8220;Times&#8221; is the ratio of the medians to the first column&#8217;s, its \
interval by a bootstrap of 1000 draws. Names of experiments and operations are those of critest&#8217;s benchmarks where it has them.</p>\n";

fn participants(page: &mut String, comparison: &Comparison) {
    page.push_str(
        "<table>\n<tr><th></th><th>runtime</th><th>version</th><th>handler</th><th>endpoint</th></tr>\n",
    );
    for (index, column) in comparison.columns.iter().enumerate() {
        let Some(it) = &column.participant else {
            continue;
        };
        let handler = match &*it.handler {
            "" => "its default",
            handler => handler,
        };
        let _ = writeln!(
            page,
            "<tr><td class=\"key\"><i class=\"{}\"></i>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            class(&comparison.columns, index),
            escaped(&column.label),
            escaped(&it.runtime),
            escaped(&it.version),
            escaped(handler),
            escaped(&it.endpoint)
        );
    }
    page.push_str("</table>\n");
}

fn runs(page: &mut String, comparison: &Comparison) {
    for file in &comparison.files {
        let (record, machine) = (&file.record, &file.record.machine);
        let began = i64::try_from(record.began).ok();
        let began = began.and_then(|began| jiff::Timestamp::from_second(began).ok());
        let began = began.map_or_else(String::new, |it| it.strftime("%Y-%m-%d %H:%M").to_string());
        let processor = match &*machine.processor {
            "" => String::new(),
            processor => format!(" ({})", escaped(processor)),
        };
        let _ = writeln!(
            page,
            "<p class=\"where\">{}: {began} UTC, {:.0} s; Linux {}, {} processors{processor}, {:.1} GB of memory, cgroups {}; {} rounds after {} to warm up, seed {}</p>",
            escaped(&file.name),
            record.took_seconds,
            escaped(&machine.kernel),
            machine.processors,
            machine.memory_bytes as f64 / 1e9,
            escaped(&machine.cgroups),
            record.repeats,
            record.warmup,
            record.seed
        );
    }
}

fn legend(page: &mut String, comparison: &Comparison) {
    page.push_str("<p class=\"key\">");
    for (index, column) in comparison.columns.iter().enumerate() {
        let _ = write!(
            page,
            "<span><i class=\"{}\"></i>{}</span>",
            class(&comparison.columns, index),
            escaped(&column.label)
        );
    }
    page.push_str("</p>\n");
}

fn plots(page: &mut String, comparison: &Comparison, section: &[&Group]) {
    let (along, alone): (Vec<&Group>, Vec<&Group>) =
        section.iter().partition(|group| group.axis.is_some());
    let mut units: Vec<_> = alone.iter().map(|group| group.unit).collect();
    units.dedup();
    for (index, unit) in units.iter().enumerate() {
        if units[..index].contains(unit) {
            continue;
        }
        let groups: Vec<&Group> = (alone.iter().copied())
            .filter(|group| group.unit == *unit)
            .collect();
        strips(page, comparison, &groups);
    }
    if !along.is_empty() {
        page.push_str("<div class=\"grid\">\n");
        for group in along {
            page.push_str("<div>");
            lines(page, comparison, group);
            page.push_str("</div>\n");
        }
        page.push_str("</div>\n");
    }
}

fn table(page: &mut String, comparison: &Comparison, section: &[&Group]) {
    page.push_str(
        "<details><summary>figures</summary><table>\n<tr><th></th><th></th><th></th><th class=\"n\">median</th><th class=\"n\">95 %</th><th class=\"n\">p90</th><th class=\"n\">max</th><th class=\"n\">samples</th><th class=\"n\">times</th></tr>\n",
    );
    for group in section {
        let (factor, unit) = group.unit.shown();
        for cell in &group.cells {
            let place = match (&group.axis, cell.at) {
                (Some(axis), Some(at)) => format!("{at} {axis}"),
                _ => String::new(),
            };
            let median = cell.samples.median();
            let times = group.base(cell).and_then(|base| ratio(base, &cell.samples));
            let _ = writeln!(
                page,
                "<tr><td class=\"first\">{}, {unit}</td><td>{place}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                escaped(&group.operation),
                escaped(&comparison.columns[cell.column].label),
                figure(median.value * factor),
                interval(median, factor),
                figure(cell.samples.percentile(90) * factor),
                figure(cell.samples.percentile(100) * factor),
                cell.samples.count(),
                times.map_or_else(String::new, |times| format!(
                    "{} ({})",
                    figure(times.value),
                    interval(times, 1.0)
                ))
            );
        }
    }
    page.push_str("</table></details>\n");
}

fn interval(median: Median, factor: f64) -> String {
    format!(
        "{} to {}",
        figure(median.low * factor),
        figure(median.high * factor)
    )
}

fn memory(page: &mut String, comparison: &Comparison) {
    if comparison.memory.is_empty() {
        return;
    }
    page.push_str(
        "<h2>Memory by what processes are for</h2>\n<p class=\"where\">With pods that do nothing, one container each; proportional: pages that several processes \
         share are divided among them. What ran before the pods came is not in it, the daemon aside.</p>\n<p class=\"key\">",
    );
    for (index, class) in Class::ALL.into_iter().enumerate() {
        let _ = write!(
            page,
            "<span><i class=\"k{index}\"></i>{}</span>",
            class.word()
        );
    }
    page.push_str("</p>\n");
    stacks(page, comparison);
    page.push_str(
        "<details><summary>figures</summary><table>\n<tr><th>pods</th><th></th><th></th><th class=\"n\">processes</th><th class=\"n\">resident, MB</th><th class=\"n\">proportional</th><th class=\"n\">private</th></tr>\n",
    );
    for memory in &comparison.memory {
        for row in memory.classes.iter().filter(|row| row.count > 0) {
            let megabytes = |bytes: u64| figure(bytes as f64 / 1e6);
            let _ = writeln!(
                page,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                memory.pods,
                escaped(&comparison.columns[memory.column].label),
                row.class.word(),
                row.count,
                megabytes(row.memory.resident),
                megabytes(row.memory.proportional),
                megabytes(row.memory.private)
            );
        }
    }
    page.push_str("</table></details>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bench::record::tests::example, page::assert_self_contained};

    #[test]
    fn the_page_has_every_series_and_needs_nothing_else() {
        let record = example();
        let series = record.series.len();
        let comparison = Comparison::of(vec![("a<b>.json".to_owned(), record)]);
        let page = page(&comparison);
        assert_self_contained(&page);
        // A row of figures for each, and in the plots the words of each.
        assert_eq!(
            page.matches(", ms</td>").count() + page.matches(", MB/s</td>").count(),
            series
        );
        for said in [
            "container, no runtime: median 5.00 ms, between 2.00 and 8.00 (9 samples)",
            "CreatePod, one: median 5.00 ms",
            "StartContainer, two: median",
            "two, 500 pods running: median",
            "out of the container, one: median 1000 MB/s",
            "10 pods, one: 10 supervisors",
            "1.00 (",
            "2023-11-14 22:13 UTC",
        ] {
            assert!(page.contains(said), "{said}\n{page}");
        }
        assert!(page.contains("&lt;one&gt;") && page.contains("a&lt;b&gt;.json"));
        assert!(page.contains("one &amp; two: &lt;b&gt;nothing&lt;/b&gt;"));
    }

    #[test]
    fn a_run_that_measured_nothing_has_a_page() {
        let mut record = example();
        record.series.clear();
        record.memory.clear();
        let page = page(&Comparison::of(vec![("a".to_owned(), record)]));
        assert_self_contained(&page);
        assert!(!page.contains("<svg"));
    }
}
