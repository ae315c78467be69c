//! `[runtimes.NAME]`: the handlers that a RuntimeClass may name.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Spanned, de::DeValue};

use super::{Value, value::Wrong};

/// The handler that is always there: the embedded core.
pub(crate) const NATIVE: &str = "native";

/// Handlers by name, beside [`NATIVE`]. A later file adds to them, or replaces one as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Runtimes(pub(crate) BTreeMap<String, RuntimeSettings>);

/// One handler.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuntimeSettings {
    pub(crate) kind: RuntimeKind,
    /// Of kind `oci`: its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<PathBuf>,
    /// Of kind `oci`: its global options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) options: Vec<String>,
    /// Names of annotations of pods and containers that the runtime gets to see; one that ends in `*` stands for all that begin so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) annotations: Vec<String>,
    /// Of kind `oci`, where containers have a kernel of their own.
    #[serde(default)]
    pub(crate) kernel: Option<KernelOf>,
}

/// Who has a kernel of its own, with a runtime whose containers do not run on the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KernelOf {
    /// Each container.
    Container,
    /// Each pod: its containers run in one sandbox.
    Pod,
}

impl KernelOf {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Pod => "pod",
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RuntimeKind {
    /// The embedded core.
    #[default]
    Native,
    /// A command line as runc's.
    Oci,
}

impl RuntimeKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Oci => "oci",
        }
    }
}

impl RuntimeSettings {
    /// Who has a kernel of its own. Where nobody says: each container, if they have the pod's network stack in common; with a stack in the
    /// kernel only one of a pod's kernels could have its address.
    pub(crate) fn kernel_of(&self) -> KernelOf {
        self.kernel.unwrap_or(match self.network() {
            Some("host") => KernelOf::Container,
            Some(_) | None => KernelOf::Pod,
        })
    }

    /// gVisor's option of that name.
    pub(crate) fn network(&self) -> Option<&str> {
        let mut options = self.options.iter();
        options.find_map(|one| one.trim_start_matches('-').strip_prefix("network="))
    }

    /// Whether the runtime gets to see an annotation.
    pub(crate) fn shows(&self, annotation: &str) -> bool {
        let shown = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => annotation.starts_with(beginning),
            None => annotation == pattern,
        };
        self.annotations.iter().any(shown)
    }
}

impl Runtimes {
    pub(super) fn extend(&mut self, later: Self) {
        self.0.extend(later.0);
    }
}

impl Value for RuntimeKind {
    fn expected() -> String {
        "\"native\" or \"oci\"".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        let name = String::read(value).map_err(|_| Wrong::at::<Self>(value))?;
        let all = [Self::Native, Self::Oci];
        let known = all.into_iter().find(|one| one.name() == name);
        known.ok_or_else(|| Wrong::at::<Self>(value))
    }

    fn write(&self) -> toml::Value {
        self.name().into()
    }
}

impl Value for KernelOf {
    fn expected() -> String {
        "\"container\" or \"pod\"".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        let name = String::read(value).map_err(|_| Wrong::at::<Self>(value))?;
        let all = [Self::Container, Self::Pod];
        let known = all.into_iter().find(|one| one.name() == name);
        known.ok_or_else(|| Wrong::at::<Self>(value))
    }

    fn write(&self) -> toml::Value {
        self.name().into()
    }
}

impl Value for RuntimeSettings {
    fn expected() -> String {
        "a table of kind, path, options, annotations and kernel; kind \"oci\" needs a path, and no other has one".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        let DeValue::Table(table) = value.get_ref() else {
            return Err(Wrong::at::<Self>(value));
        };
        let mut settings = Self::default();
        let mut kind = None;
        for (name, value) in table {
            match name.get_ref().as_ref() {
                "kind" => kind = Some(RuntimeKind::read(value)?),
                "path" => settings.path = Some(PathBuf::read(value)?),
                "options" => settings.options = Vec::read(value)?,
                "annotations" => settings.annotations = Vec::read(value)?,
                "kernel" => settings.kernel = Some(KernelOf::read(value)?),
                _ => {
                    return Err(Wrong {
                        span: name.span(),
                        expected: "one of kind, path, options, annotations and kernel".to_owned(),
                    });
                }
            }
        }
        settings.kind = kind.unwrap_or(match settings.path {
            Some(_) => RuntimeKind::Oci,
            None => RuntimeKind::Native,
        });
        let complete = match settings.kind {
            RuntimeKind::Native => settings.path.is_none() && settings.options.is_empty(),
            RuntimeKind::Oci => settings.path.is_some(),
        };
        match complete {
            true => Ok(settings),
            false => Err(Wrong::at::<Self>(value)),
        }
    }

    fn write(&self) -> toml::Value {
        let mut table = toml::Table::new();
        table.insert("kind".to_owned(), self.kind.write());
        if let Some(path) = &self.path {
            table.insert("path".to_owned(), path.write());
        }
        for (name, list) in [
            ("options", &self.options),
            ("annotations", &self.annotations),
        ] {
            if !list.is_empty() {
                table.insert(name.to_owned(), list.write());
            }
        }
        if let Some(kernel) = self.kernel {
            table.insert("kernel".to_owned(), kernel.write());
        }
        table.into()
    }
}

impl Value for Runtimes {
    fn expected() -> String {
        "a table of handlers, each a table below its name, a label of lower-case letters, digits and \"-\" that is not \"native\"".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        let DeValue::Table(table) = value.get_ref() else {
            return Err(Wrong::at::<Self>(value));
        };
        let mut runtimes = Self::default();
        for (name, value) in table {
            if !is_label(name.get_ref()) || name.get_ref() == NATIVE {
                return Err(Wrong {
                    span: name.span(),
                    expected:
                        "a label of lower-case letters, digits and \"-\", other than \"native\""
                            .to_owned(),
                });
            }
            let settings = RuntimeSettings::read(value)?;
            runtimes.0.insert(name.get_ref().to_string(), settings);
        }
        Ok(runtimes)
    }

    fn write(&self) -> toml::Value {
        let table: toml::Table = self
            .0
            .iter()
            .map(|(name, settings)| (name.clone(), settings.write()))
            .collect();
        table.into()
    }
}

/// As Kubernetes wants a handler's name (RFC 1123).
fn is_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len())
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_one_kernel_where_its_network_stack_is_in_it() {
        let with = |kernel: Option<KernelOf>, options: &[&str]| {
            let options = options.iter().map(|one| (*one).to_owned()).collect();
            let settings = RuntimeSettings {
                kernel,
                options,
                ..RuntimeSettings::default()
            };
            settings.kernel_of()
        };
        for (options, by_default) in [
            (&[][..], KernelOf::Pod),
            (&["--platform=kvm"], KernelOf::Pod),
            (&["--network=sandbox"], KernelOf::Pod),
            (&["--network=none"], KernelOf::Pod),
            (&["-network=host"], KernelOf::Container),
            (
                &["--platform=ptrace", "--network=host"],
                KernelOf::Container,
            ),
        ] {
            assert_eq!(with(None, options), by_default, "{options:?}");
            for said in [KernelOf::Pod, KernelOf::Container] {
                assert_eq!(with(Some(said), options), said, "{options:?}");
            }
        }
    }
}
