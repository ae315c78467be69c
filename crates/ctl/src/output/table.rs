use std::io::{self, Write};

/// Narrowest column, and the space between columns; crictl's.
const MIN_WIDTH: usize = 20;
const PADDING: usize = 3;

/// Left-aligned columns. The last one is not padded.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn with_header(columns: &[&str]) -> Self {
        Self {
            rows: vec![columns.iter().map(|&column| column.to_owned()).collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            MIN_WIDTH.max(longest + PADDING)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                // Names come from images and users: a control character would move the reader's cursor.
                let cell: String = cell.chars().map(visible).collect();
                if column + 1 == row.len() {
                    writeln!(out, "{cell}")?;
                } else {
                    write!(out, "{cell:<width$}", width = widths[column])?;
                }
            }
        }
        Ok(())
    }
}

fn visible(c: char) -> char {
    if c.is_control() { '\u{fffd}' } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_the_last_is_bare() {
        let mut table = Table::with_header(&["ID", "NAME", "STATE"]);
        let cells = |cells: [&str; 3]| cells.map(str::to_owned);
        table.row(cells(["1", "a-name-that-is-longer-than-twenty", "Running"]));
        table.row(cells(["22", "é\u{1b}x", "Exited"]));
        let mut text = Vec::new();
        table.write(&mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "ID                  NAME                                STATE\n\
             1                   a-name-that-is-longer-than-twenty   Running\n\
             22                  é\u{fffd}x                                 Exited\n"
        );
    }
}
