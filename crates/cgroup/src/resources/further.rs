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
        Some((file, text)) => {
            let files = [Some(*file), successor(file)];
            for file in files.iter().flatten() {
                if place.write_if_exists(file, text)? {
                    return Ok(());
                }
            }
            Err(Error::Unsupported {
                field: limit.field,
                value: text.clone(),
                reason: format!("this kernel has no {file}"),
            })
        }
        None => Err(Error::Unsupported {
            field: limit.field,
            value: text().to_owned(),
            reason: "cgroup v2 has no such limit".to_owned(),
        }),
    }
}

/// CFQ went with Linux 5.0, and BFQ has files of its own for the same.
fn successor(file: &str) -> Option<&'static str> {
    (file == "blkio.weight_device").then_some("blkio.bfq.weight_device")
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
