//! Bytes between a descriptor and a client.

use std::{
    future::{Future, poll_fn},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    pin::pin,
};

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, unix::AsyncFd};

/// What is carried at a time. What a pipe holds.
const CHUNK: usize = 64 * 1024;

/// What a pipe is made to hold that carries much: container and daemon then take fewer turns. The kernel grants a user's pipes 64 MiB in all.
const BULK: usize = 256 * 1024;

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

    /// Appends what there is; 0 at the end. An empty vector is given room only once there is something: who waits holds no memory.
    async fn read(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            into.reserve(CHUNK);
            match ready.try_io(|descriptor| read_now(descriptor.get_ref(), into)) {
                Ok(read) => return read,
                Err(_would_block) => *into = Vec::new(),
            }
        }
    }

    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|descriptor| Ok(rustix::io::write(descriptor.get_ref(), bytes)?)) {
                Ok(written) => bytes = &bytes[written?..],
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
struct Flow(usize);

impl Flow {
    /// Widens the pipe, once, when it turns out to carry much.
    fn carried(&mut self, count: usize, end: &End) {
        if self.0 >= BULK_FROM {
            return;
        }
        self.0 = match count < CHUNK / 2 {
            true => 0,
            false => self.0 + count,
        };
        if self.0 >= BULK_FROM {
            // What is no pipe stays as it is, and so does one that the kernel does not grant more.
            let _granted = rustix::pipe::fcntl_setpipe_size(end.descriptor(), BULK);
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

/// Carries output to the client, as fast as the client takes it, until it ends. After `last` only what is there by then is carried: somebody
/// may hold the other end and never close it. An error is the client's.
pub(super) async fn outward(
    from: &End,
    mut to: impl AsyncWrite + Unpin,
    last: impl Future<Output = ()>,
) -> io::Result<()> {
    let (mut bytes, mut flow) = (Vec::new(), Flow::default());
    tokio::pin!(last);
    loop {
        bytes.clear();
        let read = tokio::select! {
            biased;
            () = &mut last => break,
            read = from.read(&mut bytes) => read,
        };
        match read {
            Ok(0) => return to.shutdown().await,
            // A connection that is reset ends for the client as well, and not as if all had been said.
            Err(error) => return Err(error),
            Ok(count) => {
                flow.carried(count, from);
                to.write_all(&bytes).await?;
            }
        }
    }
    let mut left = rustix::pipe::fcntl_getpipe_size(from.descriptor()).unwrap_or(CHUNK);
    while left > 0 {
        bytes.clear();
        bytes.reserve(CHUNK);
        match read_now(from.0.get_ref(), &mut bytes) {
            Ok(0) | Err(_) => break,
            Ok(count) => left = left.saturating_sub(count),
        }
        to.write_all(&bytes).await?;
    }
    to.shutdown().await
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
pub(super) async fn inward(from: &mut (impl AsyncRead + Unpin), to: &End) -> io::Result<InputEnd> {
    let (mut bytes, mut flow) = (Vec::new(), Flow::default());
    while take(from, &mut bytes).await? > 0 {
        flow.carried(bytes.len(), to);
        if to.write(&bytes).await.is_err() {
            // The client's other streams must not wait behind bytes that nobody wants.
            drop_rest(from).await?;
            return Ok(InputEnd::Unread);
        }
        bytes.clear();
    }
    Ok(InputEnd::Closed)
}

/// Reads to the end what nobody wants.
pub(super) async fn drop_rest(from: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut bytes = Vec::new();
    while take(from, &mut bytes).await? > 0 {
        bytes.clear();
    }
    Ok(())
}

/// Appends what there is; 0 at the end. Who waits holds no memory.
async fn take(from: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) -> io::Result<usize> {
    poll_fn(|context| {
        into.reserve(CHUNK);
        let polled = pin!(from.read_buf(into)).poll(context);
        if polled.is_pending() {
            *into = Vec::new();
        }
        polled
    })
    .await
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
            outward(&end, server, std::future::ready(())).await
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
        let (mut client, mut server) = tokio::io::duplex(16);
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
        let input = vec![b'y'; 1_000_000];
        assert_eq!(
            inward(&mut input.as_slice(), &end).await.unwrap(),
            InputEnd::Closed
        );
        drop(end);
        assert_eq!(reader.join().unwrap(), 1_000_000);
    }
}
