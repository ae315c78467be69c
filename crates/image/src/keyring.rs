//! The node's own credentials: one file in the format of docker's `config.json`, read at each pull.
//!
//! ```json
//! { "auths":       { "r.io/team": { "auth": "base64 of user:password" }, "*.example.org": { "identitytoken": "…" } },
//!   "credHelpers": { "123.dkr.ecr.eu-west-1.amazonaws.com": "ecr-login" },
//!   "credsStore":  "secretservice" }
//! ```
//!
//! The longest key that is a registry, or a registry and the beginning of a repository, wins, as for the kubelet; `*` stands for any part
//! of one label of the host. `r.io/team` is no beginning of `r.io/team-b/app`. Of two equals the program of `credHelpers` wins over `auths`;
//! `credsStore` is asked where nothing else fits.

mod program;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::auth::{Auth, Credentials, server};
use crate::{ConfigurationError, registry};

/// Some programs ask a cloud's token service.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the file says; empty if there is none.
#[derive(Default)]
pub(crate) struct Keyring {
    path: PathBuf,
    /// Where programs are looked for before `PATH`.
    directory: Option<PathBuf>,
    auths: Map<String, Value>,
    programs: Map<String, Value>,
    store: Option<String>,
}

/// Credentials, and where they are from in words that may be shown.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) credentials: Credentials,
    pub(crate) source: String,
}

impl Found {
    fn nothing(why: String) -> Self {
        Self {
            credentials: Credentials::Anonymous,
            source: format!("none ({why})"),
        }
    }
}

impl Keyring {
    /// Blocks.
    pub(crate) fn read(path: &Path, programs: Option<PathBuf>) -> Result<Self, ConfigurationError> {
        let text = match registry::read_text(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self {
                    path: path.to_owned(),
                    ..Self::default()
                });
            }
            Err(error) => return Err(ConfigurationError::of_file(path, error)),
        };
        Ok(Self {
            directory: programs,
            ..Self::parse(&text, path)?
        })
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigurationError> {
        // Into no type of ours: serde's complaints about types repeat what they found.
        let document: Value = serde_json::from_str(text).map_err(|error| ConfigurationError {
            line: Some(error.line()),
            ..ConfigurationError::of_file(path, "is no JSON")
        })?;
        let Value::Object(mut document) = document else {
            return Err(ConfigurationError::of_file(path, "is no JSON object"));
        };
        let mut object = |key: &str| match document.remove(key) {
            Some(Value::Object(object)) => Ok(object),
            None | Some(Value::Null) => Ok(Map::new()),
            Some(_) => Err(wrong(path, key, "is no object")),
        };
        let (auths, programs) = (object("auths")?, object("credHelpers")?);
        let store = match document.remove("credsStore") {
            Some(Value::String(name)) => Some(name).filter(|name| !name.is_empty()),
            None | Some(Value::Null) => None,
            Some(_) => return Err(wrong(path, "credsStore", "is no string")),
        };
        Ok(Self {
            path: path.to_owned(),
            directory: None,
            auths,
            programs,
            store,
        })
    }

    /// Whom to be at `host` (`r.io:5000`) for `repository`. A program that fails is no reason to fail a pull that may need no credentials.
    pub(crate) async fn find(
        &self,
        host: &str,
        repository: &str,
    ) -> Result<Found, ConfigurationError> {
        let nothing = || Found::nothing(format!("no credentials are configured for {host}"));
        let best = |keys: &Map<String, Value>| {
            (keys.keys())
                .filter_map(|key| Some((weight(key, host, repository)?, key.clone())))
                .max()
        };
        let (auth, program) = (best(&self.auths), best(&self.programs));
        if let Some((weight, key)) = &program
            && auth.as_ref().is_none_or(|(other, _)| weight >= other)
        {
            let place = format!("credHelpers.{key:?}");
            let Some(Value::String(name)) = self.programs.get(key) else {
                return Err(wrong(&self.path, &place, "is no string"));
            };
            return self.ask(name, &place, host).await;
        }
        if let Some((_, key)) = &auth {
            let place = format!("auths.{key:?}");
            let auth = self.auth(key, &place)?;
            let credentials = Credentials::of(Some(&auth), host)
                .map_err(|reason| wrong(&self.path, &place, reason))?;
            // An empty entry is what `docker login` leaves where a program keeps the secret.
            if credentials != Credentials::Anonymous {
                let kind = credentials.kind();
                return Ok(Found {
                    source: format!("{kind} of {place} in {}", self.path.display()),
                    credentials,
                });
            }
        }
        match &self.store {
            Some(name) => self.ask(name, "credsStore", host).await,
            None => Ok(nothing()),
        }
    }

    fn auth(&self, key: &str, place: &str) -> Result<Auth, ConfigurationError> {
        let entry = match self.auths.get(key) {
            Some(Value::Object(entry)) => entry,
            _ => return Err(wrong(&self.path, place, "is no object")),
        };
        let field = |name: &str| match entry.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            None | Some(Value::Null) => Ok(String::new()),
            Some(_) => Err(wrong(
                &self.path,
                &format!("{place}.{name}"),
                "is no string",
            )),
        };
        Ok(Auth {
            username: field("username")?,
            password: field("password")?,
            auth: field("auth")?,
            server_address: String::new(),
            identity_token: field("identitytoken")?,
            registry_token: field("registrytoken")?,
        })
    }

    async fn ask(&self, name: &str, place: &str, host: &str) -> Result<Found, ConfigurationError> {
        if !program::is_name(name) {
            let reason = "is no name of a program docker-credential-NAME";
            return Err(wrong(&self.path, place, reason));
        }
        let said = format!(
            "docker-credential-{name} by {place} in {}",
            self.path.display()
        );
        // The one registry that programs know by another name.
        let address = match server(host).as_str() {
            "docker.io" => "https://index.docker.io/v1/".to_owned(),
            host => host.to_owned(),
        };
        let program = PathBuf::from(format!("docker-credential-{name}"));
        let program = (self.directory.iter())
            .map(|directory| directory.join(&program))
            .find(|path| path.exists())
            .unwrap_or(program);
        match program::get(&program, &address, PATIENCE).await {
            Ok(Some(credentials)) => Ok(Found {
                source: format!("{} of {said}", credentials.kind()),
                credentials,
            }),
            Ok(None) => Ok(Found::nothing(format!("{said} has none for {host}"))),
            Err(reason) => {
                tracing::warn!(host, "{said}: {reason}");
                Ok(Found::nothing(format!("{said}: {reason}")))
            }
        }
    }
}

fn wrong(path: &Path, key: &str, reason: &str) -> ConfigurationError {
    ConfigurationError {
        key: key.to_owned(),
        ..ConfigurationError::of_file(path, reason)
    }
}

/// How well a key fits: by the length of its path, then a literal host over a pattern. None if it does not.
fn weight(key: &str, host: &str, repository: &str) -> Option<(usize, bool)> {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
    let (_, path) = bare.split_once('/').unwrap_or((bare, ""));
    // Paths of an API, not of repositories: https://index.docker.io/v1/.
    let path = match path.trim_matches('/') {
        "v1" | "v2" => "",
        path => path,
    };
    let (pattern, host) = (server(bare), server(host));
    if !host_fits(&pattern, &host) {
        return None;
    }
    let fits = match repository.strip_prefix(path) {
        Some(rest) => path.is_empty() || rest.is_empty() || rest.starts_with('/'),
        None => false,
    };
    fits.then_some((path.len(), !pattern.contains('*')))
}

/// Label by label, the port literally.
fn host_fits(pattern: &str, host: &str) -> bool {
    if !pattern.contains('*') {
        return pattern == host;
    }
    let split = |text: &str| match text.rsplit_once(':') {
        Some((name, port)) => (name.to_owned(), Some(port.to_owned())),
        None => (text.to_owned(), None),
    };
    let ((pattern, port), (host, other)) = (split(pattern), split(host));
    let (patterns, labels): (Vec<_>, Vec<_>) =
        (pattern.split('.').collect(), host.split('.').collect());
    port == other
        && patterns.len() == labels.len()
        && (patterns.iter().zip(&labels)).all(|(pattern, label)| label_fits(pattern, label))
}

fn label_fits(pattern: &str, label: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == label,
        Some((before, after)) => label.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len())
                .filter(|at| rest.is_char_boundary(*at))
                .any(|at| label_fits(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(text: &str) -> Keyring {
        Keyring::parse(text, Path::new("/c.json")).unwrap()
    }

    #[tokio::test]
    async fn the_longest_key_wins() {
        let keyring = keyring(
            r#"{"auths": {
                "r.io": {"username": "host", "password": "pw"},
                "https://r.io/team/": {"username": "team", "password": "pw"},
                "r.io/team/app": {"auth": "YXBwOnB3"},
                "*.example.org:5000": {"username": "glob", "password": "pw"},
                "a.example.org:5000": {"username": "literal", "password": "pw"},
                "https://index.docker.io/v1/": {"identitytoken": "idt"},
                "t.io": {"registrytoken": "tok"}
            }}"#,
        );
        let basic = |user: &str| Credentials::Basic(format!("{user}:pw"));
        for (host, repository, wanted) in [
            ("r.io", "other", basic("host")),
            ("r.io", "team/other", basic("team")),
            ("r.io", "team/app", basic("app")),
            ("r.io", "team/app/x", basic("app")),
            ("r.io", "team/app-b", basic("team")),
            ("r.io", "team-b/app", basic("host")),
            ("r.io:5000", "team/app", Credentials::Anonymous),
            ("b.example.org:5000", "x", basic("glob")),
            ("a.example.org:5000", "x", basic("literal")),
            ("b.example.org", "x", Credentials::Anonymous),
            ("a.b.example.org:5000", "x", Credentials::Anonymous),
            (
                "docker.io",
                "library/x",
                Credentials::IdentityToken("idt".into()),
            ),
            ("t.io", "x", Credentials::RegistryToken("tok".into())),
        ] {
            let found = keyring.find(host, repository).await.unwrap();
            assert!(
                found.credentials == wanted,
                "{host}/{repository}: {found:?}"
            );
            assert!(!found.source.contains("pw") && !found.source.contains("tok\""));
        }
    }

    #[tokio::test]
    async fn mistakes_name_the_key_and_no_secret() {
        for (text, said) in [
            ("{\n\"auths\": \"s3cret\" x", "/c.json:2: is no JSON"),
            ("[]", "/c.json: is no JSON object"),
            (r#"{"auths": "s3cret"}"#, "/c.json: auths: is no object"),
            (r#"{"credsStore": 1}"#, "/c.json: credsStore: is no string"),
            (
                r#"{"credsStore": "../s3"}"#,
                "/c.json: credsStore: is no name",
            ),
            (
                r#"{"credHelpers": {"r.io": 1}}"#,
                r#"credHelpers."r.io": is no string"#,
            ),
            (
                r#"{"auths": {"r.io": "s3cret"}}"#,
                r#"auths."r.io": is no object"#,
            ),
            (
                r#"{"auths": {"r.io": {"auth": "s3cret!"}}}"#,
                r#"auths."r.io": the auth field is no base64"#,
            ),
            (
                r#"{"auths": {"r.io": {"password": ["s3cret"]}}}"#,
                r#"auths."r.io".password: is no string"#,
            ),
        ] {
            let error = match Keyring::parse(text, Path::new("/c.json")) {
                Ok(keyring) => keyring.find("r.io", "x").await.unwrap_err(),
                Err(error) => error,
            };
            let error = error.to_string();
            assert!(error.contains(said), "{text}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
