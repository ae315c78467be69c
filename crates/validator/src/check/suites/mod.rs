//! A file for each suite: its table, then its cases in that order.

mod apparmor;
mod consistency;
mod container;
mod disk;
mod events;
mod idempotence;
mod identity;
mod image;
mod leaks;
mod lists;
mod logs;
mod metrics;
mod mounts;
mod namespaces;
mod network;
mod nri;
mod pod;
mod recovery;
mod registries;
mod resources;
mod retries;
mod runtime;
mod seccomp;
mod security;
mod selinux;
mod signals;
mod stats;
mod streaming;
mod terminal;

use super::case::Case;

pub(super) const ALL: &[&[Case]] = &[
    runtime::CASES,
    pod::CASES,
    container::CASES,
    signals::CASES,
    image::CASES,
    consistency::CASES,
    registries::CASES,
    network::CASES,
    streaming::CASES,
    terminal::CASES,
    security::CASES,
    identity::CASES,
    seccomp::CASES,
    namespaces::CASES,
    mounts::CASES,
    logs::CASES,
    idempotence::CASES,
    retries::CASES,
    leaks::CASES,
    resources::CASES,
    stats::CASES,
    metrics::CASES,
    lists::CASES,
    events::CASES,
    apparmor::CASES,
    selinux::CASES,
    nri::CASES,
    disk::CASES,
    recovery::CASES,
];
