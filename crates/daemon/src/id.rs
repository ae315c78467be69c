//! Names of pods and containers: 64 lower-case hexadecimal digits, drawn at random.

use std::{fmt, io};

use serde::{Deserialize, Serialize};

const DIGITS: usize = 64;

macro_rules! identifier {
    ($name:ident, $what:literal) => {
        #[doc = concat!("The id of a ", $what, ".")]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub(crate) struct $name(String);

        impl $name {
            pub(crate) fn generate() -> io::Result<Self> {
                Ok(Self(random_hex()?))
            }

            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }

            /// An id read back from the disk or sent by a client; `None` if it is none of ours.
            pub(crate) fn parse(text: &str) -> Option<Self> {
                let ours = text.len() == DIGITS && is_prefix(text);
                ours.then(|| Self(text.to_owned()))
            }
        }

        // Ids order as their text does, so a table of them can be searched by prefix.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

identifier!(PodId, "pod sandbox");
identifier!(ContainerId, "container");

/// Whether an id could begin with this.
pub(crate) fn is_prefix(text: &str) -> bool {
    text.len() <= DIGITS
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// An id for something that is not shown to clients, such as an exec.
pub(crate) fn random_hex() -> io::Result<String> {
    let mut bytes = [0; DIGITS / 2];
    let filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    debug_assert_eq!(
        filled,
        bytes.len(),
        "getrandom(2) fills up to 256 bytes whole"
    );
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_parse_and_differ() {
        let (a, b) = (PodId::generate().unwrap(), PodId::generate().unwrap());
        assert_ne!(a, b);
        assert_eq!(PodId::parse(a.as_str()), Some(a));
    }

    #[test]
    fn what_is_no_id_does_not_parse() {
        for text in ["", "abc", "../../etc", &"G".repeat(64), &"a".repeat(65)] {
            assert_eq!(ContainerId::parse(text), None, "{text}");
        }
    }
}
