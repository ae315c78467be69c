//! From a value to a message, guided by the schema.
//!
//! Accepted, as crictl's users write it: field names as in the proto (`log_directory`) or as in its JSON (`logDirectory`); enums
//! by name or by number; integers as numbers or as strings; `bytes` (only `envs[].value`) as plain text, not base64; null for
//! "not set". Everything else is refused with the field's path.

use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor,
};
use serde_json::{Map, Value};

use crate::output::json::descriptor;

/// Which field, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{}{reason}", at(.path))]
pub(crate) struct MessageError {
    path: String,
    reason: String,
}

fn at(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!("{path}: ")
    }
}

/// Reads a message of type `M`.
pub(crate) fn message<M: prost::Message + prost::Name + Default>(
    value: &Value,
) -> Result<M, MessageError> {
    let dynamic = object(&descriptor::<M>(), value, "")?;
    dynamic.transcode_to().map_err(|error| MessageError {
        path: String::new(),
        reason: error.to_string(),
    })
}

fn object(
    descriptor: &MessageDescriptor,
    value: &Value,
    path: &str,
) -> Result<DynamicMessage, MessageError> {
    let Value::Object(entries) = value else {
        return Err(expected("keys and values", value, path));
    };
    let mut message = DynamicMessage::new(descriptor.clone());
    for (key, value) in entries {
        let path = &join(path, key);
        let field = descriptor
            .get_field_by_name(key)
            .or_else(|| descriptor.get_field_by_json_name(key))
            .ok_or_else(|| unknown_field(descriptor, key, path))?;
        if value.is_null() {
            continue;
        }
        if message.has_field(&field) {
            return Err(error(path, "given twice, under both of its names"));
        }
        let value = field_value(&field, value, path)?;
        message.set_field(&field, value);
    }
    Ok(message)
}

fn field_value(
    field: &FieldDescriptor,
    value: &Value,
    path: &str,
) -> Result<prost_reflect::Value, MessageError> {
    if field.is_map() {
        let Value::Object(entries) = value else {
            return Err(expected("keys and values", value, path));
        };
        return map(field, entries, path);
    }
    if field.is_list() {
        let Value::Array(items) = value else {
            return Err(expected("a list", value, path));
        };
        let item = |(index, item): (usize, &Value)| {
            single(&field.kind(), item, &format!("{path}[{index}]"))
        };
        let items: Result<_, _> = items.iter().enumerate().map(item).collect();
        return Ok(prost_reflect::Value::List(items?));
    }
    single(&field.kind(), value, path)
}

fn map(
    field: &FieldDescriptor,
    entries: &Map<String, Value>,
    path: &str,
) -> Result<prost_reflect::Value, MessageError> {
    let kind = match field.kind() {
        Kind::Message(entry) => entry.map_entry_value_field().kind(),
        other => other,
    };
    let entry = |(key, value): (&String, &Value)| {
        let value = single(&kind, value, &format!("{path}[{key:?}]"))?;
        Ok((MapKey::String(key.clone()), value))
    };
    let entries: Result<_, _> = entries.iter().map(entry).collect();
    Ok(prost_reflect::Value::Map(entries?))
}

fn single(kind: &Kind, value: &Value, path: &str) -> Result<prost_reflect::Value, MessageError> {
    use prost_reflect::Value as Out;
    Ok(match kind {
        Kind::Message(descriptor) => Out::Message(object(descriptor, value, path)?),
        Kind::Enum(descriptor) => Out::EnumNumber(enumerator(descriptor, value, path)?),
        Kind::String => Out::String(text(value, path)?.to_owned()),
        Kind::Bytes => Out::Bytes(text(value, path)?.as_bytes().to_vec().into()),
        Kind::Bool => match value {
            Value::Bool(bool) => Out::Bool(*bool),
            other => return Err(expected("true or false", other, path)),
        },
        Kind::Double => Out::F64(float(value, path)?),
        Kind::Float => Out::F32(float(value, path)? as f32),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Out::I32(integer(value, path)?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Out::I64(integer(value, path)?),
        Kind::Uint32 | Kind::Fixed32 => Out::U32(integer(value, path)?),
        Kind::Uint64 | Kind::Fixed64 => Out::U64(integer(value, path)?),
    })
}

fn text<'a>(value: &'a Value, path: &str) -> Result<&'a str, MessageError> {
    value.as_str().ok_or_else(|| match value {
        Value::Number(_) | Value::Bool(_) => {
            error(path, &format!("expected text, found {value}; quote it"))
        }
        other => expected("text", other, path),
    })
}

fn float(value: &Value, path: &str) -> Result<f64, MessageError> {
    value
        .as_f64()
        .ok_or_else(|| expected("a number", value, path))
}

fn integer<T: TryFrom<i128>>(value: &Value, path: &str) -> Result<T, MessageError> {
    let number: Option<i128> = match value {
        Value::Number(number) => number
            .as_i64()
            .map(i128::from)
            .or_else(|| number.as_u64().map(i128::from)),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let number = number.ok_or_else(|| expected("a whole number", value, path))?;
    T::try_from(number).map_err(|_| error(path, &format!("{number} is out of range")))
}

fn enumerator(descriptor: &EnumDescriptor, value: &Value, path: &str) -> Result<i32, MessageError> {
    if let Value::Number(_) = value {
        let number = integer(value, path)?;
        if descriptor.get_value(number).is_some() {
            return Ok(number);
        }
    }
    if let Some(found) = value
        .as_str()
        .and_then(|name| descriptor.get_value_by_name(name))
    {
        return Ok(found.number());
    }
    const SHOWN: usize = 8;
    let mut names: Vec<_> = descriptor
        .values()
        .take(SHOWN)
        .map(|value| format!("{} ({})", value.name(), value.number()))
        .collect();
    if descriptor.values().len() > SHOWN {
        names.push("…".to_owned());
    }
    let names = names.join(", ");
    Err(error(path, &format!("{value} is none of {names}")))
}

fn unknown_field(descriptor: &MessageDescriptor, key: &str, path: &str) -> MessageError {
    let near = descriptor
        .fields()
        .flat_map(|field| [field.name().to_owned(), field.json_name().to_owned()])
        .map(|name| (distance(&name, key), name))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    match near {
        Some((_, name)) => error(path, &format!("unknown field; did you mean {name}?")),
        None => error(path, &format!("{} has no such field", descriptor.name())),
    }
}

/// Edits between two names (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let cost = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn error(path: &str, reason: &str) -> MessageError {
    MessageError {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

fn expected(what: &str, found: &Value, path: &str) -> MessageError {
    let found = match found {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "keys and values".to_owned(),
        scalar => scalar.to_string(),
    };
    error(path, &format!("expected {what}, found {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::v1::{ContainerConfig, NamespaceMode, PodSandboxConfig};
    use serde_json::json;

    fn pod(value: Value) -> Result<PodSandboxConfig, String> {
        message(&value).map_err(|error| error.to_string())
    }

    #[test]
    fn both_spellings_enums_and_integers_are_read() {
        let snake = pod(json!({
            "metadata": {"name": "web", "namespace": "default", "attempt": 1},
            "log_directory": "/logs",
            "labels": {"a": "b"},
            "port_mappings": [{"protocol": "UDP", "container_port": 53, "host_port": "5353"}],
            "linux": {"security_context": {
                "namespace_options": {"network": 2, "pid": "CONTAINER"},
                "run_as_user": {"value": "1000"},
            }},
            "windows": null,
        }));
        let camel = pod(json!({
            "metadata": {"name": "web", "namespace": "default", "attempt": "1"},
            "logDirectory": "/logs",
            "labels": {"a": "b"},
            "portMappings": [{"protocol": 1, "containerPort": "53", "hostPort": 5353}],
            "linux": {"securityContext": {
                "namespaceOptions": {"network": "NODE", "pid": 1},
                "runAsUser": {"value": 1000},
            }},
        }));
        let config = snake.unwrap();
        assert_eq!(config, camel.unwrap());
        let linux = config.linux.unwrap().security_context.unwrap();
        let namespaces = linux.namespace_options.unwrap();
        assert_eq!(namespaces.network(), NamespaceMode::Node);
        assert_eq!(linux.run_as_user.unwrap().value, 1000);
    }

    #[test]
    fn environment_values_are_plain_text() {
        let value = json!({"envs": [{"key": "A", "value": "not base64!"}]});
        let config: ContainerConfig = message(&value).unwrap();
        assert_eq!(config.envs[0].value, b"not base64!");
    }

    #[test]
    fn refusals_name_the_field() {
        for (value, text) in [
            (
                json!({"log_dir": "x"}),
                "log_dir: PodSandboxConfig has no such field",
            ),
            (
                json!({"linux": {"security_contxt": {}}}),
                "linux.security_contxt: unknown field; did you mean security_context?",
            ),
            (
                json!({"port_mappings": [{}, {"host_port": "many"}]}),
                "port_mappings[1].host_port: expected a whole number, found \"many\"",
            ),
            (
                json!({"port_mappings": [{"host_port": 4294967296u64}]}),
                "port_mappings[0].host_port: 4294967296 is out of range",
            ),
            (
                json!({"port_mappings": [{"protocol": "ICMP"}]}),
                "port_mappings[0].protocol: \"ICMP\" is none of TCP (0), UDP (1), SCTP (2)",
            ),
            (
                json!({"hostname": 5}),
                "hostname: expected text, found 5; quote it",
            ),
            (
                json!({"labels": {"a": 1}}),
                "labels[\"a\"]: expected text, found 1; quote it",
            ),
            (
                json!({"labels": []}),
                "labels: expected keys and values, found a list",
            ),
            (
                json!({"log_directory": "a", "logDirectory": "b"}),
                "log_directory: given twice, under both of its names",
            ),
            (json!([]), "expected keys and values, found a list"),
        ] {
            assert_eq!(pod(value).unwrap_err(), text);
        }
    }

    #[test]
    fn distances_count_edits() {
        assert_eq!(distance("security_context", "security_contxt"), 1);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
