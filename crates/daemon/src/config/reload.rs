use std::sync::{Mutex, PoisonError};

use super::{Arguments, Config, ConfigErrors, schema::Changes};

/// What became of changes to the configuration since the daemon's start.
#[derive(Debug, Default)]
pub(crate) struct Reload(Mutex<Last>);

#[derive(Debug, Default)]
enum Last {
    #[default]
    Good,
    /// Keys whose values in the files are not those that hold.
    Waiting(Vec<&'static str>),
    /// The files are wrong; what held goes on.
    Broken(ConfigErrors),
}

impl Reload {
    /// Reads everything again. What may change while the daemon runs does; a mistake anywhere changes nothing. The log says which.
    pub(crate) fn run(&self, arguments: &Arguments, config: &Config) {
        let last = match super::load(arguments) {
            Ok(loaded) => {
                let Changes { applied, waiting } = config.adopt(&loaded.config);
                tracing::info!(changed = applied.join(", "), "configuration reloaded");
                match waiting.is_empty() {
                    true => Last::Good,
                    false => {
                        tracing::warn!(
                            keys = waiting.join(", "),
                            "changed keys that hold after a restart of the daemon"
                        );
                        Last::Waiting(waiting)
                    }
                }
            }
            Err(errors) => {
                for problem in &errors.0 {
                    tracing::error!("configuration not reloaded: {problem}");
                }
                Last::Broken(errors)
            }
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }

    /// Why the files and what holds differ: a reason in one word, and a sentence.
    pub(crate) fn trouble(&self) -> Option<(&'static str, String)> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Last::Good => None,
            Last::Waiting(keys) => Some((
                "RestartNeeded",
                format!("restart the daemon for changes of {}", keys.join(", ")),
            )),
            Last::Broken(errors) => Some((
                "ConfigurationBroken",
                format!("the configuration was not reloaded: {errors}"),
            )),
        }
    }
}
