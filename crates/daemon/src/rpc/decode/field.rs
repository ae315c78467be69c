//! The refusal of a field, and the checks that several messages share.

use std::{
    collections::BTreeMap,
    fmt::Display,
    path::{Component, PathBuf},
};

/// A field of a request that is wrong, or that we cannot honour: INVALID_ARGUMENT.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value}: {remedy}")]
pub(crate) struct InvalidField {
    /// The path of the field in the request, such as `config.linux.security_context.run_as_user`.
    pub(crate) field: String,
    /// What it holds, shortened, or `missing`.
    pub(crate) value: String,
    /// What to do about it.
    pub(crate) remedy: String,
}

/// The last id is "no change" to chown(2) and setuid(2).
const LAST_ID: u32 = u32::MAX - 1;

/// Values longer than this are cut where they are quoted.
const QUOTED_CHARS: usize = 120;

pub(super) fn invalid(field: &str, value: impl Display, remedy: impl Into<String>) -> InvalidField {
    let value = value.to_string();
    let value = match value.char_indices().nth(QUOTED_CHARS) {
        Some((cut, _)) => format!("{}…", &value[..cut]),
        None => value,
    };
    InvalidField {
        field: field.to_owned(),
        value,
        remedy: remedy.into(),
    }
}

pub(super) fn missing(field: &str, remedy: &str) -> InvalidField {
    invalid(field, "missing", remedy)
}

pub(super) fn not_implemented(field: &str, value: impl Display) -> InvalidField {
    invalid(
        field,
        value,
        "not implemented by this runtime; leave it out",
    )
}

/// Not empty, and printable.
pub(super) fn name(field: &str, value: String) -> Result<String, InvalidField> {
    if value.is_empty() {
        return Err(missing(field, "give a name"));
    }
    if value.chars().any(char::is_control) {
        return Err(invalid(
            field,
            format_args!("{value:?}"),
            "a name cannot hold control characters",
        ));
    }
    Ok(value)
}

/// Without NUL, which no path or argument of the kernel's can hold.
pub(super) fn text(field: &str, value: String) -> Result<String, InvalidField> {
    if value.contains('\0') {
        return Err(invalid(
            field,
            format_args!("{value:?}"),
            "remove the NUL character",
        ));
    }
    Ok(value)
}

pub(super) fn texts(field: &str, values: Vec<String>) -> Result<Vec<String>, InvalidField> {
    let checked = values.into_iter().enumerate();
    checked
        .map(|(index, value)| text(&format!("{field}[{index}]"), value))
        .collect()
}

/// The kernel's limit of a path, with its NUL.
const PATH_BYTES: usize = 4096;

/// Absolute, without NUL, no longer than the kernel takes.
pub(super) fn absolute_path(field: &str, value: String) -> Result<String, InvalidField> {
    let value = text(field, value)?;
    if !value.starts_with('/') {
        return Err(invalid(
            field,
            format_args!("{value:?}"),
            "use an absolute path",
        ));
    }
    if value.len() >= PATH_BYTES {
        return Err(invalid(
            field,
            format_args!("{} bytes", value.len()),
            format!("a path has at most {} bytes", PATH_BYTES - 1),
        ));
    }
    Ok(value)
}

/// A path of the node that a file is written to, or read from: absolute, and without `..`.
pub(crate) fn location(field: &str, value: String) -> Result<PathBuf, InvalidField> {
    let path = PathBuf::from(absolute_path(field, value)?);
    let climbs = path
        .components()
        .any(|component| component == Component::ParentDir);
    match climbs {
        true => Err(invalid(
            field,
            format_args!("{:?}", path.display().to_string()),
            "use a path without `..`",
        )),
        false => Ok(path),
    }
}

/// Options for the runtime, of which there are none: one that is not honoured must not be ignored.
pub(crate) fn no_options(
    field: &str,
    options: BTreeMap<String, String>,
) -> Result<(), InvalidField> {
    match options.keys().next() {
        None => Ok(()),
        Some(key) => Err(invalid(
            field,
            format_args!("{key:?}"),
            "this runtime has no options: leave it empty",
        )),
    }
}

/// Empty, or an absolute path.
pub(super) fn optional_path(field: &str, value: String) -> Result<String, InvalidField> {
    if value.is_empty() {
        return Ok(value);
    }
    absolute_path(field, value)
}

/// A path, relative or not, on one line, that never climbs.
pub(super) fn no_climbing(field: &str, value: String) -> Result<String, InvalidField> {
    let value = text(field, value)?;
    if value.split('/').any(|part| part == "..") {
        return Err(invalid(
            field,
            format_args!("{value:?}"),
            "remove the \"..\" parts",
        ));
    }
    // The kernel lists cgroups one a line, and operators read logs by name.
    if value.contains('\n') {
        return Err(invalid(
            field,
            format_args!("{value:?}"),
            "remove the newline",
        ));
    }
    Ok(value)
}

pub(super) fn id(field: &str, value: i64) -> Result<u32, InvalidField> {
    match u32::try_from(value) {
        Ok(id) if id <= LAST_ID => Ok(id),
        _ => Err(invalid(
            field,
            value,
            format!("use an id from 0 to {LAST_ID}"),
        )),
    }
}

pub(super) fn optional_id(
    field: &str,
    value: Option<cri::v1::Int64Value>,
) -> Result<Option<u32>, InvalidField> {
    value.map(|wrapped| id(field, wrapped.value)).transpose()
}

pub(super) fn ids(field: &str, values: Vec<i64>) -> Result<Vec<u32>, InvalidField> {
    let checked = values.into_iter().enumerate();
    checked
        .map(|(index, value)| id(&format!("{field}[{index}]"), value))
        .collect()
}

/// An enum of CRI by its number.
pub(super) fn number<T: TryFrom<i32>>(field: &str, value: i32) -> Result<T, InvalidField> {
    T::try_from(value).map_err(|_| invalid(field, value, "use a value that CRI v1 defines"))
}

/// "Not negative".
pub(super) fn unsigned(field: &str, value: i64) -> Result<u64, InvalidField> {
    u64::try_from(value).map_err(|_| invalid(field, value, "use 0 (not specified) or more"))
}
