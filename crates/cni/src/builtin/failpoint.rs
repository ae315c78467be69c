//! Failures in the middle of an attach, for tests.

use super::error::StepError;
use super::work::Step;

/// The process "dies": nothing is undone.
pub(super) const KILLED: &str = "killed";
/// The step fails: everything is undone.
pub(super) const FAILED: &str = "failed";

#[derive(Debug, Clone, Copy)]
pub(super) struct Failpoint {
    pub(super) after: Step,
    pub(super) how: &'static str,
}

impl Failpoint {
    pub(super) fn fail(&self) -> Result<(), StepError> {
        Err(StepError::Failpoint(self.how))
    }
}
