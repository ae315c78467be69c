//! Files that people write: JSON or YAML, read to one kind of value and checked field by field.

mod message;

pub(crate) use message::message;

use std::io::Read;
use std::path::Path;

use cri::v1::{ContainerConfig, PodSandboxConfig};
use serde_json::Value;

use crate::error::Error;

/// Larger files are refused: nobody writes them by hand.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// A file's text and what it says.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) text: String,
    pub(crate) value: Value,
}

/// Reads a file of JSON or YAML; `-` is standard input. Of several YAML documents the value is the first.
pub(crate) fn read(path: &Path) -> Result<Document, Error> {
    let text = read_text(path)?;
    let refuse = |reason: String| Error::Input(format!("{}: {reason}", path.display()));
    let json = path.extension().is_some_and(|e| e == "json") || text.trim_start().starts_with('{');
    let value = if json {
        serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?
    } else {
        let documents: Vec<Value> = yaml_documents(&text).map_err(refuse)?;
        documents.into_iter().next().unwrap_or(Value::Null)
    };
    Ok(Document { text, value })
}

/// Every document of a YAML stream. Only `true` and `false` are booleans: a namespace may be called `n`, a country `no`.
pub(crate) fn yaml_documents<T: serde::de::DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| one_line(&error.without_snippet().to_string()))
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn read_text(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Io {
        what: format!("read {}", path.display()),
        source,
    };
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(MAX_BYTES + 1)
            .read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_BYTES + 1).read_to_string(&mut text)
    };
    read.map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::Input(format!(
            "{}: larger than {MAX_BYTES} bytes",
            path.display()
        )));
    }
    Ok(text)
}

/// A pod's configuration. Its metadata must have a name and a namespace; a missing uid is made up.
pub(crate) fn pod_config(path: &Path) -> Result<PodSandboxConfig, Error> {
    let mut config: PodSandboxConfig = config(path)?;
    let refuse = |field: &str| Err(missing(path, field));
    let Some(metadata) = &mut config.metadata else {
        return refuse("metadata");
    };
    if metadata.name.is_empty() {
        return refuse("metadata.name");
    }
    if metadata.namespace.is_empty() {
        return refuse("metadata.namespace");
    }
    if metadata.uid.is_empty() {
        metadata.uid = new_uid()?;
    }
    Ok(config)
}

/// A container's configuration. It must have a name and an image.
pub(crate) fn container_config(path: &Path) -> Result<ContainerConfig, Error> {
    let mut config: ContainerConfig = config(path)?;
    if config.metadata.as_ref().is_none_or(|m| m.name.is_empty()) {
        return Err(missing(path, "metadata.name"));
    }
    let Some(image) = config.image.as_mut().filter(|i| !i.image.is_empty()) else {
        return Err(missing(path, "image.image"));
    };
    if image.user_specified_image.is_empty() {
        image.user_specified_image = image.image.clone();
    }
    Ok(config)
}

fn config<M: prost::Message + prost::Name + Default>(path: &Path) -> Result<M, Error> {
    let document = read(path)?;
    message(&document.value).map_err(|error| Error::Input(format!("{}: {error}", path.display())))
}

fn missing(path: &Path, field: &str) -> Error {
    Error::Input(format!("{}: {field} is not set", path.display()))
}

/// A random UUID, from the kernel.
pub(crate) fn new_uid() -> Result<String, Error> {
    const SOURCE: &str = "/proc/sys/kernel/random/uuid";
    let text = std::fs::read_to_string(SOURCE).map_err(|source| Error::Io {
        what: format!("read {SOURCE}"),
        source,
    })?;
    Ok(text.trim().to_owned())
}

/// `key=value` flags. A value may contain `=`.
pub(crate) fn pairs(
    flag: &str,
    texts: &[String],
) -> Result<std::collections::BTreeMap<String, String>, Error> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Error::Usage(format!(
            "{flag} {text:?}: write it as KEY=VALUE"
        ))),
    };
    texts.iter().map(pair).collect()
}
