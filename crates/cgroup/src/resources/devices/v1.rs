//! v1 keeps a default and a list of exceptions; that is less than an ordered list of rules can say, and what it cannot say is refused
//! rather than let through.

use std::os::fd::AsFd;

use super::FIELD;
use super::rule::{Rule, Rules};
use crate::error::Error;
use crate::files;
use crate::resources::Directory;

/// Rules of which none makes an exception to another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Policy {
    /// `None`: what the parent has.
    default: Option<bool>,
    exceptions: Vec<Rule>,
}

pub(super) fn apply(place: &Directory<'_>, rules: &Rules) -> Result<(), Error> {
    for (file, values) in Policy::new(rules)?.writes() {
        write_all(place, file, &values)?;
    }
    Ok(())
}
/// Each rule is a write of its own, through one descriptor.
fn write_all(place: &Directory<'_>, file: &str, rules: &[String]) -> Result<(), Error> {
    let relative = files::join(&place.path, file);
    let failed = |value: &str, source| Error::Write {
        file: place.hierarchy.label(&relative),
        value: value.to_owned(),
        source,
    };
    let fd = files::open_for_writing(place.hierarchy.dir(), &relative)
        .map_err(|source| failed(&rules.join(", "), source))?;
    for rule in rules {
        files::write_fd(fd.as_fd(), rule).map_err(|source| failed(rule, source))?;
    }
    Ok(())
}

impl Policy {
    pub(super) fn new(rules: &Rules) -> Result<Policy, Error> {
        let mut policy = Policy {
            default: rules.default,
            exceptions: Vec::with_capacity(rules.exceptions.len()),
        };
        for &rule in &rules.exceptions {
            policy.add(rule)?;
        }
        Ok(policy)
    }

    /// The last match wins, so this rule takes its part away from earlier ones that say the opposite. From a wider one it would
    /// take a piece out of the middle, for which v1 has no words.
    fn add(&mut self, rule: Rule) -> Result<(), Error> {
        for earlier in &mut self.exceptions {
            if earlier.allow == rule.allow || earlier.access & rule.access == 0 {
                continue;
            }
            if rule.covers(earlier) {
                earlier.access &= !rule.access;
            } else if rule.meets(earlier) {
                return Err(Error::Unsupported {
                    field: FIELD,
                    value: rule.shown(),
                    reason: format!(
                        "cgroup v1 cannot make an exception to the earlier rule \"{}\"",
                        earlier.shown()
                    ),
                });
            }
        }
        self.exceptions.retain(|earlier| earlier.access != 0);
        if self.default != Some(rule.allow) && !self.exceptions.contains(&rule) {
            self.exceptions.push(rule);
        }
        Ok(())
    }

    /// Files and what to write to each, in order.
    fn writes(&self) -> Vec<(&'static str, Vec<String>)> {
        let mut writes: Vec<(&'static str, Vec<String>)> = Vec::new();
        let all = self.default.map(|allow| (allow, "a".to_owned()));
        let rules = self.exceptions.iter().map(|rule| (rule.allow, rule.v1()));
        for (allow, value) in all.into_iter().chain(rules) {
            let file = if allow {
                "devices.allow"
            } else {
                "devices.deny"
            };
            match writes.last_mut() {
                Some((last, values)) if *last == file => values.push(value),
                _ => writes.push((file, vec![value])),
            }
        }
        writes
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::written;
    use super::*;

    fn writes(rules: &[&str]) -> Result<Vec<(&'static str, Vec<String>)>, Error> {
        let rules: Vec<_> = rules.iter().map(|text| written(text)).collect();
        Policy::new(&Rules::parse(&rules)?).map(|policy| policy.writes())
    }

    fn strings(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn denied_by_default_with_exceptions() {
        let rules = ["deny a *:* rwm", "allow c *:* m", "allow c 1:3 rwm"];
        assert_eq!(
            writes(&rules).unwrap(),
            [
                ("devices.deny", strings(&["a"])),
                ("devices.allow", strings(&["c *:* m", "c 1:3 rwm"])),
            ]
        );
    }

    #[test]
    fn a_rule_for_all_forgets_what_came_before() {
        let rules = ["allow c 1:3 rwm", "allow a *:* rwm"];
        assert_eq!(
            writes(&rules).unwrap(),
            [("devices.allow", strings(&["a"]))]
        );
    }

    #[test]
    fn a_later_denial_takes_an_exception_back() {
        let rules = ["deny a *:* rwm", "allow c 1:3 rwm", "deny c *:* w"];
        assert_eq!(
            writes(&rules).unwrap(),
            [
                ("devices.deny", strings(&["a"])),
                ("devices.allow", strings(&["c 1:3 rm"])),
            ]
        );
    }

    #[test]
    fn a_hole_in_a_wider_exception_is_refused() {
        let rules = ["deny a *:* rwm", "allow c *:* rwm", "deny c 1:3 w"];
        let error = writes(&rules).unwrap_err().to_string();
        assert!(error.contains("deny c 1:3 w"), "{error}");
        assert!(error.contains("allow c *:* rwm"), "{error}");
    }

    #[test]
    fn all_types_with_less_than_all_access_are_both_types() {
        let rules = ["deny a *:* rwm", "allow a *:* m"];
        assert_eq!(
            writes(&rules).unwrap()[1],
            ("devices.allow", strings(&["b *:* m", "c *:* m"]))
        );
    }
}
