//! From a process that the daemon has spawned to a supervisor.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use oci_runtime::Host;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sys::Signals;

use crate::exits::Exits;
use crate::root;
use crate::runtime::{Embedded, Handler};
use crate::supervisor::Supervisor;

const SIGCHLD: i32 = rustix::process::Signal::CHILD.as_raw();

/// Signals of terminals and service managers are for the daemon; the containers here outlive it.
const IGNORED: [i32; 4] = [
    rustix::process::Signal::HUP.as_raw(),
    rustix::process::Signal::INT.as_raw(),
    rustix::process::Signal::TERM.as_raw(),
    rustix::process::Signal::PIPE.as_raw(),
];

/// The OOM killer takes every container first: kubelets give those −997 at the least.
const OOM_SCORE_ADJ: &str = "-998";

/// Why there is no supervisor, or no longer.
#[derive(Debug)]
pub(crate) struct StartError {
    what: String,
    source: Option<Box<dyn Error>>,
}

impl StartError {
    pub(crate) fn new(what: impl Into<String>, source: impl Error + 'static) -> Self {
        Self {
            what: what.into(),
            source: Some(Box::new(source)),
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref()
    }
}

/// What the host is needed for comes first; the host's root is left before the first request is read.
pub(crate) fn start(arguments: impl Iterator<Item = OsString>) -> Result<Supervisor, StartError> {
    let directory = pod_directory(arguments)?;
    let at = |what: &'static str| move |error: Errno| StartError::new(what, error);
    // Whatever else the daemon had open is none of ours, nor our children's.
    sys::close_from(3).map_err(at("close inherited descriptors"))?;
    // Refused to a process that leads a group already, which is as good.
    let _ = rustix::process::setsid();
    rustix::thread::set_name(c"longshore-pod").map_err(at("set the process's name"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(at("become the pod's subreaper"))?;
    let signals = Signals::of(&[SIGCHLD]);
    sys::block_signals(signals).map_err(at("block signals"))?;
    sys::block_signals(Signals::of(&IGNORED)).map_err(at("block signals"))?;
    let signals = sys::signal_descriptor(signals).map_err(at("open a signal descriptor"))?;

    let listener = take_listener().map_err(at("take the socket that is standard input"))?;
    let host = Host::open().map_err(|error| StartError::new("look at the host", error))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let pod_directory = rustix::fs::open(&directory, flags, Mode::empty()).map_err(|error| {
        StartError::new(
            format!("open the pod's directory {}", directory.display()),
            error,
        )
    })?;
    let exits = Exits::open(&pod_directory).map_err(at("open the directory of exit records"))?;
    let shm = root::enter(&directory).map_err(|(step, error)| StartError::new(step, error))?;

    let handler = Handler::new(Embedded::new(host, shm));
    Supervisor::new(listener, signals, handler, exits, directory)
        .map_err(at("set up the event loop"))
}

/// `--dir <absolute path> --id <pod id>`; the id is for those who read a list of processes.
fn pod_directory(mut arguments: impl Iterator<Item = OsString>) -> Result<PathBuf, StartError> {
    let wrong = |what: String| StartError { what, source: None };
    let (mut directory, mut id) = (None, None);
    while let Some(name) = arguments.next() {
        let value = arguments.next();
        let place = match name.to_str() {
            Some("--dir") => &mut directory,
            Some("--id") => &mut id,
            _ => return Err(wrong(format!("argument {} is unknown", name.display()))),
        };
        *place = Some(value.ok_or_else(|| wrong(format!("{} has no value", name.display())))?);
    }
    if id.is_none() {
        return Err(wrong("--id is missing".to_owned()));
    }
    let directory = PathBuf::from(directory.ok_or_else(|| wrong("--dir is missing".to_owned()))?);
    if !directory.is_absolute() {
        let shown = directory.display();
        return Err(wrong(format!("--dir {shown} is not absolute")));
    }
    Ok(directory)
}

/// As far as it is permitted: below what the process was ever given takes CAP_SYS_RESOURCE. Containers have scores of their own.
pub(crate) fn protect_from_oom_killer() {
    const FILE: &str = "/proc/self/oom_score_adj";
    if std::fs::write(FILE, OOM_SCORE_ADJ).is_err() {
        let score = std::fs::read_to_string(FILE).unwrap_or_default();
        if score.trim().parse().is_ok_and(|score: i32| score > 0) {
            let _advice = std::fs::write(FILE, "0");
        }
    }
}

/// The socket moves away from number 0, where every child would get it.
fn take_listener() -> Result<OwnedFd, Errno> {
    let listener = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    sys::place_descriptor(null.as_fd(), 0, true)?;
    Ok(listener)
}
