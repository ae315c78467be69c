use serde::{Deserialize, Serialize};

/// A signature as a registry has it, with all that it takes to verify it again. None of it is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Evidence {
    /// Of the tag `sha256-….sig`: a payload that names a digest, and a signature on the payload.
    Simple {
        /// JSON, as it was signed.
        payload: String,
        /// Base64.
        signature: String,
        /// Where it was made with a certificate instead of a key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        certified: Option<Certified>,
    },
    /// Of a referrer: a sigstore bundle, JSON.
    Bundle {
        /// As it came.
        json: String,
    },
}

/// What stands beside a signature by certificate in the older layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Certified {
    /// PEM, the leaf first.
    pub(crate) chain: Vec<String>,
    /// Rekor's promise to have logged the signature, JSON.
    pub(crate) promise: String,
}

impl Evidence {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Simple {
                certified: None, ..
            } => "signature by key",
            Self::Simple {
                certified: Some(_), ..
            } => "signature by certificate",
            Self::Bundle { .. } => "bundle",
        }
    }
}
