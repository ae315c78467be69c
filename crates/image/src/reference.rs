//! Names of images, by the grammar of distribution references (<https://pkg.go.dev/github.com/distribution/reference>):
//!
//! ```text
//! reference  = name [ ":" tag ] [ "@" digest ]
//! name       = [ domain "/" ] path
//! domain     = host [ ":" digits ]          host: DNS name, IPv4 address or IPv6 address in brackets
//! path       = component *( "/" component ) component: [a-z0-9]+ joined by ".", "_", "__" or any number of "-"
//! tag        = [A-Za-z0-9_] up to 127 of [A-Za-z0-9_.-]
//! ```
//!
//! What precedes the first slash is a domain only if it has a dot, a colon or an upper-case letter, or is `localhost`;
//! otherwise the domain is `docker.io`, whose one-component paths lie under `library/`.

use std::fmt;

use crate::Digest;
use crate::digest::is_lower_hex;

/// The name of an image, in full.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no image reference: {reason}")]
pub struct ReferenceError {
    /// The refused text, at most 300 characters of it.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const MAX_PATH_BYTES: usize = 255;

impl Reference {
    /// Reads a reference as people write it.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        Self::parts(text).map_err(|reason| ReferenceError {
            text: text.chars().take(300).collect(),
            reason,
        })
    }

    fn parts(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("it is empty");
        }
        // With the algorithm before it, it would be the tag of a repository called sha256, which nobody means.
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if digits.len() == 64 && is_lower_hex(digits) {
            return Err("it is an image id, which no registry knows");
        }
        let (named, digest) = match text.split_once('@') {
            Some((named, digest)) => {
                let digest = Digest::parse(digest)
                    .map_err(|_| "what follows the @ is no sha256 or sha512 digest")?;
                (named, Some(digest))
            }
            None => (text, None),
        };
        let (domain, rest) = split_domain(named);
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err("the repository has upper-case letters");
        }
        if !is_domain(domain) {
            return Err("the registry is no host name or address, with an optional port");
        }
        if !path.split('/').all(is_component) {
            return Err(
                "the repository must be words of a-z and 0-9, joined by . _ __ or -, between slashes",
            );
        }
        if !tag.is_none_or(is_tag) {
            return Err(
                "the tag must be up to 128 of A-Z a-z 0-9 _ . - and begin with none of . -",
            );
        }
        let path = match (domain, path.contains('/')) {
            (DEFAULT_DOMAIN, false) => format!("library/{path}"),
            _ => path.to_owned(),
        };
        if path.len() > MAX_PATH_BYTES {
            return Err("the repository is longer than 255 characters");
        }
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// The registry, as it stands in names: `docker.io`, `localhost:5000`, `[::1]:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository, without the registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Registry and repository: `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag as written, if one was.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest as written, if one was.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What a registry is asked for: the digest, else the tag, else `latest`.
    pub fn target(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }

    /// The one name that all spellings of the reference share: `repository@digest`, else `repository:tag`. A tag beside a digest means
    /// nothing.
    pub fn canonical(&self) -> String {
        match &self.digest {
            Some(digest) => self.with_digest(digest),
            None => format!("{}/{}:{}", self.domain, self.path, self.target()),
        }
    }

    /// `repository@digest`.
    pub fn with_digest(&self, digest: &Digest) -> String {
        format!("{}/{}@{digest}", self.domain, self.path)
    }
}

/// The canonical name.
impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.canonical())
    }
}

fn split_domain(named: &str) -> (&str, &str) {
    let (domain, rest) = match named.split_once('/') {
        Some((first, rest))
            if first == "localhost"
                || first
                    .bytes()
                    .any(|byte| matches!(byte, b'.' | b':') || byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, named),
    };
    match domain {
        "index.docker.io" => (DEFAULT_DOMAIN, rest),
        _ => (domain, rest),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(bracketed) => match bracketed.split_once(']') {
            Some((address, rest)) => {
                let valid = !address.is_empty()
                    && address
                        .bytes()
                        .all(|byte| byte.is_ascii_hexdigit() || byte == b':');
                if !valid {
                    return false;
                }
                match rest.strip_prefix(':') {
                    Some(port) => (None, Some(port)),
                    None if rest.is_empty() => (None, None),
                    None => return false,
                }
            }
            None => return false,
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    let port_valid = port.is_none_or(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'));
    let host_valid = host.is_none_or(|host| {
        host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
    });
    port_valid && host_valid
}

fn is_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) if alphanumeric(first) && alphanumeric(last) => {}
        _ => return false,
    }
    bytes
        .split(|&byte| alphanumeric(byte))
        .all(|separator| match separator {
            [] | b"." | b"_" | b"__" => true,
            dashes => dashes.iter().all(|&byte| byte == b'-'),
        })
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    bytes.len() <= 128
        && bytes.first().is_some_and(|&first| word(first))
        && bytes
            .iter()
            .all(|&byte| word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn spellings_of_one_name() {
        let digest = format!("sha256:{HEX}");
        let long = format!("sha512:{HEX}{HEX}");
        let table = [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            (
                "docker.io/busybox",
                "docker.io/library/busybox:latest".to_owned(),
            ),
            (
                "index.docker.io/busybox",
                "docker.io/library/busybox:latest".to_owned(),
            ),
            (
                "index.docker.io/library/busybox",
                "docker.io/library/busybox:latest".to_owned(),
            ),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/app:v1", "localhost:5000/app:v1".to_owned()),
            (
                "127.0.0.1:5000/a/b/c",
                "127.0.0.1:5000/a/b/c:latest".to_owned(),
            ),
            ("[::1]:5000/app", "[::1]:5000/app:latest".to_owned()),
            ("[2001:db8::1]/app:x", "[2001:db8::1]/app:x".to_owned()),
            ("Registry/app", "Registry/app:latest".to_owned()),
            ("k8s.gcr.io/pause:3.9", "k8s.gcr.io/pause:3.9".to_owned()),
            (
                "a.b/c__d/e-----f/g.h_i",
                "a.b/c__d/e-----f/g.h_i:latest".to_owned(),
            ),
            ("x:_TAG.1-2", "docker.io/library/x:_TAG.1-2".to_owned()),
            // No domain without a slash behind it, and none without a dot, a colon or an upper-case letter.
            ("r.io", "docker.io/library/r.io:latest".to_owned()),
            ("r.io:v1", "docker.io/library/r.io:v1".to_owned()),
            ("localhost", "docker.io/library/localhost:latest".to_owned()),
            ("r.io:5000", "docker.io/library/r.io:5000".to_owned()),
            ("test_com/app", "docker.io/test_com/app:latest".to_owned()),
            ("host:5000/app", "host:5000/app:latest".to_owned()),
            ("LOCALHOST/app", "LOCALHOST/app:latest".to_owned()),
            ("R.IO/app:Latest", "R.IO/app:Latest".to_owned()),
            ("library/x", "docker.io/library/x:latest".to_owned()),
            ("docker.io/a/b", "docker.io/a/b:latest".to_owned()),
            (
                "sub-dom1.foo.com/bar/baz/quux:some-long-tag",
                "sub-dom1.foo.com/bar/baz/quux:some-long-tag".to_owned(),
            ),
            (
                "xn--n3h.com/myimage:xn--n3h.com",
                "xn--n3h.com/myimage:xn--n3h.com".to_owned(),
            ),
            ("[::1]/app", "[::1]/app:latest".to_owned()),
            (
                "[FD00:1:2::3]:5000/app",
                "[FD00:1:2::3]:5000/app:latest".to_owned(),
            ),
            (
                &*format!("app@{digest}"),
                format!("docker.io/library/app@{digest}"),
            ),
            (
                &*format!("r.io/app:v1@{digest}"),
                format!("r.io/app@{digest}"),
            ),
            (
                &*format!("[::1]:5000/app:v1@{digest}"),
                format!("[::1]:5000/app@{digest}"),
            ),
            (
                &*format!("app@{long}"),
                format!("docker.io/library/app@{long}"),
            ),
        ];
        for (text, canonical) in table {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.canonical(), canonical, "{text}");
            let again = Reference::parse(&canonical).unwrap();
            assert_eq!(again.canonical(), canonical, "{text}");
        }
    }

    #[test]
    fn what_names_nothing_is_refused() {
        let long_tag = format!("app:{}", "t".repeat(129));
        let long_path = format!("r.io/{}", "p".repeat(256));
        let id = format!("sha256:{HEX}");
        let bad_digest = format!("app@sha256:{}", HEX.to_uppercase());
        let short_digest = format!("app@sha512:{HEX}");
        let bare_digest = format!("@sha256:{HEX}");
        let two_digests = format!("app@sha256:{HEX}@sha256:{HEX}");
        let digest_first = format!("app@sha256:{HEX}:tag");
        let table = [
            "",
            ":tag",
            "app:",
            "app@",
            "app:-x",
            "app:.x",
            "App",
            "user/App",
            "r.io/App",
            "r.io/",
            "/app",
            "a//b",
            "a/",
            "-app",
            "app-",
            "a..b",
            "a___b",
            "a._b",
            "app tag",
            "app:a b",
            "r.io:port/app",
            "r.io:99999/app",
            "r.io:/app",
            "-r.io/app",
            "r-.io/app",
            "r..io/app",
            "[::1/app",
            "[]/app",
            "[::1]x/app",
            "[g::]/app",
            // A zone is the node's own business, and no part of a name; nor is the older way to write the end of an address.
            "[fe80::1%eth0]:5000/app",
            "[2001:db8:3:4::192.0.2.33]:5000/app",
            "2001:db8::1/app",
            "[::1]:/app",
            "[::1]:99999/app",
            "[::1]",
            "a:b:c",
            "r.io/app:v1:v2",
            "r.io/_app",
            "r.io/app_",
            "r.io/a.-b",
            "r.io/app//",
            "test..com/app",
            "te_st.com/app",
            " app",
            "LOCALHOST",
            "docker.io/App",
            "https://r.io/app",
            "app@sha256:abc",
            "app@md5:d41d8cd98f00b204e9800998ecf8427e",
            "é",
            "app:é",
            "app\n",
            HEX,
            &*id,
            &*long_tag,
            &*long_path,
            &*bad_digest,
            &*short_digest,
            &*bare_digest,
            &*two_digests,
            &*digest_first,
        ];
        for text in table {
            assert!(Reference::parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn parts_are_told_apart() {
        let text = format!("localhost:5000/a/b:v1@sha256:{HEX}");
        let reference = Reference::parse(&text).unwrap();
        assert_eq!(reference.domain(), "localhost:5000");
        assert_eq!(reference.path(), "a/b");
        assert_eq!(reference.tag(), Some("v1"));
        assert_eq!(reference.target(), format!("sha256:{HEX}"));
    }
}
