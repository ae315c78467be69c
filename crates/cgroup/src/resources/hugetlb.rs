use oci_plan::{HugepageLimit, Resources};

use super::{Place, Target, no_hierarchy};
use crate::error::Error;
use crate::hierarchy::Controller;

pub(super) fn check(resources: &Resources) -> Result<(), Error> {
    for limit in &resources.hugepage_limits {
        let size = &limit.page_size;
        let number = size.trim_end_matches(['K', 'M', 'G', 'B']);
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Error::Invalid {
                field: "hugepage_limits.page_size",
                value: format!("{size:?}"),
                reason: "must be a number and KB, MB or GB",
            });
        }
    }
    Ok(())
}

/// Kubelets send a limit of 0 for each page size that they know of; where the kernel has no such pages, or no controller, that
/// needs nothing doing.
pub(super) fn apply(target: &Target<'_>, limits: &[HugepageLimit]) -> Result<(), Error> {
    if limits.is_empty() {
        return Ok(());
    }
    let place = match target.place(Controller::Hugetlb) {
        Place::Here(place) => place,
        Place::Foreign => return Ok(()),
        Place::Nowhere => {
            return match limits.iter().find(|limit| limit.limit_bytes > 0) {
                Some(limit) => Err(no_hierarchy(FIELD, shown(limit), Controller::Hugetlb)),
                None => Ok(()),
            };
        }
    };
    let suffix = if place.v2() { "max" } else { "limit_in_bytes" };
    for limit in limits {
        let (size, value) = (&limit.page_size, limit.limit_bytes.to_string());
        let set = place.write_if_exists(&format!("hugetlb.{size}.{suffix}"), &value)?;
        if !set && limit.limit_bytes > 0 {
            return Err(Error::Unsupported {
                field: FIELD,
                value: shown(limit),
                reason: "the kernel has no huge pages of this size".to_owned(),
            });
        }
        if set {
            // Reservations, which fail at mmap(2) instead of by SIGBUS later; since 5.7.
            place.write_if_exists(&format!("hugetlb.{size}.rsvd.{suffix}"), &value)?;
        }
    }
    Ok(())
}

const FIELD: &str = "hugepage_limits";

fn shown(limit: &HugepageLimit) -> String {
    format!("{} of {} pages", limit.limit_bytes, limit.page_size)
}
