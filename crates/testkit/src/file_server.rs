//! A file server that stops answering on demand: what a dead NFS server looks like to those who touch its files.
//!
//! It speaks the kernel's FUSE protocol (`linux/fuse.h`) over `/dev/fuse`, for directories and files that are only read. Nothing of it is
//! cached by the kernel, so that every look at a path is a request.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::sandbox::Sandbox;

/// How soon a change of mind is noticed.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// A bound on what the kernel asks at once.
const LIMIT: Duration = Duration::from_secs(30);

/// The largest request is a write, which this server refuses; the kernel wants the room all the same.
const REQUEST_BYTES: usize = 256 * 1024;

const ROOT: u64 = 1;

/// A mount inside a sandbox, served by a thread of the test. Dropping it is the server's death: whoever waits for it gets an error, and
/// the mount stays, with nobody behind it, until it is unmounted.
#[derive(Debug)]
pub struct FileServer {
    mood: Arc<AtomicU8>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FileServer {
    /// Mounts on a directory of the sandbox. `files` are paths below it, and what is in them.
    ///
    /// # Errors
    /// The kernel has no FUSE, or the directory is not there.
    pub fn mount(sandbox: &Sandbox, on: &str, files: &[(&str, &str)]) -> anyhow::Result<Self> {
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nonblock)
            .open("/dev/fuse")
            .context("open /dev/fuse (is the kernel's module fuse there?)")?;
        let mood = Arc::new(AtomicU8::new(SERVES));
        let ended = Arc::new(AtomicBool::new(false));
        let (answered, first_answer) = mpsc::channel();
        let server = Server {
            device: device.try_clone()?,
            nodes: nodes(files),
            mood: Arc::clone(&mood),
            swallowed: Vec::new(),
            answered: Some(answered),
            ended: Arc::clone(&ended),
        };
        let thread = thread::Builder::new()
            .name("file-server".into())
            .spawn(move || server.serve())?;
        let server = Self {
            mood,
            ended,
            thread: Some(thread),
        };
        let options = "fd=0,rootmode=40000,user_id=0,group_id=0,allow_other";
        let output = sandbox
            .command("mount")
            .args(["-i", "-t", "fuse", "-o", options, "file-server", on])
            .stdin(Stdio::from(device))
            .output()
            .context("run mount (package mount)")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "mount on {on}: {said}");
        // The mount does not wait for the answer to INIT, and who comes before it does not wait as others do.
        first_answer
            .recv_timeout(LIMIT)
            .context("wait for the first answer")?;
        Ok(server)
    }

    /// From now on nobody is answered; who waits can be killed.
    pub fn hang(&self) {
        self.turn(HANGS);
    }

    /// From now on requests are taken and not answered: who waits cannot even be killed (process state D).
    pub fn swallow(&self) {
        self.turn(SWALLOWS);
    }

    /// Answers again, first those who have waited.
    pub fn resume(&self) {
        self.turn(SERVES);
    }

    fn turn(&self, mood: u8) {
        self.mood.store(mood, Ordering::Release);
        // It may be at an answer.
        thread::sleep(Duration::from_millis(50));
    }
}

const SERVES: u8 = 0;
const HANGS: u8 = 1;
const SWALLOWS: u8 = 2;

impl Drop for FileServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic there has failed the test already, by what it did not answer.
            let _panicked = thread.join();
        }
    }
}

#[derive(Debug)]
struct Node {
    parent: u64,
    name: String,
    /// `None`: a directory.
    content: Option<Vec<u8>>,
}

fn nodes(files: &[(&str, &str)]) -> BTreeMap<u64, Node> {
    let root = Node {
        parent: ROOT,
        name: String::new(),
        content: None,
    };
    let mut nodes = BTreeMap::from([(ROOT, root)]);
    for (path, content) in files {
        let mut parent = ROOT;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            let is_file = names.peek().is_none();
            let known = child(&nodes, parent, name);
            parent = known.unwrap_or_else(|| {
                let id = ROOT + nodes.len() as u64;
                let node = Node {
                    parent,
                    name: name.to_owned(),
                    content: is_file.then(|| content.as_bytes().to_vec()),
                };
                nodes.insert(id, node);
                id
            });
        }
    }
    nodes
}

fn child(nodes: &BTreeMap<u64, Node>, parent: u64, name: &str) -> Option<u64> {
    let mut children = nodes.iter();
    let found = children.find(|(id, n)| **id != ROOT && n.parent == parent && n.name == name);
    found.map(|(id, _)| *id)
}

struct Server {
    device: File,
    nodes: BTreeMap<u64, Node>,
    mood: Arc<AtomicU8>,
    swallowed: Vec<Vec<u8>>,
    /// Who waits for the first answer.
    answered: Option<Sender<()>>,
    ended: Arc<AtomicBool>,
}

/// Operations that are answered with something else than "not implemented".
mod operation {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const READDIR: u32 = 28;
    pub(super) const RELEASEDIR: u32 = 29;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
}

impl Server {
    fn serve(mut self) {
        let mut buffer = vec![0; REQUEST_BYTES];
        while !self.ended.load(Ordering::Acquire) {
            let mood = self.mood.load(Ordering::Acquire);
            if mood == HANGS {
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            if mood == SERVES {
                for request in std::mem::take(&mut self.swallowed) {
                    self.answer(&request);
                }
            }
            let mut ready = [PollFd::from_borrowed_fd(self.device.as_fd(), PollFlags::IN)];
            if !matches!(poll(&mut ready, Some(&TICK)), Ok(1..)) {
                continue;
            }
            match self.device.read(&mut buffer) {
                Ok(length) if mood == SWALLOWS => self.swallowed.push(buffer[..length].to_vec()),
                Ok(length) => {
                    self.answer(&buffer[..length]);
                    if let Some(first) = self.answered.take() {
                        // Nobody waits any more.
                        let _unheard = first.send(());
                    }
                }
                // Not mounted yet (EPERM), or the request was withdrawn.
                Err(error) if error.raw_os_error() != Some(Errno::NODEV.raw_os_error()) => {
                    thread::sleep(Duration::from_millis(1));
                }
                // Unmounted.
                Err(_) => return,
            }
        }
    }

    /// `fuse_in_header`: length, operation, number, node, then user, group and process.
    fn answer(&mut self, request: &[u8]) {
        let (operation, number, node) =
            (u32_at(request, 4), u64_at(request, 8), u64_at(request, 16));
        let body = request.get(40..).unwrap_or_default();
        let answer = match operation {
            operation::FORGET | operation::BATCH_FORGET | operation::INTERRUPT => return,
            operation::INIT => Ok(init(body)),
            operation::LOOKUP => self.lookup(node, body),
            operation::GETATTR => self.attributes_of(node),
            operation::OPEN | operation::OPENDIR | operation::STATFS => Ok(vec![
                0;
                match operation {
                    operation::STATFS => 80,
                    _ => 16,
                }
            ]),
            operation::READ => self.read(node, body),
            operation::READDIR => self.list(node, body),
            operation::RELEASE | operation::RELEASEDIR | operation::FLUSH => Ok(Vec::new()),
            _ => Err(Errno::NOSYS),
        };
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(errno) => (-errno.raw_os_error(), Vec::new()),
        };
        let length = u32::try_from(16 + body.len()).unwrap_or(16);
        let mut reply = Vec::with_capacity(16 + body.len());
        reply.extend(length.to_ne_bytes());
        reply.extend(error.to_ne_bytes());
        reply.extend(number.to_ne_bytes());
        reply.extend(body);
        // Whoever asked may have gone.
        let _withdrawn = self.device.write(&reply);
    }

    /// `fuse_entry_out`; valid for no time at all.
    fn lookup(&self, parent: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name).map_err(|_| Errno::NOENT)?;
        let node = child(&self.nodes, parent, name).ok_or(Errno::NOENT)?;
        let mut entry = Vec::new();
        entry.extend(node.to_ne_bytes());
        entry.extend([0; 32]);
        entry.extend(self.attributes(node)?);
        Ok(entry)
    }

    /// `fuse_attr_out`
    fn attributes_of(&self, node: u64) -> Result<Vec<u8>, Errno> {
        let mut answer = vec![0; 16];
        answer.extend(self.attributes(node)?);
        Ok(answer)
    }

    /// `fuse_attr`
    fn attributes(&self, id: u64) -> Result<Vec<u8>, Errno> {
        let node = self.nodes.get(&id).ok_or(Errno::NOENT)?;
        let (mode, size) = match &node.content {
            Some(content) => (0o100_644_u32, content.len() as u64),
            None => (0o40_755, 0),
        };
        let mut attributes = Vec::with_capacity(88);
        for field in [id, size, 1, 0, 0, 0] {
            attributes.extend(field.to_ne_bytes());
        }
        for field in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
            attributes.extend(field.to_ne_bytes());
        }
        Ok(attributes)
    }

    fn read(&self, id: u64, body: &[u8]) -> Result<Vec<u8>, Errno> {
        let content = self.nodes.get(&id).and_then(|node| node.content.as_ref());
        Ok(part(content.ok_or(Errno::ISDIR)?, body))
    }

    /// `fuse_dirent`s
    fn list(&self, id: u64, body: &[u8]) -> Result<Vec<u8>, Errno> {
        let mut entries = Vec::new();
        let children = self.nodes.iter();
        for (child, node) in children.filter(|(child, node)| **child != ROOT && node.parent == id) {
            let kind: u32 = if node.content.is_some() { 8 } else { 4 };
            let padded = node.name.len().next_multiple_of(8);
            let next = (entries.len() + 24 + padded) as u64;
            entries.extend(child.to_ne_bytes());
            entries.extend(next.to_ne_bytes());
            entries.extend((node.name.len() as u32).to_ne_bytes());
            entries.extend(kind.to_ne_bytes());
            entries.extend(node.name.as_bytes());
            entries.resize(entries.len() + padded - node.name.len(), 0);
        }
        Ok(part(&entries, body))
    }
}

/// `fuse_init_out` of protocol 7.31, without any feature.
fn init(body: &[u8]) -> Vec<u8> {
    let mut answer = Vec::with_capacity(64);
    for field in [7, 31, u32_at(body, 8), 0, 0, 64 * 1024] {
        answer.extend(u32::to_ne_bytes(field));
    }
    answer.resize(64, 0);
    answer
}

/// What a read asks for: `fuse_read_in` has the handle, the offset, the size.
fn part(content: &[u8], body: &[u8]) -> Vec<u8> {
    let start = usize::try_from(u64_at(body, 8)).unwrap_or(usize::MAX);
    let size = u32_at(body, 16) as usize;
    let rest = content.get(start..).unwrap_or_default();
    rest[..rest.len().min(size)].to_vec()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes
        .get(at..at + 4)
        .and_then(|field| field.try_into().ok());
    field.map_or(0, u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes
        .get(at..at + 8)
        .and_then(|field| field.try_into().ok());
    field.map_or(0, u64::from_ne_bytes)
}
