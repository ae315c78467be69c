//! Classes of block I/O: weights and rates of devices.

use std::{collections::BTreeMap, path::Path};

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder};
use rustix::fs::{FileType, major, minor};
use serde::Deserialize;

use super::{ClassError, glob, list, quantity::Quantity};

/// `blockio.yaml`, as goresctrl has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(alias = "classes", rename = "Classes", default)]
    classes: BTreeMap<String, Option<Vec<Entry>>>,
}

/// Later ones win, device by device.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Entry {
    /// Patterns of paths; without, `weight` is that of all devices that have none of their own.
    #[serde(rename = "Devices", alias = "devices")]
    devices: Option<Vec<String>>,
    #[serde(rename = "Weight", alias = "weight")]
    weight: Option<Quantity>,
    #[serde(rename = "ThrottleReadBps", alias = "throttleReadBps")]
    read_bps: Option<Quantity>,
    #[serde(rename = "ThrottleWriteBps", alias = "throttleWriteBps")]
    write_bps: Option<Quantity>,
    #[serde(rename = "ThrottleReadIOPS", alias = "throttleReadIOPS")]
    read_iops: Option<Quantity>,
    #[serde(rename = "ThrottleWriteIOPS", alias = "throttleWriteIOPS")]
    write_iops: Option<Quantity>,
}

/// Of one device.
#[derive(Debug, Clone, Default)]
struct Limits {
    weight: Option<u16>,
    rates: [Option<u64>; 4],
}

/// A class of the file. `root`: where the devices' paths begin. Blocks.
pub(super) fn class(
    file: &Path,
    text: &str,
    name: &str,
    root: &Path,
) -> Result<LinuxBlockIo, ClassError> {
    let parsed: File = serde_saphyr::from_str(text).map_err(|error| ClassError::Parse {
        file: file.to_owned(),
        text: error.to_string(),
    })?;
    let Some(entries) = parsed.classes.get(name) else {
        return Err(ClassError::Unknown {
            kind: "block I/O",
            name: name.to_owned(),
            file: file.to_owned(),
            known: list(parsed.classes.keys().map(String::as_str)),
        });
    };
    let mut weight = None;
    let mut devices: BTreeMap<(u32, u32), Limits> = BTreeMap::new();
    for (index, entry) in entries.iter().flatten().enumerate() {
        let reader = Reader {
            file,
            field: format!("Classes.{name}[{index}]"),
        };
        let given = entry.limits(&reader)?;
        let Some(patterns) = &entry.devices else {
            if given.rates.iter().any(Option::is_some) {
                return Err(reader.wrong("Devices", "", "rates are of devices: list them"));
            }
            weight = given.weight.or(weight);
            continue;
        };
        for pattern in patterns {
            for number in numbers(root, pattern, &reader)? {
                let known = devices.entry(number).or_default();
                known.weight = given.weight.or(known.weight);
                for (known, given) in known.rates.iter_mut().zip(given.rates) {
                    *known = given.or(*known);
                }
            }
        }
    }
    Ok(block_io(weight, &devices))
}

fn block_io(weight: Option<u16>, devices: &BTreeMap<(u32, u32), Limits>) -> LinuxBlockIo {
    let rates = |index: usize| {
        let given = devices
            .iter()
            .filter_map(|(&(major, minor), limits)| {
                let made = LinuxThrottleDeviceBuilder::default()
                    .major(major)
                    .minor(minor)
                    .rate(limits.rates[index]?);
                Some(made.build().expect("nothing of it has to be given"))
            })
            .collect::<Vec<_>>();
        (!given.is_empty()).then_some(given)
    };
    let weights = devices
        .iter()
        .filter_map(|(&(major, minor), limits)| {
            let made = LinuxWeightDeviceBuilder::default()
                .major(major)
                .minor(minor)
                .weight(limits.weight?);
            Some(made.build().expect("nothing of it has to be given"))
        })
        .collect::<Vec<_>>();
    let mut made = LinuxBlockIo::default();
    made.set_weight(weight)
        .set_weight_device((!weights.is_empty()).then_some(weights))
        .set_throttle_read_bps_device(rates(0))
        .set_throttle_write_bps_device(rates(1))
        .set_throttle_read_iops_device(rates(2))
        .set_throttle_write_iops_device(rates(3));
    made
}

impl Entry {
    fn limits(&self, reader: &Reader<'_>) -> Result<Limits, ClassError> {
        let weight = reader.number("Weight", self.weight.as_ref())?;
        let weight = match weight {
            None => None,
            Some(weight) => match u16::try_from(weight) {
                Ok(weight) if (10..=1000).contains(&weight) => Some(weight),
                _ => return Err(reader.wrong("Weight", &weight.to_string(), "use 10 to 1000")),
            },
        };
        Ok(Limits {
            weight,
            rates: [
                reader.number("ThrottleReadBps", self.read_bps.as_ref())?,
                reader.number("ThrottleWriteBps", self.write_bps.as_ref())?,
                reader.number("ThrottleReadIOPS", self.read_iops.as_ref())?,
                reader.number("ThrottleWriteIOPS", self.write_iops.as_ref())?,
            ],
        })
    }
}

/// Block devices that a pattern names. One that names none is fine: a file serves many nodes.
fn numbers(root: &Path, pattern: &str, reader: &Reader<'_>) -> Result<Vec<(u32, u32)>, ClassError> {
    let Some(paths) = glob::expand(root, pattern) else {
        return Err(reader.wrong("Devices", pattern, "the pattern is broken"));
    };
    let mut numbers = Vec::new();
    for path in paths {
        let Ok(status) = rustix::fs::stat(&path) else {
            continue;
        };
        let number = (major(status.st_rdev), minor(status.st_rdev));
        let block = FileType::from_raw_mode(status.st_mode) == FileType::BlockDevice;
        let partition = format!("/sys/dev/block/{}:{}/partition", number.0, number.1);
        match block && !Path::new(&partition).exists() {
            true => numbers.push(number),
            // A pattern may catch more than was meant.
            false if pattern.contains(['*', '?', '[']) => {}
            false => {
                let why =
                    "it is no block device, or a part of one, which the kernel does not limit";
                return Err(reader.wrong("Devices", pattern, why));
            }
        }
    }
    Ok(numbers)
}

/// An entry of the file, for messages.
struct Reader<'a> {
    file: &'a Path,
    field: String,
}

impl Reader<'_> {
    fn number(&self, key: &str, given: Option<&Quantity>) -> Result<Option<u64>, ClassError> {
        match given.map(|given| (given, given.value())) {
            None => Ok(None),
            Some((_, Some(value))) => Ok(Some(value)),
            Some((given, None)) => {
                Err(self.wrong(key, &given.to_string(), "write a number such as 10k or 50M"))
            }
        }
    }

    fn wrong(&self, key: &str, value: &str, why: &str) -> ClassError {
        ClassError::Field {
            file: self.file.to_owned(),
            field: format!("{}.{key}", self.field),
            value: value.to_owned(),
            why: why.to_owned(),
        }
    }
}
