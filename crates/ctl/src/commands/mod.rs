//! A file per command: its flags, and what it does.

pub(crate) mod attach;
pub(crate) mod bench;
pub(crate) mod create;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod explain_pull;
pub(crate) mod imagefsinfo;
pub(crate) mod images;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod inspecti;
pub(crate) mod inspectp;
pub(crate) mod logs;
pub(crate) mod metricdescs;
pub(crate) mod metricsp;
pub(crate) mod pods;
pub(crate) mod port_forward;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod rmp;
pub(crate) mod run;
pub(crate) mod runp;
pub(crate) mod runtime_config;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod statsp;
pub(crate) mod stop;
pub(crate) mod stopp;
pub(crate) mod update_runtime_config;
pub(crate) mod version;

mod each;
mod status;
