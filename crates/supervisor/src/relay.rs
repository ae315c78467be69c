use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::FileType;
use rustix::io::Errno;
use supervisor_api::WireError;

use crate::poll::{Interest, Poll, RelayEnd, Source};
use crate::runtime::{internal, invalid};

/// What is carried at a time, one way.
const CHUNK_BYTES: usize = 4096;

/// Carries bytes between an exec's terminal and the pipes that the daemon gave for it, never more than one chunk ahead of the slower
/// side.
#[derive(Debug)]
pub(crate) struct Relay {
    master: End,
    stdin: Option<End>,
    stdout: Option<End>,
    inward: Vec<u8>,
    outward: Vec<u8>,
    hung_up: bool,
}

#[derive(Debug)]
struct End {
    file: OwnedFd,
    watched: Option<Interest>,
}

enum Read {
    Some,
    Nothing,
    End,
}

impl Relay {
    /// Pipes, sockets and terminals can be waited for; regular files cannot.
    pub(crate) fn check_end(end: &OwnedFd) -> Result<(), WireError> {
        let status = rustix::fs::fstat(end)
            .map_err(|error| internal(format!("look at its standard streams: {error}")))?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Fifo | FileType::Socket | FileType::CharacterDevice => Ok(()),
            _ => Err(invalid(
                "with a terminal, stdin and stdout must be pipes or sockets".to_owned(),
            )),
        }
    }

    pub(crate) fn new(
        poll: &Poll,
        key: u32,
        master: OwnedFd,
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
    ) -> Result<Self, Errno> {
        for file in [Some(&master), stdin.as_ref(), stdout.as_ref()]
            .into_iter()
            .flatten()
        {
            rustix::io::ioctl_fionbio(file, true)?;
        }
        let end = |file| End {
            file,
            watched: None,
        };
        let mut relay = Self {
            master: end(master),
            stdin: stdin.map(end),
            stdout: stdout.map(end),
            inward: Vec::new(),
            outward: Vec::new(),
            hung_up: false,
        };
        relay.watch(poll, key)?;
        Ok(relay)
    }

    pub(crate) fn console(&self) -> BorrowedFd<'_> {
        self.master.file.as_fd()
    }

    /// All output has been passed on.
    pub(crate) fn finished(&self) -> bool {
        self.hung_up && self.outward.is_empty()
    }

    /// Moves what can be moved. A hang-up without anything to move closes the end that hung up.
    pub(crate) fn turn(&mut self, poll: &Poll, key: u32, end: RelayEnd) {
        if end == RelayEnd::Stdin && self.inward.is_empty() {
            self.take_input(poll);
        }
        if end == RelayEnd::Stdout && self.outward.is_empty() {
            self.close_stdout(poll);
        }
        self.put_input();
        self.put_output(poll);
        if end == RelayEnd::Master && self.outward.is_empty() && !self.hung_up {
            self.take_output(poll);
            self.put_output(poll);
        }
        if self.watch(poll, key).is_err() {
            self.close(poll);
            self.hung_up = true;
            self.outward.clear();
        }
    }

    /// Lets go of everything; the daemon sees the end of the output.
    pub(crate) fn close(&mut self, poll: &Poll) {
        poll.remove(&self.master.file);
        if let Some(stdin) = self.stdin.take() {
            poll.remove(&stdin.file);
        }
        self.close_stdout(poll);
    }

    fn take_input(&mut self, poll: &Poll) {
        let Some(stdin) = &self.stdin else { return };
        match read(&stdin.file, &mut self.inward) {
            Read::Some | Read::Nothing => {}
            Read::End => {
                poll.remove(&stdin.file);
                self.stdin = None;
            }
        }
    }

    fn take_output(&mut self, poll: &Poll) {
        match read(&self.master.file, &mut self.outward) {
            Read::Some | Read::Nothing => {}
            // EIO: nobody has the terminal open any more.
            Read::End => {
                self.hung_up = true;
                poll.remove(&self.master.file);
                self.master.watched = None;
            }
        }
        // Read and dropped, so that the program does not stall.
        if self.stdout.is_none() {
            self.outward.clear();
        }
    }

    fn put_input(&mut self) {
        if write(&self.master.file, &mut self.inward).is_err() {
            self.inward.clear();
        }
    }

    fn put_output(&mut self, poll: &Poll) {
        if let Some(stdout) = &self.stdout
            && write(&stdout.file, &mut self.outward).is_err()
        {
            self.close_stdout(poll);
        }
    }

    fn close_stdout(&mut self, poll: &Poll) {
        if let Some(stdout) = self.stdout.take() {
            poll.remove(&stdout.file);
        }
        self.outward.clear();
    }

    /// An end that nothing is wanted of is not watched at all: epoll would report its hang-up without pause.
    fn watch(&mut self, poll: &Poll, key: u32) -> Result<(), Errno> {
        let source = |end| Source::Relay(key, end);
        let (readable, writable) = (self.outward.is_empty(), !self.inward.is_empty());
        let master = match (readable, writable) {
            _ if self.hung_up => None,
            (true, true) => Some(Interest::ReadWrite),
            (true, false) => Some(Interest::Read),
            (false, true) => Some(Interest::Write),
            (false, false) => None,
        };
        self.master.watch(poll, source(RelayEnd::Master), master)?;
        if let Some(stdin) = &mut self.stdin {
            let wanted = self.inward.is_empty().then_some(Interest::Read);
            stdin.watch(poll, source(RelayEnd::Stdin), wanted)?;
        }
        if let Some(stdout) = &mut self.stdout {
            let wanted = (!self.outward.is_empty()).then_some(Interest::Write);
            stdout.watch(poll, source(RelayEnd::Stdout), wanted)?;
        }
        Ok(())
    }
}

impl End {
    fn watch(
        &mut self,
        poll: &Poll,
        source: Source,
        wanted: Option<Interest>,
    ) -> Result<(), Errno> {
        match (self.watched, wanted) {
            (before, after) if before == after => return Ok(()),
            (None, Some(interest)) => poll.add(self.file.as_fd(), source, interest)?,
            (Some(_), Some(interest)) => poll.change(self.file.as_fd(), source, interest)?,
            (_, None) => poll.remove(&self.file),
        }
        self.watched = wanted;
        Ok(())
    }
}

fn read(file: &OwnedFd, into: &mut Vec<u8>) -> Read {
    let mut chunk = [0; CHUNK_BYTES];
    match rustix::io::read(file, &mut chunk) {
        Ok(0) => Read::End,
        Ok(count) => {
            into.extend_from_slice(&chunk[..count]);
            Read::Some
        }
        Err(Errno::AGAIN | Errno::INTR) => Read::Nothing,
        Err(_) => Read::End,
    }
}

/// What could not be written now stays.
fn write(file: &OwnedFd, from: &mut Vec<u8>) -> Result<(), Errno> {
    while !from.is_empty() {
        match rustix::io::write(file, from) {
            Ok(count) => drop(from.drain(..count)),
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
