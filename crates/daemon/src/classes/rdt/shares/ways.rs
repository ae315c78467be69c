//! Parts of a cache as masks of bits, each one block.

use super::{Cache, Kind, numbers};

/// A part as a file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    /// From, to: percents of what there is.
    Percent(u64, u64),
    Mask(u64),
}

/// The mask of partition `name`: partitions share a cache out among them, without overlap. All of it where none has a share.
pub(in crate::classes::rdt) fn divide(
    partitions: &[(&str, Option<Cache>)],
    name: &str,
    kind: Kind,
    id: u32,
    whole: u64,
    least: u64,
) -> Result<u64, String> {
    let mut shares = Vec::new();
    for (partition, cache) in partitions {
        let Some(cache) = cache else {
            return Err(format!(
                "partition {partition} has no share, and others have"
            ));
        };
        shares.push((*partition, share(cache.share(kind, id)?)?));
    }
    let masks = shares.iter().map(|(_, share)| match share {
        Share::Mask(mask) => Some(*mask),
        Share::Percent(..) => None,
    });
    let given = match masks.collect::<Option<Vec<_>>>() {
        Some(masks) => {
            check_apart(&masks, whole)?;
            masks
        }
        None => by_percent(&shares, whole, least)?,
    };
    let place = shares.iter().position(|(partition, _)| *partition == name);
    place
        .and_then(|place| given.get(place).copied())
        .ok_or_else(|| format!("there is no partition {name}"))
}

fn check_apart(masks: &[u64], whole: u64) -> Result<(), String> {
    let mut taken = 0;
    for mask in masks {
        if mask & !whole != 0 {
            return Err(format!("{mask:#x} is more than the cache has, {whole:#x}"));
        }
        if mask & taken != 0 {
            return Err(format!("{mask:#x} overlaps with another partition"));
        }
        taken |= mask;
    }
    Ok(())
}

/// In the order of the partitions, beside each other. Small ones are rounded up, at the cost of the largest.
fn by_percent(shares: &[(&str, Share)], whole: u64, least: u64) -> Result<Vec<u64>, String> {
    let mut asked = Vec::new();
    for (place, (partition, share)) in shares.iter().enumerate() {
        match share {
            Share::Percent(0, percent) => asked.push((*percent, place)),
            Share::Percent(..) => {
                return Err(format!("partition {partition}: a range is for classes"));
            }
            Share::Mask(_) => return Err("some have percents and some masks".to_owned()),
        }
    }
    let total: u64 = asked.iter().map(|(percent, _)| percent).sum();
    if total > 100 {
        return Err(format!("the partitions have {total}% together"));
    }
    asked.sort_unstable();
    let mut bits = vec![0; shares.len()];
    let mut left = total * u64::from(whole.count_ones()) / 100;
    let mut percents_left = total;
    for (index, (percent, place)) in asked.iter().enumerate() {
        let last = index + 1 == asked.len();
        let fair = (percent * left).checked_div(percents_left).unwrap_or(0);
        let given = if last { left } else { fair.max(least) };
        if given < least || given > left {
            return Err("there are too few bits for all partitions".to_owned());
        }
        bits[*place] = given;
        left -= given;
        percents_left -= percent;
    }
    let mut start = 0;
    let masks = bits.into_iter().map(|count| {
        let mask = ones(count) << start;
        start += count;
        mask
    });
    Ok(masks.collect())
}

/// The part of a class within its partition's mask.
pub(in crate::classes::rdt) fn within(
    cache: &Cache,
    kind: Kind,
    id: u32,
    base: u64,
    least: u64,
) -> Result<u64, String> {
    let shift = u64::from(base.trailing_zeros());
    let width = u64::from(base.count_ones());
    match share(cache.share(kind, id)?)? {
        Share::Mask(mask) => {
            let shifted = mask << shift;
            match shifted & !base == 0 && u64::from(mask.count_ones()) >= least {
                true => Ok(shifted),
                false => Err(format!(
                    "{mask:#x} does not fit into {width} bits, {least} at least"
                )),
            }
        }
        Share::Percent(low, high) => {
            let place = |percent: u64| percent.saturating_sub(1) * width / 100;
            let (mut low, mut high) = (place(low.max(1)), place(high.max(1)));
            // Wider at its lower end first, then at the upper.
            let mut missing = least.saturating_sub(high - low + 1);
            let down = missing.min(low);
            low -= down;
            missing -= down;
            high += missing;
            if high >= width {
                return Err(format!(
                    "{width} bits are less than {least}, the least there can be"
                ));
            }
            Ok(ones(high - low + 1) << (low + shift))
        }
    }
}

/// `60%`, `20-60%`, `0xf0`, `4-7`.
fn share(text: &str) -> Result<Share, String> {
    let wrong = || format!("{text:?} is no share such as 60%, 20-60%, 0xf0 or 4-7");
    if let Some(percents) = text.strip_suffix('%') {
        let (low, high) = percents.split_once('-').unwrap_or(("0", percents));
        let bound = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
        let (low, high) = (bound(low)?, bound(high)?);
        return match low <= high && high <= 100 {
            true => Ok(Share::Percent(low, high)),
            false => Err(wrong()),
        };
    }
    let mask = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).map_err(|_| wrong())?,
        None => {
            let bits = numbers(text).map_err(|_| wrong())?;
            let bits = bits.into_iter().map(|bit| 1_u64.checked_shl(bit));
            let bits: Option<Vec<_>> = bits.collect();
            bits.ok_or_else(wrong)?
                .into_iter()
                .fold(0, |all, bit| all | bit)
        }
    };
    let block = mask >> mask.trailing_zeros().min(63);
    match mask != 0 && block & block.wrapping_add(1) == 0 {
        true => Ok(Share::Mask(mask)),
        false => Err(format!("{text:?} is not one block of bits")),
    }
}

fn ones(count: u64) -> u64 {
    match count {
        0 => 0,
        64.. => u64::MAX,
        count => (1 << count) - 1,
    }
}
