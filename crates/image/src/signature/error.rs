use crate::{ConfigurationError, StoreError};

/// Why the policy lets an image neither come nor run. Each text names the rule.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The rule says so.
    #[error("{rule} rejects {image}")]
    Rejected {
        /// Such as `rule "ours" of /etc/longshore/signatures.toml`.
        rule: String,
        /// Repository, and the namespace where there is one.
        image: String,
    },
    /// There is no signature at all.
    #[error("{rule} wants a signature on {image}, and {place} has none for {digest}")]
    Missing {
        /// See [`Self::Rejected`].
        rule: String,
        /// See [`Self::Rejected`].
        image: String,
        /// Of what the name means.
        digest: String,
        /// Who was asked.
        place: String,
    },
    /// None of the signatures will do.
    #[error(
        "{rule} wants a signature on {image}, and none of those on {digest} will do: {reasons}"
    )]
    Refused {
        /// See [`Self::Rejected`].
        rule: String,
        /// See [`Self::Rejected`].
        image: String,
        /// Of what the name means.
        digest: String,
        /// What is wrong with each, bounded.
        reasons: String,
    },
    /// The image came when no signature was wanted.
    #[error(
        "{rule} wants a signature on {image}, and none was kept when it was pulled: pull it again"
    )]
    NotKept {
        /// See [`Self::Rejected`].
        rule: String,
        /// See [`Self::Rejected`].
        image: String,
    },
    /// The policy itself.
    #[error("the policy for signatures has a mistake")]
    Policy(#[source] ConfigurationError),
    /// What was kept cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}
