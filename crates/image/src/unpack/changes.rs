//! A layer that is no image's: what a container has changed, for the writable layer of another.

use std::io::BufRead;
use std::os::fd::OwnedFd;

use super::archive::Archive;
use super::extract::{ExtractError, Extractor};
use super::{Below, LayerError};

/// Unpacks an archive of changes into an empty writable layer, above the image that `image` is a mount of. Names are resolved as in a layer of
/// an image, whiteouts are as there, and nothing is trusted. `limit` is the most that its files may have in bytes. Blocks.
///
/// # Errors
/// As for layers. What was unpacked until then stays.
pub fn unpack_changes(
    layer: OwnedFd,
    image: OwnedFd,
    archive: impl BufRead,
    limit: u64,
) -> Result<(), LayerError> {
    let mark = layer.try_clone().map_err(LayerError::Archive)?;
    let extractor = Extractor::new(layer, Below::View(image), limit, false);
    match extractor.run(&mut Archive::new(archive)) {
        Ok(_extracted) => {}
        Err(ExtractError::Layer(error)) => return Err(error),
        Err(ExtractError::NeedsBelow) => {
            let error = std::io::Error::other("it depends on layers that are not there");
            return Err(LayerError::Archive(error));
        }
    }
    // Of layers only: a writable one has the image's root already.
    match rustix::fs::fremovexattr(&mark, snapshot::IMPLIED_ROOT_XATTR) {
        Ok(()) | Err(rustix::io::Errno::NODATA) => Ok(()),
        Err(error) => Err(LayerError::Archive(error.into())),
    }
}
