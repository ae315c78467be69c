use std::fmt;

/// Something in a layer that is not as it was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// In the layer, from its root: `/etc/passwd`. Bytes that are no UTF-8 are replaced.
    pub path: String,
    /// What is wrong with it.
    pub kind: DamageKind,
}

/// In which way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DamageKind {
    /// It is not there.
    Missing,
    /// The layer never had it.
    Extra,
    /// A deletion of something below is not there, or is something else.
    Whiteout,
    /// It is of another kind, such as a directory instead of a file.
    Kind,
    /// A file's size or bytes; a link's target; a device's numbers.
    Contents,
    /// A file has more or fewer names than it had.
    Links,
    /// Permission, set-id or sticky bits.
    Mode {
        /// As unpacked.
        expected: u32,
        /// As it is.
        found: u32,
    },
    /// User or group.
    Owner {
        /// As unpacked.
        expected: (u32, u32),
        /// As it is.
        found: (u32, u32),
    },
    /// The time of its last change.
    Time,
    /// Extended attributes, capabilities and opaqueness among them.
    Attributes,
    /// The disk, or the file system, says no.
    Unreadable(String),
    /// The layer has no index: it was unpacked by a release without, or somebody has removed it.
    NoIndex,
    /// The index is damaged itself.
    BadIndex(String),
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Extra => f.write_str("is not of the layer"),
            Self::Whiteout => f.write_str("should be a deletion"),
            Self::Kind => f.write_str("is of another kind"),
            Self::Contents => f.write_str("has other contents"),
            Self::Links => f.write_str("has another number of hard links"),
            Self::Mode { expected, found } => {
                write!(f, "has mode {found:04o} instead of {expected:04o}")
            }
            Self::Owner { expected, found } => write!(
                f,
                "belongs to {}:{} instead of {}:{}",
                found.0, found.1, expected.0, expected.1
            ),
            Self::Time => f.write_str("has another time of change"),
            Self::Attributes => f.write_str("has other extended attributes"),
            Self::Unreadable(reason) => write!(f, "cannot be read: {reason}"),
            Self::NoIndex => f.write_str("has no index"),
            Self::BadIndex(reason) => write!(f, "has an index that is damaged: {reason}"),
        }
    }
}
