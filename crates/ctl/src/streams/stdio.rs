//! Our own standard streams. They may be anything, and block; each has a thread of its own. The event loop must not wait for them, and they
//! must not be made non-blocking: others share them.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, Read},
    os::fd::BorrowedFd,
    pin::Pin,
};

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
};
use streaming::{ReadPieces, Reader};
use tokio::sync::{mpsc, oneshot};

const CHUNK_BYTES: usize = 64 * 1024;

/// What is handed to the thread that writes, at a time.
const SHOWN_BYTES: usize = 256 * 1024;

type Pieces = VecDeque<Bytes>;

/// What is typed, chunk by chunk, until its end. The thread ends with the process: nothing interrupts a read.
pub(super) fn typed() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(2);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            match stdin.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => chunk.truncate(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A terminal that has hung up.
                Err(_) => return,
            }
            if sender.blocking_send(chunk).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Shows all that comes from `from`. An error is that of writing, such as a closed pipe; one of reading is the connection's, which says so itself.
pub(super) async fn show(
    from: Option<Reader>,
    to: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let (sender, written) = writer(to);
    loop {
        let mut pieces = VecDeque::new();
        let read =
            poll_fn(|context| Pin::new(&mut from).poll_pieces(context, SHOWN_BYTES, &mut pieces));
        let Ok(1..) = read.await else { break };
        if sender.send(pieces).await.is_err() {
            break;
        }
    }
    drop(sender);
    let ended = || io::Error::other("the writing thread has ended");
    written.await.map_err(|_| ended())?
}

/// Where to send what is to be written, and who tells how that ended. Nobody has to wait for a thread that hangs in a write: it ends with the
/// process.
fn writer(
    mut to: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
) -> (mpsc::Sender<Pieces>, oneshot::Receiver<io::Result<()>>) {
    let (sender, mut receiver) = mpsc::channel::<Pieces>(2);
    let (ended, written) = oneshot::channel();
    std::thread::spawn(move || {
        let mut all = Ok(());
        while let (Ok(()), Some(pieces)) = (&all, receiver.blocking_recv()) {
            all = pieces.iter().try_for_each(|piece| to(piece));
        }
        // Who has gone need not know.
        let _told = ended.send(all);
    });
    (sender, written)
}

/// Without the standard library's lock, which whoever says a last word has to have: a write may hang.
pub(super) fn to_stdout(bytes: &[u8]) -> io::Result<()> {
    write_all(rustix::stdio::stdout(), bytes)
}

/// As [`to_stdout`].
pub(super) fn to_stderr(bytes: &[u8]) -> io::Result<()> {
    write_all(rustix::stdio::stderr(), bytes)
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Somebody who shares it has made it non-blocking.
            Err(Errno::AGAIN) => {
                let mut asked = [PollFd::new(&to, PollFlags::OUT)];
                rustix::event::poll(&mut asked, None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
