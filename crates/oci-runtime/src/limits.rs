use oci_plan::Rlimit;
use rustix::io::Errno;
use sys::Limit;

use crate::error::{Context, Error, Stage};

/// Sets the limits of a process, 0 for the caller. What may not be raised is set as high as it may be.
pub(crate) fn set(pid: i32, limits: &[Rlimit]) -> Result<(), Error> {
    for wanted in limits {
        let limit = Limit {
            soft: wanted.soft,
            hard: wanted.hard,
        };
        let done = match sys::set_limit(pid, wanted.resource, limit) {
            Err(Errno::PERM) => set_clamped(pid, wanted.resource, limit),
            other => other,
        };
        done.at(Stage::Limit, format_args!("number {}", wanted.resource))?;
    }
    Ok(())
}

fn set_clamped(pid: i32, resource: u32, wanted: Limit) -> Result<(), Errno> {
    let ceiling = sys::get_limit(pid, resource)?.hard;
    let limit = Limit {
        soft: wanted.soft.min(ceiling),
        hard: wanted.hard.min(ceiling),
    };
    sys::set_limit(pid, resource, limit)
}
