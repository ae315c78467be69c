mod sha256;

use std::fmt;

use bytes::Bytes;
use sha2::{Digest as _, Sha512};

use sha256::Sha256;

/// A content address: `sha256:` or `sha512:` and lower-case hexadecimal digits (image-spec, descriptor.md#digests).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

/// A text that is no digest of a supported algorithm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no sha256 or sha512 digest")]
pub struct DigestError {
    /// The refused text.
    pub text: String,
}

impl Digest {
    /// Reads `algorithm:hex`.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let digits = match text.split_once(':') {
            Some(("sha256", hex)) if hex.len() == 64 => hex,
            Some(("sha512", hex)) if hex.len() == 128 => hex,
            _ => "",
        };
        if digits.is_empty() || !is_lower_hex(digits) {
            return Err(DigestError {
                text: text.chars().take(160).collect(),
            });
        }
        Ok(Self(text.to_owned()))
    }

    /// The SHA-256 digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::sha256();
        hasher.update(bytes);
        hasher.finish()
    }

    /// `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Before the colon.
    pub(crate) fn algorithm(&self) -> &str {
        self.0
            .split_once(':')
            .map_or("", |(algorithm, _)| algorithm)
    }

    /// The digits alone.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// Whether the bytes have this digest.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut hasher = Hasher::like(self);
        hasher.update(bytes);
        hasher.finish() == *self
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

pub(crate) fn is_lower_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A digest in the making.
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn sha256() -> Self {
        Self::Sha256(Sha256::new())
    }

    /// For comparison with `digest`.
    pub(crate) fn like(digest: &Digest) -> Self {
        if digest.as_str().starts_with("sha512:") {
            Self::Sha512(Sha512::new())
        } else {
            Self::sha256()
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Two streams, of which `others` comes in pieces: at once as far as the shorter goes, which costs less than one after the other.
    pub(crate) fn update_both(&mut self, mut bytes: &[u8], other: &mut Self, others: &[Bytes]) {
        for piece in others {
            let (now, later) = bytes.split_at(bytes.len().min(piece.len()));
            match (&mut *self, &mut *other) {
                (Self::Sha256(one), Self::Sha256(other)) => {
                    Sha256::update_both([one, other], [now, piece]);
                }
                (one, other) => {
                    one.update(now);
                    other.update(piece);
                }
            }
            bytes = later;
        }
        self.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(match self {
            Self::Sha256(hasher) => format!("sha256:{}", hex::encode(hasher.finish())),
            Self::Sha512(hasher) => format!("sha512:{}", hex::encode(hasher.finalize())),
        })
    }
}

/// The chain id of the layers up to and including one of `diff_id`, on top of those of `below` (image-spec, config.md#layer-chainid).
pub(crate) fn chain_id(below: Option<&Digest>, diff_id: &Digest) -> Digest {
    match below {
        None => diff_id.clone(),
        Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
    }
}
