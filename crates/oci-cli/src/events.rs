//! `events`: lines of JSON, `{"type":"stats","id":…,"data":…}` each interval and `{"type":"oom","id":…}` when the OOM killer has killed
//! a process of the container. They end with the container.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use cgroup::{Cgroup, Detail, Stats};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Serialize;
use serde_json::{Value, json};

use crate::arguments::Events;
use crate::log;
use crate::record::Status;
use crate::store::Store;

/// How often it is looked whether the OOM killer has been there.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

impl Event<'_> {
    fn print(&self) -> anyhow::Result<()> {
        log::print(&serde_json::to_string(self)?);
        Ok(())
    }
}

/// Until the container ends, or once with `--stats`.
pub(crate) fn events(store: &Store, given: &Events) -> anyhow::Result<u8> {
    let place = store.find(&given.id)?;
    let record = place.made()?;
    let status = record.status(&place);
    let init = record.init.and_then(crate::record::Init::open);
    let Some(init) = init.filter(|_| status != Status::Creating) else {
        bail!(
            "container {} is not running: it is {}",
            given.id,
            status.name()
        );
    };
    let id = given.id.as_str();
    let cgroup = record.cgroup()?;
    let stats = || {
        let data = figures(&cgroup).with_context(|| format!("read the figures of {id}"))?;
        Event {
            kind: "stats",
            id,
            data: Some(data),
        }
        .print()
    };
    if given.stats {
        stats()?;
        return Ok(0);
    }
    let mut killed = cgroup.oom_kills()?;
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            stats()?;
            next = Instant::now() + given.interval;
        }
        let mut ended = [PollFd::new(&init, PollFlags::IN)];
        let look = Timespec::try_from(LOOK.min(given.interval))?;
        let ended = rustix::io::retry_on_intr(|| rustix::event::poll(&mut ended, Some(&look)))?;
        // Who deletes the container may have been here first.
        let now = cgroup.oom_kills().unwrap_or(killed);
        for _ in killed..now {
            Event {
                kind: "oom",
                id,
                data: None,
            }
            .print()?;
        }
        killed = now.max(killed);
        if ended > 0 {
            return Ok(0);
        }
    }
}

/// By the names that runc gives them. What the kernel does not count is left out.
fn figures(cgroup: &Cgroup) -> anyhow::Result<Value> {
    let (stats, detail) = (cgroup.stats()?, cgroup.detail()?);
    let mut data = json!({ "hugetlb": huge_pages(&detail), "blkio": io(&detail) });
    if let (Some(usage), Some(cpu)) = (stats.cpu, detail.cpu) {
        data["cpu"] = json!({
            "usage": { "total": usage.usage_ns, "kernel": cpu.system_ns, "user": cpu.user_ns },
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled_ns,
            },
        });
    }
    if let Some(memory) = memory(&stats, &detail) {
        data["memory"] = memory;
    }
    if let Some(current) = stats.pids {
        data["pids"] = json!({ "current": current, "limit": detail.pids_limit });
    }
    Ok(data)
}

fn memory(stats: &Stats, detail: &Detail) -> Option<Value> {
    let (usage, memory) = (stats.memory?, detail.memory?);
    let limit = |bytes: Option<u64>| bytes.unwrap_or(u64::MAX);
    Some(json!({
        "cache": memory.cache_bytes,
        "usage": {
            "limit": limit(memory.limit_bytes),
            "usage": usage.usage_bytes,
            "max": memory.max_usage_bytes,
            "failcnt": memory.limit_hits,
        },
        "swap": { "limit": limit(memory.swap_limit_bytes), "usage": usage.swap_usage_bytes },
        "kernel": { "usage": memory.kernel_bytes },
        "raw": {
            "rss": usage.rss_bytes,
            "mapped_file": memory.mapped_file_bytes,
            "pgfault": usage.page_faults,
            "pgmajfault": usage.major_page_faults,
        },
    }))
}

fn huge_pages(detail: &Detail) -> Value {
    let sizes = detail.huge_pages.iter().map(|pages| {
        let figures = json!({ "usage": pages.usage_bytes, "max": pages.max_usage_bytes });
        (pages.size.clone(), figures)
    });
    Value::Object(sizes.collect())
}

fn io(detail: &Detail) -> Value {
    let entries = |read: fn(&cgroup::DeviceIo) -> u64, written: fn(&cgroup::DeviceIo) -> u64| {
        let entries = detail.io.iter().flat_map(|device| {
            [("Read", read(device)), ("Write", written(device))].map(|(op, value)| {
                json!({ "major": device.major, "minor": device.minor, "op": op, "value": value })
            })
        });
        Value::Array(entries.collect())
    };
    json!({
        "ioServiceBytesRecursive": entries(|one| one.read_bytes, |one| one.written_bytes),
        "ioServicedRecursive": entries(|one| one.reads, |one| one.writes),
    })
}
