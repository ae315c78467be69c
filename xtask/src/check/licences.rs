//! Licences of everything that is built (SPDX expressions in the packages' manifests).

use std::collections::BTreeSet;

use anyhow::Context;
use serde_json::Value;

use super::{none_of, text};

/// Permissive, and compatible with Apache-2.0.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

pub(crate) fn check(metadata: &Value) -> anyhow::Result<()> {
    let nodes = metadata["resolve"]["nodes"].as_array();
    let used: BTreeSet<&str> = nodes
        .context("cargo metadata has no resolved packages")?
        .iter()
        .filter_map(|node| node["id"].as_str())
        .collect();
    let packages = metadata["packages"].as_array();
    let mut found = Vec::new();
    for package in packages.context("cargo metadata has no packages")? {
        if !used.contains(text(package, "id")?) {
            continue;
        }
        let (name, version) = (text(package, "name")?, text(package, "version")?);
        let licence = package["license"].as_str().unwrap_or("none named");
        if !is_allowed(licence) {
            found.push(format!("{name} {version}: {licence}"));
        }
    }
    none_of(&found)
}

/// `OR` binds weaker than `AND`; `/` is an old way to write `OR`.
fn is_allowed(expression: &str) -> bool {
    split(expression, &[" OR ", "/"])
        .iter()
        .any(|option| split(option, &[" AND "]).iter().all(|part| term(part)))
}

fn term(text: &str) -> bool {
    let text = text.trim();
    match text
        .strip_prefix('(')
        .and_then(|text| text.strip_suffix(')'))
    {
        Some(inner) => is_allowed(inner),
        None => ALLOWED.contains(&text),
    }
}

/// Splits at separators that are not inside parentheses.
fn split<'a>(text: &'a str, separators: &[&str]) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let (mut start, mut depth) = (0, 0);
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        let here = separators
            .iter()
            .find(|separator| text[at..].starts_with(**separator));
        if let (0, Some(separator)) = (depth, here)
            && at >= start
        {
            parts.push(&text[start..at]);
            start = at + separator.len();
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_understood() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "Apache-2.0 AND ISC",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in [
            "GPL-3.0",
            "MIT AND GPL-2.0",
            "(MIT OR Apache-2.0) AND LGPL-2.1",
            "none named",
        ] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }
}
