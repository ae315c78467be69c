//! What the daemon and a pod's supervisor (`longshore-pod`) say to each other.
//!
//! The supervisor listens on `supervisor.sock` in the pod's state directory, a `SOCK_SEQPACKET` Unix socket: one datagram
//! is one message, and descriptors ride on it (`SCM_RIGHTS`). The first byte of every datagram is
//! [`PROTOCOL_VERSION`]; the rest is a [`Request`] one way and a [`Message`] the other, in postcard's encoding. A message
//! whose encoding exceeds [`INLINE_BYTES`] travels in a sealed memfd: the datagram then carries [`SPILLED`] after the version,
//! and the memfd is its *last* descriptor.
//!
//! [`Outgoing`] and [`receive`] do all of that on blocking and non-blocking sockets alike.
//!
//! Requests carry a sequence number that their reply repeats; replies may overtake each other. Several daemons' connections may
//! exist at once while one daemon replaces another; events go to all of them that have said Hello.
//!
//! # What the supervisor expects of the daemon
//!
//! - Started as `longshore-pod --dir <absolute pod state directory> --id <pod id>`: the bound and listening socket is its stdin,
//!   a file or `/dev/null` its stdout and stderr; an empty environment is best (a copy of it stays in the pod's init).
//! - Sequence numbers from 1 upwards. A reply with sequence 0 is an error about the connection itself (another protocol version, a
//!   datagram that does not decode, a request before Hello): the supervisor closes the connection after it.
//! - Events are sent once and not acknowledged. After a redial, `State` says what has happened meanwhile.
//! - A daemon that leaves more than a few hundred messages unread is disconnected; it redials.
//! - The peer must have the supervisor's own user id.

mod bundle;
mod paths;
mod proof;
mod socket;
mod wire;

pub use bundle::{Bundle, pid_file, process_file};

pub use paths::{
    DEEPEST_NODE, DeviceNode, ENCLOSED_ARGUMENT, MOST_NODES, NoNodes, PATH_ARGUMENT,
    PAUSE_ARGUMENT, PathAnswer, PathRequest,
};

pub use proof::{PROOF_ARGUMENT, PROOF_TREE, Proof};

pub use socket::{
    MAX_DESCRIPTORS, Outgoing, OutgoingError, ReceiveError, SPILLED_BYTES, receive, sealed_memfd,
};

pub use wire::{
    DecodeError, Encoded, ErrorKind, Frame, INLINE_BYTES, PROTOCOL_VERSION, SPILLED, WireError,
    decode, encode, encode_record, open_frame,
};

use oci_plan::{
    ContainerPlan, FdSlot, Labels, MemoryPolicy, Process, Resources, SandboxPlan, TerminalSize,
};
use serde::{Deserialize, Serialize};

/// Name of the supervisor's socket in the pod's state directory.
pub const SOCKET_NAME: &str = "supervisor.sock";

/// Directory, in the pod's state directory, of the exit records: one file per container, named by its id, holding the
/// postcard encoding of [`ExitRecord`]; written atomically before anyone is told.
pub const EXITS_DIRECTORY: &str = "exits";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub sequence: u64,
    pub body: RequestBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestBody {
    /// First on every connection; answered by [`ReplyBody::Hello`].
    Hello,
    /// Makes the pod's namespaces and cgroup. Answered by [`ReplyBody::Sandbox`], whose reply carries the network namespace as
    /// its descriptor where the pod has one. Repeating it returns the same.
    CreateSandbox(SandboxPlan),
    /// The pod's user namespace, as the descriptor of [`ReplyBody::Done`]: the daemon maps a container's layers by it. FailedPrecondition where
    /// the pod has none.
    UserNamespace,
    /// Makes a container up to the point where its init waits to be started. [`ReplyBody::Created`]. Its id names its exit record: no slash,
    /// no dot in front, 200 bytes at most. After an error nothing of it is left and the id is free; the error comes after at most 40 s.
    CreateContainer(Box<CreateContainer>),
    /// Lets the container's init run its program. [`ReplyBody::Started`] once `execve(2)` has succeeded. After an error the container exits with
    /// code 128 and the error as its message ([`Event::Exited`] follows), and is to be deleted.
    StartContainer { id: String },
    /// Sends a signal to the container's init, or to every process of the container. [`ReplyBody::Done`], also for a container
    /// that has exited.
    Signal { id: String, signal: i32, all: bool },
    /// Runs a process in a running container. [`ReplyBody::Started`], and [`Event::ExecExited`] later; after an error no event follows. With a
    /// terminal the reply carries its master as its descriptor, non-blocking.
    Exec(Box<Exec>),
    /// Kills the whole process tree of an exec. [`ReplyBody::Done`], also when it has exited.
    KillExec { exec_id: String },
    /// Continues the container's log in the file of the slot. [`ReplyBody::Done`] once no byte will go to the old one.
    ReopenLog { id: String, log: FdSlot },
    /// Size of a container's terminal. [`ReplyBody::Done`].
    ResizeTerminal { id: String, size: TerminalSize },
    /// Applies limits to a container's cgroup. [`ReplyBody::Done`].
    UpdateResources { id: String, resources: Resources },
    /// Kills what still runs, removes the container's cgroup, forgets it and its exit record. [`ReplyBody::Done`], also for an
    /// unknown id. One that ran until then has no [`Event::Exited`]. An error (something did not die within 10 s) leaves it there, to be deleted
    /// again.
    DeleteContainer { id: String },
    /// What there is. [`ReplyBody::State`].
    State,
    /// Kills every process of the pod and lets go of its namespaces; containers keep their exit records. [`ReplyBody::Done`]
    /// once nothing runs and every exit is recorded; an error after 10 s names what is left, and asking again tries again.
    StopSandbox,
    /// After StopSandbox: removes the pod's cgroup, with those of containers that have not been deleted, and exits. [`ReplyBody::Done`] is the last
    /// message. Exit records stay.
    Shutdown,
    /// Listens to a running container's output, and gets at its input. [`ReplyBody::Attached`], and [`Event::AttachEnded`] later; after an error no
    /// event follows. To detach, close the reading ends.
    Attach(Attach),
    /// The input of an attach has ended: closes the container's stdin where that is to happen after the first attach that had it, and this is
    /// that attach. [`ReplyBody::Done`] in any case. The end of the connection says it for each attach that was asked for on it.
    EndInput { attach_id: String },
    /// Starts the process that keeps the pod's systemd scope alive, and connects it to the listening socket of the slot.
    /// [`ReplyBody::Anchored`]. FailedPrecondition where there is one already.
    Anchor { socket: FdSlot },
    /// Before CreateSandbox: an OCI runtime makes the pod's containers, not the supervisor itself. `mounts` is the mount namespace that it is
    /// run in, the host's, and `directory` the pod's. [`ReplyBody::Done`]. Each container then has a [`Bundle`], and each exec a [`process_file`],
    /// before they are asked for.
    UseRuntime {
        runtime: OciRuntime,
        mounts: FdSlot,
        directory: FdSlot,
    },
    /// As CreateContainer, but its init waits before it enters its root, so that hooks can run. [`ReplyBody::Paused`]; then
    /// [`Resume`](Self::Resume), or DeleteContainer. It waits for as long as it is left waiting.
    CreatePaused(Box<CreatePaused>),
    /// Lets a container that waits before its root go on. [`ReplyBody::Created`], as for CreateContainer.
    Resume { id: String },
    /// As Exec, in a container that waits before its root, or to be started.
    ExecBefore(Box<Exec>),
    /// A request that makes a process, and that process's labels. A request of its own, so that no supervisor takes the one and misses the other;
    /// one that says nothing of [`LABELS`] in its Hello does not know it. The answer is that to the request in it.
    Labelled {
        labels: Labels,
        request: ProcessRequest,
    },
    /// Holds every process of running containers still, all of them or none. [`ReplyBody::Done`] once they are. They go on when they are told to,
    /// when the connection that asked for it closes (a dump of one of them that is under way then comes to its end first), and after this many
    /// milliseconds in any case, when such a dump is killed.
    Freeze { ids: Vec<String>, bound_ms: u64 },
    /// Lets containers go on. [`ReplyBody::Done`], also for those that were not held.
    Thaw { ids: Vec<String> },
    /// Has CRIU write down a running container's processes, which go on as they were. [`ReplyBody::Done`] once it has; an error, after which
    /// they go on as well, has the last of what it printed.
    Dump(Box<Dump>),
    /// Connects the supervisor itself to the listening socket of the slot, as an anchor is connected. [`ReplyBody::Connected`].
    Connect { socket: FdSlot },
    /// As CreateContainer, but CRIU makes the container's processes as they were written down once, stopped by SIGSTOP. They go on with
    /// [`Self::StartContainer`]. [`ReplyBody::Created`]. The container has a [`Bundle`].
    Restore(Box<Restore>),
    /// As Labelled, of a process that has a memory policy; labels it may have none. For those that say [`MEMORY_POLICY`] in their Hello.
    Placed {
        memory_policy: MemoryPolicy,
        labels: Labels,
        request: ProcessRequest,
    },
}

/// A run of `criu restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    pub create: CreateContainer,
    /// Absolute path of CRIU.
    pub program: String,
    /// Behind `restore`.
    pub arguments: Vec<String>,
    /// Its `PATH`.
    pub path: String,
    /// Absolute path of the directory of [`Bundle`]s.
    pub bundles: String,
    /// The mount namespace that it is run in a copy of, the host's.
    pub mounts: FdSlot,
    /// The pod's directory, where it leaves the [`pid_file`].
    pub directory: FdSlot,
    /// What the processes have open of their new container: what CRIU calls the old one, and which it becomes.
    pub inherited: Vec<(String, Inherited)>,
    /// It is killed after this many milliseconds.
    pub bound_ms: u64,
}

/// Something of the new container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inherited {
    Stdin,
    Stdout,
    Stderr,
    /// The pod's network namespace.
    Network,
}

/// A run of `criu dump`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    pub container_id: String,
    /// Absolute path of CRIU.
    pub program: String,
    /// Behind `dump --tree PID`.
    pub arguments: Vec<String>,
    /// Its `PATH`.
    pub path: String,
    /// The mount namespace that it is run in a copy of, the host's.
    pub mounts: FdSlot,
    /// It is killed after this many milliseconds.
    pub bound_ms: u64,
}

/// Requests that make a process, each as its namesake of [`RequestBody`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessRequest {
    CreateContainer(Box<CreateContainer>),
    Exec(Box<Exec>),
    CreatePaused(Box<CreatePaused>),
    ExecBefore(Box<Exec>),
}

/// What a supervisor knows beyond the first protocol, in the `supervisor_version` of its Hello: after a `+`, separated by dots. This one:
/// [`RequestBody::Labelled`].
pub const LABELS: &str = "labels";

/// This one: [`RequestBody::Placed`].
pub const MEMORY_POLICY: &str = "memory-policy";

impl RequestBody {
    /// The request as it crosses the socket: [`RequestBody::Labelled`] where it makes a process that has labels, [`RequestBody::Placed`] where it
    /// has a memory policy.
    #[must_use]
    pub fn packed(self) -> Self {
        let request = match self {
            Self::CreateContainer(request) => ProcessRequest::CreateContainer(request),
            Self::Exec(request) => ProcessRequest::Exec(request),
            Self::CreatePaused(request) => ProcessRequest::CreatePaused(request),
            Self::ExecBefore(request) => ProcessRequest::ExecBefore(request),
            other => return other,
        };
        let mut request = request;
        let process = request.process();
        let labels = process.labels.clone();
        match process.habits.memory_policy.clone() {
            Some(memory_policy) => Self::Placed {
                memory_policy,
                labels,
                request,
            },
            None if labels == Labels::default() => request.into(),
            None => Self::Labelled { labels, request },
        }
    }

    /// The request that it is about, with labels and memory policy where they belong.
    #[must_use]
    pub fn unpacked(self) -> Self {
        let (memory_policy, labels, mut request) = match self {
            Self::Labelled { labels, request } => (None, labels, request),
            Self::Placed {
                memory_policy,
                labels,
                request,
            } => (Some(memory_policy), labels, request),
            other => return other,
        };
        let process = request.process();
        process.labels = labels;
        process.habits.memory_policy = memory_policy;
        request.into()
    }
}

impl ProcessRequest {
    fn process(&mut self) -> &mut Process {
        match self {
            Self::CreateContainer(create) => &mut create.plan.process,
            Self::CreatePaused(paused) => &mut paused.create.plan.process,
            Self::Exec(exec) | Self::ExecBefore(exec) => &mut exec.process,
        }
    }
}

impl From<ProcessRequest> for RequestBody {
    fn from(request: ProcessRequest) -> Self {
        match request {
            ProcessRequest::CreateContainer(request) => Self::CreateContainer(request),
            ProcessRequest::Exec(request) => Self::Exec(request),
            ProcessRequest::CreatePaused(request) => Self::CreatePaused(request),
            ProcessRequest::ExecBefore(request) => Self::ExecBefore(request),
        }
    }
}

/// A command line as runc's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciRuntime {
    /// The handler, for messages.
    pub handler: String,
    /// Absolute path of the program.
    pub program: String,
    /// Global options, before the command.
    pub options: Vec<String>,
    /// Absolute path of the directory of [`Bundle`]s.
    pub bundles: String,
    /// Its `exec` knows `--cgroup`.
    pub exec_cgroup: bool,
    /// The id of the container that is the pod's sandbox, with a kernel inside that the pod's other containers run on; `None`: each container
    /// is its own.
    pub sandbox: Option<String>,
}

/// A container to make that waits on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatePaused {
    pub create: CreateContainer,
    /// A detached recursive copy of the host's `/`, which init sees while it waits.
    pub host: FdSlot,
    /// Absolute, in that copy: where the container's root is mounted meanwhile.
    pub at: String,
}

/// A container to make. Its log is in CRI's format: `TIME stdout F text`; an unterminated last line is tagged `P`, so that `kubectl logs` shows
/// what the program wrote and no newline more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateContainer {
    pub plan: ContainerPlan,
    pub stdio: Stdio,
}

/// Where a container's standard streams go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// The log file, open for appending. `None`: output is read and dropped.
    pub log: Option<FdSlot>,
    /// Keep a stdin open for attach; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Close stdin after the first attach that had it ends. Without effect where there is a terminal.
    pub stdin_once: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    pub container_id: String,
    /// Chosen by the daemon, unique in the pod.
    pub exec_id: String,
    pub process: Process,
    /// stdin, stdout, stderr; `None` is `/dev/null`. With a terminal they must be `None`.
    pub stdin: Option<FdSlot>,
    pub stdout: Option<FdSlot>,
    pub stderr: Option<FdSlot>,
    /// The supervisor kills the tree after this many milliseconds, whether a daemon is there or not.
    pub timeout_ms: Option<u64>,
    /// Kill the tree when the connection that asked for it closes.
    pub bound_to_connection: bool,
}

/// Who listens gets what is written from then on, never what was before. The container does not wait for listeners: one whose pipe is full is
/// disconnected. Its log goes on in any case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    pub container_id: String,
    /// Chosen by the daemon, unique in the pod.
    pub attach_id: String,
    /// Asks for the container's input.
    pub stdin: bool,
    /// The writing ends of pipes, which become non-blocking. A pipe's capacity is how far its reader may lag. Everything that a terminal shows
    /// is on stdout.
    pub stdout: Option<FdSlot>,
    pub stderr: Option<FdSlot>,
}

/// What a supervisor sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    Reply {
        sequence: u64,
        result: Result<ReplyBody, WireError>,
    },
    Event(Event),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyBody {
    Hello {
        supervisor_version: String,
        pid: i32,
    },
    Sandbox,
    Created {
        pid: i32,
    },
    Started {
        pid: i32,
        started_at_ns: i64,
    },
    Done,
    State(PodState),
    /// The reply carries one descriptor, or none: the terminal's master, where the container has one, to write to and to resize; otherwise the
    /// writing end of its stdin, if it was asked for and is open (`input`). Both are non-blocking.
    Attached {
        terminal: bool,
        input: bool,
    },
    /// The reply carries one descriptor: the anchor's connection, non-blocking; its peer sees the anchor at this end.
    Anchored {
        pid: i32,
    },
    /// The container waits before its root.
    Paused {
        pid: i32,
    },
    /// The reply carries one descriptor: the connection, non-blocking; its peer sees the supervisor at this end.
    Connected,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A container's init has exited, its output is in its log, and its exit record is on disk.
    Exited { id: String, exit: ExitRecord },
    /// An exec's process has been reaped. `killed` says why we killed it, if we did. Processes that it left behind live on in its container.
    ExecExited {
        exec_id: String,
        exit_code: i32,
        killed: Option<ExecKilled>,
    },
    /// The init of the pod's PID namespace has died unasked, and everything in it with it: the sandbox can hold no container any more, and is to
    /// be stopped. [`Event::Exited`] of each container comes before or after.
    SandboxEnded { reason: String },
    /// No more output comes to an attach; its pipes have been closed.
    AttachEnded {
        attach_id: String,
        reason: AttachEnd,
    },
    /// System calls that a container's filter has denied, all so far; only where its filter tells. Also after [`ReplyBody::State`].
    Denied { id: String, calls: Vec<DeniedCall> },
}

/// A denied system call, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedCall {
    /// `AUDIT_ARCH_*`.
    pub architecture: u32,
    pub number: u32,
    pub count: u64,
}

/// Why an attach has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachEnd {
    /// The container's output has: it has exited, or closed its streams.
    Output,
    /// A pipe was full.
    Lagged,
    /// The readers have gone.
    Detached,
    /// The process that carried the output was killed. The container goes on.
    Interrupted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecKilled {
    Timeout,
    Requested,
    ConnectionClosed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    /// The pid of the pod's init, where the pod has a PID namespace of its own.
    pub init_pid: Option<i32>,
    pub sandbox: SandboxState,
    pub containers: Vec<ContainerState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxState {
    /// CreateSandbox has not succeeded yet.
    Empty,
    Ready,
    /// Stopped, being stopped, or of no further use because the init of its PID namespace has died.
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    pub id: String,
    pub status: ContainerStatus,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerStatus {
    Created {
        pid: i32,
    },
    /// Also when its init has just died and its output is still being written; [`Event::Exited`] follows.
    Running {
        pid: i32,
        started_at_ns: i64,
    },
    Exited(ExitRecord),
}

/// How a container ended. Times are nanoseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The exit status, or 128 + `signal`.
    pub exit_code: i32,
    pub signal: Option<i32>,
    /// The kernel's OOM killer killed a process of the container's cgroup.
    pub oom_killed: bool,
    /// 0 if it never ran.
    pub started_at_ns: i64,
    pub finished_at_ns: i64,
    /// Why it never ran, or what went wrong beside its exit (a log that could not be written, say).
    pub message: Option<String>,
}
