//! Which devices may be used: by the files of v1's devices controller, or, where that is not mounted, by an eBPF program on v2.

mod program;
mod rule;
mod v1;
mod v2;

use oci_plan::DeviceRule;

use self::rule::Rules;
use super::{Place, Target, no_hierarchy};
use crate::error::Error;
use crate::hierarchy::{Controller, Hierarchies};

const FIELD: &str = "devices";

pub(super) fn check(hierarchies: &Hierarchies, rules: &[DeviceRule]) -> Result<(), Error> {
    let rules = Rules::parse(rules)?;
    match hierarchies.home(Controller::Devices) {
        Some(_) => v1::Policy::new(&rules).map(|_| ()),
        None => Ok(()),
    }
}

pub(super) fn apply(target: &Target<'_>, rules: &[DeviceRule]) -> Result<(), Error> {
    if rules.is_empty() {
        return Ok(());
    }
    let rules = Rules::parse(rules)?;
    let unified = match target.place(Controller::Devices) {
        Place::Here(place) => return v1::apply(&place, &rules),
        Place::Foreign => return Ok(()),
        Place::Nowhere => target.cgroup.hierarchies.unified(),
    };
    match unified.map(|unified| target.place_in(unified)) {
        Some(Place::Here(place)) => v2::apply(&place, &rules, target.scope),
        Some(Place::Foreign) => Ok(()),
        Some(Place::Nowhere) | None if !rules.deny_anything() => Ok(()),
        Some(Place::Nowhere) | None => {
            let value = format!("{} rules", rules.given);
            Err(no_hierarchy(FIELD, value, Controller::Devices))
        }
    }
}
