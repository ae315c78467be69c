use std::fmt;

/// Longest path accepted, below PATH_MAX with room for a file name.
const LONGEST: usize = 3500;

/// The path of a cgroup, relative to the root of each hierarchy, without leading or trailing slash: `kubepods/burstable/pod1/c1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CgroupPath(String);

/// Why a text is not the path of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("cgroup path {0:?} names no cgroup below the root")]
    Root(String),
    #[error("cgroup path {0:?} has a \"..\" component")]
    Parent(String),
    #[error("cgroup path {0:?} has a \".\" component")]
    Current(String),
    #[error("cgroup path {0:?} has an empty component")]
    Empty(String),
    #[error("cgroup path {0:?} has a NUL or newline character")]
    Character(String),
    #[error("cgroup path of {0} bytes is longer than {LONGEST}")]
    Long(usize),
    /// systemd's `slice:prefix:name` is for a driver that this crate does not have.
    #[error(
        "cgroup path {0:?} is in systemd's form \"slice:prefix:name\", and the cgroupfs driver is in use"
    )]
    Systemd(String),
    #[error("{0:?} is not one component of a cgroup path")]
    Component(String),
}

impl CgroupPath {
    /// Accepts one leading slash, as CRI's `cgroup_parent` has it; the path is relative all the same.
    pub fn parse(text: &str) -> Result<CgroupPath, PathError> {
        let relative = text.strip_prefix('/').unwrap_or(text);
        if relative.is_empty() {
            return Err(PathError::Root(text.to_owned()));
        }
        if relative.len() > LONGEST {
            return Err(PathError::Long(relative.len()));
        }
        if relative.contains(['\0', '\n']) {
            return Err(PathError::Character(text.to_owned()));
        }
        for component in relative.split('/') {
            match component {
                "" => return Err(PathError::Empty(text.to_owned())),
                "." => return Err(PathError::Current(text.to_owned())),
                ".." => return Err(PathError::Parent(text.to_owned())),
                _ => {}
            }
        }
        if relative.split(':').count() == 3 && !relative.contains('/') {
            return Err(PathError::Systemd(text.to_owned()));
        }
        Ok(CgroupPath(relative.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `name` must be one component.
    pub fn join(&self, name: &str) -> Result<CgroupPath, PathError> {
        match name {
            "" | "." | ".." => return Err(PathError::Component(name.to_owned())),
            _ if name.contains(['/', '\0', '\n']) => {
                return Err(PathError::Component(name.to_owned()));
            }
            _ => {}
        }
        CgroupPath::parse(&format!("{}/{name}", self.0))
    }

    /// The path itself and its ancestors below the root, shortest first.
    pub(crate) fn prefixes(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0
            .match_indices('/')
            .map(|(at, _)| &self.0[..at])
            .chain(std::iter::once(self.as_str()))
    }

    /// The last component.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// How many components.
    pub(crate) fn depth(&self) -> usize {
        self.0.split('/').count()
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leading_slash_is_dropped() {
        assert_eq!(CgroupPath::parse("/a/b").unwrap().as_str(), "a/b");
        assert_eq!(CgroupPath::parse("a/b").unwrap().as_str(), "a/b");
    }

    #[test]
    fn refused_paths() {
        let refused = |text: &str| CgroupPath::parse(text).unwrap_err();
        assert_eq!(refused(""), PathError::Root(String::new()));
        assert_eq!(refused("/"), PathError::Root("/".into()));
        assert_eq!(refused("a/../b"), PathError::Parent("a/../b".into()));
        assert_eq!(refused("./a"), PathError::Current("./a".into()));
        assert_eq!(refused("a//b"), PathError::Empty("a//b".into()));
        assert_eq!(refused("a/"), PathError::Empty("a/".into()));
        assert_eq!(refused("//a"), PathError::Empty("//a".into()));
        assert_eq!(refused("a\0b"), PathError::Character("a\0b".into()));
        assert_eq!(
            refused("a.slice:cri:x"),
            PathError::Systemd("a.slice:cri:x".into())
        );
        assert_eq!(refused(&"a".repeat(4000)), PathError::Long(4000));
    }

    #[test]
    fn prefixes_are_shortest_first() {
        let path = CgroupPath::parse("a/b/c").unwrap();
        assert_eq!(path.prefixes().collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
        assert_eq!(path.depth(), 3);
        assert!(path.join("d/e").is_err());
        assert_eq!(path.join("d").unwrap().as_str(), "a/b/c/d");
    }
}
