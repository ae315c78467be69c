//! All scenarios.

mod bad_input;
mod bench;
mod cni;
mod configuration;
mod container;
mod edges;
mod events;
mod exec;
mod files;
mod hung;
mod images;
mod isolation;
mod logs;
mod network;
mod node;
mod pod;
mod reboot;
mod recovery;
mod resources;
mod room;
mod service;
mod stats;
mod status;
mod stop;
mod trouble;
mod volumes;
