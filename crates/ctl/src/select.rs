//! Filters of lists: what the runtime filters itself, and what only we can.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use cri::v1::{
    Container, ContainerFilter, ContainerState, ContainerStateValue, PodSandbox, PodSandboxFilter,
    PodSandboxState, PodSandboxStateValue,
};
use regex_lite::Regex;

use crate::error::Error;
use crate::input::pairs;
use crate::session::Session;
use crate::{ids, output};

/// Labels that the kubelet puts on containers; CRI's Container has no other way to its pod's name.
pub(crate) const POD_NAME_LABEL: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
pub(crate) const POD_UID_LABEL: &str = "io.kubernetes.pod.uid";
pub(crate) const CONTAINER_NAME_LABEL: &str = "io.kubernetes.container.name";

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PodSelection {
    /// Filter by pod name (regular expression)
    #[arg(long, value_name = "REGEX")]
    pub(crate) name: Option<String>,
    /// Filter by pod namespace (regular expression)
    #[arg(long, value_name = "REGEX")]
    pub(crate) namespace: Option<String>,
    /// Filter by pod state
    #[arg(long, short, ignore_case = true)]
    pub(crate) state: Option<PodState>,
    /// Filter by label
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Show the most recently created pod
    #[arg(long, short)]
    pub(crate) latest: bool,
    /// Show the N most recently created pods; 0 is all
    #[arg(
        long,
        short = 'n',
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) last: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PodState {
    Ready,
    #[value(name = "notready")]
    NotReady,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ContainerSelection {
    /// Filter by container name (regular expression)
    #[arg(long, value_name = "REGEX")]
    pub(crate) name: Option<String>,
    /// Filter by pod namespace (regular expression)
    #[arg(long, value_name = "REGEX")]
    pub(crate) namespace: Option<String>,
    /// Filter by pod id
    #[arg(long, short, value_name = "POD-ID")]
    pub(crate) pod: Option<String>,
    /// Filter by image
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// Filter by container state
    #[arg(long, short, ignore_case = true)]
    pub(crate) state: Option<StateName>,
    /// Filter by label
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Show the most recently created container, in any state
    #[arg(long, short)]
    pub(crate) latest: bool,
    /// Show the N most recently created containers, in any state; 0 is all
    #[arg(
        long,
        short = 'n',
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) last: usize,
    /// Show containers in any state, not only those that run
    #[arg(long, short)]
    pub(crate) all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StateName {
    Created,
    Running,
    Exited,
    Unknown,
}

impl PodSelection {
    /// Newest first.
    pub(crate) async fn list(
        &self,
        session: &Session,
        id: Option<&str>,
    ) -> Result<Vec<PodSandbox>, Error> {
        let patterns = Patterns::compile(self.name.as_deref(), self.namespace.as_deref())?;
        let state = self.state.map(|state| match state {
            PodState::Ready => PodSandboxState::SandboxReady,
            PodState::NotReady => PodSandboxState::SandboxNotready,
        });
        let filter = PodSandboxFilter {
            id: match id {
                Some(given) => ids::pod(session, given).await?,
                None => String::new(),
            },
            state: state.map(|state| PodSandboxStateValue {
                state: state.into(),
            }),
            label_selector: pairs("--label", &self.labels)?,
        };
        let mut pods = session.pods(filter).await?;
        pods.retain(|pod| {
            pod.metadata
                .as_ref()
                .is_some_and(|m| patterns.matches(&m.name, &m.namespace))
        });
        pods.sort_by_key(|pod| Reverse(pod.created_at));
        pods.truncate(kept(pods.len(), self.latest, self.last));
        Ok(pods)
    }
}

impl ContainerSelection {
    /// Newest first.
    pub(crate) async fn list(
        &self,
        session: &Session,
        id: Option<&str>,
    ) -> Result<Vec<Container>, Error> {
        let patterns = Patterns::compile(self.name.as_deref(), self.namespace.as_deref())?;
        let filter = ContainerFilter {
            id: match id {
                Some(given) => ids::container(session, given).await?,
                None => String::new(),
            },
            state: self.wanted_state().map(|state| ContainerStateValue {
                state: state.into(),
            }),
            pod_sandbox_id: match &self.pod {
                Some(pod) => ids::pod(session, pod).await?,
                None => String::new(),
            },
            label_selector: pairs("--label", &self.labels)?,
        };
        let mut containers = session.containers(filter).await?;
        containers.retain(|container| {
            let name = container.metadata.as_ref().map(|m| m.name.as_str());
            name.is_some_and(|name| patterns.matches(name, pod_namespace(&container.labels)))
        });
        if let Some(image) = &self.image {
            containers = with_image(session, containers, image).await?;
        }
        containers.sort_by_key(|container| Reverse(container.created_at));
        containers.truncate(kept(containers.len(), self.latest, self.last));
        Ok(containers)
    }

    /// Running, unless something else was asked for.
    fn wanted_state(&self) -> Option<ContainerState> {
        if self.latest || self.last > 0 {
            return None;
        }
        match self.state {
            Some(StateName::Created) => Some(ContainerState::ContainerCreated),
            Some(StateName::Running) => Some(ContainerState::ContainerRunning),
            Some(StateName::Exited) => Some(ContainerState::ContainerExited),
            Some(StateName::Unknown) => Some(ContainerState::ContainerUnknown),
            None if self.all => None,
            None => Some(ContainerState::ContainerRunning),
        }
    }
}

/// Containers whose image is the one that `image` (a name, digest or id) names.
async fn with_image(
    session: &Session,
    containers: Vec<Container>,
    image: &str,
) -> Result<Vec<Container>, Error> {
    let Some(wanted) = session.image_status(image, false).await?.image else {
        return Ok(Vec::new());
    };
    let mut kept = Vec::new();
    // What a container calls its image, to that image's id; many share one.
    let mut known: BTreeMap<String, Option<String>> = BTreeMap::new();
    for container in containers {
        let name = container.image.as_ref().map_or("", |i| &i.image).to_owned();
        let matches = if !container.image_id.is_empty() {
            container.image_id == wanted.id
        } else if let Some(id) = known.get(&name) {
            id.as_ref() == Some(&wanted.id)
        } else {
            let found = session.image_status(&name, false).await?.image;
            let id = found.map(|image| image.id);
            let matches = id.as_ref() == Some(&wanted.id);
            known.insert(name, id);
            matches
        };
        if matches {
            kept.push(container);
        }
    }
    Ok(kept)
}

/// The name's and the namespace's expression; neither is anchored.
#[derive(Debug)]
struct Patterns {
    name: Option<Regex>,
    namespace: Option<Regex>,
}

impl Patterns {
    fn compile(name: Option<&str>, namespace: Option<&str>) -> Result<Self, Error> {
        let compile = |flag: &str, text: Option<&str>| {
            text.map(|text| {
                Regex::new(text).map_err(|error| Error::Usage(format!("{flag} {text:?}: {error}")))
            })
            .transpose()
        };
        Ok(Self {
            name: compile("--name", name)?,
            namespace: compile("--namespace", namespace)?,
        })
    }

    fn matches(&self, name: &str, namespace: &str) -> bool {
        let fits =
            |pattern: &Option<Regex>, text| pattern.as_ref().is_none_or(|p| p.is_match(text));
        fits(&self.name, name) && fits(&self.namespace, namespace)
    }
}

/// `--last` wins over `--latest`.
fn kept(total: usize, latest: bool, last: usize) -> usize {
    match (latest, last) {
        (_, n) if n > 0 => n.min(total),
        (true, _) => total.min(1),
        (false, _) => total,
    }
}

pub(crate) fn pod_name(labels: &BTreeMap<String, String>) -> &str {
    labels.get(POD_NAME_LABEL).map_or("unknown", String::as_str)
}

pub(crate) fn pod_namespace(labels: &BTreeMap<String, String>) -> &str {
    labels
        .get(POD_NAMESPACE_LABEL)
        .map_or("unknown", String::as_str)
}

/// `sha256:…` as a name is an id: cut like one.
pub(crate) fn short_image(image: &str) -> &str {
    if image.starts_with("sha256:") {
        ids::short(image, "sha256:")
    } else {
        image
    }
}

/// `Created`, `Running`, `Exited`, `Unknown`.
pub(crate) fn container_state(state: ContainerState) -> &'static str {
    match state {
        ContainerState::ContainerCreated => "Created",
        ContainerState::ContainerRunning => "Running",
        ContainerState::ContainerExited => "Exited",
        ContainerState::ContainerUnknown => "Unknown",
    }
}

/// `Ready`, `NotReady`.
pub(crate) fn pod_state(state: PodSandboxState) -> &'static str {
    match state {
        PodSandboxState::SandboxReady => "Ready",
        PodSandboxState::SandboxNotready => "NotReady",
    }
}

/// `Labels:` and `Annotations:`, one line each.
pub(crate) fn write_maps(
    out: &mut output::Output,
    maps: [(&str, &BTreeMap<String, String>); 2],
) -> Result<(), Error> {
    use std::io::Write;

    for (title, map) in maps {
        if map.is_empty() {
            continue;
        }
        writeln!(out, "{title}:")?;
        for (key, value) in map {
            writeln!(out, "\t{key} -> {value}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_unanchored_and_optional() {
        let patterns = Patterns::compile(Some("^web-[0-9]+"), None).unwrap();
        assert!(patterns.matches("web-1x", "any"));
        assert!(!patterns.matches("a-web-1", "any"));
        let error = Patterns::compile(None, Some("(")).unwrap_err();
        assert!(error.to_string().starts_with("--namespace \"(\": "));
    }

    #[test]
    fn last_wins_over_latest() {
        assert_eq!(kept(5, false, 0), 5);
        assert_eq!(kept(5, true, 0), 1);
        assert_eq!(kept(5, true, 3), 3);
        assert_eq!(kept(2, false, 3), 2);
        assert_eq!(kept(0, true, 0), 0);
    }

    #[test]
    fn only_running_containers_unless_asked() {
        let state = |selection: ContainerSelection| selection.wanted_state();
        let plain = ContainerSelection::default();
        assert_eq!(state(plain.clone()), Some(ContainerState::ContainerRunning));
        let all = ContainerSelection {
            all: true,
            ..plain.clone()
        };
        assert_eq!(state(all.clone()), None);
        let exited = ContainerSelection {
            state: Some(StateName::Exited),
            ..all
        };
        assert_eq!(state(exited.clone()), Some(ContainerState::ContainerExited));
        assert_eq!(state(ContainerSelection { last: 2, ..exited }), None);
    }
}
