//! One layer from the network to the disk.
//!
//! ```text
//! async task          thread "layer-inflate"            thread "layer-hash"           thread "layer-extract"
//! HTTP body ─Bytes─►  gzip, zstd or plain ─128 KiB, ─►  digest and diffID ─128 KiB─►  tar ─► files ─► index
//!                                          and Bytes
//! ```
//!
//! All channels are short: a slow disk slows the network down, and memory is bounded whatever the layer holds. Nothing of a layer
//! is trusted before both digests have been compared; until then it is in an [`Ingest`] directory. Both are taken at once, because two
//! SHA-256 by turns cost less than one after the other.

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
