//! What the node's configuration, and pods' annotations, say of plugins: which are required, and what none may change.

use std::{collections::BTreeMap, sync::Arc};

use nri::api::Field;

use super::{
    NriError,
    merge::{Merged, Owners},
    plugin::Plugin,
};
use crate::config::NriSettings;

/// A pod's own list of plugins without which it must not run, as a YAML list.
const REQUIRED: &str = "required-plugins.noderesource.dev";

/// Whether every plugin that is required was there to be asked, and still is.
pub(super) fn required(
    config: &NriSettings,
    plugins: &[Arc<Plugin>],
    annotations: &BTreeMap<String, String>,
    container: Option<&str>,
) -> Result<(), NriError> {
    if !config.tolerate_missing.is_empty()
        && let Some((name, value)) = annotation(annotations, &config.tolerate_missing, container)
    {
        match value {
            "true" => return Ok(()),
            "false" => {}
            value => {
                return Err(NriError::Annotation {
                    name,
                    value: value.to_owned(),
                    why: "use true or false",
                });
            }
        }
    }
    let mut names = config.required.clone();
    if let Some((name, value)) = annotation(annotations, REQUIRED, container) {
        let listed: Vec<String> =
            serde_saphyr::from_str(value).map_err(|_unparsed| NriError::Annotation {
                name,
                value: value.to_owned(),
                why: "write a list of plugins, as in [ one, other ]",
            })?;
        names.extend(listed);
    }
    let missing = names
        .into_iter()
        .find(|name| !plugins.iter().any(|plugin| plugin.is(name)));
    match missing {
        Some(name) => Err(NriError::Missing(name)),
        None => Ok(()),
    }
}

/// The annotation for a container, for its pod, or for all.
fn annotation<'a>(
    annotations: &'a BTreeMap<String, String>,
    key: &str,
    container: Option<&str>,
) -> Option<(String, &'a str)> {
    let own = container.map(|name| format!("{key}/container.{name}"));
    let keys = own
        .into_iter()
        .chain([format!("{key}/pod"), key.to_owned()]);
    keys.into_iter().find_map(|key| {
        let value = annotations.get(&key)?;
        Some((key, value.as_str()))
    })
}

/// What the configuration lets no plugin change.
pub(super) fn built_in(config: &NriSettings, owners: &Owners) -> Result<(), NriError> {
    for refused in &config.reject {
        let field = match &**refused {
            "hooks" => Field::OciHooks,
            "seccomp" => Field::SeccompPolicy,
            "namespaces" => Field::Namespace,
            "sysctl" => Field::Sysctl,
            // Such a word is refused when the configuration is read.
            _ => continue,
        };
        let offenders = owners.of(field);
        if !offenders.is_empty() {
            return Err(NriError::Rejected {
                validator: "nri.reject".to_owned(),
                reason: format!("{} changed {refused}", offenders.join(", ")),
            });
        }
    }
    Ok(())
}

impl Merged {
    /// Who has changed anything.
    pub(super) fn everybody(&self) -> String {
        let simple = self.owners.0.simple.values();
        let compound = self.owners.0.compound.values();
        let all = simple.chain(compound.flat_map(|entries| entries.owners.values()));
        let mut all: Vec<_> = all.map(String::as_str).collect();
        all.sort_unstable();
        all.dedup();
        all.join(", ")
    }
}
