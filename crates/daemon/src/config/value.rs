//! Kinds of values: what a file may say, and what the daemon makes of it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::{Deref, Range},
    path::PathBuf,
    time::Duration,
};

use cni::builtin::{Ipv4Subnet, Ipv6Subnet};
use toml::{Spanned, de::DeValue};
use tracing_subscriber::filter::Targets;

use super::Effect;
use crate::quantity;

/// A kind of value.
///
/// Whatever [`Value::read`] accepts, it accepts again from [`Value::write`], and makes the same of it.
pub(crate) trait Value: Sized {
    /// When a changed value counts; only [`Live`](super::live::Live) is different.
    const EFFECT: Effect = Effect::Restart;

    /// What a file has to say, to go behind "is not".
    fn expected() -> String;

    /// # Errors
    /// The value, or the element of it that is wrong.
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong>;

    fn write(&self) -> toml::Value;

    /// Becomes `new`, if this may change while others hold it.
    fn adopt(&self, _new: &Self) {}
}

/// Not a value of its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Bytes of the text.
    pub(crate) span: Range<usize>,
    pub(crate) expected: String,
}

impl Wrong {
    pub(super) fn at<T: Value>(value: &Spanned<DeValue<'_>>) -> Self {
        Self {
            span: value.span(),
            expected: T::expected(),
        }
    }
}

/// A value that stands in quotes.
fn quoted<T: Value>(
    value: &Spanned<DeValue<'_>>,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, Wrong> {
    match value.get_ref() {
        DeValue::String(text) => parse(text).ok_or_else(|| Wrong::at::<T>(value)),
        DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => Err(Wrong::at::<T>(value)),
    }
}

fn number<T: Value>(
    value: &Spanned<DeValue<'_>>,
    parse: impl FnOnce(u64) -> Option<T>,
) -> Result<T, Wrong> {
    let number = match value.get_ref() {
        DeValue::Integer(digits) => u64::from_str_radix(digits.as_str(), digits.radix()).ok(),
        DeValue::String(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => None,
    };
    number.and_then(parse).ok_or_else(|| Wrong::at::<T>(value))
}

impl Value for String {
    fn expected() -> String {
        "a string".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        quoted(value, |text| Some(text.to_owned()))
    }

    fn write(&self) -> toml::Value {
        self.as_str().into()
    }
}

impl Value for bool {
    fn expected() -> String {
        "true or false".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        match value.get_ref() {
            DeValue::Boolean(value) => Ok(*value),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => Err(Wrong::at::<Self>(value)),
        }
    }

    fn write(&self) -> toml::Value {
        (*self).into()
    }
}

/// A whole number with its bounds, both allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InRange<const LOW: u32, const HIGH: u32>(u32);

impl<const LOW: u32, const HIGH: u32> InRange<LOW, HIGH> {
    pub(crate) const fn get(self) -> u32 {
        self.0
    }
}

impl<const LOW: u32, const HIGH: u32> Value for InRange<LOW, HIGH> {
    fn expected() -> String {
        format!("a whole number from {LOW} to {HIGH}")
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        number(value, |number| {
            let number = u32::try_from(number).ok()?;
            (LOW..=HIGH).contains(&number).then_some(Self(number))
        })
    }

    fn write(&self) -> toml::Value {
        i64::from(self.0).into()
    }
}

/// A port, 0 for any that is free.
impl Value for u16 {
    fn expected() -> String {
        "a whole number from 0 to 65535".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        number(value, |number| number.try_into().ok())
    }

    fn write(&self) -> toml::Value {
        i64::from(*self).into()
    }
}

/// What a flag names is made absolute before it gets here; a file is read from many places, so it has to say where.
impl Value for PathBuf {
    fn expected() -> String {
        "an absolute path".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        quoted(value, |text| {
            (text.starts_with('/') && !text.contains('\0')).then(|| text.into())
        })
    }

    fn write(&self) -> toml::Value {
        self.to_string_lossy().into_owned().into()
    }
}

impl Value for IpAddr {
    fn expected() -> String {
        "an IP address".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        quoted(value, |text| text.parse().ok())
    }

    fn write(&self) -> toml::Value {
        self.to_string().into()
    }
}

impl Value for SocketAddr {
    fn expected() -> String {
        "an IP address and a port such as \"127.0.0.1:9095\"".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        quoted(value, |text| text.parse().ok())
    }

    fn write(&self) -> toml::Value {
        self.to_string().into()
    }
}

impl Value for Ipv4Subnet {
    fn expected() -> String {
        "an IPv4 network such as \"10.88.0.0/16\"".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        quoted(value, |text| text.parse().ok())
    }

    fn write(&self) -> toml::Value {
        self.to_string().into()
    }
}

impl Value for Ipv6Subnet {
    fn expected() -> String {
        "an IPv6 network such as \"fd00:1::/64\"".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        quoted(value, |text| text.parse().ok())
    }

    fn write(&self) -> toml::Value {
        self.to_string().into()
    }
}

/// TOML has no null: the empty string is none.
impl<T: Value> Value for Option<T> {
    fn expected() -> String {
        format!("{}, or \"\" for none", T::expected())
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        match value.get_ref() {
            DeValue::String(text) if text.is_empty() => Ok(None),
            _ => T::read(value).map(Some).map_err(|wrong| Wrong {
                expected: Self::expected(),
                ..wrong
            }),
        }
    }

    fn write(&self) -> toml::Value {
        self.as_ref().map_or_else(|| "".into(), T::write)
    }
}

/// A later file replaces a list as a whole.
impl<T: Value> Value for Vec<T> {
    fn expected() -> String {
        format!("a list, each element {}", T::expected())
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        match value.get_ref() {
            DeValue::Array(elements) => elements.iter().map(T::read).collect(),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Table(_) => Err(Wrong::at::<Self>(value)),
        }
    }

    fn write(&self) -> toml::Value {
        toml::Value::Array(self.iter().map(T::write).collect())
    }
}

/// Who makes the cgroups of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CgroupDriver {
    /// The daemon.
    Cgroupfs,
    /// systemd, when the daemon asks for them.
    Systemd,
}

impl CgroupDriver {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }

    pub(super) fn default_parent(self) -> CgroupParent {
        let parent = match self {
            Self::Cgroupfs => "/longshore",
            Self::Systemd => "/longshore.slice",
        };
        CgroupParent(parent.to_owned())
    }
}

impl CgroupDriver {
    pub(super) fn default_supervisors(self) -> Option<CgroupParent> {
        let cgroup = match self {
            Self::Cgroupfs => "/longshore-supervisors",
            Self::Systemd => "/system.slice/longshore-supervisors.scope",
        };
        Some(CgroupParent(cgroup.to_owned()))
    }
}

impl Value for CgroupDriver {
    fn expected() -> String {
        "\"cgroupfs\" or \"systemd\"".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        quoted(value, |text| {
            let all = [Self::Cgroupfs, Self::Systemd];
            all.into_iter().find(|one| one.name() == text)
        })
    }

    fn write(&self) -> toml::Value {
        self.name().into()
    }
}

const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("ms", 1), ("m", 60_000), ("s", 1_000)];

/// As Go writes them: `1h30m`, `30s`, `500ms`.
impl Value for Duration {
    fn expected() -> String {
        "a duration such as \"4h\", \"1m30s\" or \"500ms\"".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        quoted(value, parse_duration)
    }

    fn write(&self) -> toml::Value {
        let mut rest = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        let mut text = String::new();
        for (unit, millis) in [UNITS[0], UNITS[2], UNITS[3], UNITS[1]] {
            if rest >= millis {
                text.push_str(&format!("{}{unit}", rest / millis));
                rest %= millis;
            }
        }
        match text.is_empty() {
            true => "0s".into(),
            false => text.into(),
        }
    }
}

fn parse_duration(mut text: &str) -> Option<Duration> {
    if text.is_empty() {
        return None;
    }
    let mut millis = 0_u64;
    while !text.is_empty() {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = text[..digits].parse().ok()?;
        text = &text[digits..];
        let (unit, factor) = UNITS.iter().find(|(unit, _)| text.starts_with(unit))?;
        text = &text[unit.len()..];
        millis = millis.checked_add(count.checked_mul(*factor)?)?;
    }
    Some(Duration::from_millis(millis))
}

/// Bytes that a layer may take: of a writable one not fewer than overlayfs needs for its own directories, and to spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LayerLimit(u64);

impl LayerLimit {
    pub(crate) const EXPECTED: &str = "a size of at least 64Ki, such as \"10Gi\"";

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = quantity::parse(text)?;
        // The kernel counts in signed numbers.
        ((64 << 10)..=i64::MAX as u64)
            .contains(&bytes)
            .then_some(Self(bytes))
    }

    pub(crate) const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LayerLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
        let whole = units
            .iter()
            .find(|(_, bits)| self.0.is_multiple_of(1 << bits));
        match whole {
            Some((unit, bits)) => write!(f, "{}{unit}", self.0 >> bits),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Value for LayerLimit {
    fn expected() -> String {
        Self::EXPECTED.to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        quoted(value, Self::parse)
    }

    fn write(&self) -> toml::Value {
        self.to_string().into()
    }
}

/// Values that are strings of a certain form.
macro_rules! strings {
    ($( $(#[$doc:meta])* $name:ident, $expected:literal, $valid:expr; )*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) struct $name(String);

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Value for $name {
            fn expected() -> String {
                $expected.to_owned()
            }

            fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
                let valid: fn(&str) -> bool = $valid;
                quoted(value, |text| valid(text).then(|| Self(text.to_owned())))
            }

            fn write(&self) -> toml::Value {
                self.0.as_str().into()
            }
        }
    )* };
}

strings! {
    /// The name of a network interface (`dev_valid_name` of the kernel).
    InterfaceName, "an interface name of 1 to 15 bytes, without blanks, `/` and `:`", |text| {
        (1..=15).contains(&text.len())
            && ![".", ".."].contains(&text)
            && !text.contains(|c: char| c.is_whitespace() || c == '/' || c == ':')
    };
    /// A cgroup below the root of each hierarchy.
    CgroupParent, "an absolute cgroup path without `..`, such as \"/longshore\"", |text| {
        text.starts_with('/') && cgroup::CgroupPath::parse(text).is_ok()
    };
    /// Something that plugins may change, and that a configuration may keep from them.
    NriField, "\"hooks\", \"seccomp\", \"namespaces\" or \"sysctl\"", |text| {
        ["hooks", "seccomp", "namespaces", "sysctl"].contains(&text)
    };
    /// Directives of `Targets`.
    LogFilter, "a level (error, warn, info, debug, trace) or a list such as \"info,longshored::pod=debug\"", |text| {
        text.parse::<Targets>().is_ok()
    };
}
