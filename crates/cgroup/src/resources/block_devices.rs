//! Limits of single block devices, in a cgroup that exists.

use super::{Place, Scope, Target, blkio_weight_to_io_weight, no_hierarchy};
use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::hierarchy::Controller;

/// What a cgroup's processes get of one block device, a whole disk: the kernel knows no limits of partitions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceLimits {
    pub major: u32,
    pub minor: u32,
    /// v1's scale, 10 to 1000; converted on v2.
    pub weight: Option<u16>,
    /// Bytes a second; 0 is no limit. As those below.
    pub read_bps: Option<u64>,
    pub write_bps: Option<u64>,
    /// Operations a second.
    pub read_iops: Option<u64>,
    pub write_iops: Option<u64>,
}

const WEIGHT: &str = "block_io.weight_device";
const RATE: &str = "block_io.throttle";

impl Cgroup {
    /// Sets the limits of devices, one after the other. After an error some may be set.
    ///
    /// # Errors
    ///
    /// `Unsupported` where the kernel has no file for a weight (no I/O scheduler has them), or no hierarchy of that controller.
    pub fn limit_devices(&self, devices: &[DeviceLimits]) -> Result<(), Error> {
        let target = Target {
            cgroup: self,
            scope: Scope::All,
            journal: None,
        };
        devices.iter().try_for_each(|device| target.limit(device))
    }
}

impl DeviceLimits {
    fn name(&self) -> String {
        format!("{}:{}", self.major, self.minor)
    }

    fn rates(&self) -> [(Option<u64>, &'static str, &'static str); 4] {
        [
            (self.read_bps, "rbps", "blkio.throttle.read_bps_device"),
            (self.write_bps, "wbps", "blkio.throttle.write_bps_device"),
            (self.read_iops, "riops", "blkio.throttle.read_iops_device"),
            (self.write_iops, "wiops", "blkio.throttle.write_iops_device"),
        ]
    }
}

impl Target<'_> {
    fn limit(&self, device: &DeviceLimits) -> Result<(), Error> {
        let name = device.name();
        let place = match self.place(Controller::Blkio) {
            Place::Here(place) => place,
            Place::Foreign => return Ok(()),
            Place::Nowhere => return Err(no_hierarchy(RATE, name, Controller::Blkio)),
        };
        if let Some(weight) = device.weight {
            let same = format!("{name} {weight}");
            let files = if place.v2() {
                let converted = blkio_weight_to_io_weight(weight);
                [
                    ("io.bfq.weight", same),
                    ("io.weight", format!("{name} {converted}")),
                ]
            } else {
                [
                    ("blkio.weight_device", same.clone()),
                    ("blkio.bfq.weight_device", same),
                ]
            };
            let mut set = false;
            for (file, value) in &files {
                set = set || place.write_if_exists(file, value)?;
            }
            if !set {
                return Err(Error::Unsupported {
                    field: WEIGHT,
                    value: files[0].1.clone(),
                    reason: format!("the kernel has neither {} nor {}", files[0].0, files[1].0),
                });
            }
        }
        if place.v2() {
            let rates = device.rates().into_iter();
            let rates = rates.filter_map(|(rate, key, _)| match rate? {
                0 => Some(format!("{key}=max")),
                rate => Some(format!("{key}={rate}")),
            });
            let rates: Vec<_> = rates.collect();
            return match rates.is_empty() {
                true => Ok(()),
                false => place.write("io.max", &format!("{name} {}", rates.join(" "))),
            };
        }
        for (rate, _, file) in device.rates() {
            if let Some(rate) = rate {
                place.write(file, &format!("{name} {rate}"))?;
            }
        }
        Ok(())
    }
}
