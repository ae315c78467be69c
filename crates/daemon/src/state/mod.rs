//! What is on disk about what runs: small JSON records, replaced atomically, in the state directory.
//!
//! ```text
//! <state>/lock                              held by the daemon that serves
//! <state>/pods/<pod id>/pod.json            PodRecord
//! <state>/pods/<pod id>/supervisor.sock     the supervisor listens here
//! <state>/pods/<pod id>/exits/<container>   exit records, the supervisor's
//! <state>/pods/<pod id>/{hosts,hostname,resolv.conf}
//! <state>/pods/<pod id>/containers/<container id>/{container.json,spec.json}
//! ```
//!
//! The state directory is a tmpfs on a real node: a record is durable against the daemon's death, not against the machine's,
//! and each carries the boot it belongs to.

mod boot;
mod records;
mod recover;

pub(crate) use boot::{BootId, Lock};
pub(crate) use records::{
    ContainerRecord, ContainerStage, NetworkRecord, PodRecord, PodResources, PodStage, RecordError,
    Records, SupervisorRecord,
};
pub(crate) use recover::recover;
