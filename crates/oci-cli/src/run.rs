use anyhow::Context as _;

use crate::arguments::Run;
use crate::bundle::Bundle;
use crate::foreground::Foreground;
use crate::log::Log;
use crate::store::Store;
use crate::{console, delete, launch, start};

/// Makes and starts a container; unless it is detached, awaits its end, deletes it and ends as it did.
pub(crate) fn run(store: &Store, given: &Run, log: &mut Log) -> anyhow::Result<u8> {
    let create = &given.create;
    let bundle = Bundle::load(&create.bundle, &create.id)?;
    let process = bundle.spec.process().as_ref();
    let terminal = process.is_some_and(|process| process.terminal() == Some(true));
    console::check(create.console_socket.as_deref(), terminal, given.detach)?;
    // Before there is a child whose end could be missed.
    let foreground = match given.detach {
        true => None,
        false => Some(Foreground::begin()?),
    };
    let mut made = launch::make(store, create, bundle, log)?;
    let started = match (&made.console, &create.console_socket) {
        (Some(master), Some(socket)) => console::send(master, socket),
        _ => Ok(()),
    }
    .and_then(|()| start::open_gate(&made.place, &made.record, &made.bundle.spec));
    if let Err(error) = started {
        delete::take_away(&made.place, made.held, log)?;
        return Err(error);
    }
    let Some(foreground) = foreground else {
        return Ok(0);
    };
    let console = made.console.take();
    // Others may exec, kill and pause.
    drop(made.held);
    let status = foreground.stay(&made.init, console)?;
    if !given.keep {
        let held = made.place.hold().context("delete it")?;
        delete::take_away(&made.place, held, log)?;
    }
    Ok(status)
}
