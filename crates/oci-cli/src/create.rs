use crate::arguments::Create;
use crate::bundle::Bundle;
use crate::log::Log;
use crate::store::Store;
use crate::{console, delete, launch};

/// Makes a container and leaves it at its gate.
pub(crate) fn create(store: &Store, given: &Create, log: &mut Log) -> anyhow::Result<u8> {
    let bundle = Bundle::load(&given.bundle, &given.id)?;
    let process = bundle.spec.process().as_ref();
    let terminal = process.is_some_and(|process| process.terminal() == Some(true));
    console::check(given.console_socket.as_deref(), terminal, true)?;
    let made = launch::make(store, given, bundle, log)?;
    if let (Some(master), Some(socket)) = (&made.console, &given.console_socket)
        && let Err(error) = console::send(master, socket)
    {
        delete::take_away(&made.place, made.held, log)?;
        return Err(error);
    }
    Ok(0)
}
