//! Rules that a compiler does not hold.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::none_of;
use crate::workspace;

/// When a file grows past this, ask which noun hides inside.
const LONGEST_FILE: usize = 700;

/// Words that name nothing, as parts of a module's name.
const EMPTY_NAMES: &[&str] = &[
    "common", "helper", "helpers", "impl", "manager", "misc", "util", "utils",
];

pub(crate) fn check() -> anyhow::Result<()> {
    let root = workspace::root();
    let mut files = Vec::new();
    for top in ["crates", "tests", "xtask"] {
        sources(&root.join(top), &mut files)?;
    }
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let name = file.strip_prefix(&root).unwrap_or(&file);
        found.extend(look_at(name, &text));
    }
    none_of(&found)
}

fn look_at(file: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let shown = file.display();
    let lines = text.lines().count();
    if lines > LONGEST_FILE {
        found.push(format!("{shown}: {lines} lines (at most {LONGEST_FILE})"));
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    if stem.split('_').any(|word| EMPTY_NAMES.contains(&word)) {
        found.push(format!("{shown}: {stem} names nothing"));
    }
    // The lint is in the workspace's table; this holds that nobody lifts it elsewhere.
    let lifted = concat!("allow(", "unsafe_code");
    if !file.starts_with("crates/sys") && text.contains(lifted) {
        found.push(format!("{shown}: unsafe code belongs in crates/sys"));
    }
    found
}

fn sources(directory: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let describe = || format!("list {}", directory.display());
    for entry in fs::read_dir(directory).with_context(describe)? {
        let path = entry.with_context(describe)?.path();
        if path.is_dir() {
            sources(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_a_rule_is_named() {
        let long = "\n".repeat(LONGEST_FILE + 1);
        assert_eq!(look_at(Path::new("crates/a/src/long.rs"), &long).len(), 1);
        assert_eq!(
            look_at(Path::new("crates/a/src/pod_manager.rs"), "").len(),
            1
        );
        let lifted = concat!("#![allow(", "unsafe_code)]");
        assert_eq!(look_at(Path::new("crates/a/src/a.rs"), lifted).len(), 1);
        assert!(look_at(Path::new("crates/sys/src/a.rs"), lifted).is_empty());
    }
}
