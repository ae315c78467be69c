//! Profiles as JSON, as `linux.seccomp` has them.

use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Map, Value};

/// Why a text is no profile that we can honour.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("not the JSON of a seccomp profile")]
    Json(#[source] serde_json::Error),
    #[error(
        "{0} is not a field of the OCI runtime specification's seccomp profiles; ignoring it could permit what it denies"
    )]
    UnknownField(String),
}

const PROFILE: [&str; 7] = [
    "defaultAction",
    "defaultErrnoRet",
    "architectures",
    "flags",
    "listenerPath",
    "listenerMetadata",
    "syscalls",
];
const SYSCALL: [&str; 4] = ["names", "action", "errnoRet", "args"];
const ARGUMENT: [&str; 4] = ["index", "value", "valueTwo", "op"];

/// Reads a profile. Unknown fields are refused, with two exceptions that say nothing: comments, and empty lists and objects (such as
/// the `includes` and `excludes` of Docker's format).
pub fn parse(json: &[u8]) -> Result<LinuxSeccomp, ParseError> {
    let value: Value = serde_json::from_slice(json).map_err(ParseError::Json)?;
    check("", &value, &PROFILE)?;
    for (index, syscall) in list(&value, "syscalls").enumerate() {
        let path = format!("syscalls[{index}].");
        check(&path, syscall, &SYSCALL)?;
        for (index, argument) in list(syscall, "args").enumerate() {
            check(&format!("{path}args[{index}]."), argument, &ARGUMENT)?;
        }
    }
    serde_json::from_value(value).map_err(ParseError::Json)
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value
        .get(field)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn check(path: &str, value: &Value, known: &[&str]) -> Result<(), ParseError> {
    let fields = value.as_object().into_iter().flatten();
    for (name, value) in fields {
        let says_nothing = match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => Map::is_empty(fields),
            Value::String(_) => name == "comment",
            Value::Bool(_) | Value::Number(_) => false,
        };
        if !known.contains(&name.as_str()) && !says_nothing {
            return Err(ParseError::UnknownField(format!("{path}{name}")));
        }
    }
    Ok(())
}
