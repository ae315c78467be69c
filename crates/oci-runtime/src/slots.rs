use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_plan::FdSlot;

use crate::Error;

/// The descriptors that accompany a plan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slots<'a>(pub(crate) &'a [OwnedFd]);

impl<'a> Slots<'a> {
    pub(crate) fn get(self, slot: FdSlot, field: &str) -> Result<BorrowedFd<'a>, Error> {
        self.0
            .get(usize::from(slot.0))
            .map(AsFd::as_fd)
            .ok_or_else(|| {
                let reason = format!("slot {} of {} descriptors", slot.0, self.0.len());
                Error::refused(field, reason)
            })
    }
}
