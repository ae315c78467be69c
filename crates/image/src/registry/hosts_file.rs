//! `hosts.toml`: where a registry's images come from, in containerd's format
//! (<https://github.com/containerd/containerd/blob/main/docs/hosts.md>).
//!
//! The file of the registry `r.io:5000` is `r.io_5000_/hosts.toml`, else `r.io:5000/hosts.toml`, else `_default/hosts.toml`. A directory
//! without one is a directory of certificates: `*.crt` are authorities, `*.cert` with `*.key` are ours.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::endpoint::Endpoint;
use crate::ConfigurationError;

/// No file that people write is larger.
const MAX_BYTES: u64 = 1 << 20;

/// What is configured for a registry.
#[derive(Debug, Clone)]
pub(super) struct HostsFile {
    /// The file, or the directory of certificates.
    pub(super) path: PathBuf,
    /// In the order in which they stand there.
    pub(super) mirrors: Vec<Entry>,
    /// Asked last. Without an address it is the registry itself.
    pub(super) server: Entry,
    /// Keys that mean nothing to us, with their lines.
    pub(super) ignored: Vec<String>,
}

/// How one host is spoken to.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) endpoint: Option<Endpoint>,
    /// Where it stands in the file; 0 where it does not.
    pub(super) line: usize,
    /// May say which digest a tag means.
    pub(super) resolve: bool,
    /// May give what has a digest.
    pub(super) pull: bool,
    pub(super) tls: Tls,
    pub(super) headers: HeaderMap,
    pub(super) dial_timeout: Option<Duration>,
}

/// How a host proves itself, and how we do. Paths are absolute or relative to the daemon's directory, as `hosts.toml` is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tls {
    /// Trusted beside the system's authorities.
    pub(super) ca: Vec<PathBuf>,
    /// Certificate and key, which may be in one file.
    pub(super) client: Vec<(PathBuf, PathBuf)>,
    pub(super) skip_verify: bool,
}

impl Entry {
    pub(super) fn plain() -> Self {
        Self {
            endpoint: None,
            line: 0,
            resolve: true,
            pull: true,
            tls: Tls::default(),
            headers: HeaderMap::new(),
            dial_timeout: None,
        }
    }
}

impl HostsFile {
    /// What `root` has for the registry `domain`; none is no mistake. Blocks.
    pub(super) fn find(root: &Path, domain: &str) -> Result<Option<Self>, ConfigurationError> {
        for name in directories(domain) {
            let directory = root.join(name);
            let path = directory.join("hosts.toml");
            match read(&path) {
                Ok(text) => return Self::parse(&text, &path).map(Some),
                Err(error) if absent(&error) => {}
                Err(error) => return Err(ConfigurationError::of_file(&path, error)),
            }
            match std::fs::read_dir(&directory) {
                Ok(entries) => return Self::of_certificates(&directory, entries).map(Some),
                Err(error) if absent(&error) => {}
                Err(error) => return Err(ConfigurationError::of_file(&directory, error)),
            }
        }
        Ok(None)
    }

    fn of_certificates(
        directory: &Path,
        entries: std::fs::ReadDir,
    ) -> Result<Self, ConfigurationError> {
        let mut server = Entry::plain();
        let mut paths = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| ConfigurationError::of_file(directory, error))?;
            paths.push(entry.path());
        }
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => server.tls.ca.push(path),
                Some("cert") => {
                    let key = path.with_extension("key");
                    server.tls.client.push((path, key));
                }
                _ => {}
            }
        }
        Ok(Self {
            path: directory.to_owned(),
            mirrors: Vec::new(),
            server,
            ignored: Vec::new(),
        })
    }

    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, ConfigurationError> {
        let mut reader = Reader {
            text,
            path,
            ignored: Vec::new(),
        };
        let table = DeTable::parse(text).map_err(|error| ConfigurationError {
            line: error.span().map(|span| reader.line(span.start)),
            ..ConfigurationError::of_file(path, error.message())
        })?;
        let table = table.get_ref();
        let address = table.get("server");
        let mut server = reader.entry("", table, &["server", "host"])?;
        if let Some(address) = address {
            let text = reader.string("server", address)?;
            if !text.is_empty() {
                server.endpoint = Some(reader.address("server", address, text, table)?);
                server.line = reader.line(address.span().start);
            }
        }
        let mut mirrors = Vec::new();
        if let Some(hosts) = table.get("host") {
            let hosts = (hosts.get_ref().as_table())
                .ok_or_else(|| reader.wrong("host", hosts, "is not a table"))?;
            // The map is sorted by name; what counts is the place in the file.
            let mut hosts: Vec<_> = hosts.iter().collect();
            hosts.sort_by_key(|(name, _)| name.span().start);
            for (name, value) in hosts {
                let key = format!("host.{:?}", name.get_ref());
                let table = (value.get_ref().as_table())
                    .ok_or_else(|| reader.wrong(&key, value, "is not a table"))?;
                let mut entry = reader.entry(&format!("{key}."), table, &[])?;
                entry.endpoint = Some(reader.address(&key, name, name.get_ref(), table)?);
                entry.line = reader.line(name.span().start);
                mirrors.push(entry);
            }
        }
        Ok(Self {
            path: path.to_owned(),
            mirrors,
            server,
            ignored: reader.ignored,
        })
    }
}

/// Directory names that a registry's configuration may have, first choice first.
fn directories(domain: &str) -> Vec<String> {
    let mut names = Vec::with_capacity(3);
    if let Some((host, port)) = domain.rsplit_once(':')
        && !port.ends_with(']')
    {
        // For file systems that have no colons.
        names.push(format!("{host}_{port}_"));
    }
    names.push(domain.to_owned());
    names.push("_default".to_owned());
    names
}

fn absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// A text file of at most 1 MiB.
pub(crate) fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    if file.take(MAX_BYTES + 1).read_to_string(&mut text)? as u64 > MAX_BYTES {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}

type Value<'a> = Spanned<DeValue<'a>>;

struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
    ignored: Vec<String>,
}

impl Reader<'_> {
    fn entry(
        &mut self,
        prefix: &str,
        table: &DeTable<'_>,
        others: &[&str],
    ) -> Result<Entry, ConfigurationError> {
        let mut entry = Entry::plain();
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            match &**name.get_ref() {
                "capabilities" => {
                    (entry.resolve, entry.pull) = self.capabilities(&key, value)?;
                }
                "ca" => {
                    for path in self.strings(&key, value)? {
                        entry.tls.ca.push(self.beside(path));
                    }
                }
                "client" => entry.tls.client = self.pairs(&key, value)?,
                "skip_verify" => entry.tls.skip_verify = self.boolean(&key, value)?,
                // Has its part in the address.
                "override_path" => _ = self.boolean(&key, value)?,
                "dial_timeout" => entry.dial_timeout = Some(self.duration(&key, value)?),
                "header" => entry.headers = self.headers(&key, value)?,
                name if others.contains(&name) => {}
                _ => {
                    let line = self.line(name.span().start);
                    self.ignored
                        .push(format!("{}:{line}: {key}", self.path.display()));
                }
            }
        }
        Ok(entry)
    }

    /// An address with the path under which its API lies.
    fn address<T>(
        &self,
        key: &str,
        place: &Spanned<T>,
        text: &str,
        table: &DeTable<'_>,
    ) -> Result<Endpoint, ConfigurationError> {
        let as_is = match table.get("override_path") {
            Some(value) => self.boolean("override_path", value)?,
            None => false,
        };
        Endpoint::parse(text, as_is).map_err(|reason| self.wrong(key, place, reason))
    }

    fn capabilities(
        &self,
        key: &str,
        value: &Value<'_>,
    ) -> Result<(bool, bool), ConfigurationError> {
        let (mut resolve, mut pull) = (false, false);
        for name in self.strings(key, value)? {
            match name {
                "resolve" => resolve = true,
                "pull" => pull = true,
                "push" | "referrers" => {}
                other => {
                    let reason = format!("{other:?} is none of pull, resolve, push, referrers");
                    return Err(self.wrong(key, value, reason));
                }
            }
        }
        Ok((resolve, pull))
    }

    /// `"both.pem"`, `["both.pem", …]` or `[["cert.pem", "key.pem"], …]`.
    fn pairs(
        &self,
        key: &str,
        value: &Value<'_>,
    ) -> Result<Vec<(PathBuf, PathBuf)>, ConfigurationError> {
        let expected =
            "is neither a file with certificate and key, nor a list of these or of pairs of files";
        let both = |path: &str| (self.beside(path), self.beside(path));
        let elements = match value.get_ref() {
            DeValue::String(path) => return Ok(vec![both(path)]),
            DeValue::Array(elements) => elements,
            _ => return Err(self.wrong(key, value, expected)),
        };
        let mut pairs = Vec::new();
        for element in elements.iter() {
            match element.get_ref() {
                DeValue::String(path) => pairs.push(both(path)),
                DeValue::Array(_) => match *self.strings(key, element)? {
                    [path] => pairs.push(both(path)),
                    [certificate, ""] => pairs.push(both(certificate)),
                    [certificate, secret] => {
                        pairs.push((self.beside(certificate), self.beside(secret)));
                    }
                    _ => return Err(self.wrong(key, element, expected)),
                },
                _ => return Err(self.wrong(key, element, expected)),
            }
        }
        Ok(pairs)
    }

    fn headers(&self, key: &str, value: &Value<'_>) -> Result<HeaderMap, ConfigurationError> {
        let table =
            (value.get_ref().as_table()).ok_or_else(|| self.wrong(key, value, "is not a table"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in table {
            let key = format!("{key}.{}", name.get_ref());
            let header = HeaderName::from_bytes(name.get_ref().as_bytes())
                .map_err(|_| self.wrong(&key, name, "is no name of a header"))?;
            for text in self.strings(&key, value)? {
                let mut text = HeaderValue::from_str(text).map_err(|_| {
                    self.wrong(&key, value, "has characters that no header may have")
                })?;
                text.set_sensitive(true);
                headers.append(header.clone(), text);
            }
        }
        Ok(headers)
    }

    /// As Go writes them (`1m30s`), or a number of seconds.
    fn duration(&self, key: &str, value: &Value<'_>) -> Result<Duration, ConfigurationError> {
        let parsed = match value.get_ref() {
            DeValue::String(text) => go_duration(text),
            DeValue::Integer(digits) => (digits.as_str().parse().ok()).map(Duration::from_secs),
            _ => None,
        };
        parsed
            .filter(|duration| !duration.is_zero())
            .ok_or_else(|| self.wrong(key, value, "is no duration such as \"3s\" or \"1m30s\""))
    }

    fn boolean(&self, key: &str, value: &Value<'_>) -> Result<bool, ConfigurationError> {
        (value.get_ref().as_bool())
            .ok_or_else(|| self.wrong(key, value, "is neither true nor false"))
    }

    fn string<'v>(&self, key: &str, value: &'v Value<'_>) -> Result<&'v str, ConfigurationError> {
        (value.get_ref().as_str()).ok_or_else(|| self.wrong(key, value, "is not a string"))
    }

    /// A string, or a list of them.
    fn strings<'v>(
        &self,
        key: &str,
        value: &'v Value<'_>,
    ) -> Result<Vec<&'v str>, ConfigurationError> {
        let expected = "is neither a string nor a list of strings";
        match value.get_ref() {
            DeValue::String(text) => Ok(vec![text]),
            DeValue::Array(elements) => elements
                .iter()
                .map(|element| element.get_ref().as_str())
                .collect::<Option<_>>()
                .ok_or_else(|| self.wrong(key, value, expected)),
            _ => Err(self.wrong(key, value, expected)),
        }
    }

    fn beside(&self, path: &str) -> PathBuf {
        self.path.with_file_name("").join(path)
    }

    fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().iter().take(offset);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    fn wrong<T>(
        &self,
        key: &str,
        place: &Spanned<T>,
        reason: impl Into<String>,
    ) -> ConfigurationError {
        ConfigurationError {
            file: self.path.to_owned(),
            line: Some(self.line(place.span().start)),
            key: key.to_owned(),
            reason: reason.into(),
        }
    }
}

fn go_duration(mut text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    if text.is_empty() {
        return None;
    }
    while !text.is_empty() {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let count: f64 = text[..digits].parse().ok()?;
        text = &text[digits..];
        let units = [("ms", 1e-3), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let (unit, seconds) = units.iter().find(|(unit, _)| text.starts_with(unit))?;
        text = &text[unit.len()..];
        total = total.checked_add(Duration::try_from_secs_f64(count * seconds).ok()?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<HostsFile, ConfigurationError> {
        HostsFile::parse(text, Path::new("/c/r.io/hosts.toml"))
    }

    #[test]
    fn every_key_in_the_order_of_the_file() {
        let file = parse(
            r#"
server = "https://r.io"
ca = "all.crt"

[host."https://z.io"]
  capabilities = ["pull"]
  client = [["/k/a.cert", "a.key"], ["both.pem", ""]]
  skip_verify = true
  dial_timeout = "1m0.5s"
  [host."https://z.io".header]
    x-one = ["a", "b"]
    authorization = "Basic eA=="
[host."a.io:5000/proxy/"]
  override_path = true
  unheard = 1
[host."http://b.io/proxy/v2"]
  capabilities = ["pull", "resolve", "push"]
[host."https://c.io/proxy"]
"#,
        )
        .unwrap();
        let origins: Vec<String> = (file.mirrors.iter())
            .map(|entry| {
                let endpoint = entry.endpoint.as_ref().unwrap();
                format!("{}{}", endpoint.origin(), endpoint.prefix)
            })
            .collect();
        assert_eq!(
            origins,
            [
                "https://z.io/v2",
                "https://a.io:5000/proxy",
                "http://b.io/proxy/v2",
                "https://c.io/proxy/v2"
            ]
        );
        let [z, a, b, _] = &*file.mirrors else {
            panic!()
        };
        assert_eq!((z.line, z.resolve, z.pull), (5, false, true));
        assert_eq!((a.resolve, b.resolve, b.pull), (true, true, true));
        let path = |text: &str| PathBuf::from(text);
        assert_eq!(
            z.tls.client,
            [
                (path("/k/a.cert"), path("/c/r.io/a.key")),
                (path("/c/r.io/both.pem"), path("/c/r.io/both.pem"))
            ]
        );
        assert!(z.tls.skip_verify && !a.tls.skip_verify);
        assert_eq!(z.dial_timeout, Some(Duration::from_millis(60_500)));
        assert_eq!(z.headers.get_all("x-one").iter().count(), 2);
        assert!(!format!("{file:?}").contains("eA=="));
        assert_eq!(file.server.line, 2);
        assert_eq!(file.server.tls.ca, [path("/c/r.io/all.crt")]);
        assert_eq!(
            file.ignored,
            [r#"/c/r.io/hosts.toml:15: host."a.io:5000/proxy/".unheard"#]
        );
        assert!(parse("").unwrap().server.endpoint.is_none());
    }

    #[test]
    fn mistakes_have_a_line_and_a_key() {
        for (text, said) in [
            ("server = 1", ":1: server: is not a string"),
            ("\nserver = \"ftp://x\"", ":2: server: is neither"),
            ("server = \"https://u:pw@x\"", ":1: server: has credentials"),
            ("host = 1", ":1: host: is not a table"),
            (
                "[host.\"https://m\"]\ncapabilities = [\"pul\"]",
                ":2: host.\"https://m\".capabilities: \"pul\" is none of",
            ),
            (
                "[host.\"https://m\"]\nca = 1",
                ":2: host.\"https://m\".ca: is neither",
            ),
            (
                "[host.\"https://m\"]\nclient = [[1]]",
                ".client: is neither",
            ),
            (
                "[host.\"https://m\"]\nskip_verify = \"yes\"",
                ".skip_verify: is neither",
            ),
            (
                "[host.\"https://m\"]\noverride_path = 1",
                "override_path: is neither",
            ),
            (
                "[host.\"https://m\"]\ndial_timeout = \"soon\"",
                ".dial_timeout: is no duration",
            ),
            (
                "[host.\"https://m\".header]\n\"a b\" = \"x\"",
                "is no name of a header",
            ),
            (
                "[host.\"https://m\".header]\na = \"s3cr3t\\u0001\"",
                "characters that no header",
            ),
            (
                "[host.\"https://\"]",
                ":1: host.\"https://\": is no address",
            ),
            ("a = [", "/c/r.io/hosts.toml:1: "),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
            assert!(error.starts_with("/c/r.io/hosts.toml:"), "{error}");
            assert!(
                !error.contains("pw") && !error.contains("s3cr3t"),
                "{error}"
            );
        }
    }

    #[test]
    fn directories_are_named_as_containerd_names_them() {
        assert_eq!(directories("docker.io"), ["docker.io", "_default"]);
        assert_eq!(
            directories("r.io:5000"),
            ["r.io_5000_", "r.io:5000", "_default"]
        );
        assert_eq!(
            directories("[::1]:5000"),
            ["[::1]_5000_", "[::1]:5000", "_default"]
        );
        assert_eq!(directories("[::1]"), ["[::1]", "_default"]);
    }
}
