//! `-o go-template`: Go's text/template over the JSON that `-o json` would print.

use std::io::Write;

use clap::{Args, ValueEnum};
use gtmpl_ng::{Context, FuncError, Template as Parsed, Value as Datum};
use serde_json::Value;

use super::{Format, Output, json};
use crate::error::Error;

/// `-o` and `--template` of the commands that show one thing.
#[derive(Debug, Clone, Args)]
pub(crate) struct Shape {
    /// Output format
    #[arg(long, short, default_value = "json")]
    output: Name,
    /// Go template of the output, over what -o json shows; functions beside Go's: json, title, lower, upper
    #[arg(long)]
    template: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    Json,
    Yaml,
    Table,
    GoTemplate,
}

/// How a value is shown.
pub(crate) enum Form {
    Plain(Format),
    Template(Box<Parsed>),
}

impl Shape {
    /// A template that does not parse is refused before anything is asked for.
    pub(crate) fn form(self) -> Result<Form, Error> {
        Ok(Form::Plain(match (self.output, self.template) {
            (Name::GoTemplate, Some(text)) => return parse(&text),
            (Name::GoTemplate, None) => {
                return Err(Error::Usage(
                    "-o go-template needs --template, such as '{{.status.id}}'".to_owned(),
                ));
            }
            (_, Some(_)) => {
                return Err(Error::Usage(
                    "--template needs -o go-template as well".to_owned(),
                ));
            }
            (Name::Json, None) => Format::Json,
            (Name::Yaml, None) => Format::Yaml,
            (Name::Table, None) => Format::Table,
        }))
    }
}

impl Form {
    pub(crate) fn is_table(&self) -> bool {
        matches!(self, Self::Plain(Format::Table))
    }

    /// Prints a value and ends the line.
    pub(crate) fn write(&self, out: &mut Output, value: &Value) -> Result<(), Error> {
        match self {
            Self::Plain(format) => json::write_value(out, *format, value),
            Self::Template(template) => Ok(writeln!(out, "{}", render(template, value)?)?),
        }
    }
}

fn parse(text: &str) -> Result<Form, Error> {
    let mut template = Parsed::default();
    template.add_func("json", to_json);
    template.add_func("title", |given| changed("title", given, title));
    template.add_func("lower", |given| changed("lower", given, str::to_lowercase));
    template.add_func("upper", |given| changed("upper", given, str::to_uppercase));
    template
        .parse(text)
        .map_err(|error| Error::Usage(format!("--template: {error}")))?;
    Ok(Form::Template(Box::new(template)))
}

fn render(template: &Parsed, value: &Value) -> Result<String, Error> {
    template
        .render(&Context::from(datum(value)))
        .map_err(|error| Error::Refused(format!("--template: {error}")))
}

/// Objects become structs: a field that is not there is an error, as crictl has it, and no "<no value>".
fn datum(value: &Value) -> Datum {
    match value {
        Value::Null => Datum::Nil,
        Value::Bool(value) => Datum::Bool(*value),
        Value::String(text) => Datum::String(text.clone()),
        Value::Array(values) => Datum::Array(values.iter().map(datum).collect()),
        Value::Object(fields) => Datum::Object(
            fields
                .iter()
                .map(|(name, value)| (name.clone(), datum(value)))
                .collect(),
        ),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Datum::from(number),
            (_, Some(number)) => Datum::from(number),
            _ => Datum::from(number.as_f64().unwrap_or(f64::NAN)),
        },
    }
}

/// A line of JSON with its newline, as Go's encoder ends it.
fn to_json(given: &[Datum]) -> Result<Datum, FuncError> {
    let [value] = given else {
        return Err(FuncError::ExactlyXArgs("json".to_owned(), 1));
    };
    // By way of a value: its keys are sorted.
    let text = serde_json::to_value(value).map_err(|_| FuncError::UnableToConvertFromValue)?;
    Ok(Datum::String(format!("{text}\n")))
}

fn changed(
    name: &str,
    given: &[Datum],
    change: impl Fn(&str) -> String,
) -> Result<Datum, FuncError> {
    match given {
        [Datum::String(text)] => Ok(Datum::String(change(text))),
        [_] => Err(FuncError::UnableToConvertFromValue),
        _ => Err(FuncError::ExactlyXArgs(name.to_owned(), 1)),
    }
}

/// The first letter of each word in upper case, the others as they are.
fn title(text: &str) -> String {
    let mut inside = false;
    let mut titled = String::with_capacity(text.len());
    for letter in text.chars() {
        if inside {
            titled.push(letter);
        } else {
            titled.extend(letter.to_uppercase());
        }
        inside = letter.is_alphanumeric();
    }
    titled
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(text: &str) -> Result<String, String> {
        let value = json!({
            "status": {"id": "c1", "labels": {"a.b/c": "d"}, "exitCode": -3, "mounts": [{"p": "/x"}, {"p": "/y"}]},
            "big": u64::MAX, "on": true, "none": null
        });
        match parse(text).map_err(|error| error.to_string())? {
            Form::Template(template) => {
                render(&template, &value).map_err(|error| error.to_string())
            }
            Form::Plain(_) => unreachable!(),
        }
    }

    #[test]
    fn templates_are_gos_with_crictls_functions() {
        for (template, expected) in [
            (
                "{{.status.id}} {{.status.exitCode}} {{.big}}",
                "c1 -3 18446744073709551615",
            ),
            ("{{range .status.mounts}}{{.p}};{{end}}", "/x;/y;"),
            ("{{index .status.labels \"a.b/c\"}}", "d"),
            (
                "{{if .on}}yes{{else}}no{{end}} {{len .status.mounts}}",
                "yes 2",
            ),
            ("{{printf \"%-4s|\" .status.id}}", "c1  |"),
            (
                "{{upper .status.id}} {{title \"ab cD-e\"}} {{\"X\" | lower}}",
                "C1 Ab CD-E x",
            ),
            (
                "{{json .status.mounts}}",
                "[{\"p\":\"/x\"},{\"p\":\"/y\"}]\n",
            ),
        ] {
            assert_eq!(rendered(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn wrong_templates_and_missing_fields_are_errors() {
        for template in [
            "{{.status.id",
            "{{nosuch .status}}",
            "{{.status.nosuch}}",
            "{{.x.y}}",
        ] {
            let error = rendered(template).unwrap_err();
            assert!(error.starts_with("--template: "), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
