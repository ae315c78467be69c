use serde::{Deserialize, Serialize};

use super::{crowd::CrowdReport, floor::FloorReport, lists::ListsReport, sequence::NetworkReport};

/// What a run has measured.
#[derive(Debug, Clone, Serialize)]
pub struct PodsReport {
    /// Where it ran.
    pub machine: Machine,
    /// Pods in sequence for each network, the first of each left out.
    pub rounds: usize,
    /// What the kernel alone takes; absent where it could not be measured (see the notes).
    pub floor: Option<FloorReport>,
    /// Each endpoint.
    pub subjects: Vec<SubjectReport>,
    /// What a reader must know: what was left out, and why.
    pub notes: Vec<String>,
}

/// The machine of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// Processors that this process may run on.
    pub processors: usize,
    /// What they call themselves; empty where they do not.
    #[serde(default)]
    pub processor: String,
    /// All there is, bytes.
    #[serde(default)]
    pub memory_bytes: u64,
    /// v1, v2 or hybrid.
    pub cgroups: String,
}

/// One endpoint.
#[derive(Debug, Clone, Serialize)]
pub struct SubjectReport {
    /// As the user named it.
    pub name: String,
    /// As the runtime names itself, with its version.
    pub runtime: String,
    /// One pod at a time.
    pub networks: Vec<NetworkReport>,
    /// Many pods at once.
    pub crowd: Option<CrowdReport>,
    /// The periodic lists.
    pub lists: Option<ListsReport>,
}
