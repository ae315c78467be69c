//! Paths by a pattern, as shells expand them: `*`, `?` and `[a-z]` within one part of a path.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Paths below `root` that match, in the order of their names. `None`: the pattern is broken.
pub(super) fn expand(root: &Path, pattern: &str) -> Option<Vec<PathBuf>> {
    let mut found = vec![root.to_owned()];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let part: Vec<char> = part.chars().collect();
        matches(&part, &[])?;
        let plain = !part.iter().any(|character| "*?[\\".contains(*character));
        let mut next = Vec::new();
        for directory in found {
            if plain {
                let path = directory.join(part.iter().collect::<String>());
                if fs::symlink_metadata(&path).is_ok() {
                    next.push(path);
                }
                continue;
            }
            let Ok(entries) = fs::read_dir(&directory) else {
                continue;
            };
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            let fitting = names.filter(|name| {
                let name: Vec<char> = name.chars().collect();
                matches(&part, &name) == Some(true)
            });
            let mut fitting: Vec<_> = fitting.collect();
            fitting.sort_unstable();
            next.extend(fitting.into_iter().map(|name| directory.join(name)));
        }
        found = next;
    }
    Some(found)
}

/// `None`: the pattern is broken, whatever the name.
fn matches(pattern: &[char], name: &[char]) -> Option<bool> {
    match pattern {
        [] => Some(name.is_empty()),
        ['*', rest @ ..] => {
            let mut any = false;
            for start in 0..=name.len() {
                any |= matches(rest, &name[start..])?;
            }
            Some(any)
        }
        ['[', rest @ ..] => {
            let (set, rest) = set(rest)?;
            let rest_fits = matches(rest, name.get(1..).unwrap_or_default())?;
            Some(name.first().is_some_and(|one| set.has(*one)) && rest_fits)
        }
        ['\\', literal, rest @ ..] => one(rest, name, |found| found == *literal),
        ['\\'] => None,
        ['?', rest @ ..] => one(rest, name, |_| true),
        [literal, rest @ ..] => one(rest, name, |found| found == *literal),
    }
}

fn one(rest: &[char], name: &[char], fits: impl Fn(char) -> bool) -> Option<bool> {
    let rest_fits = matches(rest, name.get(1..).unwrap_or_default())?;
    Some(name.first().is_some_and(|first| fits(*first)) && rest_fits)
}

struct Set {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Set {
    fn has(&self, one: char) -> bool {
        let within = |(low, high): &(char, char)| (*low..=*high).contains(&one);
        self.ranges.iter().any(within) != self.negated
    }
}

/// Behind its `[`: the set, and what comes behind its `]`.
fn set(pattern: &[char]) -> Option<(Set, &[char])> {
    let negated = matches!(pattern.first(), Some('^' | '!'));
    let mut rest = &pattern[usize::from(negated)..];
    let mut ranges = Vec::new();
    loop {
        match rest {
            [']', after @ ..] if !ranges.is_empty() => {
                return Some((Set { negated, ranges }, after));
            }
            [low, '-', high, after @ ..] if *high != ']' => {
                ranges.push((*low, *high));
                rest = after;
            }
            [one, after @ ..] if *one != ']' => {
                ranges.push((*one, *one));
                rest = after;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_shells() {
        let root = tempfile::tempdir().unwrap();
        for path in [
            "dev/sda",
            "dev/sdb",
            "dev/sdb1",
            "dev/vda",
            "dev/disk/by-id/ata-SSD-1",
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        for (pattern, expected) in [
            ("/dev/sd[a-z]", Some(vec!["dev/sda", "dev/sdb"])),
            ("/dev/[^s]d?", Some(vec!["dev/vda"])),
            ("/dev/vda", Some(vec!["dev/vda"])),
            ("/dev/absent", Some(vec![])),
            (
                "/dev/disk/by-id/*SSD*",
                Some(vec!["dev/disk/by-id/ata-SSD-1"]),
            ),
            ("/dev/sd*1", Some(vec!["dev/sdb1"])),
            ("/dev/sd[a", None),
            ("/dev/sd[]", None),
            ("/dev/sda\\", None),
        ] {
            let found = expand(root.path(), pattern);
            let expected: Option<Vec<_>> = expected.map(|paths| {
                paths
                    .into_iter()
                    .map(|path| root.path().join(path))
                    .collect()
            });
            assert_eq!(found, expected, "{pattern}");
        }
    }
}
