//! Numbers as Kubernetes writes them: `80`, `10k`, `50M`, `1.5Gi`.

use serde::Deserialize;

/// YAML has it as a text or as a number.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(super) enum Quantity {
    Whole(u64),
    Text(String),
}

const SUFFIXES: [(&str, u64); 12] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

impl Quantity {
    /// `None`: no number of this form, or too large a one.
    pub(super) fn value(&self) -> Option<u64> {
        let text = match self {
            Self::Whole(value) => return Some(*value),
            Self::Text(text) => text.trim(),
        };
        let suffix = SUFFIXES.iter().find(|(suffix, _)| text.ends_with(suffix));
        let (number, unit) = match suffix {
            Some((suffix, unit)) => (text.strip_suffix(suffix)?, *unit),
            None => (text, 1),
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 9 {
            return None;
        }
        let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
        let part: u128 = format!("0{part}").parse().ok()?;
        let all = u128::from(whole.parse::<u64>().ok()?) * scale + part;
        // Rounded up, as Kubernetes does.
        u64::try_from((all * u128::from(unit)).div_ceil(scale)).ok()
    }
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(value) => write!(f, "{value}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, value) in [
            ("80", Some(80)),
            ("10k", Some(10_000)),
            ("50M", Some(50_000_000)),
            ("1.5Gi", Some(1_610_612_736)),
            ("0.1", Some(1)),
            ("18E", Some(18_000_000_000_000_000_000)),
            ("19E", None),
            ("", None),
            ("k", None),
            ("-1", None),
            ("1e3", None),
            ("10 kB", None),
        ] {
            assert_eq!(Quantity::Text(text.to_owned()).value(), value, "{text:?}");
        }
        assert_eq!(Quantity::Whole(7).value(), Some(7));
    }
}
