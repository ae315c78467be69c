use oci_plan::{BlockIoWeight, Resources};

use super::{Place, Target, no_hierarchy};
use crate::error::Error;
use crate::hierarchy::Controller;

const FIELD: &str = "blkio_weight";

pub(super) fn check(resources: &Resources) -> Result<(), Error> {
    match resources.blkio_weight {
        Some(BlockIoWeight(weight)) if !(10..=1000).contains(&weight) => Err(Error::Invalid {
            field: FIELD,
            value: weight.to_string(),
            reason: "must be from 10 to 1000",
        }),
        Some(_) | None => Ok(()),
    }
}

/// Which file there is depends on the kernel and on the I/O scheduler: BFQ has its own, with v1's scale also on v2.
pub(super) fn apply(target: &Target<'_>, weight: Option<BlockIoWeight>) -> Result<(), Error> {
    let Some(BlockIoWeight(weight)) = weight else {
        return Ok(());
    };
    let place = match target.place(Controller::Blkio) {
        Place::Here(place) => place,
        Place::Foreign => return Ok(()),
        Place::Nowhere => return Err(no_hierarchy(FIELD, weight, Controller::Blkio)),
    };
    let same = weight.to_string();
    let files = if place.v2() {
        let converted = blkio_weight_to_io_weight(weight).to_string();
        [("io.bfq.weight", same), ("io.weight", converted)]
    } else {
        [("blkio.weight", same.clone()), ("blkio.bfq.weight", same)]
    };
    for (file, value) in &files {
        if place.write_if_exists(file, value)? {
            return Ok(());
        }
    }
    Err(Error::Unsupported {
        field: FIELD,
        value: weight.to_string(),
        reason: format!("the kernel has neither {} nor {}", files[0].0, files[1].0),
    })
}

/// v1 `blkio.weight` (10 to 1000) as v2 `io.weight` (1 to 10000), linear.
pub fn blkio_weight_to_io_weight(weight: u16) -> u64 {
    let weight = u64::from(weight.clamp(10, 1000));
    1 + (weight - 10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_meet() {
        assert_eq!(blkio_weight_to_io_weight(10), 1);
        assert_eq!(blkio_weight_to_io_weight(1000), 10_000);
        assert_eq!(blkio_weight_to_io_weight(0), 1);
    }
}
