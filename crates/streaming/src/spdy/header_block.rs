//! Blocks of names and values, and the zlib stream that they are parts of (SPDY/3 draft, 2.6.10).
//!
//! All blocks of one direction are one zlib stream, flushed at the end of each block, so a block can be understood only after all that
//! came before it: a block that breaks a limit ends the connection.

use flate2::{Decompress, FlushDecompress, Status};

use super::{
    dictionary::{ADLER, dictionary},
    frame::FrameError,
};

/// Names, in lower case, and values.
pub type Headers = Vec<(String, String)>;

/// Pairs in one block. Kubernetes sends three.
const MOST_PAIRS: usize = 128;

pub(super) struct Inflater {
    zlib: Decompress,
    largest: usize,
}

impl Inflater {
    pub(super) fn new(largest: usize) -> Self {
        let zlib = Decompress::new(true);
        Self { zlib, largest }
    }

    /// The pairs of one block.
    pub(super) fn read(&mut self, mut block: &[u8]) -> Result<Headers, FrameError> {
        let mut inflated = Vec::with_capacity(512.min(self.largest));
        loop {
            let before = self.zlib.total_in();
            let (had, room) = (inflated.len(), inflated.capacity());
            let outcome = self
                .zlib
                .decompress_vec(block, &mut inflated, FlushDecompress::Sync);
            let used = self.zlib.total_in() - before;
            block = &block[usize::try_from(used)
                .unwrap_or(block.len())
                .min(block.len())..];
            match outcome {
                Ok(Status::Ok | Status::BufError) => {}
                // The stream goes on as long as the connection.
                Ok(Status::StreamEnd) => return Err(FrameError::Compression),
                Err(error) if error.needs_dictionary() == Some(ADLER) => {
                    let set = self.zlib.set_dictionary(&dictionary());
                    set.map_err(|_| FrameError::Compression)?;
                    continue;
                }
                Err(_) => return Err(FrameError::Compression),
            }
            if inflated.len() > self.largest {
                return Err(FrameError::HeadersTooLarge(self.largest));
            }
            if inflated.len() == room {
                // Doubled at most, so that one more round shows whether the limit is broken.
                inflated.reserve(room.clamp(512, self.largest + 1));
            } else if block.is_empty() {
                return parse(&inflated);
            } else if inflated.len() == had && used == 0 {
                return Err(FrameError::Compression);
            }
        }
    }
}

fn parse(mut bytes: &[u8]) -> Result<Headers, FrameError> {
    let pairs = take_length(&mut bytes)?;
    if pairs > MOST_PAIRS {
        return Err(FrameError::TooManyHeaders(MOST_PAIRS));
    }
    let mut headers = Headers::with_capacity(pairs);
    for _ in 0..pairs {
        let name = take_text(&mut bytes)?.to_ascii_lowercase();
        if name.is_empty() || headers.iter().any(|(known, _)| *known == name) {
            return Err(FrameError::Headers);
        }
        headers.push((name, take_text(&mut bytes)?));
    }
    if bytes.is_empty() {
        Ok(headers)
    } else {
        Err(FrameError::Headers)
    }
}

fn take_text(bytes: &mut &[u8]) -> Result<String, FrameError> {
    let length = take_length(bytes)?;
    let (text, rest) = bytes.split_at_checked(length).ok_or(FrameError::Headers)?;
    *bytes = rest;
    let text = std::str::from_utf8(text).map_err(|_| FrameError::Headers)?;
    Ok(text.to_owned())
}

fn take_length(bytes: &mut &[u8]) -> Result<usize, FrameError> {
    let (length, rest) = bytes.split_first_chunk().ok_or(FrameError::Headers)?;
    *bytes = rest;
    usize::try_from(u32::from_be_bytes(*length)).map_err(|_| FrameError::Headers)
}

/// Writes blocks as a zlib stream that stores them: a compressor's 256 KiB of state would be most of what an idle connection costs, to
/// save some fifty bytes of the replies, which have no headers, and of the client's few requests.
#[derive(Debug, Default)]
pub(super) struct Storer {
    begun: bool,
}

impl Storer {
    /// Appends one block. Longer ones than 64 KiB are cut into parts.
    pub(super) fn write(&mut self, headers: &[(String, String)], target: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            // RFC 1950: deflate, window of 32 KiB; a dictionary follows; a multiple of 31.
            target.extend_from_slice(&[0x78, 0x20]);
            target.extend_from_slice(&ADLER.to_be_bytes());
        }
        let mut block = Vec::new();
        put_length(headers.len(), &mut block);
        for (name, value) in headers {
            for text in [name, value] {
                put_length(text.len(), &mut block);
                block.extend_from_slice(text.as_bytes());
            }
        }
        for part in block.chunks(usize::from(u16::MAX)) {
            store(part, target);
        }
        // Readers hand out what they have at an empty block, and not before.
        store(&[], target);
    }
}

/// RFC 1951, 3.2.4: not the last block, stored, its length, and the length's complement.
fn store(part: &[u8], target: &mut Vec<u8>) {
    let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
    target.push(0);
    target.extend_from_slice(&length.to_le_bytes());
    target.extend_from_slice(&(!length).to_le_bytes());
    target.extend_from_slice(part);
}

fn put_length(length: usize, target: &mut Vec<u8>) {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    target.extend_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    use super::*;

    const LARGEST: usize = 16 * 1024;

    fn pairs(of: &[(&str, &str)]) -> Headers {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        of.iter().map(own).collect()
    }

    #[test]
    fn the_dictionary_is_the_one_that_the_draft_prints() {
        let mut zlib = Compress::new(Compression::fast(), true);
        assert_eq!(dictionary().len(), 1423);
        assert_eq!(zlib.set_dictionary(&dictionary()).unwrap(), ADLER);
        assert_eq!((0x78 * 256 + (0x20)) % 31, 0);
    }

    /// What every other implementation sends: compressed against the dictionary, one context for all blocks.
    #[test]
    fn compressed_blocks_are_read_one_after_the_other() {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(&dictionary()).unwrap();
        let mut inflater = Inflater::new(LARGEST);
        for kind in ["error", "stdin", "stdout", "stdin"] {
            let headers = pairs(&[("streamtype", kind), ("x", &"y".repeat(3000))]);
            let mut plain = Vec::new();
            Storer { begun: true }.write(&headers, &mut plain);
            let plain = &plain[5..plain.len() - 5];
            let mut block = Vec::with_capacity(8192);
            zlib.compress_vec(plain, &mut block, FlushCompress::Sync)
                .unwrap();
            assert_eq!(inflater.read(&block), Ok(headers));
        }
    }

    proptest! {
        #[test]
        fn stored_blocks_are_read_one_after_the_other(
            blocks in proptest::collection::vec(
                proptest::collection::btree_map("[a-z]{1,8}", ".{0,40}", 0..6), 1..5)
        ) {
            let (mut storer, mut inflater) = (Storer::default(), Inflater::new(LARGEST));
            for block in blocks {
                let headers: Headers = block.into_iter().collect();
                let mut bytes = Vec::new();
                storer.write(&headers, &mut bytes);
                prop_assert_eq!(inflater.read(&bytes), Ok(headers));
            }
        }

        #[test]
        fn anything_else_is_refused_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut stored = Vec::new();
            Storer::default().write(&[], &mut stored);
            stored.extend_from_slice(&bytes);
            drop(Inflater::new(LARGEST).read(&stored));
            drop(Inflater::new(LARGEST).read(&bytes));
            drop(parse(&bytes));
        }
    }

    #[test]
    fn a_bomb_is_defused() {
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(&dictionary()).unwrap();
        let mut bomb = Vec::with_capacity(1 << 20);
        let plain = vec![0; 64 << 20];
        zlib.compress_vec(&plain, &mut bomb, FlushCompress::Sync)
            .unwrap();
        assert!(bomb.len() < 100_000);
        assert_eq!(
            Inflater::new(LARGEST).read(&bomb),
            Err(FrameError::HeadersTooLarge(LARGEST))
        );
    }

    #[test]
    fn malformed_blocks_are_named() {
        let mut twice = vec![0, 0, 0, 2];
        for _ in 0..2 {
            twice.extend_from_slice(&[0, 0, 0, 1, b'a', 0, 0, 0, 0]);
        }
        assert_eq!(parse(&twice), Err(FrameError::Headers));
        assert_eq!(
            parse(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
            Err(FrameError::Headers)
        );
        assert_eq!(parse(&[0, 0, 0, 0, 1]), Err(FrameError::Headers));
        assert_eq!(
            parse(&[0, 0, 1, 0]),
            Err(FrameError::TooManyHeaders(MOST_PAIRS))
        );
        assert_eq!(
            Inflater::new(LARGEST).read(b"not zlib"),
            Err(FrameError::Compression)
        );
    }
}
