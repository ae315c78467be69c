use std::sync::Arc;

use tokio::sync::watch;
use toml::{Spanned, de::DeValue};

use super::{Effect, Value, value::Wrong};

/// A setting that may change while the daemon runs. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Live<T>(watch::Sender<Arc<T>>);

impl<T> Live<T> {
    pub(super) fn new(value: T) -> Self {
        Self(watch::Sender::new(Arc::new(value)))
    }

    /// What holds now; ask again each time.
    pub(crate) fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow())
    }

    /// Wakes whenever the value has changed.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<T>> {
        self.0.subscribe()
    }
}

impl<T: PartialEq> PartialEq for Live<T> {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl<T: Value> Value for Live<T> {
    const EFFECT: Effect = Effect::Reload;

    fn expected() -> String {
        T::expected()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        let value = T::read(value)?;
        Ok(Self::new(value))
    }

    fn write(&self) -> toml::Value {
        self.get().write()
    }

    fn adopt(&self, new: &Self) {
        self.0.send_replace(new.get());
    }
}
