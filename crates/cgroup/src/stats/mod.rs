//! What a cgroup uses: a [`Sampler`] for figures that are wanted again and again, [`DetailSampler`] for the rest.

mod census;
mod detail;
mod file;
mod pressure;

use std::time::{SystemTime, UNIX_EPOCH};

pub use census::Census;
pub use detail::{CpuDetail, Detail, DetailSampler, DeviceIo, HugePages, MemoryDetail};
pub use file::SampleError;
use file::{File, open, open_if_exists};
pub use pressure::{Pressure, Stall};

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::hierarchy::{Controller, Hierarchy};

/// The statistics files of one cgroup, kept open: at most ten descriptors. Reading them again costs a sixth of opening them.
#[derive(Debug)]
pub struct Sampler {
    cpu: Option<Cpu>,
    memory: Option<Memory>,
    pids: Option<File>,
    pressure: Pressures,
    buffer: Vec<u8>,
}

/// What a cgroup has used. A group of figures is `None` where no mounted hierarchy counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    pub cpu: Option<CpuUsage>,
    pub memory: Option<MemoryUsage>,
    /// Processes and threads in the cgroup and below (`pids.current`).
    pub pids: Option<u64>,
    /// Of the v2 tree, hybrid or not, where the kernel counts pressure; for the cgroup and those below.
    pub cpu_pressure: Option<Pressure>,
    pub memory_pressure: Option<Pressure>,
    pub io_pressure: Option<Pressure>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuUsage {
    /// When this was read, nanoseconds since the Unix epoch.
    pub timestamp_ns: i64,
    /// CPU time since the cgroup was made, nanoseconds.
    pub usage_ns: u64,
}

/// In bytes, for the cgroup and those below.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// When this was read, nanoseconds since the Unix epoch.
    pub timestamp_ns: i64,
    pub usage_bytes: u64,
    /// Usage less the file cache that would be dropped first (`inactive_file`): what kubelets evict by.
    pub working_set_bytes: u64,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// The cgroup's own limit less its working set; `None` without a limit.
    pub available_bytes: Option<u64>,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub swap_usage_bytes: u64,
    /// The limit on swap less its usage; `None` without one, and on v1.
    pub swap_available_bytes: Option<u64>,
}

#[derive(Debug)]
enum Cpu {
    /// `cpuacct.usage`: nanoseconds.
    V1(File),
    /// `cpu.stat`: microseconds, among others.
    V2(File),
}

#[derive(Debug, Default)]
struct Pressures {
    cpu: Option<File>,
    memory: Option<File>,
    io: Option<File>,
}

#[derive(Debug)]
struct Memory {
    usage: File,
    stat: File,
    /// Missing in the root cgroup of v2, which this crate does not sample, and on odd kernels.
    limit: Option<File>,
    v2: bool,
    swap: Option<File>,
    swap_limit: Option<File>,
}

impl Cgroup {
    /// Opens the cgroup's statistics files.
    pub fn sampler(&self) -> Result<Sampler, Error> {
        let open = |hierarchy: &Hierarchy, file: &str| open(self, hierarchy, file);
        let optional = |hierarchy: &Hierarchy, file: &str| open_if_exists(self, hierarchy, file);
        let cpu = match (
            self.hierarchies.home(Controller::Cpuacct),
            self.hierarchies.unified(),
        ) {
            (Some(v1), _) => Some(Cpu::V1(open(v1, "cpuacct.usage")?)),
            // Without the cpu controller the file has usage_usec all the same.
            (None, Some(unified)) => Some(Cpu::V2(open(unified, "cpu.stat")?)),
            (None, None) => None,
        };
        let memory = match self.hierarchies.home(Controller::Memory) {
            Some(v2) if v2.v2 => Some(Memory {
                usage: open(v2, "memory.current")?,
                stat: open(v2, "memory.stat")?,
                limit: optional(v2, "memory.max")?,
                v2: true,
                swap: optional(v2, "memory.swap.current")?,
                swap_limit: optional(v2, "memory.swap.max")?,
            }),
            Some(v1) => Some(Memory {
                usage: open(v1, "memory.usage_in_bytes")?,
                stat: open(v1, "memory.stat")?,
                limit: optional(v1, "memory.limit_in_bytes")?,
                v2: false,
                swap: None,
                swap_limit: None,
            }),
            None => None,
        };
        let pids = match self.hierarchies.home(Controller::Pids) {
            Some(pids) => optional(pids, "pids.current")?,
            None => None,
        };
        let pressure = match self.hierarchies.unified() {
            Some(unified) => Pressures {
                cpu: optional(unified, "cpu.pressure")?,
                memory: optional(unified, "memory.pressure")?,
                io: optional(unified, "io.pressure")?,
            },
            None => Pressures::default(),
        };
        Ok(Sampler {
            cpu,
            memory,
            pids,
            pressure,
            buffer: Vec::with_capacity(4096),
        })
    }

    /// One reading, for a caller that will not need a second soon.
    pub fn stats(&self) -> Result<Stats, StatsError> {
        Ok(self.sampler()?.sample()?)
    }
}

/// Why [`Cgroup::stats`], [`Cgroup::detail`] or [`DetailSampler::sample`] failed.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    #[error(transparent)]
    Open(#[from] Error),
    #[error(transparent)]
    Sample(#[from] SampleError),
}

impl Sampler {
    /// Reads every figure now. Each group has the time of its own reading.
    pub fn sample(&mut self) -> Result<Stats, SampleError> {
        let buffer = &mut self.buffer;
        let cpu = match &self.cpu {
            Some(cpu) => Some(cpu.sample(buffer)?),
            None => None,
        };
        let memory = match &self.memory {
            Some(memory) => Some(memory.sample(buffer)?),
            None => None,
        };
        let pids = match &self.pids {
            Some(file) => Some(file.number(buffer)?),
            None => None,
        };
        let mut pressed = |file: &Option<File>| match file {
            Some(file) => pressure::sample(file, buffer),
            None => Ok(None),
        };
        Ok(Stats {
            cpu,
            memory,
            pids,
            cpu_pressure: pressed(&self.pressure.cpu)?,
            memory_pressure: pressed(&self.pressure.memory)?,
            io_pressure: pressed(&self.pressure.io)?,
        })
    }
}

impl Cpu {
    fn sample(&self, buffer: &mut Vec<u8>) -> Result<CpuUsage, SampleError> {
        let usage_ns = match self {
            Cpu::V1(file) => file.number(buffer)?,
            Cpu::V2(file) => {
                let text = file.text(buffer)?;
                match crate::kill::field(text, "usage_usec") {
                    Some(micros) => micros.saturating_mul(1000),
                    None => return Err(file.unexpected(text)),
                }
            }
        };
        Ok(CpuUsage {
            timestamp_ns: now_ns(),
            usage_ns,
        })
    }
}

impl Memory {
    fn sample(&self, buffer: &mut Vec<u8>) -> Result<MemoryUsage, SampleError> {
        let usage_bytes = self.usage.number(buffer)?;
        let timestamp_ns = now_ns();
        let limit = match &self.limit {
            Some(file) => file.limit(buffer)?,
            None => None,
        };
        let stat = MemoryStat::parse(self.stat.text(buffer)?, self.v2);
        let swap_usage_bytes = match &self.swap {
            Some(file) => file.number(buffer)?,
            None => stat.swap,
        };
        let swap_limit = match &self.swap_limit {
            Some(file) => file.limit(buffer)?,
            None => None,
        };
        // The two files are read one after the other, so the difference can be off and even negative.
        let working_set_bytes = usage_bytes.saturating_sub(stat.inactive_file);
        Ok(MemoryUsage {
            timestamp_ns,
            usage_bytes,
            working_set_bytes,
            rss_bytes: stat.rss,
            available_bytes: limit.map(|limit| limit.saturating_sub(working_set_bytes)),
            page_faults: stat.page_faults,
            major_page_faults: stat.major_page_faults,
            swap_usage_bytes,
            swap_available_bytes: swap_limit.map(|limit| limit.saturating_sub(swap_usage_bytes)),
        })
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct MemoryStat {
    rss: u64,
    inactive_file: u64,
    page_faults: u64,
    major_page_faults: u64,
    swap: u64,
}

impl MemoryStat {
    /// v1 has the sums over the cgroups below under `total_` names; v2 has nothing but sums.
    fn parse(text: &str, v2: bool) -> MemoryStat {
        let mut stat = MemoryStat::default();
        for line in text.lines() {
            let Some((name, value)) = line.split_once(' ') else {
                continue;
            };
            let name = match v2 {
                true => name,
                false => match name.strip_prefix("total_") {
                    Some(name) => name,
                    None => continue,
                },
            };
            let field = match name {
                "anon" if v2 => &mut stat.rss,
                "rss" if !v2 => &mut stat.rss,
                "inactive_file" => &mut stat.inactive_file,
                "pgfault" => &mut stat.page_faults,
                "pgmajfault" => &mut stat.major_page_faults,
                "swap" if !v2 => &mut stat.swap,
                _ => continue,
            };
            *field = value.parse().unwrap_or(0);
        }
        stat
    }
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_sums_count_and_own_figures_do_not() {
        let text = "rss 1\ninactive_file 2\ntotal_rss 10\ntotal_inactive_file 20\n\
                    total_pgfault 30\ntotal_pgmajfault 40\ntotal_swap 50\n";
        assert_eq!(
            MemoryStat::parse(text, false),
            MemoryStat {
                rss: 10,
                inactive_file: 20,
                page_faults: 30,
                major_page_faults: 40,
                swap: 50
            }
        );
    }

    #[test]
    fn v2_anon_is_rss() {
        let text = "anon 10\ninactive_file 20\npgfault 30\npgmajfault 40\n";
        assert_eq!(
            MemoryStat::parse(text, true),
            MemoryStat {
                rss: 10,
                inactive_file: 20,
                page_faults: 30,
                major_page_faults: 40,
                swap: 0
            }
        );
    }
}
