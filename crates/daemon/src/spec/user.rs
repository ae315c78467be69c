//! Who a container runs as: names resolved by the image's own /etc/passwd and /etc/group.

use serde::{Deserialize, Serialize};

/// A resolved user, as a process gets it and CRI's `ContainerUser` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, each once, in ascending order.
    pub(crate) groups: Vec<u32>,
}
