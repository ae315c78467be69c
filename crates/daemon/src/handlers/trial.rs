//! What a runtime was seen to do: not what it says of itself. The trial itself is [`crate::pod::try_handlers`].

use std::path::{Path, PathBuf};

use super::{Handlers, lock};
use crate::config::RuntimeSettings;

/// What Status may promise of a handler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Proven {
    pub(crate) recursive_read_only: bool,
    pub(crate) user_namespaces: bool,
}

/// A program, as long as nobody replaces it, and how it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) options: Vec<String>,
    /// Inode, bytes, and when it was written (seconds, nanoseconds).
    pub(crate) file: (u64, u64, i64, u32),
}

/// What has come of a trial.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) proven: Proven,
    /// Its containers are in the user namespace that they are to be in; what is executed in them is not.
    pub(crate) exec_outside: bool,
    /// Why something is not proven, for people.
    pub(crate) trouble: Option<String>,
}

#[derive(Debug)]
pub(super) struct Trial {
    of: Program,
    /// `None`: it is under way.
    outcome: Option<Outcome>,
}

impl Trial {
    fn is_of(&self, settings: &RuntimeSettings) -> bool {
        let path = settings.path.as_deref().unwrap_or(Path::new(""));
        self.of.path == path && self.of.options == settings.options
    }
}

impl Handlers {
    /// Whether a trial of this program is for the caller to make. `again`: also where an earlier one has failed.
    pub(crate) fn begin_trial(&self, handler: &str, of: &Program, again: bool) -> bool {
        let mut trials = lock(&self.trials);
        let wanted = match trials.get(handler) {
            Some(trial) if trial.of == *of => trial
                .outcome
                .as_ref()
                .is_some_and(|outcome| again && outcome.trouble.is_some()),
            Some(_) | None => true,
        };
        if wanted {
            let trial = Trial {
                of: of.clone(),
                outcome: None,
            };
            trials.insert(handler.to_owned(), trial);
        }
        wanted
    }

    /// Another program may have taken the handler's name meanwhile.
    pub(crate) fn end_trial(&self, handler: &str, of: &Program, outcome: Outcome) {
        let mut trials = lock(&self.trials);
        if let Some(trial) = trials.get_mut(handler).filter(|trial| trial.of == *of) {
            trial.outcome = Some(outcome);
        }
    }

    /// What a handler of kind `oci` was seen to do; nothing before its trial is over.
    pub(crate) fn proven(&self, handler: &str, settings: &RuntimeSettings) -> Proven {
        // What does not even answer (any more) is not what was tried.
        match self.probed(handler) {
            Some(probe) if probe.trouble.is_some() => Proven::default(),
            Some(_) | None => {
                let outcome = self.outcome(handler, settings);
                outcome.flatten().unwrap_or_default().proven
            }
        }
    }

    /// `None`: there was no trial; `Some(None)`: it is under way.
    pub(crate) fn outcome(
        &self,
        handler: &str,
        settings: &RuntimeSettings,
    ) -> Option<Option<Outcome>> {
        let trials = lock(&self.trials);
        let trial = trials.get(handler)?;
        trial.is_of(settings).then(|| trial.outcome.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(bytes: u64) -> Program {
        Program {
            path: PathBuf::from("/usr/bin/runtime"),
            options: Vec::new(),
            file: (7, bytes, 0, 0),
        }
    }

    fn settings() -> RuntimeSettings {
        RuntimeSettings {
            path: Some(PathBuf::from("/usr/bin/runtime")),
            ..RuntimeSettings::default()
        }
    }

    fn outcome(good: bool) -> Outcome {
        Outcome {
            proven: Proven {
                recursive_read_only: true,
                user_namespaces: good,
            },
            exec_outside: false,
            trouble: (!good).then(|| "it failed".to_owned()),
        }
    }

    #[test]
    fn nothing_is_promised_before_a_trial_is_over() {
        let handlers = Handlers::default();
        assert_eq!(handlers.outcome("one", &settings()), None);
        assert!(handlers.begin_trial("one", &program(1), true));
        assert_eq!(handlers.outcome("one", &settings()), Some(None));
        assert_eq!(handlers.proven("one", &settings()), Proven::default());
        // Once is enough.
        assert!(!handlers.begin_trial("one", &program(1), true));
        handlers.end_trial("one", &program(1), outcome(true));
        assert!(handlers.proven("one", &settings()).user_namespaces);
        assert!(!handlers.begin_trial("one", &program(1), true));
        let mut other = settings();
        other.options.push("--debug".to_owned());
        assert_eq!(handlers.proven("one", &other), Proven::default());
    }

    #[test]
    fn another_program_and_a_failed_one_are_tried_again() {
        let handlers = Handlers::default();
        assert!(handlers.begin_trial("one", &program(1), false));
        // It was replaced while it was being tried: what comes of that says nothing of the new one.
        assert!(handlers.begin_trial("one", &program(2), false));
        handlers.end_trial("one", &program(1), outcome(true));
        assert_eq!(handlers.outcome("one", &settings()), Some(None));
        handlers.end_trial("one", &program(2), outcome(false));
        assert!(!handlers.begin_trial("one", &program(2), false));
        assert!(handlers.begin_trial("one", &program(2), true));
    }
}
