//! Figures that are asked for now and then.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use crate::cgroup::Cgroup;
use crate::hierarchy::{Controller, Hierarchy};
use crate::kill::field;
use crate::resources::shares_to_weight;

use super::StatsError;
use super::file::{File, UNLIMITED, open_if_exists};

/// Reads what a [`super::Sampler`] does not, from files that it keeps open: twenty and more.
#[derive(Debug)]
pub struct DetailSampler {
    cgroup: Cgroup,
    open: Vec<Opened>,
    /// As the files of the hugetlb controller name them.
    huge_page_sizes: Vec<String>,
    buffer: Vec<u8>,
}

/// A file of one hierarchy's; `None` where this kernel has none.
#[derive(Debug)]
struct Opened {
    hierarchy: RawFd,
    name: String,
    file: Option<File>,
}

/// Counts of a cgroup and those below it, and its own limits. A group is `None` where no mounted hierarchy counts it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    pub cpu: Option<CpuDetail>,
    pub memory: Option<MemoryDetail>,
    /// How many processes and threads there may be; `None` without a limit.
    pub pids_limit: Option<u64>,
    pub huge_pages: Vec<HugePages>,
    /// Devices that were used.
    pub io: Vec<DeviceIo>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuDetail {
    pub user_ns: u64,
    pub system_ns: u64,
    /// Periods of its quota that have passed, and in how many of them it was held back, for how long in all.
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
    /// In v1's terms; of a v2 weight, the smallest that come to it.
    pub shares: u64,
    pub period_us: u64,
    /// `None` without a limit.
    pub quota_us: Option<u64>,
}

/// In bytes unless said. `None` of a limit is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryDetail {
    pub cache_bytes: u64,
    /// Of the file cache what was used of late, and what would be dropped first.
    pub active_file_bytes: u64,
    pub inactive_file_bytes: u64,
    pub mapped_file_bytes: u64,
    pub kernel_bytes: u64,
    /// The most that there was; before Linux 5.19 v2 does not remember, and this is what there is.
    pub max_usage_bytes: u64,
    /// How often a limit was hit.
    pub limit_hits: u64,
    /// Processes that the OOM killer has killed.
    pub oom_kills: u64,
    /// Faults of the cgroup's own processes, where that is told apart (v1), else of all below.
    pub own_page_faults: u64,
    pub own_major_page_faults: u64,
    pub limit_bytes: Option<u64>,
    /// What is left alone longest when memory is short: v1's soft limit, `memory.low` of v2.
    pub reservation_bytes: Option<u64>,
    /// v1: of memory and swap together. v2: of swap.
    pub swap_limit_bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugePages {
    /// `2MB`, `1GB`.
    pub size: String,
    pub usage_bytes: u64,
    /// v2 does not remember.
    pub max_usage_bytes: Option<u64>,
}

/// What went to and from a block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceIo {
    pub major: u32,
    pub minor: u32,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

impl Cgroup {
    /// One reading, for a caller that will not need a second soon.
    pub fn detail(&self) -> Result<Detail, StatsError> {
        self.detail_sampler().sample()
    }

    /// What reads its details; nothing is opened yet.
    #[must_use]
    pub fn detail_sampler(&self) -> DetailSampler {
        DetailSampler {
            cgroup: self.clone(),
            open: Vec::new(),
            huge_page_sizes: huge_page_sizes(),
            buffer: Vec::with_capacity(4096),
        }
    }
}

impl DetailSampler {
    /// Reads every figure now.
    ///
    /// # Errors
    /// A file that cannot be read; one of a cgroup that is gone is [`StatsError::Sample`].
    pub fn sample(&mut self) -> Result<Detail, StatsError> {
        let pids = self.cgroup.hierarchies.clone();
        Ok(Detail {
            cpu: self.cpu_detail()?,
            memory: self.memory_detail()?,
            pids_limit: match pids.home(Controller::Pids) {
                Some(pids) => limit(self.text(pids, "pids.max")?),
                None => None,
            },
            huge_pages: self.huge_pages()?,
            io: self.io_detail()?,
        })
    }

    /// `None` where this kernel, or this cgroup, has no such file.
    fn text(&mut self, hierarchy: &Hierarchy, name: &str) -> Result<Option<&str>, StatsError> {
        let key = hierarchy.dir().as_fd().as_raw_fd();
        let known = |opened: &Opened| opened.hierarchy == key && opened.name == name;
        let at = match self.open.iter().position(known) {
            Some(at) => at,
            None => {
                self.open.push(Opened {
                    hierarchy: key,
                    name: name.to_owned(),
                    file: open_if_exists(&self.cgroup, hierarchy, name)?,
                });
                self.open.len() - 1
            }
        };
        match self.open.get(at).and_then(|opened| opened.file.as_ref()) {
            Some(file) => Ok(Some(file.text(&mut self.buffer)?)),
            None => Ok(None),
        }
    }

    fn number(&mut self, hierarchy: &Hierarchy, name: &str) -> Result<Option<u64>, StatsError> {
        let text = self.text(hierarchy, name)?;
        Ok(text.and_then(|text| text.trim().parse().ok()))
    }

    fn cpu_detail(&mut self) -> Result<Option<CpuDetail>, StatsError> {
        let mut detail = CpuDetail::default();
        let hierarchies = self.cgroup.hierarchies.clone();
        let accounts = hierarchies.home(Controller::Cpuacct);
        if let Some(v1) = accounts {
            detail.user_ns = self.number(v1, "cpuacct.usage_user")?.unwrap_or(0);
            detail.system_ns = self.number(v1, "cpuacct.usage_sys")?.unwrap_or(0);
        } else if let Some(unified) = hierarchies.unified() {
            let Some(text) = self.text(unified, "cpu.stat")? else {
                return Ok(None);
            };
            let ns = |name| field(text, name).unwrap_or(0).saturating_mul(1000);
            detail.user_ns = ns("user_usec");
            detail.system_ns = ns("system_usec");
        }
        let Some(cpu) = hierarchies.home(Controller::Cpu) else {
            return Ok(Some(detail));
        };
        let text = self.text(cpu, "cpu.stat")?.unwrap_or_default();
        let count = |name| field(text, name).unwrap_or(0);
        detail.periods = count("nr_periods");
        detail.throttled_periods = count("nr_throttled");
        detail.throttled_ns = match cpu.v2 {
            true => count("throttled_usec").saturating_mul(1000),
            false => count("throttled_time"),
        };
        if cpu.v2 {
            let max = self.text(cpu, "cpu.max")?.unwrap_or_default();
            let mut words = max.split_whitespace();
            detail.quota_us = words.next().and_then(|quota| quota.parse().ok());
            detail.period_us = words.next().and_then(|p| p.parse().ok()).unwrap_or(0);
            let weight = self.number(cpu, "cpu.weight")?;
            detail.shares = weight.map_or(0, weight_to_shares);
        } else {
            // -1 is no quota.
            detail.quota_us = self.number(cpu, "cpu.cfs_quota_us")?;
            detail.period_us = self.number(cpu, "cpu.cfs_period_us")?.unwrap_or(0);
            detail.shares = self.number(cpu, "cpu.shares")?.unwrap_or(0);
        }
        Ok(Some(detail))
    }

    fn memory_detail(&mut self) -> Result<Option<MemoryDetail>, StatsError> {
        let hierarchies = self.cgroup.hierarchies.clone();
        let Some(memory) = hierarchies.home(Controller::Memory) else {
            return Ok(None);
        };
        let Some(stat) = self.text(memory, "memory.stat")? else {
            return Ok(None);
        };
        let of = |name| field(stat, name);
        let detail = MemoryDetail {
            own_page_faults: of("pgfault").unwrap_or(0),
            own_major_page_faults: of("pgmajfault").unwrap_or(0),
            ..MemoryDetail::default()
        };
        let detail = match memory.v2 {
            true => {
                // Before Linux 5.18 there is no sum.
                let parts = ["kernel_stack", "pagetables", "percpu", "slab"];
                let kernel = || parts.iter().filter_map(|part| of(part)).sum();
                MemoryDetail {
                    cache_bytes: of("file").unwrap_or(0),
                    active_file_bytes: of("active_file").unwrap_or(0),
                    inactive_file_bytes: of("inactive_file").unwrap_or(0),
                    mapped_file_bytes: of("file_mapped").unwrap_or(0),
                    kernel_bytes: of("kernel").unwrap_or_else(kernel),
                    ..detail
                }
            }
            false => MemoryDetail {
                cache_bytes: of("total_cache").unwrap_or(0),
                active_file_bytes: of("total_active_file").unwrap_or(0),
                inactive_file_bytes: of("total_inactive_file").unwrap_or(0),
                mapped_file_bytes: of("total_mapped_file").unwrap_or(0),
                ..detail
            },
        };
        let detail = match memory.v2 {
            true => self.memory_of_v2(memory, detail)?,
            false => self.memory_of_v1(memory, detail)?,
        };
        Ok(Some(detail))
    }

    /// What other files than `memory.stat` say.
    fn memory_of_v2(
        &mut self,
        memory: &Hierarchy,
        detail: MemoryDetail,
    ) -> Result<MemoryDetail, StatsError> {
        let events = self.text(memory, "memory.events")?.unwrap_or_default();
        let limit_hits = field(events, "max").unwrap_or(0);
        let oom_kills = field(events, "oom_kill").unwrap_or(0);
        let max_usage_bytes = match self.number(memory, "memory.peak")? {
            Some(peak) => peak,
            None => self.number(memory, "memory.current")?.unwrap_or(0),
        };
        Ok(MemoryDetail {
            max_usage_bytes,
            limit_hits,
            oom_kills,
            limit_bytes: limit(self.text(memory, "memory.max")?),
            reservation_bytes: limit(self.text(memory, "memory.low")?).filter(|low| *low != 0),
            swap_limit_bytes: limit(self.text(memory, "memory.swap.max")?),
            ..detail
        })
    }

    fn memory_of_v1(
        &mut self,
        memory: &Hierarchy,
        detail: MemoryDetail,
    ) -> Result<MemoryDetail, StatsError> {
        let control = self.text(memory, "memory.oom_control")?.unwrap_or_default();
        let oom_kills = field(control, "oom_kill").unwrap_or(0);
        let mut number = |name| self.number(memory, name).map(Option::unwrap_or_default);
        Ok(MemoryDetail {
            kernel_bytes: number("memory.kmem.usage_in_bytes")?,
            max_usage_bytes: number("memory.max_usage_in_bytes")?,
            limit_hits: number("memory.failcnt")?,
            oom_kills,
            limit_bytes: limit(self.text(memory, "memory.limit_in_bytes")?),
            reservation_bytes: limit(self.text(memory, "memory.soft_limit_in_bytes")?),
            swap_limit_bytes: limit(self.text(memory, "memory.memsw.limit_in_bytes")?),
            ..detail
        })
    }

    fn huge_pages(&mut self) -> Result<Vec<HugePages>, StatsError> {
        let hierarchies = self.cgroup.hierarchies.clone();
        let Some(hugetlb) = hierarchies.home(Controller::Hugetlb) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for size in self.huge_page_sizes.clone() {
            let file = |name: &str| format!("hugetlb.{size}.{name}");
            let (usage, max) = match hugetlb.v2 {
                true => (self.number(hugetlb, &file("current"))?, None),
                false => (
                    self.number(hugetlb, &file("usage_in_bytes"))?,
                    self.number(hugetlb, &file("max_usage_in_bytes"))?,
                ),
            };
            if let Some(usage_bytes) = usage {
                found.push(HugePages {
                    size,
                    usage_bytes,
                    max_usage_bytes: max,
                });
            }
        }
        Ok(found)
    }

    fn io_detail(&mut self) -> Result<Vec<DeviceIo>, StatsError> {
        let hierarchies = self.cgroup.hierarchies.clone();
        let Some(io) = hierarchies.home(Controller::Blkio) else {
            return Ok(Vec::new());
        };
        let mut devices = Vec::new();
        if io.v2 {
            parse_v2_io(self.text(io, "io.stat")?.unwrap_or_default(), &mut devices);
        } else {
            let bytes = self.text(io, "blkio.throttle.io_service_bytes_recursive")?;
            parse_v1_io(bytes.unwrap_or_default(), &mut devices, |device| {
                (&mut device.read_bytes, &mut device.written_bytes)
            });
            let counts = self.text(io, "blkio.throttle.io_serviced_recursive")?;
            parse_v1_io(counts.unwrap_or_default(), &mut devices, |device| {
                (&mut device.reads, &mut device.writes)
            });
        }
        Ok(devices)
    }
}

/// `max`, and v1's largest number, are no limit.
fn limit(text: Option<&str>) -> Option<u64> {
    let limit = text?.trim().parse().ok()?;
    (limit < UNLIMITED).then_some(limit)
}

fn weight_to_shares(weight: u64) -> u64 {
    let (mut low, mut high) = (2, 262_144);
    while low < high {
        let middle = u64::midpoint(low, high);
        match shares_to_weight(middle) < weight {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    low
}

/// As the files of the hugetlb controller name them.
fn huge_page_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else {
        return Vec::new();
    };
    let sizes = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let kilobytes = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        let kilobytes: u64 = kilobytes.parse().ok()?;
        Some(match kilobytes {
            _ if kilobytes >= 1 << 20 => format!("{}GB", kilobytes >> 20),
            _ if kilobytes >= 1 << 10 => format!("{}MB", kilobytes >> 10),
            _ => format!("{kilobytes}KB"),
        })
    });
    let mut sizes: Vec<_> = sizes.collect();
    sizes.sort();
    sizes
}

fn device<'a>(number: &str, devices: &'a mut Vec<DeviceIo>) -> Option<&'a mut DeviceIo> {
    let (major, minor) = number.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    let known = |device: &DeviceIo| device.major == major && device.minor == minor;
    let at = devices.iter().position(known).unwrap_or_else(|| {
        devices.push(DeviceIo {
            major,
            minor,
            ..DeviceIo::default()
        });
        devices.len() - 1
    });
    devices.get_mut(at)
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`
fn parse_v2_io(text: &str, devices: &mut Vec<DeviceIo>) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(device) = words.next().and_then(|number| device(number, devices)) else {
            continue;
        };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match name {
                "rbytes" => device.read_bytes = value,
                "wbytes" => device.written_bytes = value,
                "rios" => device.reads = value,
                "wios" => device.writes = value,
                _ => {}
            }
        }
    }
}

/// `8:0 Read 1`, `8:0 Write 2` and more, with a sum of all at the end.
fn parse_v1_io(
    text: &str,
    devices: &mut Vec<DeviceIo>,
    places: impl Fn(&mut DeviceIo) -> (&mut u64, &mut u64),
) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(number), Some(operation), Some(value)) =
            (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let (Ok(value), Some(device)) = (value.parse(), device(number, devices)) else {
            continue;
        };
        let (read, written) = places(device);
        match operation {
            "Read" => *read = value,
            "Write" => *written = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_and_output_of_both_versions() {
        let expected = [
            DeviceIo {
                major: 8,
                minor: 16,
                read_bytes: 4096,
                written_bytes: 8192,
                reads: 1,
                writes: 2,
            },
            DeviceIo {
                major: 253,
                minor: 0,
                written_bytes: 512,
                writes: 1,
                ..DeviceIo::default()
            },
        ];
        let mut devices = Vec::new();
        parse_v2_io(
            "8:16 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=9 dios=9\n253:0 wbytes=512 wios=1\n",
            &mut devices,
        );
        assert_eq!(devices, expected);

        let mut devices = Vec::new();
        parse_v1_io(
            "8:16 Read 4096\n8:16 Write 8192\n8:16 Sync 1\n253:0 Write 512\nTotal 12800\n",
            &mut devices,
            |device| (&mut device.read_bytes, &mut device.written_bytes),
        );
        parse_v1_io(
            "8:16 Read 1\n8:16 Write 2\n253:0 Read 0\n253:0 Write 1\nTotal 4\n",
            &mut devices,
            |device| (&mut device.reads, &mut device.writes),
        );
        assert_eq!(devices, expected);
    }

    #[test]
    fn weights_come_from_the_shares_that_they_are_shown_as() {
        for shares in [2, 10, 100, 512, 1024, 2048, 100_000, 262_144] {
            let weight = shares_to_weight(shares);
            let shown = weight_to_shares(weight);
            assert_eq!(shares_to_weight(shown), weight, "{shares}");
            assert!(shown <= shares);
        }
    }

    #[test]
    fn no_limit_in_both_versions() {
        assert_eq!(limit(Some("max\n")), None);
        assert_eq!(limit(Some("9223372036854771712\n")), None);
        assert_eq!(limit(Some("4096\n")), Some(4096));
        assert_eq!(limit(Some("-1\n")), None);
        assert_eq!(limit(None), None);
    }
}
