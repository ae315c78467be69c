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

/// So many short reads in a row are the end of much. One is nothing: it is what a socket has left.
const SHORT: u8 = 32;

#[derive(Debug, Default)]
pub(crate) struct Intake {
    /// Much comes.
    wide: bool,
    /// Short reads in a row.
    short: u8,
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
            self.short = self.short.saturating_add(1);
            if !self.wide || self.short >= SHORT {
                self.be_brief();
            }
            return None;
        }
        self.short = 0;
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
        match chunk.len() < READ / 2 && !self.wide {
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(intake: &mut Intake, mut come: &[u8]) -> Bytes {
        let chunk = std::future::poll_fn(|context| intake.poll_read(&mut come, context));
        let chunk = chunk.await.unwrap();
        intake.note(chunk.len());
        intake.lend(chunk)
    }

    #[tokio::test]
    async fn one_short_read_is_not_the_end_of_much() {
        let mut intake = Intake::default();
        let much = vec![0; BULK_READ];
        assert_eq!(read(&mut intake, &much).await.len(), READ);
        assert_eq!(read(&mut intake, &much).await.len(), BULK_READ);
        for _ in 1..SHORT {
            read(&mut intake, b"left").await;
        }
        assert!(intake.takes_turns() && !intake.chunks.is_empty());
        assert_eq!(read(&mut intake, &much).await.len(), BULK_READ);
        for _ in 0..SHORT {
            read(&mut intake, b"few").await;
        }
        assert!(!intake.takes_turns() && intake.chunks.is_empty());
        assert_eq!(read(&mut intake, &much).await.len(), READ);
    }
}
