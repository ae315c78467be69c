//! Changes to the configuration of an imported image, in the words of a Dockerfile, as `docker import --change` takes them.

use serde_json::{Map, Value, json};

use crate::LoadError;

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Changes(Map<String, Value>);

impl Changes {
    pub(crate) fn parse(changes: &[String]) -> Result<Self, LoadError> {
        let mut config = Map::new();
        for change in changes {
            apply(&mut config, change).map_err(|reason| LoadError::Change {
                change: change.chars().take(200).collect(),
                reason,
            })?;
        }
        Ok(Self(config))
    }

    /// `config` of the image's configuration (image-spec, config.md).
    pub(crate) fn config(&self) -> Value {
        Value::Object(self.0.clone())
    }
}

fn apply(config: &mut Map<String, Value>, change: &str) -> Result<(), &'static str> {
    let (word, rest) = change
        .trim()
        .split_once(char::is_whitespace)
        .ok_or("has no value")?;
    let rest = rest.trim();
    let pair = || rest.split_once('=').ok_or("is no NAME=VALUE");
    match word.to_ascii_uppercase().as_str() {
        "CMD" => set(config, "Cmd", command(rest)),
        "ENTRYPOINT" => set(config, "Entrypoint", command(rest)),
        "USER" => set(config, "User", json!(rest)),
        "WORKDIR" => set(config, "WorkingDir", json!(rest)),
        "STOPSIGNAL" => set(config, "StopSignal", json!(rest)),
        "ENV" => {
            pair()?;
            let all = config.entry("Env").or_insert_with(|| json!([]));
            all.as_array_mut()
                .ok_or("contradicts another")?
                .push(json!(rest));
        }
        "LABEL" => {
            let (name, value) = pair()?;
            insert(config, "Labels", name, json!(value))?;
        }
        "EXPOSE" => {
            let port = match rest.contains('/') {
                true => rest.to_owned(),
                false => format!("{rest}/tcp"),
            };
            insert(config, "ExposedPorts", &port, json!({}))?;
        }
        "VOLUME" => insert(config, "Volumes", rest, json!({}))?,
        _ => {
            return Err(
                "is none of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR",
            );
        }
    }
    Ok(())
}

/// A list, or a line for the shell.
fn command(text: &str) -> Value {
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(words) => json!(words),
        Err(_) => json!(["/bin/sh", "-c", text]),
    }
}

fn set(config: &mut Map<String, Value>, name: &str, value: Value) {
    config.insert(name.to_owned(), value);
}

fn insert(
    config: &mut Map<String, Value>,
    map: &str,
    name: &str,
    value: Value,
) -> Result<(), &'static str> {
    let all = config.entry(map).or_insert_with(|| json!({}));
    let all = all.as_object_mut().ok_or("contradicts another")?;
    all.insert(name.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_dockerfile() {
        let changes = [
            "CMD [\"sh\", \"-c\", \"x\"]",
            "entrypoint run me",
            "ENV A=b c",
            "ENV D=",
            "LABEL x=y=z",
            "EXPOSE 80",
            "EXPOSE 53/udp",
            "VOLUME /data",
            "USER 5:6",
            "WORKDIR /srv",
        ]
        .map(str::to_owned);
        assert_eq!(
            Changes::parse(&changes).unwrap().config(),
            json!({
                "Cmd": ["sh", "-c", "x"],
                "Entrypoint": ["/bin/sh", "-c", "run me"],
                "Env": ["A=b c", "D="],
                "Labels": {"x": "y=z"},
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
                "Volumes": {"/data": {}},
                "User": "5:6",
                "WorkingDir": "/srv",
            })
        );
        for refused in ["CMD", "RUN x", "ENV x", "LABEL x", ""] {
            assert!(Changes::parse(&[refused.to_owned()]).is_err(), "{refused}");
        }
    }
}
