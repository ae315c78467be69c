//! Where tests let a store die: nothing after the point happens, no clean-up either, as after `kill -9`.

use crate::StoreError;

/// One store's; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failpoints {
    #[cfg(test)]
    state: std::sync::Arc<std::sync::Mutex<State>>,
}

#[cfg(test)]
#[derive(Debug, Default)]
struct State {
    armed: Option<&'static str>,
    crashed: bool,
}

#[cfg(not(test))]
impl Failpoints {
    #[allow(clippy::unused_self)]
    pub(crate) const fn crashed(&self) -> bool {
        false
    }

    #[allow(clippy::unused_self)]
    pub(crate) const fn reach(&self, _step: &'static str) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
impl Failpoints {
    pub(crate) fn arm(&self, step: &'static str) {
        self.state.lock().unwrap().armed = Some(step);
    }

    pub(crate) fn crashed(&self) -> bool {
        self.state.lock().unwrap().crashed
    }

    pub(crate) fn reach(&self, step: &'static str) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap();
        if state.armed == Some(step) {
            state.crashed = true;
        }
        match state.crashed {
            true => Err(StoreError::Stopped { step }),
            false => Ok(()),
        }
    }
}
