//! Limits that are a file each.

use oci_plan::FurtherLimit;

use super::{Place, Scope, Target, no_hierarchy};
use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::hierarchy::Controller;

pub(super) fn apply(target: &Target<'_>, limits: &[FurtherLimit]) -> Result<(), Error> {
    limits.iter().try_for_each(|limit| one(target, limit))
}

fn one(target: &Target<'_>, limit: &FurtherLimit) -> Result<(), Error> {
    let controller = match limit.controller {
        "cpu" => Controller::Cpu,
        "blkio" => Controller::Blkio,
        _ => Controller::Memory,
    };
    let text = || {
        limit
            .v1
            .as_ref()
            .or(limit.v2.as_ref())
            .map_or("", |(_, text)| text)
    };
    let place = match target.place(controller) {
        Place::Here(place) => place,
        Place::Foreign => return Ok(()),
        Place::Nowhere => return Err(no_hierarchy(limit.field, text(), controller)),
    };
    let file = match place.v2() {
        true => &limit.v2,
        false => &limit.v1,
    };
    match file {
        Some((file, text)) => match place.write_if_exists(file, text)? {
            true => Ok(()),
            false => Err(Error::Unsupported {
                field: limit.field,
                value: text.clone(),
                reason: format!("this kernel has no {file}"),
            }),
        },
        None => Err(Error::Unsupported {
            field: limit.field,
            value: text().to_owned(),
            reason: "cgroup v2 has no such limit".to_owned(),
        }),
    }
}

const SWAPPINESS: &str = "memory.swappiness";

impl Cgroup {
    /// How readily the kernel swaps the cgroup's memory out; a new cgroup has its parent's. `None`: only v1 knows.
    pub fn swappiness(&self) -> Result<Option<u64>, Error> {
        let target = Target {
            cgroup: self,
            scope: Scope::All,
            journal: None,
        };
        let place = match target.place(Controller::Memory) {
            Place::Here(place) if !place.v2() => place,
            Place::Here(_) | Place::Foreign | Place::Nowhere => return Ok(None),
        };
        let text = place.read(SWAPPINESS)?;
        let parsed = text.trim().parse();
        parsed
            .map(Some)
            .map_err(|_| place.parse_error(SWAPPINESS, &text))
    }
}
