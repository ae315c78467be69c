//! Reading from a socket, into memory that goes to inboxes with what has been read: a connection needs no buffer of its own.

use std::{
    io,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::Instant,
};

use crate::chunks::Chunks;

/// Bytes read at once.
const READ: usize = 64 * 1024;

/// The same where that much comes without a pause: each read is then worth its system call, and its turn on the processor.
const BULK_READ: usize = 256 * 1024;

/// After this long nothing more comes for the time being.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(crate) struct Intake {
    /// Much comes.
    wide: bool,
    chunks: Chunks,
}

impl Intake {
    /// Reads once. Nothing at all is the end.
    pub(crate) fn poll_read(
        &mut self,
        socket: &mut (impl AsyncRead + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Vec<u8>>> {
        let mut chunk = self.chunks.take(if self.wide { BULK_READ } else { READ });
        match pin!(socket.read_buf(&mut chunk)).poll(context) {
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(chunk)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                if self.wide {
                    self.chunks.give_back(chunk);
                }
                Poll::Pending
            }
        }
    }

    /// Takes note of how much has come. Some time when [`Self::pause`] is to be asked first: it comes so thick that more is read at once.
    pub(crate) fn note(&mut self, count: usize) -> Option<Instant> {
        if count < READ / 2 {
            self.be_brief();
            return None;
        }
        if count < READ || self.wide {
            return None;
        }
        self.wide = true;
        Some(Instant::now() + PAUSE)
    }

    /// Whether so much comes that each chunk is to be used before the next is read: what is read ahead has left the processor's cache when its turn
    /// comes, and wants memory of its own meanwhile.
    pub(crate) fn takes_turns(&self) -> bool {
        self.wide
    }

    /// What a chunk has become.
    pub(crate) fn lend(&mut self, chunk: Vec<u8>) -> Bytes {
        match chunk.len() < READ / 2 {
            true => Bytes::from(chunk),
            false => self.chunks.lend(chunk),
        }
    }

    /// When to ask again, if the last of much that has come came at `active`. After a pause, who waits holds no memory.
    pub(crate) fn pause(&mut self, active: Instant) -> Option<Instant> {
        let over = active + PAUSE;
        if self.wide && Instant::now() < over {
            return Some(over);
        }
        self.be_brief();
        None
    }

    fn be_brief(&mut self) {
        self.wide = false;
        self.chunks.forget();
    }
}
