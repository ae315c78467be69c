use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::pod::config::SelinuxOptions;

/// What SELinux knows a process or a file as: `user:role:type:level`, without a level where the policy has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Label {
    user: String,
    role: String,
    kind: String,
    level: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no label: user:role:type:level")]
pub(crate) struct NoLabel(String);

impl Label {
    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    pub(crate) fn level(&self) -> Option<&str> {
        self.level.as_deref()
    }

    pub(super) fn of_kind(mut self, kind: &str) -> Self {
        kind.clone_into(&mut self.kind);
        self
    }

    pub(crate) fn at(mut self, level: Option<&str>) -> Self {
        self.level = level.map(str::to_owned);
        self
    }

    /// With the parts that are asked for in the place of its own.
    pub(crate) fn with(mut self, asked: &SelinuxOptions) -> Self {
        let asked_for = |part: &String| (!part.is_empty()).then(|| part.clone());
        self.user = asked_for(&asked.user).unwrap_or(self.user);
        self.role = asked_for(&asked.role).unwrap_or(self.role);
        self.kind = asked_for(&asked.kind).unwrap_or(self.kind);
        self.level = asked_for(&asked.level).or(self.level);
        self
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            user,
            role,
            kind,
            level,
        } = self;
        write!(f, "{user}:{role}:{kind}")?;
        match level {
            Some(level) => write!(f, ":{level}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Label {
    type Err = NoLabel;

    fn from_str(text: &str) -> Result<Self, NoLabel> {
        // A level has colons of its own.
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(user), Some(role), Some(kind), level)
                if [&user, &role, &kind].iter().all(|part| !part.is_empty()) =>
            {
                Ok(Self {
                    user,
                    role,
                    kind,
                    level,
                })
            }
            _ => Err(NoLabel(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Label {
    type Error = NoLabel;

    fn try_from(text: String) -> Result<Self, NoLabel> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_reads_as_it_is_written() {
        for text in [
            "system_u:system_r:container_t:s0:c1,c2",
            "system_u:object_r:container_file_t:s0",
            "u:r:t",
        ] {
            assert_eq!(text.parse::<Label>().unwrap().to_string(), text);
        }
        for text in ["", "kernel", "u:r", "u::t:s0"] {
            assert!(text.parse::<Label>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_asked_for_replaces_its_part_alone() {
        let label: Label = "u:r:container_t:s0:c1,c2".parse().unwrap();
        let asked = SelinuxOptions {
            kind: "spc_t".into(),
            ..SelinuxOptions::default()
        };
        assert_eq!(label.clone().with(&asked).to_string(), "u:r:spc_t:s0:c1,c2");
        let asked = SelinuxOptions {
            user: "me_u".into(),
            role: "me_r".into(),
            level: "s0:c7".into(),
            ..SelinuxOptions::default()
        };
        assert_eq!(
            label.with(&asked).to_string(),
            "me_u:me_r:container_t:s0:c7"
        );
    }
}
