use std::os::fd::AsFd as _;

use anyhow::{Context as _, bail};
use oci_plan::Rlimit;
use oci_runtime::{Host, Launch, Progress};
use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use crate::hooks::{self, Stage};
use crate::launch::come_to_gate;
use crate::record::{Record, Status};
use crate::state::State;
use crate::store::{Place, Store};

/// Lets a created container run its program.
pub(crate) fn start(store: &Store, id: &str) -> anyhow::Result<u8> {
    let place = store.find(id)?;
    let _held = place.hold()?;
    let record = place.made()?;
    match record.status(&place) {
        Status::Created => {}
        Status::Stopped => bail!("container {id} has stopped"),
        status @ (Status::Creating | Status::Running | Status::Paused) => bail!(
            "container {id} is {}: only a created one can be started",
            status.name()
        ),
    }
    let spec = place.spec()?;
    open_gate(&place, &record, &spec)?;
    Ok(0)
}

/// Hooks, and the word to init. A container that does not come through has ended.
pub(crate) fn open_gate(place: &Place, record: &Record, spec: &Spec) -> anyhow::Result<()> {
    let init = record.init.context("it has no process")?;
    let pidfd = init.open().context("its process has ended")?;
    let started = pass(place, record, spec).and_then(|()| {
        let hooks = hooks::of(spec, Stage::Poststart);
        let state = State::at(place, record, Status::Running).json();
        hooks::run(&hooks, Stage::Poststart, &state)
    });
    if started.is_err() {
        // It may have ended by itself.
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    }
    started
}

fn pass(place: &Place, record: &Record, spec: &Spec) -> anyhow::Result<()> {
    let init = record.init.context("it has no process")?;
    let inside = hooks::of(spec, Stage::StartContainer);
    if !inside.is_empty() {
        let pidfd = init.open().context("its process has ended")?;
        let state = State::at(place, record, Status::Created).json();
        let host = Host::open()?;
        let stage = Stage::StartContainer;
        hooks::run_inside(&inside, stage, &state, &host, pidfd.as_fd(), spec)?;
    }
    let connection = come_to_gate(place)?;
    let mut launch = Launch::rejoin(init.pid, connection, &limits(spec)?)?;
    // From here on it is running, or ended.
    place.remove_gate();
    launch.start()?;
    loop {
        match launch.advance()? {
            Progress::Started { .. } => return Ok(()),
            Progress::Pending
            | Progress::Listening(_)
            | Progress::Paused
            | Progress::Created { .. } => {
                let handshake = launch.handshake();
                let mut said = [PollFd::new(&handshake, PollFlags::IN)];
                rustix::io::retry_on_intr(|| rustix::event::poll(&mut said, None))?;
            }
        }
    }
}

fn limits(spec: &Spec) -> anyhow::Result<Vec<Rlimit>> {
    let process = spec.process().as_ref().context("process is missing")?;
    Ok(oci_plan::spec::rlimits(process))
}
