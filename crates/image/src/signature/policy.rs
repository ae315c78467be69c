//! The policy's file:
//!
//! ```toml
//! default = "reject"
//!
//! [[rule]]
//! name = "ours"
//! images = ["registry.example/team"]
//! namespaces = ["production"]
//! action = "signed"
//! keys = ["team.pub"]
//! ```
//!
//! The first rule that fits the image and the namespace applies.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;
use sigstore_verify::Verifier;
use sigstore_verify::trust_root::TrustedRoot;
use sigstore_verify::types::DerPublicKey;

use super::pattern::{fits, is_below};
use super::{Subject, crypto};
use crate::ConfigurationError;

/// No policy that people write is larger, and no trust root either.
const MAX_BYTES: u64 = 1 << 20;

pub(crate) struct Policy {
    path: PathBuf,
    rules: Vec<Rule>,
    default: Default,
    /// All files that it is read from, as they were.
    files: Vec<(PathBuf, Stamp)>,
}

struct Rule {
    name: String,
    images: Vec<String>,
    namespaces: Vec<String>,
    action: Action,
}

/// What becomes of an image.
pub(crate) enum Action {
    Accept,
    Reject,
    Signed(Box<Requirement>),
}

/// Any one of them will do.
pub(crate) struct Requirement {
    pub(super) keys: Vec<Key>,
    pub(super) keyless: Option<Keyless>,
}

pub(super) struct Key {
    /// Its file's, for messages.
    pub(super) name: String,
    pub(super) key: DerPublicKey,
}

pub(super) struct Keyless {
    pub(super) verifier: Verifier,
    /// Whether the trust root has transparency logs at all.
    pub(super) logged: bool,
    /// Whether it has logs of certificates.
    pub(super) certificates_logged: bool,
    pub(super) signers: Vec<Signer>,
}

/// Whom a certificate must be for.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub(super) struct Signer {
    /// Exactly: `https://accounts.google.com`.
    pub(super) issuer: String,
    /// Mail address or URI; `*` stands for any run of characters.
    pub(super) subject: String,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Default {
    Accept,
    Reject,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum RawAction {
    Accept,
    Reject,
    Signed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    default: Default,
    #[serde(default)]
    rule: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: String,
    images: Vec<String>,
    #[serde(default)]
    namespaces: Vec<String>,
    action: RawAction,
    #[serde(default)]
    keys: Vec<PathBuf>,
    trusted_root: Option<PathBuf>,
    #[serde(default)]
    signers: Vec<Signer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

/// The rule that applies.
#[derive(Clone, Copy)]
pub(crate) struct Verdict<'a> {
    pub(crate) action: &'a Action,
    policy: &'a Policy,
    rule: Option<&'a Rule>,
}

impl Policy {
    /// Reads the file and those that it names, which are relative to it. Blocks.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigurationError> {
        crypto::install();
        let mut reader = Reader {
            directory: path.parent().unwrap_or(Path::new("/")).to_owned(),
            files: Vec::new(),
        };
        let text = reader.text(path)?;
        let raw: RawPolicy = toml::from_str(&text).map_err(|error| ConfigurationError {
            line: (error.span()).map(|span| 1 + text[..span.start].matches('\n').count()),
            ..ConfigurationError::of_file(path, error.message())
        })?;
        let mut rules = Vec::with_capacity(raw.rule.len());
        for rule in raw.rule {
            let wrong = |key: &str, reason: String| ConfigurationError {
                key: format!("rule {:?}: {key}", rule.name),
                ..ConfigurationError::of_file(path, reason)
            };
            for image in &rule.images {
                check_prefix(image).map_err(|reason| wrong("images", reason))?;
            }
            if rule.images.is_empty() {
                return Err(wrong(
                    "images",
                    "has none, so the rule never applies".into(),
                ));
            }
            let action = reader.action(&rule, &wrong)?;
            rules.push(Rule {
                name: rule.name,
                images: rule.images,
                namespaces: rule.namespaces,
                action,
            });
        }
        Ok(Self {
            path: path.to_owned(),
            rules,
            default: raw.default,
            files: reader.files,
        })
    }

    /// Whether its files are those that it was read from.
    pub(super) fn is_fresh(&self) -> bool {
        (self.files.iter()).all(|(path, stamp)| Stamp::of(path) == Some(*stamp))
    }

    /// The first rule that fits, else the default.
    pub(crate) fn verdict(&self, repository: &str, namespace: &str) -> Verdict<'_> {
        let rule = self.rules.iter().find(|rule| {
            rule.images
                .iter()
                .any(|prefix| is_below(prefix, repository))
                && (rule.namespaces.is_empty()
                    || (rule.namespaces.iter()).any(|pattern| fits(pattern, namespace)))
        });
        let default = match self.default {
            Default::Accept => &Action::Accept,
            Default::Reject => &Action::Reject,
        };
        Verdict {
            action: rule.map_or(default, |rule| &rule.action),
            policy: self,
            rule,
        }
    }
}

impl Verdict<'_> {
    /// For messages: which rule, of which file.
    pub(crate) fn rule(&self) -> String {
        match self.rule {
            Some(rule) => format!("rule {:?} of {}", rule.name, self.policy.path.display()),
            None => format!("the default of {}", self.policy.path.display()),
        }
    }

    /// What the rule says, and which it is.
    pub(crate) fn shown(&self) -> String {
        let says = match self.action {
            Action::Accept => "accepted".to_owned(),
            Action::Reject => "rejected".to_owned(),
            Action::Signed(requirement) => {
                let mut ways: Vec<String> = (requirement.keys.iter())
                    .map(|key| format!("with {}", key.name))
                    .collect();
                let signers = requirement.keyless.iter().flat_map(|it| &it.signers);
                ways.extend(signers.map(|it| format!("by {} of {}", it.subject, it.issuer)));
                format!("must be signed {}", ways.join(" or "))
            }
        };
        format!("{says}, by {}", self.rule())
    }
}

impl Subject<'_> {
    /// For messages.
    pub(super) fn shown(&self) -> String {
        match self.namespace {
            "" => self.repository.to_owned(),
            namespace => format!("{} in namespace {namespace}", self.repository),
        }
    }
}

struct Reader {
    directory: PathBuf,
    files: Vec<(PathBuf, Stamp)>,
}

impl Reader {
    fn text(&mut self, path: &Path) -> Result<String, ConfigurationError> {
        let path = self.directory.join(path);
        let failed = |error: &dyn std::fmt::Display| ConfigurationError::of_file(&path, error);
        let stamp = Stamp::of(&path);
        let text = crate::registry::read_text(&path).map_err(|error| failed(&error))?;
        let stamp = stamp.ok_or_else(|| failed(&"it has just gone"))?;
        if stamp.length > MAX_BYTES {
            return Err(failed(&"it is larger than 1 MiB"));
        }
        self.files.push((path, stamp));
        Ok(text)
    }

    fn action(
        &mut self,
        rule: &RawRule,
        wrong: &impl Fn(&str, String) -> ConfigurationError,
    ) -> Result<Action, ConfigurationError> {
        let extra =
            !rule.keys.is_empty() || rule.trusted_root.is_some() || !rule.signers.is_empty();
        match rule.action {
            RawAction::Accept | RawAction::Reject if extra => {
                let reason = "keys, trusted_root and signers go with \"signed\" alone";
                return Err(wrong("action", reason.into()));
            }
            RawAction::Accept => return Ok(Action::Accept),
            RawAction::Reject => return Ok(Action::Reject),
            RawAction::Signed => {}
        }
        let mut keys = Vec::with_capacity(rule.keys.len());
        for path in &rule.keys {
            let text = self.text(path)?;
            let unusable = |error: &dyn std::fmt::Display| {
                ConfigurationError::of_file(&self.directory.join(path), error)
            };
            let key = DerPublicKey::from_pem(&text).map_err(|error| unusable(&error))?;
            sigstore_verify::crypto::VerificationKey::from_spki(&key)
                .map_err(|error| unusable(&error))?;
            keys.push(Key {
                name: path.display().to_string(),
                key,
            });
        }
        let keyless = match (&rule.trusted_root, rule.signers.is_empty()) {
            (None, true) => None,
            (Some(path), false) => Some(self.keyless(path, &rule.signers)?),
            (Some(_), true) => {
                let reason = "are missing: a trusted root alone says who may vouch for anybody";
                return Err(wrong("signers", reason.into()));
            }
            (None, false) => {
                let reason = "is missing: it says who may vouch for the signers";
                return Err(wrong("trusted_root", reason.into()));
            }
        };
        if keys.is_empty() && keyless.is_none() {
            let reason = "\"signed\" wants keys, or trusted_root and signers";
            return Err(wrong("action", reason.into()));
        }
        Ok(Action::Signed(Box::new(Requirement { keys, keyless })))
    }

    fn keyless(&mut self, path: &Path, signers: &[Signer]) -> Result<Keyless, ConfigurationError> {
        let text = self.text(path)?;
        let unusable = |error: &dyn std::fmt::Display| {
            ConfigurationError::of_file(&self.directory.join(path), error)
        };
        let root = TrustedRoot::from_json(&text).map_err(|error| unusable(&error))?;
        let verifier = Verifier::new(&root).map_err(|error| unusable(&error))?;
        if root.certificate_authorities.is_empty() {
            return Err(unusable(&"it has no certificate authority"));
        }
        if root.tlogs.is_empty() && root.timestamp_authorities.is_empty() {
            let reason = "it has neither a transparency log nor a timestamp authority, so that no signature has a time";
            return Err(unusable(&reason));
        }
        Ok(Keyless {
            verifier,
            logged: !root.tlogs.is_empty(),
            certificates_logged: !root.ctlogs.is_empty(),
            signers: signers.to_vec(),
        })
    }
}

/// A registry, or a repository with its registry: what has none would never apply.
fn check_prefix(prefix: &str) -> Result<(), String> {
    let registry = prefix.split('/').next().unwrap_or_default();
    let named = registry == "localhost"
        || registry
            .bytes()
            .any(|byte| matches!(byte, b'.' | b':') || byte.is_ascii_uppercase());
    match prefix == "*" || (named && !prefix.contains('*') && !prefix.contains('@')) {
        true => Ok(()),
        false => Err(format!(
            "{prefix:?} is neither a registry, nor a repository that begins with one (docker.io/library/busybox), nor \"*\""
        )),
    }
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Policy")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
