//! Files, and trees of them, as tar streams: out of a container and into one, out of a directory of the node and into one.
//!
//! ```text
//!  pack:   root ─ path ─▶ what is there, links not followed ─▶ tar entries, all below the last part of the path
//!  unpack: tar entries ─▶ names checked ─▶ root ─ path ─ name ─▶ made anew, never through a link of the tree
//! ```
//!
//! Every path is resolved with `root` for `/` (`RESOLVE_IN_ROOT`, `openat2(2)`), anew for each entry: whoever changes the tree meanwhile can
//! have the copy miss something, and can not lead it out. `/proc` has links that lead anywhere; they are not followed. All calls block.

mod error;
mod pack;
mod place;
mod unpack;

pub use error::Error;
pub use pack::{Packer, Source, pack};
pub use unpack::{Target, unpack};

/// What a copy did not take along, each in a line: sockets and devices.
pub type LeftOut = Vec<String>;
