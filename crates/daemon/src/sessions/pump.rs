//! Bytes between a descriptor and a client.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    pin::Pin,
    time::Duration,
};

use bytes::{Buf, Bytes};
use rustix::io::Errno;
use streaming::{Chunks, ReadPieces, WritePieces};
use tokio::{
    io::{AsyncWriteExt, unix::AsyncFd},
    sync::{Semaphore, SemaphorePermit},
};

/// What is carried at a time. What a pipe holds.
const CHUNK: usize = 64 * 1024;

/// What is carried at a time of what turns out to be much.
const BULK_CHUNK: usize = 256 * 1024;

/// What a pipe is made to hold that carries much. Several chunks: whoever fills or empties it goes on while the daemon is busy with one, where they would
/// take turns otherwise.
const BULK: usize = 1024 * 1024;

/// So many pipes at once; others hold one bulky chunk. The kernel grants all pipes of a user 64 MiB together before it makes new ones of processes without
/// privileges tiny, and root in a container is the same user.
static WIDE: Semaphore = Semaphore::const_new(24);

/// Pieces that are written at a time.
const SLICES: usize = 16;

/// After this long nothing more comes for the time being: who waits holds no memory.
const PAUSE: Duration = Duration::from_millis(100);

/// As much as this without a pause is much.
const BULK_FROM: usize = 1024 * 1024;

/// A pipe, a terminal's master or a socket.
#[derive(Debug)]
pub(super) struct End(AsyncFd<OwnedFd>);

impl End {
    /// Makes it non-blocking.
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        // Its successor is an unsafe function, for inner types that may change their descriptor; this one is owned and never does.
        #[expect(
            deprecated,
            reason = "sound for an OwnedFd, and unsafe code lives in one crate"
        )]
        AsyncFd::new(descriptor).map(Self)
    }

    /// What there is, `size` bytes at most; empty at the end.
    async fn read(&self, chunks: &mut Chunks, size: usize) -> io::Result<Bytes> {
        loop {
            let readable = self.0.readable();
            let soon = match chunks.is_empty() {
                true => Ok(readable.await),
                false => tokio::time::timeout(PAUSE, readable).await,
            };
            let Ok(ready) = soon else {
                chunks.forget();
                continue;
            };
            let mut ready = ready?;
            let mut chunk = chunks.take(size);
            match ready.try_io(|descriptor| read_now(descriptor.get_ref(), &mut chunk)) {
                Ok(Ok(count)) if count < CHUNK / 2 => return Ok(chunk.into()),
                Ok(read) => return read.map(|_count| chunks.lend(chunk)),
                Err(_would_block) if chunks.is_empty() => {}
                Err(_would_block) => chunks.give_back(chunk),
            }
        }
    }

    /// Writes all pieces, many at a time.
    async fn write(&self, pieces: &mut VecDeque<Bytes>) -> io::Result<()> {
        while !pieces.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|descriptor| write_now(descriptor.get_ref(), pieces)) {
                Ok(written) => written?,
                Err(_would_block) => {}
            }
        }
        Ok(())
    }

    /// Completes when a connection that was begun is there, or has failed.
    pub(super) async fn connected(&self) -> io::Result<()> {
        let _ready = self.0.writable().await?;
        rustix::net::sockopt::socket_error(&self.0)??;
        Ok(())
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How much has been carried in chunks that were all but full.
#[derive(Debug, Default)]
struct Flow {
    carried: usize,
    /// Held by one whose pipe has been made wide.
    wide: Option<SemaphorePermit<'static>>,
}

impl Flow {
    /// Bytes to carry at a time.
    fn chunk(&self) -> usize {
        match self.carried >= BULK_FROM {
            true => BULK_CHUNK,
            false => CHUNK,
        }
    }

    /// Widens the pipe, once, when it turns out to carry much.
    fn carried(&mut self, count: usize, end: &End) {
        if self.carried >= BULK_FROM {
            return;
        }
        self.carried = match count < CHUNK / 2 {
            true => 0,
            false => self.carried + count,
        };
        if self.carried >= BULK_FROM {
            self.wide = WIDE.try_acquire().ok();
            let size = if self.wide.is_some() {
                BULK
            } else {
                BULK_CHUNK
            };
            // What is no pipe stays as it is, and so does one that the kernel does not grant more.
            let _granted = rustix::pipe::fcntl_setpipe_size(end.descriptor(), size);
        }
    }
}

/// A terminal's master answers EIO once nobody has the other side open.
fn read_now(descriptor: &OwnedFd, into: &mut Vec<u8>) -> io::Result<usize> {
    match rustix::io::read(descriptor, rustix::buffer::spare_capacity(into)) {
        Err(Errno::IO) => Ok(0),
        other => Ok(other?),
    }
}

fn write_now(descriptor: &OwnedFd, pieces: &mut VecDeque<Bytes>) -> io::Result<()> {
    let mut slices = [IoSlice::new(&[]); SLICES];
    let count = pieces.len().min(SLICES);
    for (slice, piece) in slices.iter_mut().zip(&*pieces) {
        *slice = IoSlice::new(piece);
    }
    let mut written = rustix::io::writev(descriptor, &slices[..count])?;
    while let Some(first) = pieces.front_mut() {
        if written < first.len() {
            first.advance(written);
            break;
        }
        written -= first.len();
        pieces.pop_front();
    }
    Ok(())
}

/// Carries output to the client, as fast as the client takes it, until it ends. After `last` only what is there by then is carried: somebody
/// may hold the other end and never close it. An error is the client's.
pub(super) async fn outward(
    from: &End,
    mut to: impl WritePieces,
    last: impl Future<Output = ()>,
) -> io::Result<()> {
    let (mut chunks, mut flow) = (Chunks::default(), Flow::default());
    tokio::pin!(last);
    loop {
        let read = tokio::select! {
            biased;
            () = &mut last => break,
            read = from.read(&mut chunks, flow.chunk()) => read,
        };
        // A connection that is reset ends for the client as well, and not as if all had been said.
        let bytes = read?;
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        flow.carried(bytes.len(), from);
        put(&mut to, bytes).await?;
    }
    let mut left = rustix::pipe::fcntl_getpipe_size(from.descriptor()).unwrap_or(CHUNK);
    while left > 0 {
        let mut chunk = chunks.take(CHUNK);
        match read_now(from.0.get_ref(), &mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(count) => left = left.saturating_sub(count),
        }
        put(&mut to, chunks.lend(chunk)).await?;
    }
    to.shutdown().await
}

async fn put(to: &mut impl WritePieces, mut bytes: Bytes) -> io::Result<()> {
    while !bytes.is_empty() {
        poll_fn(|context| Pin::new(&mut *to).poll_put(context, &mut bytes)).await?;
    }
    Ok(())
}

/// How input has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputEnd {
    /// The client has half-closed it.
    Closed,
    /// Nobody reads it any more; the rest has been dropped.
    Unread,
}

/// Carries the client's input, as fast as it is taken, until it ends. An error is the client's.
pub(super) async fn inward(from: &mut impl ReadPieces, to: &End) -> io::Result<InputEnd> {
    let (mut pieces, mut flow) = (VecDeque::new(), Flow::default());
    loop {
        let count = take(from, &mut pieces).await?;
        if count == 0 {
            return Ok(InputEnd::Closed);
        }
        flow.carried(count, to);
        if to.write(&mut pieces).await.is_err() {
            // The client's other streams must not wait behind bytes that nobody wants.
            drop(pieces);
            drop_rest(from).await?;
            return Ok(InputEnd::Unread);
        }
    }
}

/// Reads to the end what nobody wants.
pub(super) async fn drop_rest(from: &mut impl ReadPieces) -> io::Result<()> {
    let mut pieces = VecDeque::new();
    while take(from, &mut pieces).await? > 0 {
        pieces.clear();
    }
    Ok(())
}

/// Appends what there is; 0 at the end.
async fn take(from: &mut impl ReadPieces, pieces: &mut VecDeque<Bytes>) -> io::Result<usize> {
    poll_fn(|context| Pin::new(&mut *from).poll_pieces(context, BULK_CHUNK, pieces)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    use rustix::pipe::{PipeFlags, pipe_with};
    use tokio::io::AsyncReadExt;

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC).unwrap()
    }

    #[tokio::test]
    async fn what_was_written_before_the_last_moment_arrives_however_slow_the_client() {
        let (read, write) = pipe();
        let (mut client, server) = tokio::io::duplex(16);
        rustix::io::write(&write, &[b'x'; 40_000]).unwrap();
        let pump = tokio::spawn(async move {
            let end = End::new(read).unwrap();
            let (_from, to) = tokio::io::split(server);
            outward(&end, to, std::future::ready(())).await
        });
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen.len(), 40_000);
        pump.await.unwrap().unwrap();
        // It was open all the time.
        drop(write);
    }

    #[tokio::test]
    async fn a_writer_that_never_pauses_does_not_hold_the_client() {
        let (read, write) = pipe();
        let writer = std::thread::spawn(
            move || {
                while rustix::io::write(&write, &[b'x'; 4096]).is_ok() {}
            },
        );
        let end = End::new(read).unwrap();
        outward(&end, tokio::io::sink(), std::future::ready(()))
            .await
            .unwrap();
        drop(end);
        // Rust programs ignore SIGPIPE: the writer sees an error.
        writer.join().unwrap();
    }

    #[tokio::test]
    async fn input_that_nobody_reads_is_dropped_to_its_end() {
        let (read, write) = pipe();
        drop(read);
        let (mut client, server) = tokio::io::duplex(16);
        let (mut server, _to) = tokio::io::split(server);
        let typed = tokio::spawn(async move {
            client.write_all(&[b'x'; 10_000]).await.unwrap();
        });
        let end = End::new(write).unwrap();
        assert_eq!(inward(&mut server, &end).await.unwrap(), InputEnd::Unread);
        typed.await.unwrap();
    }

    #[tokio::test]
    async fn input_waits_for_who_reads_it() {
        let (read, write) = pipe();
        let end = End::new(write).unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            io::Read::read_to_end(&mut std::fs::File::from(read), &mut all).unwrap();
            all.len()
        });
        let (mut client, server) = tokio::io::duplex(100_000);
        let typed = tokio::spawn(async move {
            client.write_all(&vec![b'y'; 5_000_000]).await.unwrap();
        });
        let (mut from, _to) = tokio::io::split(server);
        assert_eq!(inward(&mut from, &end).await.unwrap(), InputEnd::Closed);
        typed.await.unwrap();
        drop(end);
        assert_eq!(reader.join().unwrap(), 5_000_000);
    }
}
