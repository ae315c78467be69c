use super::{Place, Target};
use crate::error::Error;

const FIELD: &str = "unified";

/// Files that are the runtime's own means, not limits.
const RESERVED: [&str; 6] = [
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.kill",
    "cgroup.freeze",
    "cgroup.type",
    "cgroup.subtree_control",
];

pub(super) fn check(unified: &[(String, String)]) -> Result<(), Error> {
    for (file, value) in unified {
        let invalid = |reason| {
            Err(Error::Invalid {
                field: FIELD,
                value: format!("{file:?}: {value:?}"),
                reason,
            })
        };
        if file.is_empty() || file.contains(['/', '\0']) || !file.contains('.') {
            return invalid("the key must be the name of a cgroup v2 file");
        }
        if RESERVED.contains(&file.as_str()) {
            return invalid("this file is for the runtime to write");
        }
    }
    Ok(())
}

pub(super) fn apply(target: &Target<'_>, unified: &[(String, String)]) -> Result<(), Error> {
    for (file, value) in unified {
        let unsupported = |reason: &str| Error::Unsupported {
            field: FIELD,
            value: format!("{file:?}: {value:?}"),
            reason: reason.to_owned(),
        };
        let Some(hierarchy) = target.cgroup.hierarchies.unified() else {
            return Err(unsupported("this machine has no cgroup v2"));
        };
        match target.place_in(hierarchy) {
            Place::Here(place) => {
                if !place.write_if_exists(file, value)? {
                    return Err(unsupported("the cgroup v2 tree has no such file here"));
                }
            }
            Place::Foreign | Place::Nowhere => {}
        }
    }
    Ok(())
}
