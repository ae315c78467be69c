//! The pictures of the page. Colours are classes of its style: `c0` and on for columns, `m` for machines, `k0` and on for classes of processes.

use std::fmt::Write as _;

use super::{Cell, Column, Comparison, Group, Memory, figure, scale::Scale};
use crate::{
    bench::record::Class,
    page::{self, WIDE, escaped},
};

/// Colours of columns that are told apart.
pub(super) const COLOURS: usize = 6;

/// Of a picture with rows: where the plot begins and ends; left of it are names, right of it figures.
const LEFT: f64 = 330.0;
const RIGHT: f64 = WIDE - 150.0;
const ROW: f64 = 17.0;

/// Of a small picture.
const SMALL: (f64, f64) = (440.0, 250.0);

/// More dots than that say no more.
const MOST_DOTS: usize = 80;

pub(super) fn class(columns: &[Column], column: usize) -> String {
    match columns[column].participant {
        Some(_) => format!("c{}", column % COLOURS),
        None => "m".to_owned(),
    }
}

/// A row for each operation of each column: its samples, its median, and the median's interval. All groups are of one unit.
pub(super) fn strips(page: &mut String, comparison: &Comparison, groups: &[&Group]) {
    let Some(first) = groups.first() else {
        return;
    };
    let (factor, unit) = first.unit.shown();
    let cells = || groups.iter().flat_map(|group| &group.cells);
    let ends = |cell: &Cell| [0, 100].map(|percent| cell.samples.percentile(percent) * factor);
    let values: Vec<f64> = cells().flat_map(ends).collect();
    let scale = Scale::fitting(&values);
    let x = |value: f64| LEFT + scale.position(value * factor) * (RIGHT - LEFT);
    let gaps = groups.len() as f64 * 6.0;
    let height = cells().count() as f64 * ROW + gaps;
    page::picture(page, (WIDE, height + 22.0), |page| {
        for tick in scale.ticks(6) {
            vertical(
                page,
                x(tick / factor),
                height,
                &format!("{} {unit}", short(tick)),
            );
        }
        let mut y = 0.0;
        for group in groups {
            text(page, (0.0, y + 13.0), "start", &group.operation);
            for cell in &group.cells {
                strip(page, comparison, (group, cell), y, &x);
                y += ROW;
            }
            y += 6.0;
        }
    });
}

fn strip(
    page: &mut String,
    comparison: &Comparison,
    (group, cell): (&Group, &Cell),
    y: f64,
    x: &impl Fn(f64) -> f64,
) {
    let column = &comparison.columns[cell.column];
    let class = class(&comparison.columns, cell.column);
    let (factor, unit) = group.unit.shown();
    let middle = y + ROW / 2.0;
    text(page, (LEFT - 8.0, y + 13.0), "end", &column.label);
    let count = cell.samples.count();
    let dots = count.min(MOST_DOTS);
    for dot in 1..=dots {
        let value = cell.samples.percentile(dot * 100 / dots);
        let _ = write!(
            page,
            "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"2.2\"/>",
            x(value)
        );
    }
    let median = cell.samples.median();
    let title = format!(
        "{}, {}: median {} {unit}, between {} and {} ({count} samples)",
        group.operation,
        column.label,
        figure(median.value * factor),
        figure(median.low * factor),
        figure(median.high * factor),
    );
    let (low, high) = (x(median.low), x(median.high));
    let interval = (low, middle - 2.5, (high - low).max(1.0), 5.0);
    page::bar(page, interval, &class, &title);
    let tick = (x(median.value) - 1.2, middle - 6.5, 2.4, 13.0);
    page::bar(page, tick, &class, &title);
    let shown = format!("{} {unit}", figure(median.value * factor));
    text(page, (RIGHT + 10.0, y + 13.0), "start", &shown);
}

/// Medians and their intervals along the axis.
pub(super) fn lines(page: &mut String, comparison: &Comparison, group: &Group) {
    let (factor, unit) = group.unit.shown();
    let axis = group.axis.as_deref().unwrap_or_default();
    let medians: Vec<_> = group
        .cells
        .iter()
        .map(|cell| cell.samples.median())
        .collect();
    let values: Vec<f64> = (medians.iter())
        .flat_map(|median| [median.low, median.high].map(|value| value * factor))
        .collect();
    let vertical_scale = Scale::fitting(&values);
    let places: Vec<f64> = (group.cells.iter())
        .filter_map(|cell| cell.at.map(|at| at.max(1) as f64))
        .collect();
    let along = Scale::log(places.iter().copied());
    let (left, right, top, bottom) = (52.0, SMALL.0 - 12.0, 26.0, SMALL.1 - 38.0);
    let x = |value: f64| left + along.position(value) * (right - left);
    let y = |value: f64| bottom - vertical_scale.position(value) * (bottom - top);
    page::picture(page, SMALL, |page| {
        text(
            page,
            (left, 14.0),
            "start",
            &format!("{}, {unit}", group.operation),
        );
        for tick in vertical_scale.ticks(5) {
            let _ = write!(
                page,
                "<line x1=\"{left}\" x2=\"{right}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>",
                y(tick)
            );
            text(page, (left - 6.0, y(tick) + 4.0), "end", &short(tick));
        }
        let mut marks = places.clone();
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        for mark in marks {
            text(page, (x(mark), bottom + 16.0), "middle", &short(mark));
        }
        text(page, ((left + right) / 2.0, SMALL.1 - 6.0), "middle", axis);
        for column in 0..comparison.columns.len() {
            let points = group.cells.iter().zip(&medians);
            let points: Vec<_> = points.filter(|(cell, _)| cell.column == column).collect();
            if points.is_empty() {
                continue;
            }
            let class = class(&comparison.columns, column);
            let place = |cell: &Cell| x(cell.at.unwrap_or(1).max(1) as f64);
            let path = points.iter().map(|(cell, median)| {
                format!("{:.1},{:.1}", place(cell), y(median.value * factor))
            });
            let path: Vec<String> = path.collect();
            let _ = write!(
                page,
                "<polyline class=\"{class}\" points=\"{}\"/>",
                path.join(" ")
            );
            for (cell, median) in points {
                let (low, high) = (y(median.low * factor), y(median.high * factor));
                let title = format!(
                    "{}, {} {axis}: median {} {unit}, between {} and {} ({} samples)",
                    comparison.columns[column].label,
                    cell.at.unwrap_or_default(),
                    figure(median.value * factor),
                    figure(median.low * factor),
                    figure(median.high * factor),
                    cell.samples.count(),
                );
                let whisker = (place(cell) - 1.0, high, 2.0, (low - high).max(1.0));
                page::bar(page, whisker, &class, &title);
                let point = (place(cell) - 3.0, y(median.value * factor) - 3.0, 6.0, 6.0);
                page::bar(page, point, &class, &title);
            }
        }
    });
}

/// Memory by class, proportional: what several share is counted once.
pub(super) fn stacks(page: &mut String, comparison: &Comparison) {
    let total = |memory: &Memory| -> f64 {
        let classes = memory.classes.iter();
        classes
            .map(|row| row.memory.proportional as f64 / 1e6)
            .sum()
    };
    let scale = Scale::linear(comparison.memory.iter().map(total));
    let width = |value: f64| scale.position(value) * (RIGHT - LEFT);
    let height = comparison.memory.len() as f64 * ROW;
    page::picture(page, (WIDE, height + 22.0), |page| {
        for tick in scale.ticks(6) {
            vertical(
                page,
                LEFT + width(tick),
                height,
                &format!("{} MB", short(tick)),
            );
        }
        for (row, memory) in comparison.memory.iter().enumerate() {
            let y = row as f64 * ROW;
            let label = &comparison.columns[memory.column].label;
            let name = format!("{} pods, {label}", memory.pods);
            text(page, (LEFT - 8.0, y + 13.0), "end", &name);
            let mut x = LEFT;
            for it in &memory.classes {
                let megabytes = it.memory.proportional as f64 / 1e6;
                let index = Class::ALL.iter().position(|class| *class == it.class);
                let title = format!(
                    "{name}: {} {}, {} MB",
                    it.count,
                    it.class.word(),
                    figure(megabytes)
                );
                let class = format!("k{}", index.unwrap_or_default());
                page::bar(
                    page,
                    (x, y + 2.0, width(megabytes), ROW - 4.0),
                    &class,
                    &title,
                );
                x += width(megabytes);
            }
            let shown = format!("{} MB", figure(total(memory)));
            text(page, (RIGHT + 10.0, y + 13.0), "start", &shown);
        }
    });
}

fn vertical(page: &mut String, x: f64, height: f64, label: &str) {
    let _ = write!(
        page,
        "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{height:.1}\"/>"
    );
    text(page, (x, height + 16.0), "middle", label);
}

fn text(page: &mut String, (x, y): (f64, f64), anchor: &str, said: &str) {
    let _ = write!(
        page,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escaped(said)
    );
}

/// A tick's value: round as it is.
fn short(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_owned()
}
