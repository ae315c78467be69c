use std::fmt;

/// Names one unpacked layer on disk.
///
/// Most layers mean the same wherever they lie and are shared by their diffID. A layer that only implies some of its parent
/// directories, or hard-links to files of the layers below, depends on what it lies on, and is named by its chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerKey(String);

/// A text that names no layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} names no layer: 64 hexadecimal digits were expected, with an optional `chain-` before them"
)]
pub struct LayerKeyError {
    /// The refused text.
    pub text: String,
}

const CHAIN: &str = "chain-";

impl LayerKey {
    /// From the 64 hexadecimal digits of a SHA-256 diffID.
    pub fn of_diff_id(hex: &str) -> Result<Self, LayerKeyError> {
        checked(hex, hex).map(|()| Self(hex.to_owned()))
    }

    /// From the 64 hexadecimal digits of a SHA-256 chain id.
    pub fn of_chain_id(hex: &str) -> Result<Self, LayerKeyError> {
        checked(hex, hex).map(|()| Self(format!("{CHAIN}{hex}")))
    }

    /// Reads back what [`LayerKey::as_str`] wrote.
    pub fn parse(text: &str) -> Result<Self, LayerKeyError> {
        checked(text.strip_prefix(CHAIN).unwrap_or(text), text).map(|()| Self(text.to_owned()))
    }

    /// The name of the layer's directory.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the layer's meaning depends on those below.
    pub fn is_chain(&self) -> bool {
        self.0.starts_with(CHAIN)
    }
}

impl fmt::Display for LayerKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn checked(hex: &str, whole: &str) -> Result<(), LayerKeyError> {
    let valid = hex.len() == 64
        && hex
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    valid.then_some(()).ok_or_else(|| LayerKeyError {
        text: whole.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_safe_directory_names() {
        let hex = "0123456789abcdef".repeat(4);
        let shared = LayerKey::of_diff_id(&hex).unwrap();
        let chained = LayerKey::of_chain_id(&hex).unwrap();
        assert!(!shared.is_chain() && chained.is_chain());
        for key in [shared, chained] {
            assert_eq!(LayerKey::parse(key.as_str()).unwrap(), key);
        }
        for refused in ["", "..", "chain-", &hex[1..], &hex.to_uppercase()] {
            assert!(LayerKey::parse(refused).is_err(), "{refused}");
        }
    }
}
