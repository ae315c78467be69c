//! Images: what they are called, how they come from a registry, and where they lie on disk.
//!
//! ```text
//! reference ──► registry ──► manifest, configuration ──► layers, in parallel ──► records ──► listed
//!                                                          │
//!               network ─► sha256 ─► gunzip/zstd ─► diffID ─► tar ─► ingest/<n>/ ─► rename to layers/<key>/
//! ```
//!
//! A layer is unpacked in `ingest/`, verified, and renamed into its place; then it is recorded, and then the image. Whatever
//! has no record when the store is opened is swept. Compressed layers are never on disk. The records are in `meta.redb`; lists and
//! look-ups are answered from memory.

mod auth;
mod blobs;
mod catalogue;
mod changes;
mod check;
mod config;
mod configuration;
mod digest;
mod error;
mod failpoint;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod holdings;
mod image;
mod images;
mod index;
mod keyring;
mod layers;
mod load;
mod manifest;
mod ongoing;
mod pins;
mod progress;
mod pull;
mod push;
mod recovery;
mod reference;
mod registry;
mod retired;
mod save;
mod shelf;
mod signature;
mod source;
mod spool;
mod store;
#[cfg(test)]
mod tests;
mod unpack;

pub use auth::Auth;
pub use check::{CheckError, CheckOutcome, CheckRequest, Finding};
pub use config::{ImagesConfig, Timeouts};
pub use configuration::ConfigurationError;
pub use digest::{Digest, DigestError};
pub use error::{
    DocumentProblem, FindError, PinError, PullCause, PullError, PullErrorKind, RemoveError,
    StoreError,
};
pub use holdings::Holdings;
pub use image::{Image, ImageConfig, ImageUser};
pub use images::{Images, PullRequest};
pub use index::{Damage, DamageKind};
pub use load::{LoadError, LoadRequest};
pub use progress::{LayerProgress, LayerStage, PullProgress, PullStage};
pub use push::{PushError, PushRequest, PushedImage};
pub use reference::{Reference, ReferenceError};
pub use registry::{PlannedSource, Proxies, PullPlan, RegistryError, RegistryFailure, Tried};
pub use save::{SaveError, SaveRequest};
pub use signature::SignatureError;
pub use unpack::{LayerError, unpack_changes};
