//! The system calls that `rustix` lacks, behind safe functions. The only crate with unsafe code: one operation per block, each with its proof.

#![allow(unsafe_code)] // This is the crate that earns it.

mod allocator;
mod bpf;
mod clone;
mod exec;
mod floor;
mod keyring;
mod limits;
mod math;
mod memory_policy;
mod mount_attributes;
mod namespaces;
mod notify;
mod personality;
mod quota;
mod replace;
mod scheduling;
mod seccomp;
mod sha256;
mod share;
mod signals;
mod spawn;
mod stdio;
mod usage;

pub use allocator::{bound_allocator, release_free_memory};
pub use bpf::{
    Instruction, LoadError, attach_device_program, detach_device_program, device_programs,
    load_device_program, open_program, program_name,
};
pub use clone::{Clone, CloneFlags, clone_process, exit_at_panic, exit_process};
pub use exec::{CStrings, execute};
pub use floor::{Required, missing_calls};
pub use keyring::leave_session_keyring;
pub use limits::{Limit, get_limit, set_limit};
pub use memory_policy::set_memory_policy;
pub use mount_attributes::{MountAttributes, set_mount_attributes};
pub use namespaces::unshare;
pub use notify::{Notification, load_filter_listening, receive_notification, refuse_call};
pub use personality::set_personality;
pub use quota::{
    ProjectQuotas, ProjectUsage, limit_project, next_project, project_of, project_quotas,
    project_usage, set_project,
};
pub use replace::{Durability, replace_file};
pub use scheduling::{Scheduling, set_io_priority, set_scheduling};
pub use seccomp::load_filter;
pub use sha256::compress_two_sha256;
pub use signals::{
    Signals, block_signals, receive_signal, reset_signals, signal_descriptor, signal_from_number,
};
pub use spawn::{Program, SpawnStep, Spawned, spawn};
pub use stdio::{close_from, close_from_except, inherited_descriptor, place_descriptor};
pub use usage::children_time;
