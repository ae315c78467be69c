//! Unpacked layers, the containers' writable layers on top of them, and the overlay mounts that join both.
//!
//! ```text
//! <root>/layers/<key>/             one unpacked layer in overlay form, shared, never written again
//! <root>/ingest/                   layers being unpacked; swept at start-up by the image store
//! <root>/containers/<id>/upper     what the container has written
//! <root>/containers/<id>/work      overlayfs's own
//! <root>/trash/                    containers being removed; emptied in the background, and at start-up
//! <root>/empty/                    empty directories: lower layers for images that have too few
//! ```
//!
//! A mount is handed out as a descriptor of a *detached* mount: nothing appears in the host's mount table, and it goes
//! away with its last descriptor or the last mount namespace it was attached in. All calls block; none keeps a lock.

mod changes;
mod error;
mod key;
mod mount;
mod overlay;
mod projects;
mod trash;
mod tree;

pub use changes::{Change, ChangeKind, Shift, is_opaque, is_whiteout};
pub use error::{ContainerError, MountError, OpenError};
pub use key::{LayerKey, LayerKeyError};
pub use mount::{MAX_LAYERS, MountMethod, UserMapping};
pub use overlay::{IMPLIED_ROOT_XATTR, Overlay};
pub use projects::NoLimits;
pub use tree::{Meter, Usage, measure, remove_tree, remove_tree_at};
