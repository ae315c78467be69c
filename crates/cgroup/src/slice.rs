//! systemd's slices: a name says the path.

use std::fmt;

use crate::path::{CgroupPath, PathError};

const SUFFIX: &str = ".slice";

/// Of a unit's name, bytes (`systemd.unit(5)`).
const LONGEST_NAME: usize = 255;

/// A slice unit, never the root slice. `kubepods-burstable-pod1.slice` is `kubepods.slice/kubepods-burstable.slice/` and
/// itself: each dash is a step down (`systemd.slice(5)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    name: String,
    path: CgroupPath,
}

/// Why a text is no slice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SliceError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(
        "cgroup parent {0:?} is no slice, such as \"kubepods-burstable-pod1.slice\", and the systemd cgroup driver is in use"
    )]
    NoSlice(String),
    #[error("cgroup parent {0:?} names the root slice")]
    Root(String),
    #[error("{0:?} is not the name of a slice: {1}")]
    Name(String, &'static str),
    /// Such a path would be another cgroup than the one that systemd makes for the unit.
    #[error("cgroup parent {found:?} is not where systemd puts that slice: {expected:?}")]
    Elsewhere { found: String, expected: String },
}

impl Slice {
    /// Takes a name, as kubelets for dockershim gave it, or the whole path, as kubelets give it now; both with or without one
    /// leading slash. A path must be the one that its last component says.
    pub fn parse(parent: &str) -> Result<Slice, SliceError> {
        let given = CgroupPath::parse(parent)?;
        let name = given.name();
        let slice = Slice::named(name, parent)?;
        if given.as_str() != name && given != slice.path {
            return Err(SliceError::Elsewhere {
                found: parent.to_owned(),
                expected: slice.path.to_string(),
            });
        }
        Ok(slice)
    }

    fn named(name: &str, given: &str) -> Result<Slice, SliceError> {
        let Some(stem) = name.strip_suffix(SUFFIX) else {
            return Err(SliceError::NoSlice(given.to_owned()));
        };
        let wrong = |why| Err(SliceError::Name(name.to_owned(), why));
        if stem == "-" {
            return Err(SliceError::Root(given.to_owned()));
        }
        if name.len() > LONGEST_NAME {
            return wrong("it is longer than 255 bytes");
        }
        if stem.split('-').any(str::is_empty) {
            return wrong("it has a dash at an end, or two in a row");
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":_.\\-".contains(&byte);
        if !stem.bytes().all(allowed) {
            return wrong("unit names have letters, digits and : _ . \\ -");
        }
        let ends = stem.match_indices('-').map(|(at, _)| at);
        let steps = ends
            .chain([stem.len()])
            .map(|end| format!("{}{SUFFIX}", &stem[..end]));
        let path = CgroupPath::parse(&steps.collect::<Vec<_>>().join("/"))?;
        Ok(Slice {
            name: name.to_owned(),
            path,
        })
    }

    /// The unit: `kubepods-burstable-pod1.slice`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Relative to the root of the hierarchy.
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POD: &str = "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice";

    #[test]
    fn a_name_and_its_path_are_the_same_slice() {
        for parent in [
            "kubepods-besteffort-pod1_2.slice",
            "/kubepods-besteffort-pod1_2.slice",
            POD,
            &format!("/{POD}"),
        ] {
            let slice = Slice::parse(parent).unwrap();
            assert_eq!(slice.name(), "kubepods-besteffort-pod1_2.slice");
            assert_eq!(slice.path().as_str(), POD);
        }
        let top = Slice::parse("longshore.slice").unwrap();
        assert_eq!(top.path().as_str(), "longshore.slice");
    }

    #[test]
    fn what_is_no_slice_or_leads_elsewhere_is_refused() {
        for (parent, part) in [
            ("/kubepods/burstable/pod1", "no slice"),
            ("a.scope", "no slice"),
            ("a.slice:cri:x", "slice:prefix:name"),
            ("-.slice", "root slice"),
            (".slice", "dash"),
            ("-a.slice", "dash"),
            ("a-.slice", "dash"),
            ("a--b.slice", "dash"),
            ("a b.slice", "unit names"),
            ("a@b.slice", "unit names"),
            ("ä.slice", "unit names"),
            ("../a.slice", ".."),
            ("/a.slice/../b.slice", ".."),
            ("/a.slice/b.slice", "not where"),
            ("/system.slice/a-b.slice", "not where"),
            ("/a.slice/a-b.slice/a-b.slice", "not where"),
            ("", "root"),
            ("/", "root"),
        ] {
            let error = Slice::parse(parent).unwrap_err().to_string();
            assert!(error.contains(part), "{parent:?}: {error}");
        }
        let long = format!("{}.slice", "a".repeat(250));
        assert!(Slice::parse(&long).is_err());
    }

    proptest! {
        /// Nothing that is accepted leads out of the slices it names.
        #[test]
        fn accepted_paths_are_steps_of_their_name(text in "[a-c./\\-\u{0}@:]{0,12}(\\.slice)?") {
            if let Ok(slice) = Slice::parse(&text) {
                let mut last = String::new();
                for component in slice.path().as_str().split('/') {
                    let stem = component.strip_suffix(SUFFIX).unwrap();
                    let above = format!("{last}-");
                    prop_assert!(last.is_empty() || stem.starts_with(&above));
                    last = stem.to_owned();
                }
                prop_assert_eq!(last + SUFFIX, slice.name());
            }
        }
    }
}
