use anyhow::{Context as _, bail};

use crate::record::Status;
use crate::store::Store;

/// Freezes all processes of a container.
pub(crate) fn pause(store: &Store, id: &str) -> anyhow::Result<u8> {
    let place = store.find(id)?;
    let _held = place.hold()?;
    let record = place.made()?;
    match record.status(&place) {
        Status::Created | Status::Running => {}
        status @ (Status::Creating | Status::Paused | Status::Stopped) => {
            bail!("container {id} is {}", status.name())
        }
    }
    record.cgroup()?.freeze().context("freeze its cgroup")?;
    Ok(0)
}

/// Lets them go on.
pub(crate) fn resume(store: &Store, id: &str) -> anyhow::Result<u8> {
    let place = store.find(id)?;
    let _held = place.hold()?;
    let record = place.made()?;
    match record.status(&place) {
        Status::Paused => {}
        status @ (Status::Creating | Status::Created | Status::Running | Status::Stopped) => {
            bail!("container {id} is not paused: it is {}", status.name())
        }
    }
    record.cgroup()?.thaw().context("thaw its cgroup")?;
    Ok(0)
}
