use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use crate::arguments::Update;
use crate::record::Status;
use crate::store::Store;

/// Changes limits of a container that is not stopped: all that are given, or none.
pub(crate) fn update(store: &Store, given: &Update) -> anyhow::Result<u8> {
    let place = store.find(&given.id)?;
    let _held = place.hold()?;
    let record = place.made()?;
    match record.status(&place) {
        Status::Created | Status::Running | Status::Paused => {}
        status @ (Status::Creating | Status::Stopped) => {
            bail!("container {} is {}", given.id, status.name())
        }
    }
    let resources: LinuxResources = match &given.resources {
        Some(path) => read(path)?,
        None => serde_json::from_value(options(given))?,
    };
    let mut resources = oci_plan::spec::resources_here(&resources)?;
    // Its devices are what they were.
    resources.devices.clear();
    record.cgroup()?.update(&resources)?;
    Ok(0)
}

fn read(path: &Path) -> anyhow::Result<LinuxResources> {
    let mut text = String::new();
    let describe = || format!("read {}", path.display());
    match path.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text).map(drop),
        Some(_) | None => std::fs::File::open(path)
            .and_then(|mut file| file.read_to_string(&mut text))
            .map(drop),
    }
    .with_context(describe)?;
    serde_json::from_str(&text).with_context(|| format!("understand {}", path.display()))
}

/// As `linux.resources` has them.
fn options(given: &Update) -> Value {
    let mut all = json!({
        "memory": {
            "limit": given.memory,
            "swap": given.memory_swap,
            "reservation": given.memory_reservation,
        },
        "cpu": {
            "shares": given.cpu_share,
            "period": given.cpu_period,
            "quota": given.cpu_quota,
            "realtimePeriod": given.cpu_rt_period,
            "realtimeRuntime": given.cpu_rt_runtime,
            "cpus": given.cpuset_cpus,
            "mems": given.cpuset_mems,
        },
    });
    if let Some(limit) = given.pids_limit {
        all["pids"] = json!({ "limit": limit });
    }
    if let Some(weight) = given.blkio_weight {
        all["blockIO"] = json!({ "weight": weight });
    }
    all
}
