use oci_plan::DeviceRule;

use super::FIELD;
use crate::error::Error;

// The kernel's bits, in both versions.
pub(super) const MKNOD: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITE: u8 = 4;
pub(super) const EVERYTHING: u8 = READ | WRITE | MKNOD;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    /// `b` or `c`.
    pub(super) node_type: char,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: u8,
}

/// Rules as given, parsed: those before the last one for everything are forgotten.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// For what no exception is about; `None`: what the parent says.
    pub(super) default: Option<bool>,
    /// In order; the last match wins.
    pub(super) exceptions: Vec<Rule>,
    /// How many there were, for messages.
    pub(super) given: usize,
}

impl Rules {
    pub(super) fn parse(given: &[DeviceRule]) -> Result<Rules, Error> {
        let mut rules = Rules {
            default: None,
            exceptions: Vec::with_capacity(given.len()),
            given: given.len(),
        };
        for rule in given {
            let access = access(rule)?;
            let types: &[char] = match rule.node_type {
                'a' => &['b', 'c'],
                'b' => &['b'],
                'c' => &['c'],
                _ => return Err(invalid(rule, "the type must be a, b or c")),
            };
            let all = rule.node_type == 'a' && rule.major.is_none() && rule.minor.is_none();
            if all && access == EVERYTHING {
                rules.default = Some(rule.allow);
                rules.exceptions.clear();
                continue;
            }
            rules.exceptions.extend(types.iter().map(|&node_type| Rule {
                allow: rule.allow,
                node_type,
                major: rule.major,
                minor: rule.minor,
                access,
            }));
        }
        Ok(rules)
    }

    pub(super) fn deny_anything(&self) -> bool {
        self.default == Some(false) || self.exceptions.iter().any(|rule| !rule.allow)
    }
}

impl Rule {
    pub(super) fn covers(&self, other: &Rule) -> bool {
        let number = |own: Option<u32>, other: Option<u32>| own.is_none() || own == other;
        self.node_type == other.node_type
            && number(self.major, other.major)
            && number(self.minor, other.minor)
    }

    pub(super) fn meets(&self, other: &Rule) -> bool {
        let number =
            |own: Option<u32>, other: Option<u32>| own.is_none() || other.is_none() || own == other;
        self.node_type == other.node_type
            && number(self.major, other.major)
            && number(self.minor, other.minor)
    }

    /// As v1's files have it.
    pub(super) fn v1(&self) -> String {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
        let access: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
            .into_iter()
            .filter(|(bit, _)| self.access & bit != 0)
            .map(|(_, letter)| letter)
            .collect();
        let (major, minor) = (number(self.major), number(self.minor));
        format!("{} {major}:{minor} {access}", self.node_type)
    }

    pub(super) fn shown(&self) -> String {
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

/// `allow c 1:* rw`
#[cfg(test)]
pub(super) fn written(text: &str) -> DeviceRule {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_rules_are_named() {
        assert!(Rules::parse(&[written("allow x 1:3 rwm")]).is_err());
        let error = Rules::parse(&[written("allow c 1:3 rx")]).unwrap_err();
        assert!(error.to_string().contains("\"rx\""), "{error}");
    }
}
