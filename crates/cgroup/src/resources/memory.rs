use oci_plan::Resources;
use rustix::io::Errno;

use super::{Directory, Place, Target, no_hierarchy};
use crate::error::Error;
use crate::hierarchy::Controller;

const V1_LIMIT: &str = "memory.limit_in_bytes";
const V1_SWAP: &str = "memory.memsw.limit_in_bytes";
const V1_USAGE: &str = "memory.usage_in_bytes";
const V2_LIMIT: &str = "memory.max";
const V2_PRESSURE: &str = "memory.high";
const V2_USAGE: &str = "memory.current";
const V2_SWAP: &str = "memory.swap.max";

/// A size in the specification's terms, where every negative number is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Limit {
    Bytes(u64),
    Unlimited,
}

impl Limit {
    fn new(bytes: i64) -> Limit {
        u64::try_from(bytes).map_or(Limit::Unlimited, Limit::Bytes)
    }

    fn v1(self) -> String {
        match self {
            Limit::Bytes(bytes) => bytes.to_string(),
            Limit::Unlimited => "-1".to_owned(),
        }
    }

    fn v2(self) -> String {
        match self {
            Limit::Bytes(bytes) => bytes.to_string(),
            Limit::Unlimited => "max".to_owned(),
        }
    }
}

pub(super) fn check(resources: &Resources) -> Result<(), Error> {
    let limit = resources.memory_limit_bytes.map(Limit::new);
    let swap = resources.memory_swap_bytes.map(Limit::new);
    match (limit, swap) {
        (Some(limit), Some(swap)) if swap < limit => Err(Error::Invalid {
            field: "memory_swap_bytes",
            value: swap.v1(),
            reason: "memory and swap together cannot be less than the memory limit",
        }),
        _ => Ok(()),
    }
}

pub(super) fn apply(target: &Target<'_>, resources: &Resources) -> Result<(), Error> {
    let limit = resources.memory_limit_bytes.map(Limit::new);
    // Nobody who lifts the memory limit means to keep that on memory and swap together.
    let swap = match (limit, resources.memory_swap_bytes.map(Limit::new)) {
        (Some(Limit::Unlimited), None) => Some(Limit::Unlimited),
        (_, swap) => swap,
    };
    if limit.is_none() && swap.is_none() {
        return Ok(());
    }
    match target.place(Controller::Memory) {
        Place::Here(place) if place.v2() => set_v2(&place, limit, swap),
        Place::Here(place) => set_v1(&place, limit, swap),
        Place::Foreign => Ok(()),
        Place::Nowhere => match (limit, swap) {
            (Some(Limit::Bytes(bytes)), _) => Err(no_hierarchy(
                "memory_limit_bytes",
                bytes,
                Controller::Memory,
            )),
            (_, Some(Limit::Bytes(bytes))) => {
                Err(no_hierarchy("memory_swap_bytes", bytes, Controller::Memory))
            }
            _ => Ok(()),
        },
    }
}

/// The kernel refuses a state in which memory and swap together may be less than memory alone: raising starts with the former,
/// lowering with the latter.
fn set_v1(place: &Directory<'_>, limit: Option<Limit>, swap: Option<Limit>) -> Result<(), Error> {
    let swap = match swap {
        Some(_) if place.has(V1_SWAP) => swap,
        Some(swap) => unaccounted(limit, swap)?,
        None => None,
    };
    let set_limit = |limit: Limit| match place.write(V1_LIMIT, &limit.v1()) {
        Err(error) if error.errno() == Some(Errno::BUSY) => match limit {
            Limit::Bytes(limit) => Err(below_usage(place, limit, V1_USAGE)?),
            Limit::Unlimited => Err(error),
        },
        written => written,
    };
    let (Some(limit), Some(swap)) = (limit, swap) else {
        return match (limit, swap) {
            (Some(limit), _) => set_limit(limit),
            (None, Some(swap)) => place.write(V1_SWAP, &swap.v1()),
            (None, None) => Ok(()),
        };
    };
    let text = place.read(V1_SWAP)?;
    let Ok(now) = text.trim().parse::<u64>() else {
        return Err(place.parse_error(V1_SWAP, &text));
    };
    if limit > Limit::Bytes(now) {
        place.write(V1_SWAP, &swap.v1())?;
        set_limit(limit)
    } else {
        set_limit(limit)?;
        place.write(V1_SWAP, &swap.v1())
    }
}

/// v2 limits swap alone.
fn set_v2(place: &Directory<'_>, limit: Option<Limit>, swap: Option<Limit>) -> Result<(), Error> {
    if let Some(limit) = limit {
        if let (Limit::Bytes(bytes), true) = (limit, place.in_use()) {
            make_room_v2(place, bytes)?;
        }
        place.write(V2_LIMIT, &limit.v2())?;
    }
    let Some(swap) = swap else { return Ok(()) };
    let swap_alone = match swap {
        Limit::Unlimited => Limit::Unlimited,
        Limit::Bytes(together) => match limit.map_or_else(|| limit_v2(place), Ok)? {
            Limit::Bytes(memory) if memory <= together => Limit::Bytes(together - memory),
            Limit::Bytes(_) => {
                return Err(Error::Unsupported {
                    field: "memory_swap_bytes",
                    value: together.to_string(),
                    reason: "less than the memory limit in force".to_owned(),
                });
            }
            Limit::Unlimited => {
                return Err(Error::Unsupported {
                    field: "memory_swap_bytes",
                    value: together.to_string(),
                    reason: "cgroup v2 limits swap alone, which needs a memory limit to subtract"
                        .to_owned(),
                });
            }
        },
    };
    if !place.write_if_exists(V2_SWAP, &swap_alone.v2())? {
        unaccounted(limit, swap)?;
    }
    Ok(())
}

/// v1 refuses a limit below what cannot be reclaimed; v2 takes it, and kills. Whoever lowers a limit does not mean that: what can be
/// reclaimed is, by the softer limit, and the change is refused where that is not enough.
fn make_room_v2(place: &Directory<'_>, limit: u64) -> Result<(), Error> {
    if !place.has(V2_USAGE) || usage(place, V2_USAGE)? <= limit {
        return Ok(());
    }
    let before = place.read(V2_PRESSURE)?;
    place.write(V2_PRESSURE, &limit.to_string())?;
    let now = usage(place, V2_USAGE);
    place.write(V2_PRESSURE, before.trim())?;
    match now? <= limit {
        true => Ok(()),
        false => Err(below_usage(place, limit, V2_USAGE)?),
    }
}

fn usage(place: &Directory<'_>, file: &str) -> Result<u64, Error> {
    let text = place.read(file)?;
    let parsed = text.trim().parse();
    parsed.map_err(|_| place.parse_error(file, &text))
}

fn below_usage(place: &Directory<'_>, limit: u64, file: &str) -> Result<Error, Error> {
    Ok(Error::BelowUsage {
        cgroup: place.label(),
        limit,
        usage: usage(place, file)?,
    })
}

fn limit_v2(place: &Directory<'_>) -> Result<Limit, Error> {
    let text = place.read(V2_LIMIT)?;
    match text.trim() {
        "max" => Ok(Limit::Unlimited),
        number => match number.parse() {
            Ok(bytes) => Ok(Limit::Bytes(bytes)),
            Err(_) => Err(place.parse_error(V2_LIMIT, &text)),
        },
    }
}

/// A kernel that does not account swap (`swapaccount=0`) cannot limit it. "No swap at all" is what every kubelet asks for by
/// default, there too, and is not worth a refusal; an amount is.
fn unaccounted(limit: Option<Limit>, swap: Limit) -> Result<Option<Limit>, Error> {
    if swap == Limit::Unlimited || Some(swap) == limit {
        return Ok(None);
    }
    Err(Error::Unsupported {
        field: "memory_swap_bytes",
        value: swap.v1(),
        reason: "this kernel does not account swap by cgroup".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlimited_is_more_than_any_number() {
        assert!(Limit::new(-1) > Limit::new(i64::MAX));
        assert!(Limit::new(2) > Limit::new(1));
    }

    #[test]
    fn swap_below_memory_is_refused() {
        let resources = Resources {
            memory_limit_bytes: Some(2),
            memory_swap_bytes: Some(1),
            ..Resources::default()
        };
        assert!(matches!(check(&resources), Err(Error::Invalid { .. })));
    }
}
