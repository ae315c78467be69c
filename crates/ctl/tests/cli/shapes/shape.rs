use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Fields that are newer than the interface that crictl 1.36 was built with.
const NEWER: [&str; 2] = ["mountOptions", "mount_options"];

/// What an output is made of: of JSON and YAML the fields in their order, of all else the words, with `N` for figures and `AGE` for ages.
pub(super) fn of(command: &str, output: &str) -> Vec<String> {
    let output = output.replace("\u{1b}[2J\u{1b}[H", "");
    let structured = if output.trim_start().starts_with(['{', '[']) {
        serde_json::from_str(&output).ok()
    } else if command.contains("-o yaml") {
        serde_saphyr::from_str(&output).ok()
    } else {
        None
    };
    match structured {
        Some(shape) => {
            let mut lines = Vec::new();
            Shape::write(&shape, "", 0, &mut lines);
            lines
        }
        // Help is each program's own.
        None if output.contains("USAGE:") || output.contains("Usage:") => vec!["help".to_owned()],
        None => output
            .lines()
            .map(words)
            .filter(|line| !line.is_empty())
            .collect(),
    }
}

fn words(line: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        // `3 minutes ago`, `About a minute ago`.
        if word == "ago" {
            while words.last().is_some_and(|last| of_an_age(last)) {
                words.pop();
            }
            words.push("AGE".to_owned());
            continue;
        }
        words.push(without_figures(word));
    }
    words.join(" ")
}

/// `2.21MB` is `N`, and `value:17` is `value:N`.
fn without_figures(word: &str) -> String {
    if word.starts_with(|c: char| c.is_ascii_digit()) {
        return "N".to_owned();
    }
    let pieces: Vec<&str> = word.split(|c: char| c.is_ascii_digit()).collect();
    let mut text = pieces[0].to_owned();
    for (before, piece) in pieces.iter().zip(&pieces[1..]) {
        if !before.is_empty() {
            text.push('N');
        }
        text.push_str(piece);
    }
    text
}

fn of_an_age(word: &str) -> bool {
    const UNITS: [&str; 7] = ["second", "minute", "hour", "day", "week", "month", "year"];
    ["N", "About", "Less", "than", "a", "an"].contains(&word)
        || UNITS.contains(&word.trim_end_matches('s'))
}

enum Shape {
    /// With its mark: `#` for a number, `?` for yes or no, nothing for text.
    Scalar(&'static str),
    /// Elements are alike.
    List(Option<Box<Shape>>),
    Object(Vec<(String, Shape)>),
}

impl Shape {
    /// A line for each field, but for objects that have nothing deeper in them: `metadata: name, attempt#`.
    fn write(&self, name: &str, depth: usize, lines: &mut Vec<String>) {
        let indent = "  ".repeat(depth);
        if let Some(inline) = self.inline() {
            lines.push(format!("{indent}{name}{inline}"));
            return;
        }
        let name = name.trim_end();
        // The whole has no name.
        let below = match name {
            "" => depth,
            _ => {
                lines.push(format!("{indent}{name}"));
                depth + 1
            }
        };
        match self {
            Self::Object(fields) => {
                for (field, value) in fields {
                    match value {
                        Self::Scalar(mark) => {
                            lines.push(format!("{}{field}{mark}", "  ".repeat(below)));
                        }
                        other => other.write(&format!("{field}: "), below, lines),
                    }
                }
            }
            Self::List(item) => {
                if let Some(item) = item {
                    item.write("- ", below, lines);
                }
            }
            Self::Scalar(_) => {}
        }
    }

    fn inline(&self) -> Option<String> {
        match self {
            Self::Scalar(mark) => Some(format!("scalar{mark}")),
            Self::List(None) => Some("[]".to_owned()),
            Self::List(Some(item)) => match item.as_ref() {
                Self::Scalar(mark) => Some(format!("[scalar{mark}]")),
                Self::List(_) | Self::Object(_) => None,
            },
            Self::Object(fields) => {
                let scalars = fields.iter().map(|(name, value)| match value {
                    Self::Scalar(mark) => Some(format!("{name}{mark}")),
                    Self::List(_) | Self::Object(_) => None,
                });
                scalars
                    .collect::<Option<Vec<_>>>()
                    .map(|all| all.join(", "))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON or YAML")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Scalar("?"))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Scalar("#"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Scalar("#"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Scalar("#"))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Scalar(""))
    }

    fn visit_unit<E: Error>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar(" null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let first = items.next_element()?;
        while items.next_element::<Shape>()?.is_some() {}
        Ok(Shape::List(first.map(Box::new)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Shape, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, value)) = entries.next_entry::<String, Shape>()? {
            if !NEWER.contains(&name.as_str()) {
                fields.push((name, value));
            }
        }
        Ok(Shape::Object(fields))
    }
}
