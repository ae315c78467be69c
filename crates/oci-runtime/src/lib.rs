//! The OCI runtime core: turns a [`ContainerPlan`](oci_plan::ContainerPlan) into a process that waits to run its program, and runs
//! further processes in containers that live.
//!
//! Synchronous and for single-threaded callers: a clone of a process with one thread may run ordinary code before `execve(2)`. Nothing here
//! waits for a child: its progress is a descriptor to poll.
//!
//! ```text
//!  Launch::container ──▶ Pending ──▶ Created ──start()──▶ Pending ──▶ Started
//!        with a Pause: Pending ──▶ Paused ──resume()──▶ Pending ──▶ Created …
//!  Launch::exec ───────▶ Pending ────────────────────────────────────▶ Started
//!        any of them ──▶ Err: the child has been killed; the caller reaps it like every other child
//! ```
//!
//! What a container's init and an exec have in common is one piece of code (`credentials`), so that they cannot come to differ.

mod credentials;
mod error;
mod exec;
mod handshake;
mod host;
mod init;
mod labels;
mod launch;
mod limits;
mod listener;
mod namespaces;
mod pod;
mod pod_init;
mod program;
mod refusals;
mod rootfs;
mod slots;
mod spawn;
mod streams;
mod sysctls;
mod terminal;
mod user_namespace;

pub use error::{Error, Kind, Stage};
pub use host::Host;
pub use launch::{ChildStdio, ExecPlan, Launch, Pause, Placement, Progress, Standalone};
pub use listener::{DeniedCall, Heard, Listener, TELL};
pub use pod::{PodHandles, PodInit};
pub use rootfs::prepare_tree;
