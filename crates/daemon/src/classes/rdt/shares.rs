//! Shares as a file has them and as the kernel's `schemata` does.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

pub(super) mod ways;

/// How much of a cache: the same of each, or by lists of their numbers; `all` is the rest.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Cache {
    Each(String),
    ById(BTreeMap<String, Part>),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Part {
    Unified(String),
    Separate {
        unified: String,
        code: Option<String>,
        data: Option<String>,
    },
}

/// How much memory bandwidth: of percents and megabytes a second, what the node can divide counts.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Bandwidth {
    Each(Vec<String>),
    ById(BTreeMap<String, Vec<String>>),
}

/// What of a cache: where the kernel keeps code and data apart, each has a line of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Unified,
    Code,
    Data,
}

impl Kind {
    /// Lines of `schemata` that a cache has on this node, and what each is about.
    pub(super) fn of(
        level: &str,
        node: &BTreeMap<String, BTreeMap<u32, u64>>,
    ) -> Vec<(String, Self)> {
        let all = [
            (level.to_owned(), Self::Unified),
            (format!("{level}CODE"), Self::Code),
            (format!("{level}DATA"), Self::Data),
        ];
        let all = all.into_iter();
        all.filter(|(line, _)| node.contains_key(line)).collect()
    }
}

impl Cache {
    pub(super) fn share(&self, kind: Kind, id: u32) -> Result<&str, String> {
        let parts = match self {
            Self::Each(share) => return Ok(share),
            Self::ById(parts) => parts,
        };
        match by_id(parts, id)? {
            None => Ok("100%"),
            Some(Part::Unified(share)) => Ok(share),
            Some(Part::Separate {
                unified,
                code,
                data,
            }) => match (kind, code, data) {
                (_, Some(_), None) | (_, None, Some(_)) => {
                    Err("code and data have shares together, or neither".to_owned())
                }
                (Kind::Code, Some(share), Some(_)) | (Kind::Data, Some(_), Some(share)) => {
                    Ok(share)
                }
                (Kind::Unified, Some(_), Some(_)) | (_, None, None) => Ok(unified),
            },
        }
    }
}

impl Bandwidth {
    /// Percents, or megabytes a second where `absolute`.
    pub(super) fn share(&self, id: u32, absolute: bool) -> Result<u64, String> {
        let listed = match self {
            Self::Each(listed) => Some(listed),
            Self::ById(listed) => by_id(listed, id)?,
        };
        let Some(listed) = listed else {
            return Ok(if absolute { u64::from(u32::MAX) } else { 100 });
        };
        let unit = if absolute { "MBps" } else { "%" };
        let found = listed.iter().find_map(|text| text.strip_suffix(unit));
        let Some(number) = found else {
            return Err(format!(
                "this node divides by {unit}, and {listed:?} has none"
            ));
        };
        match number.parse::<u32>() {
            Ok(share) if absolute || share <= 100 => Ok(u64::from(share)),
            _ => Err(format!("{number}{unit} is no share")),
        }
    }
}

fn by_id<T>(all: &BTreeMap<String, T>, id: u32) -> Result<Option<&T>, String> {
    for (ids, part) in all {
        if ids != "all" && numbers(ids)?.contains(&id) {
            return Ok(Some(part));
        }
    }
    Ok(all.get("all"))
}

/// `0,2-4`.
pub(super) fn numbers(text: &str) -> Result<Vec<u32>, String> {
    let wrong = || format!("{text:?} is no list of numbers such as 0,2-4");
    let mut numbers = Vec::new();
    for range in text.split(',') {
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        let bound = |text: &str| match text.trim().parse::<u32>() {
            Ok(number) if number < 1024 => Ok(number),
            _ => Err(wrong()),
        };
        let (low, high) = (bound(low)?, bound(high)?);
        if low > high {
            return Err(wrong());
        }
        numbers.extend(low..=high);
    }
    Ok(numbers)
}

/// `schemata`: by resource, what each cache gives. Masks are hexadecimal, bandwidth is decimal.
pub(super) fn parse(text: &str) -> BTreeMap<String, BTreeMap<u32, u64>> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(resource, shares)| {
            let resource = resource.trim();
            let radix = if resource.starts_with("MB") { 10 } else { 16 };
            let shares = shares.split(';').filter_map(|share| {
                let (id, share) = share.split_once('=')?;
                let share = u64::from_str_radix(share.trim(), radix).ok()?;
                Some((id.trim().parse().ok()?, share))
            });
            (resource.to_owned(), shares.collect())
        })
        .collect()
}

pub(super) fn line(resource: &str, shares: &BTreeMap<u32, u64>) -> String {
    let shares = shares.iter().map(|(id, share)| match resource {
        "MB" => format!("{id}={share}"),
        _ => format!("{id}={share:x}"),
    });
    format!("{resource}:{}\n", shares.collect::<Vec<_>>().join(";"))
}

/// Whether it is mounted so that bandwidth is in megabytes a second.
pub(super) fn in_megabytes(root: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let root = root.to_string_lossy();
    mounts.lines().any(|line| {
        let mut fields = line.split(' ');
        let here = fields.nth(1) == Some(&root);
        here && fields.next() == Some("resctrl")
            && fields
                .next()
                .is_some_and(|options| options.contains("mba_MBps"))
    })
}
