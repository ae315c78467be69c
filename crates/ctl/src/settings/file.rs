//! crictl's configuration file: flat keys and values, read, and changed line by line so that comments stay.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::error::Error;
use crate::input;

/// Every key, with what it is when the file does not say.
const KEYS: [(&str, &str); 7] = [
    ("runtime-endpoint", ""),
    ("image-endpoint", ""),
    ("timeout", "0"),
    ("debug", "false"),
    ("pull-image-on-create", "false"),
    ("disable-pull-on-run", "false"),
    ("max-retries", "3"),
];

/// What the file says, each key checked.
#[derive(Debug, Default, PartialEq)]
pub(super) struct FileSettings {
    pub(super) runtime_endpoint: Option<String>,
    pub(super) image_endpoint: Option<String>,
    pub(super) timeout: Option<Duration>,
    pub(super) pull_on_create: Option<bool>,
    pub(super) pull_on_run: Option<bool>,
    /// Less than 0 is without end.
    pub(super) max_retries: Option<i64>,
}

pub(super) fn read(path: &Path) -> Result<FileSettings, Error> {
    let document = input::read(path)?;
    parse(&document.value).map_err(|reason| refuse(path, &reason))
}

pub(super) fn parse(value: &Value) -> Result<FileSettings, String> {
    let mut settings = FileSettings::default();
    for (key, text) in pairs(value)? {
        let boolean = || {
            text.parse::<bool>()
                .map_err(|_| format!("{key}: {text:?} is neither true nor false"))
        };
        match key.as_str() {
            "runtime-endpoint" => settings.runtime_endpoint = Some(text).filter(|t| !t.is_empty()),
            "image-endpoint" => settings.image_endpoint = Some(text).filter(|t| !t.is_empty()),
            // As crictl has it: 0 and less are the default.
            "timeout" => {
                let seconds: i64 = text
                    .parse()
                    .map_err(|_| format!("timeout: {text:?} is not a number of seconds"))?;
                let seconds = u64::try_from(seconds).unwrap_or(0);
                settings.timeout = Some(Duration::from_secs(seconds)).filter(|t| !t.is_zero());
            }
            "pull-image-on-create" => settings.pull_on_create = Some(boolean()?),
            "disable-pull-on-run" => settings.pull_on_run = Some(!boolean()?),
            // Known to crictl; nothing here depends on it.
            "debug" => {
                boolean()?;
            }
            "max-retries" => {
                let retries = text.parse::<i64>();
                settings.max_retries =
                    Some(retries.map_err(|_| format!("max-retries: {text:?} is not a number"))?);
            }
            _ => return Err(unknown(&key)),
        }
    }
    Ok(settings)
}

/// Values as text, as crictl takes them: bare or quoted.
fn pairs(value: &Value) -> Result<Vec<(String, String)>, String> {
    let fields = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Object(fields) => fields,
        _ => return Err("expected keys and values, like timeout: 10".to_owned()),
    };
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    Ok(fields
        .iter()
        .map(|(key, value)| (key.clone(), text(value)))
        .collect())
}

fn unknown(key: &str) -> String {
    let known: Vec<_> = KEYS.iter().map(|(key, _)| *key).collect();
    format!("unknown key {key:?}; there are {}", known.join(", "))
}

fn refuse(path: &Path, reason: &str) -> Error {
    Error::Input(format!("{}: {reason}", path.display()))
}

/// The file as somebody wrote it, for `config`.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    text: String,
    pairs: Vec<(String, String)>,
}

impl ConfigFile {
    /// A file that is not there is an empty one.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let text = match path.try_exists() {
            Ok(false) => String::new(),
            // What cannot be looked at cannot be read either, and that error says more.
            _ => input::read(path)?.text,
        };
        Self::parsed(path, text)
    }

    fn parsed(path: &Path, text: String) -> Result<Self, Error> {
        let documents: Vec<Value> =
            input::yaml_documents(&text).map_err(|reason| refuse(path, &reason))?;
        let value = documents.into_iter().next().unwrap_or(Value::Null);
        parse(&value).map_err(|reason| refuse(path, &reason))?;
        Ok(Self {
            path: path.to_owned(),
            text,
            pairs: pairs(&value).map_err(|reason| refuse(path, &reason))?,
        })
    }

    pub(crate) fn value(&self, key: &str) -> Result<String, Error> {
        let known = KEYS.iter().find(|(known, _)| *known == key);
        let (_, default) =
            known.ok_or_else(|| Error::Usage(format!("config: {}", unknown(key))))?;
        let found = self.pairs.iter().find(|(found, _)| found == key);
        Ok(found.map_or_else(|| (*default).to_owned(), |(_, value)| value.clone()))
    }

    /// Every key in crictl's order.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&'static str, String)> {
        KEYS.iter()
            .filter_map(|(key, _)| Some((*key, self.value(key).ok()?)))
    }

    /// Changes the key's line, or adds one; a wrong value changes nothing.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<(), Error> {
        self.value(key)?;
        if self.text.trim_start().starts_with('{') {
            return Err(refuse(&self.path, "is JSON, which is changed by hand only"));
        }
        let line = format!("{key}: {}", quoted(value));
        let mut found = false;
        let mut lines = Vec::new();
        for old in self.text.lines() {
            let is_it = old
                .strip_prefix(key)
                .is_some_and(|rest| rest.trim_start().starts_with(':'));
            if !is_it {
                lines.push(old.to_owned());
            } else if !std::mem::replace(&mut found, true) {
                lines.push(line.clone());
            }
        }
        if !found {
            lines.push(line);
        }
        let changed = Self::parsed(&self.path, lines.join("\n") + "\n")
            .map_err(|error| Error::Usage(format!("config: {error}")))?;
        if changed.value(key)? != value {
            return Err(refuse(
                &self.path,
                &format!("has {key} in a form that is changed by hand only"),
            ));
        }
        *self = changed;
        Ok(())
    }

    /// Whole or not at all. A new file is its owner's alone, as crictl's is.
    pub(crate) fn write(&self) -> Result<(), Error> {
        let failed = |source| Error::Io {
            what: format!("write {}", self.path.display()),
            source,
        };
        // A link stays one: what it points to is replaced.
        let path = self
            .path
            .canonicalize()
            .unwrap_or_else(|_| self.path.clone());
        let directory = path
            .parent()
            .filter(|directory| !directory.as_os_str().is_empty());
        if let Some(directory) = directory {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let mut name = path.clone().into_os_string();
        name.push(format!(".{}", std::process::id()));
        let draft = PathBuf::from(name);
        let written = (|| {
            use std::os::unix::fs::OpenOptionsExt;
            let mut options = std::fs::OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&draft)?;
            file.write_all(self.text.as_bytes())?;
            if let Ok(old) = std::fs::metadata(&path) {
                file.set_permissions(old.permissions())?;
            }
            file.sync_all()?;
            std::fs::rename(&draft, &path)
        })();
        written.map_err(|source| {
            let _ = std::fs::remove_file(&draft);
            failed(source)
        })
    }
}

/// Bare where YAML reads it back as it is, else in JSON's quotes, which are YAML's too.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || ":/._%@+,=-".contains(c);
    let is_plain = value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && value.chars().all(plain)
        && !value.ends_with(':');
    let is_number = value.strip_prefix('-').is_some_and(|digits| {
        !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_digit())
    });
    if is_plain || is_number {
        value.to_owned()
    } else {
        Value::from(value).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_file_is_refused_by_key() {
        let parse = |value| parse(&value).unwrap_err();
        let unknown = parse(serde_json::json!({"runtime-endpont": "x"}));
        assert!(unknown.starts_with("unknown key \"runtime-endpont\"; there are runtime-endpoint"));
        assert!(parse(serde_json::json!({"timeout": "soon"})).contains("timeout"));
        assert!(parse(serde_json::json!({"max-retries": "x"})).contains("max-retries"));
        assert!(parse(serde_json::json!([1])).contains("keys and values"));
    }

    #[test]
    fn a_key_is_changed_where_it_is_and_comments_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/crictl.yaml");
        let mut file = ConfigFile::open(&path).unwrap();
        assert_eq!(file.value("max-retries").unwrap(), "3");
        for (key, value) in [("timeout", "5"), ("runtime-endpoint", "unix:///a b.sock")] {
            file.set(key, value).unwrap();
        }
        file.text.insert_str(0, "# ours\n");
        file.write().unwrap();
        let mut file = ConfigFile::open(&path).unwrap();
        file.set("timeout", "-1").unwrap();
        file.set("debug", "true").unwrap();
        file.write().unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "# ours\ntimeout: -1\nruntime-endpoint: \"unix:///a b.sock\"\ndebug: true\n"
        );
        assert_eq!(read(&path).unwrap().timeout, None);
        assert_eq!(file.value("runtime-endpoint").unwrap(), "unix:///a b.sock");
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );

        let wrong = file.set("timeout", "soon").unwrap_err().to_string();
        assert!(wrong.contains("not a number of seconds"), "{wrong}");
        assert!(file.set("colour", "red").is_err());
        assert_eq!(file.value("timeout").unwrap(), "-1");
    }
}
