//! Records side by side: as a table for a terminal, and as a page with plots.

mod html;
mod plots;
mod scale;
mod text;

pub use html::page;
pub use text::table;

use super::{
    record::{At, ClassMemory, Participant, Record, Series, Suite, Unit},
    statistics::Sorted,
};

/// What several records have measured, by what was measured.
#[derive(Debug)]
pub struct Comparison {
    files: Vec<File>,
    /// Endpoints first, in the order of the files; then the machines, where something was measured without a runtime.
    columns: Vec<Column>,
    groups: Vec<Group>,
    memory: Vec<Memory>,
}

/// A record, its samples aside.
#[derive(Debug)]
struct File {
    name: String,
    record: Record,
}

#[derive(Debug)]
struct Column {
    label: String,
    file: usize,
    /// None for a machine.
    participant: Option<Participant>,
}

/// One operation under one condition.
#[derive(Debug)]
struct Group {
    suite: Suite,
    experiment: String,
    operation: String,
    variant: String,
    unit: Unit,
    axis: Option<String>,
    cells: Vec<Cell>,
}

/// One column's samples of it, at one point of the axis.
#[derive(Debug)]
struct Cell {
    column: usize,
    at: Option<u64>,
    samples: Sorted,
}

#[derive(Debug)]
struct Memory {
    column: usize,
    pods: u64,
    classes: Vec<ClassMemory>,
}

impl Comparison {
    /// Of records with the names that tell them apart, such as those of their files.
    #[must_use]
    pub fn of(records: Vec<(String, Record)>) -> Self {
        let several = records.len() > 1;
        let labelled = |name: &str, file: &str| match several {
            true => format!("{name} ({file})"),
            false => name.to_owned(),
        };
        let mut columns = Vec::new();
        for (file, (name, record)) in records.iter().enumerate() {
            columns.extend(record.endpoints.iter().map(|participant| Column {
                label: labelled(&participant.name, name),
                file,
                participant: Some(participant.clone()),
            }));
        }
        for (file, (name, record)) in records.iter().enumerate() {
            if record.series.iter().any(|series| series.endpoint.is_none()) {
                columns.push(Column {
                    label: labelled("no runtime", name),
                    file,
                    participant: None,
                });
            }
        }
        let mut comparison = Self {
            files: Vec::new(),
            columns,
            groups: Vec::new(),
            memory: Vec::new(),
        };
        for (file, (name, mut record)) in records.into_iter().enumerate() {
            for series in std::mem::take(&mut record.series) {
                comparison.add(file, &series);
            }
            for memory in std::mem::take(&mut record.memory) {
                if let Some(column) = comparison.column(file, Some(&memory.endpoint)) {
                    comparison.memory.push(Memory {
                        column,
                        pods: memory.pods,
                        classes: memory.classes,
                    });
                }
            }
            comparison.files.push(File { name, record });
        }
        comparison.sort();
        comparison
    }

    fn add(&mut self, file: usize, series: &Series) {
        let column = self.column(file, series.endpoint.as_deref());
        let (Some(column), Some(samples)) = (column, Sorted::of(&series.samples)) else {
            return;
        };
        let cell = Cell {
            column,
            at: series.at.as_ref().map(|at| at.value),
            samples,
        };
        match self.groups.iter_mut().find(|group| group.has(series)) {
            Some(group) => group.cells.push(cell),
            None => self.groups.push(Group {
                suite: series.suite,
                experiment: series.experiment.clone(),
                operation: series.operation.clone(),
                variant: series.variant.clone(),
                unit: series.unit,
                axis: axis(series).map(str::to_owned),
                cells: vec![cell],
            }),
        }
    }

    fn column(&self, file: usize, endpoint: Option<&str>) -> Option<usize> {
        self.columns.iter().position(|column| {
            let name = column.participant.as_ref().map(|it| &*it.name);
            column.file == file && name == endpoint
        })
    }

    /// By suite, then in the order in which operations came; cells by their place on the axis, then by column.
    fn sort(&mut self) {
        self.groups.sort_by_key(|group| group.suite);
        for group in &mut self.groups {
            group.cells.sort_by_key(|cell| (cell.at, cell.column));
        }
        self.memory
            .sort_by_key(|memory| (memory.pods, memory.column));
    }

    /// Groups that belong in one section: one suite, experiment and variant, in the order in which the first of each came.
    fn sections(&self) -> Vec<Vec<&Group>> {
        let mut sections: Vec<Vec<&Group>> = Vec::new();
        for group in &self.groups {
            match sections.iter_mut().find(|section| section[0].beside(group)) {
                Some(section) => section.push(group),
                None => sections.push(vec![group]),
            }
        }
        sections
    }

    /// Warnings that belong to the whole: what a reader must know of each file.
    fn notes(&self) -> Vec<String> {
        let several = self.files.len() > 1;
        let mut notes = Vec::new();
        for file in &self.files {
            for note in &file.record.notes {
                notes.push(match several {
                    true => format!("{}: {note}", file.name),
                    false => note.clone(),
                });
            }
        }
        let machines = self.files.iter().map(|file| &file.record.machine);
        if machines
            .collect::<Vec<_>>()
            .windows(2)
            .any(|pair| pair[0] != pair[1])
        {
            notes.push("the files are of different machines, or of one that has changed: their figures cannot be compared".to_owned());
        } else if several {
            notes.push(
                "the files are of different runs: a machine is not always equally fast".to_owned(),
            );
        }
        notes
    }
}

fn axis(series: &Series) -> Option<&str> {
    series.at.as_ref().map(|At { axis, .. }| &**axis)
}

impl Group {
    fn has(&self, series: &Series) -> bool {
        self.suite == series.suite
            && self.experiment == series.experiment
            && self.operation == series.operation
            && self.variant == series.variant
            && self.unit == series.unit
            && self.axis.as_deref() == axis(series)
    }

    fn beside(&self, other: &Self) -> bool {
        self.suite == other.suite
            && self.experiment == other.experiment
            && self.variant == other.variant
    }

    /// `Pods: PodLifecycle, host network`.
    fn section_title(&self) -> String {
        let suite = match self.suite {
            Suite::Pods => "One pod at a time",
            Suite::Scale => "Ever more pods on the node",
            Suite::Concurrency => "Ever more pods at a time",
            Suite::Stream => "Streams",
            Suite::Images => "Images",
            Suite::Handlers => "A pod through each handler",
        };
        let variant = match &*self.variant {
            "" => String::new(),
            variant => format!(", {variant}"),
        };
        format!("{suite}: {}{variant}", self.experiment)
    }

    /// What cells are compared with: the first column's at the same place.
    fn base(&self, cell: &Cell) -> Option<&Sorted> {
        let first = self.cells.iter().find(|other| other.at == cell.at)?;
        (first.column != cell.column).then_some(&first.samples)
    }
}

impl Unit {
    /// What a figure is multiplied by to be shown, and what it is called then.
    fn shown(self) -> (f64, &'static str) {
        match self {
            Self::Ms => (1.0, "ms"),
            Self::CpuMs => (1.0, "ms of processor time"),
            Self::Bytes => (1.0 / 1024.0, "KiB"),
            Self::BytesPerSecond => (1e-6, "MB/s"),
            Self::PerSecond => (1.0, "a second"),
        }
    }
}

/// Three digits that mean something.
fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        large if large >= 99.95 => 0,
        large if large >= 9.995 => 1,
        large if large >= 0.9995 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::tests::example;

    #[test]
    fn files_stand_side_by_side() {
        let alone = Comparison::of(vec![("a.json".to_owned(), example())]);
        let labels: Vec<&str> = alone.columns.iter().map(|it| &*it.label).collect();
        assert_eq!(labels, ["one", "two", "no runtime"]);
        let mut other = example();
        other.machine.kernel.push_str("-other");
        let both = Comparison::of(vec![
            ("a.json".to_owned(), example()),
            ("b.json".to_owned(), other),
        ]);
        assert_eq!(both.columns.len(), 6);
        assert_eq!(both.columns[2].label, "one (b.json)");
        assert_eq!(both.groups.len(), alone.groups.len());
        let removal = both.groups.iter().find(|it| it.operation == "RemovePod");
        assert_eq!(removal.unwrap().cells.len(), 12);
        assert!(
            both.notes()
                .iter()
                .any(|note| note.contains("cannot be compared"))
        );
        assert!(!alone.notes().iter().any(|note| note.contains("compared")));
    }

    #[test]
    fn figures_have_three_digits() {
        for (value, text) in [
            (0.0123, "0.012"),
            (1.0, "1.00"),
            (9.999, "10.0"),
            (99.96, "100"),
            (12345.6, "12346"),
        ] {
            assert_eq!(figure(value), text);
        }
    }
}
