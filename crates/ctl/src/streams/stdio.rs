//! Our own standard streams. They may be anything, and block; each has a thread of its own. The event loop must not wait for them, and they
//! must not be made non-blocking: others share them.

use std::{
    io::{self, Read, Write},
    thread::JoinHandle,
};

use streaming::Reader;
use tokio::{io::AsyncReadExt, sync::mpsc};

const CHUNK_BYTES: usize = 64 * 1024;

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
    let (sender, writer) = writer(to);
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        match from.read_buf(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {
                if sender.send(chunk).await.is_err() {
                    break;
                }
            }
        }
    }
    drop(sender);
    let written = tokio::task::spawn_blocking(move || writer.join()).await;
    match written {
        Ok(Ok(result)) => result,
        Ok(Err(_)) | Err(_) => Err(io::Error::other("the writing thread has ended")),
    }
}

fn writer(
    mut to: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
) -> (mpsc::Sender<Vec<u8>>, JoinHandle<io::Result<()>>) {
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(2);
    let writer = std::thread::spawn(move || {
        while let Some(chunk) = receiver.blocking_recv() {
            to(&chunk)?;
        }
        Ok(())
    });
    (sender, writer)
}

pub(super) fn to_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

pub(super) fn to_stderr(bytes: &[u8]) -> io::Result<()> {
    io::stderr().lock().write_all(bytes)
}
