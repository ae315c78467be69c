//! The OCI runtime core: turns a [`ContainerPlan`](oci_plan::ContainerPlan) into a process that waits to run its program, and runs
//! further processes in containers that live.
//!
//! Synchronous and for single-threaded callers: a clone of a process with one thread may run ordinary code before `execve(2)`. Nothing here
//! waits for a child: its progress is a descriptor to poll.
//!
//! ```text
//!  Launch::container ──▶ Pending ──▶ Created ──start()──▶ Pending ──▶ Started
//!  Launch::exec ───────▶ Pending ────────────────────────────────────▶ Started
//!        any of them ──▶ Err: the child has been killed; the caller reaps it like every other child
//! ```

mod error;
mod host;
mod launch;
mod pod;

pub use error::{Error, Kind, Stage};
pub use host::Host;
pub use launch::{ChildStdio, ExecPlan, Launch, Placement, Progress};
pub use pod::{PodHandles, PodInit};
