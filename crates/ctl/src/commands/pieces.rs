//! An archive on its way between a thread that reads or writes files and a stream of messages.

use std::io::{self, Read, Write};

use tokio::sync::mpsc;

/// Bytes of an archive in a message.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// Messages made of what is written.
pub(super) struct Pieces<M> {
    pub(super) sender: mpsc::Sender<M>,
    pub(super) message: fn(Vec<u8>) -> M,
}

impl<M> Write for Pieces<M> {
    /// Whoever wants no more says why itself: here it is a broken pipe.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.sender.blocking_send((self.message)(bytes.to_vec())) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<M> Pieces<M> {
    /// All that a source has, each piece as it comes.
    pub(super) fn copy(&mut self, source: &mut impl Read) -> io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match source.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(length) => self.write_all(&piece[..length])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// What comes, to be read. Ends where the sender does.
pub(super) struct Arriving {
    receiver: mpsc::Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

impl Arriving {
    pub(super) fn new(receiver: mpsc::Receiver<Vec<u8>>) -> Self {
        Self {
            receiver,
            piece: io::Cursor::default(),
        }
    }
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.piece.read(buffer)? {
                0 if !buffer.is_empty() => {}
                length => return Ok(length),
            }
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = io::Cursor::new(piece),
                None => return Ok(0),
            }
        }
    }
}
