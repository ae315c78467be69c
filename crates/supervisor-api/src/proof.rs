//! What a process of ours finds in a container that a runtime was tried with.

/// The argument that makes `longshore-pod` look around and end, with the [`Proof`] in its exit status. Behind it: the node's id that the
/// container's root is to have in its user namespace, if it is to have one.
pub const PROOF_ARGUMENT: &str = "--proof";

/// Where such a container has a mount that is to be read-only to the last one below; there is one at `below`.
pub const PROOF_TREE: &str = "/tree";

/// Set in every answer: programs that fail end with small numbers, shells and signals with large ones.
const ANSWERED: i32 = 64;

/// What it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Proof {
    /// The container's first process is in the user namespace that was asked for.
    pub init_mapped: bool,
    /// So is the one that looks, which is an exec.
    pub exec_mapped: bool,
    /// Nobody writes to [`PROOF_TREE`], nor below it.
    pub read_only: bool,
}

impl Proof {
    #[must_use]
    pub fn exit_status(self) -> i32 {
        let Self {
            init_mapped,
            exec_mapped,
            read_only,
        } = self;
        ANSWERED | i32::from(init_mapped) | i32::from(exec_mapped) << 1 | i32::from(read_only) << 2
    }

    /// `None`: it never looked.
    #[must_use]
    pub fn from_exit_status(status: i32) -> Option<Self> {
        (status & !7 == ANSWERED).then_some(Self {
            init_mapped: status & 1 != 0,
            exec_mapped: status & 2 != 0,
            read_only: status & 4 != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_passes_through_an_exit_status_and_nothing_else_is_one() {
        for bits in 0..8 {
            let proof = Proof {
                init_mapped: bits & 1 != 0,
                exec_mapped: bits & 2 != 0,
                read_only: bits & 4 != 0,
            };
            assert_eq!(Proof::from_exit_status(proof.exit_status()), Some(proof));
        }
        for other in [0, 1, 2, 63, 72, 126, 127, 128, 137, 255] {
            assert_eq!(Proof::from_exit_status(other), None, "{other}");
        }
    }
}
