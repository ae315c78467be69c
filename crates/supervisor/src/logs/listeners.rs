//! Those who are attached to a container: pipes that get a copy of its output.
//!
//! A pipe is the whole buffer: it costs this process no memory, and a listener whose pipe is full has lagged further than it may. It is
//! disconnected; neither the container nor its log waits for it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll;
use rustix::io::Errno;
use supervisor_api::AttachEnd;

use super::control::AttachKey;
use super::framing::Stream;

/// Tells the tokens of listeners from those of streams.
const LISTENER: u64 = 1 << 63;

#[derive(Debug, Default)]
pub(super) struct Listeners {
    listeners: Vec<Listener>,
    /// Not yet told.
    ended: Vec<(AttachKey, AttachEnd)>,
}

#[derive(Debug)]
struct Listener {
    key: AttachKey,
    /// Non-blocking.
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// The listener that a token stands for, if it is a listener's.
pub(super) fn listener_of(token: u64) -> Option<(AttachKey, Stream)> {
    if token & LISTENER == 0 {
        return None;
    }
    let stream = match token & 1 {
        0 => Stream::Stdout,
        _ => Stream::Stderr,
    };
    Some((AttachKey(((token & !LISTENER) >> 1) as u32), stream))
}

impl Listeners {
    pub(super) fn add(
        &mut self,
        epoll: &OwnedFd,
        key: AttachKey,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) {
        for (pipe, stream) in [(&stdout, Stream::Stdout), (&stderr, Stream::Stderr)] {
            let Some(pipe) = pipe else { continue };
            let token = LISTENER | (u64::from(key.0) << 1) | u64::from(stream == Stream::Stderr);
            let data = epoll::EventData::new_u64(token);
            // Only the end of its reader is waited for, which epoll reports unasked. Without it that is noticed at the next output.
            let _ = epoll::add(epoll, pipe, data, epoll::EventFlags::empty());
        }
        self.listeners.push(Listener {
            key,
            stdout,
            stderr,
        });
    }

    pub(super) fn has(&self, key: AttachKey) -> bool {
        self.listeners.iter().any(|one| one.key == key)
    }

    /// Copies the output to all who hear that stream.
    pub(super) fn give(&mut self, epoll: &OwnedFd, stream: Stream, bytes: &[u8]) {
        self.each(epoll, stream, |pipe| match write(pipe, bytes) {
            Ok(()) => Fate::Stays,
            Err(Errno::AGAIN) => Fate::Ends(AttachEnd::Lagged),
            Err(_) => Fate::Closes(AttachEnd::Detached),
        });
    }

    /// The container's stream has ended.
    pub(super) fn end(&mut self, epoll: &OwnedFd, stream: Stream) {
        self.each(epoll, stream, |_| Fate::Closes(AttachEnd::Output));
    }

    /// All there will be has been said.
    pub(super) fn end_all(&mut self, epoll: &OwnedFd) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.end(epoll, stream);
        }
    }

    /// Nobody reads that pipe any more.
    pub(super) fn hung_up(&mut self, epoll: &OwnedFd, key: AttachKey, stream: Stream) {
        let Some(index) = self.listeners.iter().position(|one| one.key == key) else {
            return;
        };
        let listener = &mut self.listeners[index];
        if let Some(pipe) = listener.pipe(stream).take() {
            forget(epoll, &pipe);
        }
        if listener.is_deaf() {
            self.listeners.swap_remove(index);
            self.ended.push((key, AttachEnd::Detached));
        }
    }

    /// Those that have ended since the last call.
    pub(super) fn take_ended(&mut self) -> Vec<(AttachKey, AttachEnd)> {
        std::mem::take(&mut self.ended)
    }

    fn each(&mut self, epoll: &OwnedFd, stream: Stream, act: impl Fn(&OwnedFd) -> Fate) {
        let ended = &mut self.ended;
        self.listeners.retain_mut(|listener| {
            let place = listener.pipe(stream);
            let (whole, reason) = match place.as_ref().map(&act) {
                None | Some(Fate::Stays) => return true,
                Some(Fate::Closes(reason)) => (false, reason),
                Some(Fate::Ends(reason)) => (true, reason),
            };
            if let Some(pipe) = place.take() {
                forget(epoll, &pipe);
            }
            if !whole && !listener.is_deaf() {
                return true;
            }
            for pipe in [&listener.stdout, &listener.stderr].into_iter().flatten() {
                forget(epoll, pipe);
            }
            ended.push((listener.key, reason));
            false
        });
    }
}

/// What becomes of a listener.
enum Fate {
    Stays,
    /// It loses that pipe, and goes with its last.
    Closes(AttachEnd),
    Ends(AttachEnd),
}

impl Listener {
    fn pipe(&mut self, stream: Stream) -> &mut Option<OwnedFd> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn is_deaf(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }
}

/// The whole of it; EAGAIN: it did not fit.
fn write(pipe: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(pipe, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Closing is not enough while another process still holds the pipe, as a child does between its clone and its program.
fn forget(epoll: &OwnedFd, pipe: &OwnedFd) {
    // It fails for what could not be added.
    let _ = epoll::delete(epoll, pipe.as_fd());
}

#[cfg(test)]
mod tests {
    use super::*;

    use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

    fn epoll() -> OwnedFd {
        epoll::create(epoll::CreateFlags::CLOEXEC).unwrap()
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        fcntl_setpipe_size(&write, 4096).unwrap();
        (read, write)
    }

    fn read(pipe: &OwnedFd) -> Result<String, Errno> {
        let mut bytes = [0; 8192];
        let count = rustix::io::read(pipe, &mut bytes)?;
        Ok(String::from_utf8(bytes[..count].to_vec()).unwrap())
    }

    #[test]
    fn each_gets_a_copy_and_the_laggard_goes_alone() {
        let epoll = epoll();
        let mut listeners = Listeners::default();
        let ((fast, to_fast), (slow, to_slow)) = (pipe(), pipe());
        let (slow_err, to_slow_err) = pipe();
        listeners.add(&epoll, AttachKey(1), Some(to_fast), None);
        listeners.add(&epoll, AttachKey(2), Some(to_slow), Some(to_slow_err));
        let block = "x".repeat(3000);
        for _ in 0..2 {
            listeners.give(&epoll, Stream::Stdout, block.as_bytes());
            assert_eq!(read(&fast).unwrap(), block);
        }
        assert_eq!(listeners.take_ended(), [(AttachKey(2), AttachEnd::Lagged)]);
        // It gets what fitted, here a whole write, and then an end on every stream.
        assert_eq!(read(&slow).unwrap().len(), 3000);
        assert_eq!(read(&slow).unwrap(), "");
        assert_eq!(read(&slow_err).unwrap(), "");
        listeners.give(&epoll, Stream::Stderr, b"unheard");
        assert_eq!(read(&fast), Err(Errno::AGAIN));
        listeners.end_all(&epoll);
        assert_eq!(listeners.take_ended(), [(AttachKey(1), AttachEnd::Output)]);
        assert_eq!(read(&fast).unwrap(), "");
    }

    #[test]
    fn a_reader_that_goes_is_noticed_without_output() {
        let epoll = epoll();
        let mut listeners = Listeners::default();
        let ((out, to_out), (err, to_err)) = (pipe(), pipe());
        listeners.add(&epoll, AttachKey(7), Some(to_out), Some(to_err));
        drop(err);
        let mut events = Vec::with_capacity(4);
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
        let tokens: Vec<_> = events.iter().map(|event| event.data.u64()).collect();
        assert_eq!(tokens.len(), 1);
        let (key, stream) = listener_of(tokens[0]).unwrap();
        assert_eq!((key, stream), (AttachKey(7), Stream::Stderr));
        listeners.hung_up(&epoll, key, stream);
        // The other stream goes on.
        assert!(listeners.has(key));
        listeners.give(&epoll, Stream::Stdout, b"still");
        assert_eq!(read(&out).unwrap(), "still");
        drop(out);
        listeners.give(&epoll, Stream::Stdout, b"nobody");
        assert_eq!(
            listeners.take_ended(),
            [(AttachKey(7), AttachEnd::Detached)]
        );
        assert!(!listeners.has(key));
    }
}
