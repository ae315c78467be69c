//! One layer from the network to the disk.
//!
//! ```text
//! async task          thread "layer-inflate"              thread "layer-extract"
//! HTTP body ─Bytes─►  sha256 ─► gzip, zstd or plain ─128 KiB─►  diffID sha256 ─► tar ─► files ─► index
//! ```
//!
//! Both channels are short: a slow disk slows the network down, and memory is bounded whatever the layer holds. Nothing of a layer
//! is trusted before both digests have been compared; until then it is in an [`Ingest`] directory.

mod archive;
mod attributes;
mod changes;
mod error;
mod extract;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod hard_link;
mod inflate;
mod ingest;
mod pax;
mod pipeline;
mod place;
mod sparse;
#[cfg(test)]
mod tests;
mod whiteout;

pub(crate) use archive::{Archive, Kind};
pub use changes::unpack_changes;
pub use error::LayerError;
pub(crate) use inflate::read_buffered;
pub(crate) use ingest::Ingest;
pub(crate) use pipeline::{Expected, Unpacked, unpack};
pub(crate) use place::Below;

use crate::StoreError;
