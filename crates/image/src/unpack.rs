//! One layer from the network to the disk.

mod error;

pub use error::LayerError;
