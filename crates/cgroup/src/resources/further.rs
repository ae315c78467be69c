//! Limits that are a file each.

use oci_plan::FurtherLimit;

use super::{Place, Target, no_hierarchy};
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
        Some((file, text)) => place.write(file, text),
        None => Err(Error::Unsupported {
            field: limit.field,
            value: text().to_owned(),
            reason: "cgroup v2 has no such limit".to_owned(),
        }),
    }
}
