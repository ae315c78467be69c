//! What `info`, `inspect`, `inspectp` and `inspecti` share: the status and the runtime's verbose information in one object.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Map, Value};

use crate::error::Error;
use crate::output::Output;
use crate::output::template::Form;

/// `{"status": …, KEY: …}`. Information that is itself JSON is shown as such.
pub(crate) fn with_info(status: Value, info: BTreeMap<String, String>) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("status".to_owned(), status);
    for (key, text) in info {
        let value = match serde_json::from_str(&text) {
            Ok(value @ Value::Object(_)) => value,
            _ => Value::String(text.trim_matches('"').to_owned()),
        };
        object.insert(key, value);
    }
    object
}

/// A map as Go prints it.
pub(crate) fn write_info(out: &mut Output, info: &BTreeMap<String, String>) -> Result<(), Error> {
    let entries: Vec<_> = (info.iter())
        .map(|(key, value)| format!("{key}:{value}"))
        .collect();
    writeln!(out, "Info: map[{}]", entries.join(" "))?;
    Ok(())
}

/// One object, or a list of several.
pub(crate) fn write(
    out: &mut Output,
    form: &Form,
    mut objects: Vec<Map<String, Value>>,
) -> Result<(), Error> {
    let value = if objects.len() == 1 {
        Value::Object(objects.remove(0))
    } else {
        Value::Array(objects.into_iter().map(Value::Object).collect())
    };
    form.write(out, &value)
}

/// Replaces nanoseconds by RFC 3339; 0 is the year 1, as Go writes "never".
pub(crate) fn set_time(status: &mut Value, field: &str, ns: Option<i64>) {
    let text = match ns {
        Some(ns) => crate::output::time::rfc3339(ns),
        None => "0001-01-01T00:00:00Z".to_owned(),
    };
    if let Value::Object(fields) = status {
        fields.insert(field.to_owned(), Value::String(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn information_is_json_where_it_can_be() {
        let info = BTreeMap::from([
            ("a".to_owned(), "{\"pid\": 7}".to_owned()),
            ("b".to_owned(), "\"quoted\"".to_owned()),
            ("c".to_owned(), "{broken".to_owned()),
        ]);
        assert_eq!(
            Value::Object(with_info(json!({"id": "x"}), info)),
            json!({"status": {"id": "x"}, "a": {"pid": 7}, "b": "quoted", "c": "{broken"})
        );
    }
}
