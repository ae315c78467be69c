use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;

use crate::arguments::Delete;
use crate::hooks::{self, Stage};
use crate::log::Log;
use crate::record::{Record, Status};
use crate::state::State;
use crate::store::{Held, Place, Store};

/// How long processes may take to go once they are killed.
const END: Duration = Duration::from_secs(10);

const BREATH: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Takes a stopped container away, or with `--force` any.
pub(crate) fn delete(store: &Store, given: &Delete, log: &mut Log) -> anyhow::Result<u8> {
    let place = match (store.look(&given.id)?, given.force) {
        (Some(place), _) => place,
        (None, true) => return Ok(0),
        (None, false) => bail!("container {} does not exist", given.id),
    };
    let held = place.hold()?;
    let status = place.record()?.map(|record| settled(&place, &record));
    match status {
        // Nobody has seen its program run.
        Some(Status::Stopped | Status::Created) => {}
        Some(Status::Creating) | None if given.force => {}
        Some(Status::Running | Status::Paused) if given.force => {}
        Some(status) => bail!(
            "container {} is {}: stop it, or use --force",
            given.id,
            status.name()
        ),
        None => bail!("container {} is not made yet: use --force", given.id),
    }
    take_away(&place, held, log)?;
    Ok(0)
}

/// One that was killed a moment ago may be on its way out still: callers kill and delete in one breath.
fn settled(place: &Place, record: &Record) -> Status {
    let status = record.status(place);
    let init = record.init.and_then(crate::record::Init::open);
    match (status, init) {
        (Status::Running, Some(init)) => {
            let mut ended = [PollFd::new(&init, PollFlags::IN)];
            // Where it cannot be waited for it is what it was.
            let _ = rustix::io::retry_on_intr(|| rustix::event::poll(&mut ended, Some(&BREATH)));
            record.status(place)
        }
        (status, _) => status,
    }
}

/// Kills what is left, and removes everything.
pub(crate) fn take_away(place: &Place, held: Held, log: &mut Log) -> anyhow::Result<()> {
    let record = place.record()?;
    if let Some(record) = &record {
        end(record)?;
    }
    let spec = place.spec();
    place.remove()?;
    drop(held);
    // One that was never made has no specification.
    if let (Some(record), Ok(spec)) = (record, spec) {
        let state = State::at(place, &record, Status::Stopped).json();
        for hook in hooks::of(&spec, Stage::Poststop) {
            // By the specification the others run, and the container is gone all the same.
            if let Err(error) = hooks::run(&[hook], Stage::Poststop, &state) {
                log.warn(&format!("{error:#}"));
            }
        }
    }
    Ok(())
}

fn end(record: &Record) -> anyhow::Result<()> {
    if let Some(init) = record.init.and_then(crate::record::Init::open) {
        // It may have ended by itself.
        let _ = rustix::process::pidfd_send_signal(&init, Signal::KILL);
    }
    // It may be gone, or never have been made.
    let Ok(cgroup) = record.cgroup() else {
        return Ok(());
    };
    let path = &record.cgroup;
    cgroup
        .kill_all()
        .with_context(|| format!("kill what is in cgroup {path}"))?;
    cgroup
        .wait_empty(END)
        .with_context(|| format!("wait for cgroup {path}"))?;
    cgroup
        .remove()
        .with_context(|| format!("remove cgroup {path}"))
}
