//! SELinux labels of pods: of their processes, and of the files that are theirs.
//!
//! ```text
//!  /etc/selinux/TYPE/contexts/lxc_contexts ──▶ process, file ─┐
//!  the pod's selinux_options ─────────────────────────────────┼─▶ [`PodLabels`], in the pod's record
//!  a pair of categories, the pod's alone while it lives ──────┘        │
//!                                                                      ▼ `spec::selinux`, for each container
//!                              a process label (`attr/exec`) and a label of files (`context=` of mounts, `security.selinux` of volumes)
//! ```
//!
//! | node | configuration | a pod | a label that is asked for |
//! |---|---|---|---|
//! | without SELinux | | has none | is not there to be lost |
//! | with it | `selinux = true` | has a label | is set, or refused where the policy has no such label |
//! | with it, and no labels for containers in its policy | `selinux = true` | is refused | is refused |
//! | with it | `selinux = false` | has what the daemon has | is refused |

mod label;
mod levels;
mod policy;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub(crate) use label::Label;
pub(crate) use levels::HeldLevel;
pub(crate) use policy::PolicyError;

use levels::Levels;
use policy::Contexts;

use crate::pod::config::PodConfig;

/// The type of what is privileged: nothing is denied to it.
const UNCONFINED: &str = "spc_t";

/// The extended attribute that a file's label is.
const ATTRIBUTE: &str = "security.selinux";

const FIELD: &str = "config.linux.security_context.selinux_options";

/// The labels of a pod, as its record has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodLabels {
    /// Of a process that is confined.
    pub(crate) process: Label,
    /// Of files that are the pod's.
    pub(crate) files: Label,
    /// Of a process that is not confined. `None`: the policy has no name for such; the process is what its supervisor is.
    pub(crate) unconfined: Option<Label>,
}

/// Labels of this node.
#[derive(Debug)]
pub(crate) struct Selinux {
    node: Node,
    /// Whoever writes a label there learns whether the policy has it.
    judge: PathBuf,
    levels: Levels,
}

#[derive(Debug)]
enum Node {
    Without,
    NotWanted,
    With(Contexts),
    Mute(PolicyError),
}

/// Where the kernel and the policy have their files.
#[derive(Debug)]
pub(crate) struct Places {
    /// selinuxfs(5).
    pub(crate) kernel: PathBuf,
    /// selinux_config(5).
    pub(crate) policy: PathBuf,
    /// The daemon's own label.
    pub(crate) own: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            kernel: PathBuf::from("/sys/fs/selinux"),
            policy: PathBuf::from("/etc/selinux"),
            own: PathBuf::from("/proc/self/attr/current"),
        }
    }
}

/// Why a pod or a container cannot have its labels.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SelinuxError {
    #[error(
        "SELinux is enabled on this node, and its policy has no labels for containers: install one that has (package container-selinux, \
         or a policy with lxc_contexts) and start longshored anew, or set selinux = false in its configuration"
    )]
    Mute(#[source] SharedPolicyError),
    #[error("{FIELD}: the policy of this node has no label {label}: name parts that it has")]
    Unknown { label: String },
    #[error("{FIELD}: ask the kernel for the label {label}")]
    Judge {
        label: String,
        #[source]
        source: io::Error,
    },
    #[error("choose a pair of SELinux categories")]
    Random(#[source] io::Error),
    #[error("every pair of SELinux categories is some pod's: remove pods that are not needed")]
    Exhausted,
}

/// The text of a [`PolicyError`], which is told again and again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SharedPolicyError(String);

/// Whether the kernel confines by SELinux: it is mounted, and has a policy.
pub(crate) fn is_enabled(places: &Places) -> bool {
    let own = fs::read_to_string(&places.own).unwrap_or_default();
    let own = own.trim_end_matches(['\0', '\n']);
    places.kernel.join("enforce").exists() && own != "kernel"
}

/// Whether nothing is denied to what has this label.
pub(crate) fn is_unconfined(label: &Label) -> bool {
    label.kind() == UNCONFINED
}

impl Selinux {
    /// `wanted`: by the configuration.
    pub(crate) fn open(wanted: bool, places: &Places) -> Self {
        let node = match (is_enabled(places), wanted) {
            (false, _) => Node::Without,
            (true, false) => Node::NotWanted,
            (true, true) => policy::contexts(&places.policy).map_or_else(Node::Mute, Node::With),
        };
        Self {
            node,
            judge: places.kernel.join("context"),
            levels: Levels::default(),
        }
    }

    /// Whether pods get labels.
    pub(crate) fn labels(&self) -> bool {
        matches!(self.node, Node::With(_) | Node::Mute(_))
    }

    /// For operators.
    pub(crate) fn trouble(&self) -> Option<String> {
        match &self.node {
            Node::Mute(error) => Some(streaming::chain(&mute(error))),
            Node::Without | Node::NotWanted | Node::With(_) => None,
        }
    }

    /// The labels of a new pod, and what keeps its categories from being another's. `None` where pods have none.
    pub(crate) fn of_pod(
        &self,
        config: &PodConfig,
    ) -> Result<Option<(PodLabels, Option<HeldLevel>)>, SelinuxError> {
        let contexts = match &self.node {
            Node::Without | Node::NotWanted => return Ok(None),
            Node::Mute(error) => return Err(mute(error)),
            Node::With(contexts) => contexts,
        };
        let asked = &config.linux.security_context.selinux_options;
        let own = contexts.process.clone().with(asked);
        let (level, held) = match (contexts.process.level(), asked.level.is_empty()) {
            // The policy knows no levels.
            (None, true) => (None, None),
            (Some(base), true) => {
                let held = self.levels.draw().map_err(SelinuxError::Random)?;
                let held = held.ok_or(SelinuxError::Exhausted)?;
                // Of a range such as s0-s0:c0.c1023 the pod is at the lower end.
                let sensitivity = base.split([':', '-']).next().unwrap_or(base);
                (Some(held.at(sensitivity)), Some(held))
            }
            (_, false) => (Some(asked.level.clone()), self.levels.hold(&asked.level)),
        };
        let unconfined = contexts.process.clone().of_kind(UNCONFINED);
        let labels = PodLabels {
            process: own.at(level.as_deref()),
            files: contexts.file.clone().at(level.as_deref()),
            unconfined: (self.check(&unconfined.to_string()).is_ok()).then_some(unconfined),
        };
        self.check(&labels.process.to_string())?;
        self.check(&labels.files.to_string())?;
        Ok(Some((labels, held)))
    }

    /// Holds the categories of a pod that an earlier daemon made.
    pub(crate) fn hold(&self, labels: &PodLabels) -> Option<HeldLevel> {
        self.levels.hold(labels.files.level()?)
    }

    /// Whether the policy has such a label. The kernel answers from memory.
    pub(crate) fn check(&self, label: &str) -> Result<(), SelinuxError> {
        let asked = fs::File::options().write(true).open(&self.judge);
        let judged = asked.and_then(|mut judge| io::Write::write_all(&mut judge, label.as_bytes()));
        match judged {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                Err(SelinuxError::Unknown {
                    label: label.to_owned(),
                })
            }
            Err(source) => Err(SelinuxError::Judge {
                label: label.to_owned(),
                source,
            }),
        }
    }
}

/// Labels a file of the daemon's own.
pub(crate) fn set(path: &Path, label: &Label) -> io::Result<()> {
    let flags = rustix::fs::XattrFlags::empty();
    let label = label.to_string();
    Ok(rustix::fs::lsetxattr(
        path,
        ATTRIBUTE,
        label.as_bytes(),
        flags,
    )?)
}

fn mute(error: &PolicyError) -> SelinuxError {
    SelinuxError::Mute(SharedPolicyError(streaming::chain(error)))
}

#[cfg(test)]
mod tests;
