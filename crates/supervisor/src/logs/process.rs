//! The log process: reads the streams of the pod's containers and appends to their logs. It may block on a log file as long
//! as that file system likes: only the logs of its own pod wait.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::io::Errno;
use supervisor_api::{AttachEnd, Outgoing, receive};

use super::control::{AttachKey, FromLogProcess, LogKey, ToLogProcess};
use super::file::LogFile;
use super::framing::{Framer, Stream};
use super::listeners::{Listeners, listener_of};
use super::timestamp::Timestamp;

/// What a pipe holds at most unless somebody made it larger.
const READ_BYTES: usize = 64 * 1024;

/// Lines of one byte grow fifty-fold; this much of a read is framed at a time so that the entries stay small.
const FRAMED_BYTES: usize = 4 * 1024;

/// Entries are written when they reach this size, or when there is nothing more to read at once.
const BATCH_BYTES: usize = 128 * 1024;

/// How long streams are still read once the supervisor is gone.
const ORPHANED: Duration = Duration::from_secs(10);

/// Reads of one stream between its end-of-drain check and the answer; bounds a writer that never pauses.
const LAST_READS: usize = 64;

const CONTROL: u64 = u64::MAX;

#[derive(Debug)]
struct LogProcess {
    epoll: OwnedFd,
    control: Option<OwnedFd>,
    logs: Vec<Log>,
    input: Vec<u8>,
    entries: Vec<u8>,
    orphaned_until: Option<Instant>,
}

#[derive(Debug)]
struct Log {
    key: LogKey,
    stdout: Option<Source>,
    stderr: Option<Source>,
    /// `None`: what is read is dropped.
    file: Option<LogFile>,
    drain_until: Option<Instant>,
    listeners: Listeners,
}

#[derive(Debug)]
struct Source {
    /// Non-blocking.
    reader: OwnedFd,
    framer: Framer,
}

enum ReadResult {
    Some,
    NothingNow,
    End,
}

/// Runs until the supervisor has closed its end of `control` and the streams have ended.
pub(super) fn run(control: OwnedFd) -> Result<(), Errno> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(
        &epoll,
        &control,
        epoll::EventData::new_u64(CONTROL),
        epoll::EventFlags::IN,
    )?;
    let mut process = LogProcess {
        epoll,
        control: Some(control),
        logs: Vec::new(),
        input: vec![0; READ_BYTES],
        entries: Vec::new(),
        orphaned_until: None,
    };
    while !process.finished() {
        process.turn()?;
    }
    Ok(())
}

impl LogProcess {
    fn finished(&self) -> bool {
        self.orphaned_until
            .is_some_and(|until| Instant::now() >= until || self.logs.iter().all(Log::ended))
    }

    fn turn(&mut self) -> Result<(), Errno> {
        let mut events = Vec::with_capacity(16);
        let timeout = self.timeout();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        for event in &events {
            match event.data.u64() {
                CONTROL => self.control(),
                token => match listener_of(token) {
                    Some((key, stream)) => self.hung_up(key, stream),
                    None => self.readable(LogKey(token >> 1), stream_of(token)),
                },
            }
        }
        self.end_overdue_drains();
        self.tell_ended_listeners();
        Ok(())
    }

    fn timeout(&self) -> Option<rustix::event::Timespec> {
        let drains = self.logs.iter().filter_map(|log| log.drain_until);
        let next = drains.chain(self.orphaned_until).min()?;
        let left = next.saturating_duration_since(Instant::now());
        rustix::event::Timespec::try_from(left).ok()
    }

    fn control(&mut self) {
        let Some(control) = &self.control else { return };
        match receive::<ToLogProcess>(control.as_fd()) {
            Ok(Some((message, descriptors))) => self.obey(message, descriptors),
            // Both ends are ours: an error here can only be want of memory or descriptors. Without orders there is nothing to do
            // but to finish; the supervisor starts a new log process.
            Ok(None) | Err(_) => {
                self.control = None;
                self.orphaned_until = Some(Instant::now() + ORPHANED);
            }
        }
    }

    fn obey(&mut self, message: ToLogProcess, descriptors: Vec<OwnedFd>) {
        let mut descriptors = descriptors.into_iter();
        match message {
            ToLogProcess::Add { key, stderr, file } => {
                let stdout = descriptors.next();
                let stderr = if stderr { descriptors.next() } else { None };
                let file = if file { descriptors.next() } else { None };
                let log = Log {
                    key,
                    stdout: stdout.and_then(|reader| self.source(key, reader, Stream::Stdout)),
                    stderr: stderr.and_then(|reader| self.source(key, reader, Stream::Stderr)),
                    file: file.map(LogFile::new),
                    drain_until: None,
                    listeners: Listeners::default(),
                };
                self.logs.push(log);
            }
            ToLogProcess::Reopen { key } => {
                if let (Some(log), Some(file)) = (self.log(key), descriptors.next()) {
                    match &mut log.file {
                        Some(current) => current.replace(file),
                        none => *none = Some(LogFile::new(file)),
                    }
                }
                self.answer(&FromLogProcess::Reopened { key });
            }
            ToLogProcess::Drain { key, bound_ms } => {
                if let Some(log) = self.log(key) {
                    log.drain_until =
                        Some(Instant::now() + Duration::from_millis(u64::from(bound_ms)));
                }
                self.answer_if_drained(key);
            }
            ToLogProcess::Remove { key } => {
                if let Some(index) = self.logs.iter().position(|log| log.key == key) {
                    let mut log = self.logs.swap_remove(index);
                    // The supervisor knows that they have ended.
                    log.listeners.end_all(&self.epoll);
                    for source in [log.stdout, log.stderr].into_iter().flatten() {
                        forget(&self.epoll, &source);
                    }
                }
            }
            ToLogProcess::Attach {
                key,
                attach,
                stdout,
                stderr,
            } => {
                let stdout = if stdout { descriptors.next() } else { None };
                let stderr = if stderr { descriptors.next() } else { None };
                self.attach(key, attach, stdout, stderr);
            }
        }
    }

    fn attach(
        &mut self,
        key: LogKey,
        attach: AttachKey,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) {
        // Before it the listener could miss what its own input calls forth.
        self.answer(&FromLogProcess::Attached { attach });
        let Some(log) = self.logs.iter_mut().find(|log| log.key == key) else {
            let reason = AttachEnd::Output;
            return self.answer(&FromLogProcess::AttachEnded { attach, reason });
        };
        log.listeners.add(&self.epoll, attach, stdout, stderr);
        for (source, stream) in [(&log.stdout, Stream::Stdout), (&log.stderr, Stream::Stderr)] {
            if source.is_none() {
                log.listeners.end(&self.epoll, stream);
            }
        }
    }

    fn hung_up(&mut self, attach: AttachKey, stream: Stream) {
        let log = self.logs.iter_mut().find(|log| log.listeners.has(attach));
        if let Some(log) = log {
            log.listeners.hung_up(&self.epoll, attach, stream);
        }
    }

    fn tell_ended_listeners(&mut self) {
        let mut ended = Vec::new();
        for log in &mut self.logs {
            ended.append(&mut log.listeners.take_ended());
        }
        for (attach, reason) in ended {
            self.answer(&FromLogProcess::AttachEnded { attach, reason });
        }
    }

    fn source(&self, key: LogKey, reader: OwnedFd, stream: Stream) -> Option<Source> {
        let token = (key.0 << 1) | u64::from(stream == Stream::Stderr);
        epoll::add(
            &self.epoll,
            &reader,
            epoll::EventData::new_u64(token),
            epoll::EventFlags::IN,
        )
        .ok()?;
        Some(Source {
            reader,
            framer: Framer::new(stream),
        })
    }

    fn log(&mut self, key: LogKey) -> Option<&mut Log> {
        self.logs.iter_mut().find(|log| log.key == key)
    }

    fn readable(&mut self, key: LogKey, stream: Stream) {
        // Removed by an event before this one.
        let Some(log) = self.logs.iter_mut().find(|log| log.key == key) else {
            return;
        };
        if let ReadResult::End = log.read(&self.epoll, stream, &mut self.input, &mut self.entries) {
            self.answer_if_drained(key);
        }
    }

    fn end_overdue_drains(&mut self) {
        let now = Instant::now();
        let overdue = |log: &Log| log.drain_until.is_some_and(|until| until <= now);
        while let Some(index) = self.logs.iter().position(overdue) {
            let log = &mut self.logs[index];
            for stream in [Stream::Stdout, Stream::Stderr] {
                for _ in 0..LAST_READS {
                    match log.read(&self.epoll, stream, &mut self.input, &mut self.entries) {
                        ReadResult::Some => {}
                        ReadResult::NothingNow | ReadResult::End => break,
                    }
                }
                log.finish_line(stream, &mut self.entries);
            }
            log.listeners.end_all(&self.epoll);
            log.drain_until = None;
            let answer = log.drained();
            self.answer(&answer);
        }
    }

    fn answer_if_drained(&mut self, key: LogKey) {
        let answer = match self.log(key) {
            Some(log) if log.ended() && log.drain_until.is_some() => {
                log.drain_until = None;
                log.drained()
            }
            Some(_) => return,
            // Asked about a log that was never added: nothing can be missing from it.
            None => FromLogProcess::Drained { key, trouble: None },
        };
        self.answer(&answer);
    }

    /// The socket blocks when it is full; the supervisor never stops reading it.
    fn answer(&self, message: &FromLogProcess) {
        if let (Some(control), Ok(outgoing)) = (&self.control, Outgoing::new(message, Vec::new())) {
            // A supervisor that is gone needs no answer.
            let _ = outgoing.send(control.as_fd());
        }
    }
}

impl Log {
    fn ended(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    fn drained(&self) -> FromLogProcess {
        FromLogProcess::Drained {
            key: self.key,
            trouble: self.file.as_ref().and_then(LogFile::loss),
        }
    }

    /// Reads once and writes what that completes.
    fn read(
        &mut self,
        epoll: &OwnedFd,
        stream: Stream,
        input: &mut [u8],
        entries: &mut Vec<u8>,
    ) -> ReadResult {
        let place = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(source) = place else {
            return ReadResult::End;
        };
        let count = match rustix::io::read(&source.reader, &mut *input) {
            Err(Errno::AGAIN | Errno::INTR) => return ReadResult::NothingNow,
            // A terminal's master answers EIO once nobody has the other side open. Any other error ends the stream as well.
            Ok(0) | Err(_) => {
                forget(epoll, source);
                self.listeners.end(epoll, stream);
                self.finish_line(stream, entries);
                match stream {
                    Stream::Stdout => self.stdout = None,
                    Stream::Stderr => self.stderr = None,
                }
                return ReadResult::End;
            }
            Ok(count) => count,
        };
        // First those who never block.
        self.listeners.give(epoll, stream, &input[..count]);
        let Some(file) = &mut self.file else {
            return ReadResult::Some;
        };
        let now = Timestamp::now();
        for piece in input[..count].chunks(FRAMED_BYTES) {
            source.framer.push(piece, &now, entries);
            if entries.len() >= BATCH_BYTES {
                file.append(entries);
                entries.clear();
            }
        }
        if !entries.is_empty() {
            file.append(entries);
            entries.clear();
        }
        ReadResult::Some
    }

    fn finish_line(&mut self, stream: Stream, entries: &mut Vec<u8>) {
        let source = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        if let (Some(source), Some(file)) = (source, &mut self.file) {
            source.framer.finish(&Timestamp::now(), entries);
            file.append(entries);
            entries.clear();
        }
    }
}

/// Closing is not enough: the supervisor holds the same open file, and epoll would go on reporting its end for ever.
fn forget(epoll: &OwnedFd, source: &Source) {
    // It fails only for what was never added.
    let _ = epoll::delete(epoll, &source.reader);
}

fn stream_of(token: u64) -> Stream {
    if token & 1 == 0 {
        Stream::Stdout
    } else {
        Stream::Stderr
    }
}
