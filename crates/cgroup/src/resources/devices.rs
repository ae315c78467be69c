//! Which devices may be used. v1 keeps a default and a list of exceptions; that is less than an ordered list of rules can say, and
//! what it cannot say is refused rather than let through.

use std::os::fd::AsFd;

use oci_plan::DeviceRule;

use super::{Place, Target};
use crate::error::Error;
use crate::files;
use crate::hierarchy::Controller;

const FIELD: &str = "devices";

const READ: u8 = 1;
const WRITE: u8 = 2;
const MKNOD: u8 = 4;
const EVERYTHING: u8 = READ | WRITE | MKNOD;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `b` or `c`.
    node_type: char,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

/// Rules as a default and what differs from it.
#[derive(Debug, PartialEq, Eq)]
struct Policy {
    /// `None`: what the parent has.
    default: Option<bool>,
    exceptions: Vec<Rule>,
}

pub(super) fn check(rules: &[DeviceRule]) -> Result<(), Error> {
    Policy::new(rules).map(|_| ())
}

pub(super) fn apply(target: &Target<'_>, rules: &[DeviceRule]) -> Result<(), Error> {
    if rules.is_empty() {
        return Ok(());
    }
    let policy = Policy::new(rules)?;
    match target.place(Controller::Devices) {
        Place::Here(place) => {
            for (file, rules) in policy.writes() {
                write_all(&place, file, &rules)?;
            }
            Ok(())
        }
        Place::Foreign => Ok(()),
        Place::Nowhere if policy.allows_everything() => Ok(()),
        Place::Nowhere => Err(Error::Unsupported {
            field: FIELD,
            value: format!("{} rules", rules.len()),
            reason: "cgroup v2 takes an eBPF program for this, which is not implemented, and no v1 devices hierarchy is \
                     mounted"
                .to_owned(),
        }),
    }
}

/// Each rule is a write of its own, through one descriptor.
fn write_all(place: &super::Directory<'_>, file: &str, rules: &[String]) -> Result<(), Error> {
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
    fn new(rules: &[DeviceRule]) -> Result<Policy, Error> {
        let mut policy = Policy {
            default: None,
            exceptions: Vec::new(),
        };
        for rule in rules {
            let access = access(rule)?;
            let types: &[char] = match rule.node_type {
                'a' => &['b', 'c'],
                'b' => &['b'],
                'c' => &['c'],
                _ => return Err(invalid(rule, "the type must be a, b or c")),
            };
            let all = rule.node_type == 'a' && rule.major.is_none() && rule.minor.is_none();
            if all && access == EVERYTHING {
                policy.default = Some(rule.allow);
                policy.exceptions.clear();
                continue;
            }
            for &node_type in types {
                policy.add(Rule {
                    allow: rule.allow,
                    node_type,
                    major: rule.major,
                    minor: rule.minor,
                    access,
                })?;
            }
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

    fn allows_everything(&self) -> bool {
        self.default == Some(true) && self.exceptions.is_empty()
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

impl Rule {
    fn covers(&self, other: &Rule) -> bool {
        let number = |own: Option<u32>, other: Option<u32>| own.is_none() || own == other;
        self.node_type == other.node_type
            && number(self.major, other.major)
            && number(self.minor, other.minor)
    }

    fn meets(&self, other: &Rule) -> bool {
        let number =
            |own: Option<u32>, other: Option<u32>| own.is_none() || other.is_none() || own == other;
        self.node_type == other.node_type
            && number(self.major, other.major)
            && number(self.minor, other.minor)
    }

    fn v1(&self) -> String {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
        let access: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
            .into_iter()
            .filter(|(bit, _)| self.access & bit != 0)
            .map(|(_, letter)| letter)
            .collect();
        let (major, minor) = (number(self.major), number(self.minor));
        format!("{} {major}:{minor} {access}", self.node_type)
    }

    fn shown(&self) -> String {
        let verb = if self.allow { "allow" } else { "deny" };
        format!("{verb} {}", self.v1())
    }
}

fn access(rule: &DeviceRule) -> Result<u8, Error> {
    let mut access = 0;
    for letter in rule.access.chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => {
                return Err(invalid(
                    rule,
                    "the access must be of the letters r, w and m",
                ));
            }
        };
    }
    match access {
        // The specification's default, where a rule says nothing.
        0 => Ok(EVERYTHING),
        _ => Ok(access),
    }
}

fn invalid(rule: &DeviceRule, reason: &'static str) -> Error {
    Error::Invalid {
        field: FIELD,
        value: format!(
            "type {:?} major {:?} minor {:?} access {:?}",
            rule.node_type, rule.major, rule.minor, rule.access
        ),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> DeviceRule {
        let mut words = text.split([' ', ':']);
        let mut next = || words.next().unwrap();
        let number = |text: &str| (text != "*").then(|| text.parse().unwrap());
        DeviceRule {
            allow: next() == "allow",
            node_type: next().chars().next().unwrap(),
            major: number(next()),
            minor: number(next()),
            access: next().to_owned(),
        }
    }

    fn writes(rules: &[&str]) -> Result<Vec<(&'static str, Vec<String>)>, Error> {
        let rules: Vec<_> = rules.iter().map(|text| rule(text)).collect();
        Policy::new(&rules).map(|policy| policy.writes())
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

    #[test]
    fn malformed_rules_are_named() {
        assert!(writes(&["allow x 1:3 rwm"]).is_err());
        assert!(writes(&["allow c 1:3 rx"]).is_err());
    }
}
