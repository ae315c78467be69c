//! Values of all files and flags by key: the last one wins.

use std::collections::BTreeMap;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Config, Key, Origin, Runtimes, Value,
    errors::{Place, Problem},
    files::{Source, position},
};

const RUNTIMES: &str = "runtimes";

/// What was said, each value checked against its key.
#[derive(Debug, Default)]
pub(super) struct Merged(BTreeMap<&'static str, Said>);

#[derive(Debug)]
struct Said {
    /// TOML.
    text: String,
    origin: Origin,
}

impl Merged {
    /// Adds a file over what there is. What is wrong in it goes to `problems`.
    pub(super) fn add_file(&mut self, source: &Source, problems: &mut Vec<Problem>) {
        let (document, errors) = DeTable::parse_recoverable(&source.text);
        if !errors.is_empty() {
            // What a broken text was meant to say is a guess: no more is said of it.
            problems.extend(errors.iter().map(|error| Problem::syntax(source, error)));
            return;
        }
        self.add_table("", document.into_inner(), source, problems);
    }

    fn add_table(
        &mut self,
        prefix: &str,
        table: DeTable<'_>,
        source: &Source,
        problems: &mut Vec<Problem>,
    ) {
        // The map is sorted by name, a reader's eye by line.
        let mut entries: Vec<_> = table.into_iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            let place = source.place(name.span().start);
            let full = match prefix {
                "" => name.get_ref().to_string(),
                prefix => format!("{prefix}.{}", name.get_ref()),
            };
            let section = Config::TABLES
                .iter()
                .find(|table| !table.name.is_empty() && table.name == full);
            match (section, key(&full)) {
                (Some(section), _) => match value.into_inner() {
                    DeValue::Table(inner) => {
                        self.add_table(section.name, inner, source, problems);
                    }
                    DeValue::String(_)
                    | DeValue::Integer(_)
                    | DeValue::Float(_)
                    | DeValue::Boolean(_)
                    | DeValue::Datetime(_)
                    | DeValue::Array(_) => problems.push(Problem::NotATable {
                        place,
                        key: section.name,
                    }),
                },
                (None, Some(key)) => match (key.check)(&value) {
                    Ok(()) => {
                        let line = position(&source.text, name.span().start).0;
                        let path = source.path.clone();
                        let origin = Origin::File { path, line };
                        let text = match key.name {
                            RUNTIMES => self.with_runtimes(&value),
                            _ => source.text[value.span()].to_owned(),
                        };
                        self.0.insert(key.name, Said { text, origin });
                    }
                    Err(wrong) => {
                        let place = source.place(wrong.span.start);
                        problems.push(Problem::value(place, key.name, &source.text, wrong));
                    }
                },
                (None, None) => problems.push(Problem::Unknown {
                    place,
                    nearest: nearest(&full),
                    key: full,
                }),
            }
        }
    }

    /// Handlers come in tables of their own, from several files.
    fn with_runtimes(&self, more: &Spanned<DeValue<'_>>) -> String {
        let mut runtimes: Runtimes = self.get(RUNTIMES).ok().flatten().unwrap_or_default();
        if let Ok(more) = Runtimes::read(more) {
            runtimes.extend(more);
        }
        runtimes.write().to_string()
    }

    /// Adds a flag's text as the value of `name`.
    pub(super) fn add_flag(
        &mut self,
        flag: &'static str,
        name: &'static str,
        value: String,
        problems: &mut Vec<Problem>,
    ) {
        let text = toml::Value::String(value).to_string();
        let checked = match (DeValue::parse(&text), key(name)) {
            (Ok(value), Some(key)) => (key.check)(&value),
            // What was written by TOML's own writer parses; flags name keys that exist.
            (Err(_), _) | (_, None) => Ok(()),
        };
        match checked {
            Err(wrong) => problems.push(Problem::value(Place::Flag(flag), name, &text, wrong)),
            Ok(()) => {
                let origin = Origin::Flag(flag);
                self.0.insert(name, Said { text, origin });
            }
        }
    }

    pub(super) fn get<T: Value>(&self, name: &'static str) -> Result<Option<T>, Problem> {
        match self.0.get(name) {
            Some(said) => read(name, &said.text).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn origin(&self, name: &str) -> Origin {
        self.0
            .get(name)
            .map_or(Origin::Default, |said| said.origin.clone())
    }
}

/// The default of `name`, which is TOML. A test reads them all.
pub(super) fn default<T: Value>(name: &'static str, text: &'static str) -> Result<T, Problem> {
    read(name, text)
}

/// A text that has been checked, or is a default.
fn read<T: Value>(name: &'static str, text: &str) -> Result<T, Problem> {
    let value = DeValue::parse(text).map_err(|error| Problem::Syntax {
        place: Place::Default,
        message: error.message().to_owned(),
    })?;
    T::read(&value).map_err(|wrong| Problem::value(Place::Default, name, text, wrong))
}

fn keys() -> impl Iterator<Item = &'static Key> {
    Config::TABLES.iter().flat_map(|table| table.keys)
}

fn key(name: &str) -> Option<&'static Key> {
    keys().find(|key| key.name == name)
}

/// The key that `name` may have meant: spelt alike, if need be in another table.
fn nearest(name: &str) -> Option<&'static str> {
    let (table, last) = name.rsplit_once('.').unwrap_or(("", name));
    // One slip in three letters.
    let most = (last.chars().count() / 3).max(1);
    let tables = Config::TABLES.iter().map(|table| table.name);
    keys()
        .map(|key| key.name)
        .chain(tables.filter(|table| !table.is_empty()))
        .filter_map(|known| {
            let (its_table, its_last) = known.rsplit_once('.').unwrap_or(("", known));
            let slips = strsim::damerau_levenshtein(its_last, last);
            (slips <= most).then_some((slips, its_table != table, known))
        })
        .min()
        .map(|(_, _, known)| known)
}
