//! The systemd cgroup driver: systemd owns the tree of cgroups, and each pod has one *scope* in its slice, delegated to us.
//!
//! ```text
//!  kubepods.slice/…/kubepods-burstable-podUID.slice/     the kubelet's; its limits are the pod's
//!      longshore-ID.scope/                               made by systemd when asked to, delegated
//!          anchor/    the process that keeps it alive
//!          ID/        the pod's own, as without systemd
//!          CONTAINER/ limits are files that we write, as without systemd
//! ```
//!
//! systemd keeps its hands off what is below a delegated unit, on `daemon-reload` too. So D-Bus is needed once in a pod's life, and
//! neither containers nor execs nor updates wait for it; nor does removal, because an empty scope goes away by itself. Each request
//! has a connection of its own, which ends with it: nothing is shared that could hang.
//!
//! All supervisors have one more scope together (`supervisor::Nest`).
//!
//! See `docs/decisions/2026-11-21-systemd-driver.md`.

mod connection;
mod message;

use std::{fs, os::fd::OwnedFd, time::Duration};

use cgroup::{CgroupPath, Slice};
use rustix::fs::{Mode, OFlags};
use tokio::sync::Semaphore;

use crate::id::PodId;
use connection::Connection;
pub(crate) use connection::ConnectionError;
use message::{Argument, Incoming, Kind, Method, Value, Writer};

/// systemd's own socket, where no bus is between it and us.
const SOCKET: &str = "/run/systemd/private";

/// For one request, with its wait for a turn. systemd runs jobs one after the other; one that takes longer is not well.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Between attempts at a socket where nobody listens at the moment.
pub(crate) const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Every connection hears of every job: more at once are slower, not faster.
const AT_ONCE: usize = 8;

static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);

const OF_POD: &str = "Pod of longshored";

const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

const START: Method = Method {
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
    member: "StartTransientUnit",
};

/// A pod's scope, or that of all supervisors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    unit: String,
    slice: String,
    description: &'static str,
}

/// Why a path is no place for the scope of supervisors.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SupervisorsError {
    #[error("{0:?} is no scope in a slice, such as \"/system.slice/longshore-supervisors.scope\"")]
    NoScope(String),
    #[error("the slice of {path:?}")]
    Slice {
        path: String,
        #[source]
        source: cgroup::SliceError,
    },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ScopeError {
    #[error("open {SOCKET}: does systemd run here?")]
    Socket(#[source] rustix::io::Errno),
    #[error("talk to systemd")]
    Connection(#[source] ConnectionError),
    #[error("systemd does not start {unit} in {slice}: {name}: {text}")]
    Refused {
        unit: String,
        slice: String,
        name: String,
        text: String,
    },
    #[error("systemd's job for {unit} ended as {result:?}")]
    Job { unit: String, result: String },
    #[error("systemd has not started {unit} within {} s", within.as_secs())]
    Late { unit: String, within: Duration },
    #[error("systemd has not made {unit} at {path}: is another cgroup tree its own?")]
    Elsewhere { unit: String, path: String },
    #[error("move the scope's anchor to a cgroup of its own")]
    Anchor(#[source] cgroup::Error),
}

impl ScopeError {
    /// systemd has a unit of that name.
    pub(crate) fn is_there_already(&self) -> bool {
        matches!(self, Self::Refused { name, .. } if name == EXISTS)
    }
}

impl Scope {
    /// The scope of a pod, and its path.
    pub(crate) fn of_pod(slice: &Slice, pod: &PodId) -> Result<(Self, String), cgroup::PathError> {
        let unit = format!("longshore-{pod}.scope");
        let path = slice.path().join(&unit)?;
        let slice = slice.name().to_owned();
        let description = OF_POD;
        let scope = Self {
            unit,
            slice,
            description,
        };
        Ok((scope, format!("/{path}")))
    }

    /// The scope of all supervisors, at its path.
    pub(crate) fn of_supervisors(path: &str) -> Result<Self, SupervisorsError> {
        let no_scope = || SupervisorsError::NoScope(path.to_owned());
        let (slice, unit) = path.rsplit_once('/').ok_or_else(no_scope)?;
        // `systemd.unit(5)`.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":_.\\-@".contains(&byte);
        let named = unit.ends_with(".scope") && unit.len() <= 255 && unit.bytes().all(allowed);
        if !named || unit == ".scope" {
            return Err(no_scope());
        }
        let slice = Slice::parse(slice).map_err(|source| SupervisorsError::Slice {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            unit: unit.to_owned(),
            slice: slice.name().to_owned(),
            description: "Supervisors of longshored's pods",
        })
    }

    /// As [`Scope::of_pod`] made it; `None` for the path of anything else.
    pub(crate) fn at(path: &str) -> Option<Self> {
        let path = CgroupPath::parse(path).ok()?;
        let (slice, unit) = path.as_str().rsplit_once('/')?;
        let slice = Slice::parse(slice).ok()?;
        let ours = unit.starts_with("longshore-") && unit.ends_with(".scope");
        ours.then(|| Self {
            unit: unit.to_owned(),
            slice: slice.name().to_owned(),
            description: OF_POD,
        })
    }

    /// Asks for the scope. The connection is of the process that shall be in it.
    pub(crate) async fn start(&self, connection: OwnedFd) -> Result<(), ScopeError> {
        self.start_within(connection, ANSWER_WITHIN).await
    }

    async fn start_within(&self, socket: OwnedFd, within: Duration) -> Result<(), ScopeError> {
        let asked = async {
            // Never closed.
            let _turn = TURNS.acquire().await;
            let mut connection = Connection::open(socket).await?;
            connection
                .call(START, "ssa(sv)a(sa(sv))", self.request())
                .await?;
            self.until_started(&mut connection).await
        };
        match tokio::time::timeout(within, asked).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(ScopeError::Connection(error)),
            Err(_elapsed) => Err(ScopeError::Late {
                unit: self.unit.clone(),
                within,
            }),
        }
    }

    fn request(&self) -> Writer {
        let mut body = Writer::default();
        body.string(&self.unit);
        body.string("fail");
        body.array(8, |properties| {
            properties.property("Description", Value::Text(self.description));
            properties.property("Slice", Value::Text(&self.slice));
            // 0: whoever has made the connection.
            properties.property("PIDs", Value::Numbers(&[0]));
            properties.property("Delegate", Value::Flag(true));
            // Else it would be stopped at shutdown before those who stop pods in order.
            properties.property("DefaultDependencies", Value::Flag(false));
            // A share of the machine's by default; the pod's limit is the slice's, and the kubelet's to set.
            properties.property("TasksMax", Value::Number(u64::MAX));
            properties.property("CollectMode", Value::Text("inactive-or-failed"));
        });
        // No auxiliary units.
        body.array(8, |_none| {});
        body
    }

    async fn until_started(
        &self,
        connection: &mut Connection,
    ) -> Result<Result<(), ScopeError>, ConnectionError> {
        loop {
            let Incoming { kind, body } = connection.receive().await?;
            match kind {
                Kind::Error { name, .. } => {
                    let text = match body.into_iter().next() {
                        Some(Argument::Text(text)) => text,
                        Some(Argument::Number(_)) | None => String::new(),
                    };
                    return Ok(Err(ScopeError::Refused {
                        unit: self.unit.clone(),
                        slice: self.slice.clone(),
                        name,
                        text,
                    }));
                }
                // `(number, job, unit, result)`. Whichever job of ours it was: the unit has no other.
                Kind::Signal { member } if member == "JobRemoved" => {
                    let [_, _, Argument::Text(unit), Argument::Text(result)] = &body[..] else {
                        continue;
                    };
                    if *unit == self.unit {
                        return Ok(match result.as_str() {
                            "done" => Ok(()),
                            result => Err(ScopeError::Job {
                                unit: self.unit.clone(),
                                result: result.to_owned(),
                            }),
                        });
                    }
                }
                // The reply names a job, which its end names as well.
                Kind::Reply { .. } | Kind::Signal { .. } | Kind::Other => {}
            }
        }
    }

    /// Where systemd has put it is where it must be; and a cgroup with processes of its own passes no controller on.
    pub(crate) fn settle(
        &self,
        hierarchies: &cgroup::Hierarchies,
        path: &str,
        anchor: i32,
    ) -> Result<(), ScopeError> {
        let elsewhere = || ScopeError::Elsewhere {
            unit: self.unit.clone(),
            path: path.to_owned(),
        };
        let scope = match hierarchies.open_cgroup(path) {
            Err(cgroup::Error::NotFound { .. }) => return Err(elsewhere()),
            other => other.map_err(ScopeError::Anchor)?,
        };
        // As an exec's: no controller is passed on as long as the anchor is in the scope itself, or the kernel makes that a threaded
        // cgroup, whose children take no processes.
        let own = scope.create_exec("anchor").map_err(ScopeError::Anchor)?;
        let pid = rustix::process::Pid::from_raw(anchor).ok_or_else(elsewhere)?;
        own.attach(pid).map_err(ScopeError::Anchor)
    }
}

/// systemd's socket, as something to connect to by its descriptor.
pub(crate) fn socket() -> Result<OwnedFd, ScopeError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(SOCKET, flags, Mode::empty()).map_err(ScopeError::Socket)
}

/// Why the driver is of no use on this machine; `None` if it is.
pub(crate) fn unusable(hierarchies: &cgroup::Hierarchies) -> Option<&'static str> {
    if hierarchies.mode() != cgroup::Mode::V2 {
        return Some("it needs a machine with cgroup v2 alone");
    }
    // As sd_booted(3) has it.
    let booted = fs::metadata("/run/systemd/system").is_ok() || socket().is_ok();
    (!booted).then_some("systemd is not this machine's init")
}

#[cfg(test)]
mod tests;
