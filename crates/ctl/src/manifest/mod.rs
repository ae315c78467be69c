//! Kubernetes Pod manifests, as far as one node without a control plane can honour them, translated to CRI.
//!
//! Every field that is not honoured is refused by name; a few that a manifest commonly has, and that change nothing here, are
//! accepted with a note.

mod expand;
mod fields;
mod prepare;
mod quantity;
mod resources;
mod security;
mod translate;

pub(crate) use fields::Pod;
pub(crate) use prepare::prepare;
pub(crate) use translate::{LOG_DIRECTORY_ANNOTATION, PodPlan, PullPolicy, plan};

use std::path::Path;

use crate::error::Error;
use crate::input;

/// Every pod of a file of YAML documents (or one of JSON).
pub(crate) fn parse(path: &Path, text: &str) -> Result<Vec<Pod>, Error> {
    let refuse = |reason: String| Error::Input(format!("{}: {reason}", path.display()));
    let pods: Vec<Pod> = input::yaml_documents(text).map_err(refuse)?;
    for pod in &pods {
        pod.check_kind().map_err(refuse)?;
    }
    Ok(pods)
}
