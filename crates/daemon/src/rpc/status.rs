//! The one table from our errors to gRPC's codes. A message is the whole chain, outermost first.

use std::error::Error;

use cni::builtin::{AttachError, RangeError};
use supervisor_api::ErrorKind;
use tonic::{Code, Status};

use super::{decode::InvalidField, update_runtime_config::PodCidrError};
use crate::{
    cdi::CdiError,
    checkpoint,
    classes::ClassError,
    container::{
        self, CreateError, DevicesError, ExecError, LimitError, LogError, MountError,
        NetDevicesError, PlaceError,
    },
    files::{self, Trouble},
    handlers::BundleError,
    hooks::Failure,
    inventory::FindError,
    paths::PathError,
    pod::{self, RunError, SandboxError},
    pod_cidr,
    selinux::SelinuxError,
    spec::{AppArmorError, ProfileError},
    supervisor::CallError,
    systemd::ScopeError,
};

/// An error as a reply.
pub(super) trait IntoStatus {
    fn into_status(self) -> Status;
}

impl<E: Coded> IntoStatus for E {
    fn into_status(self) -> Status {
        let code = self.code();
        let logged = loggable(self.error());
        match code {
            // A defect or the node's trouble: the operator should find it in the log too.
            Code::Internal | Code::Unavailable | Code::DeadlineExceeded => {
                tracing::warn!(?code, message = logged, "a request failed");
            }
            _ => tracing::debug!(?code, message = logged, "a request was refused"),
        }
        Status::new(code, chain(self.error()))
    }
}

fn trouble_code(trouble: Trouble) -> Code {
    match trouble {
        Trouble::NotFound => Code::NotFound,
        Trouble::Kind => Code::FailedPrecondition,
        Trouble::Archive => Code::InvalidArgument,
        Trouble::Denied => Code::PermissionDenied,
        Trouble::Full => Code::ResourceExhausted,
        Trouble::System => Code::Internal,
    }
}

/// An error with a code of its own.
pub(super) trait Coded {
    fn code(&self) -> Code;
    fn error(&self) -> &(dyn Error + 'static);
}

impl<E: Coded> Coded for std::sync::Arc<E> {
    fn code(&self) -> Code {
        E::code(self)
    }

    fn error(&self) -> &(dyn Error + 'static) {
        E::error(self)
    }
}

macro_rules! coded {
    ($($error:ty: $this:ident { $($pattern:pat => $code:expr,)* })*) => {
        $(impl Coded for $error {
            fn code(&self) -> Code {
                use $error as E;
                let $this = self;
                match $this { $($pattern => $code,)* }
            }

            fn error(&self) -> &(dyn Error + 'static) {
                self
            }
        })*
    };
}

coded! {
    InvalidField: error {
        E { .. } => Code::InvalidArgument,
    }
    FindError: error {
        E::Empty { .. } | E::Ambiguous { .. } => Code::InvalidArgument,
        E::NotFound { .. } => Code::NotFound,
    }
    RunError: error {
        E::UnknownHandler(..) | E::Config(..) | E::Spec(..) => Code::InvalidArgument,
        E::Profile(_, ProfileError::Read { source, .. }) => source.code(),
        E::Profile(..) => Code::InvalidArgument,
        E::Selinux(_, selinux) => selinux.code(),
        E::Conflict { .. } | E::NotReady { .. } => Code::AlreadyExists,
        E::Overtaken(_) => Code::Aborted,
        E::Nri(..) => Code::FailedPrecondition,
        E::Sandbox(_, call) | E::SandboxContainer(_, SandboxError::Supervisor(call)) => call.code(),
        E::Network(_, network) => network_code(network),
        E::Cgroup(_, cgroup) => cgroup_code(cgroup),
        E::Parent(..) => Code::InvalidArgument,
        E::Scope(_, scope) | E::Nest(_, scope) => match scope {
            ScopeError::Late { .. } => Code::DeadlineExceeded,
            ScopeError::Socket(_) | ScopeError::Connection(_) => Code::Unavailable,
            _ => os_code(error),
        },
        E::EnterNest(_, cgroup) => cgroup_code(cgroup),
        E::Id(..) | E::Record(..) | E::Supervisor(..) | E::Link(..) | E::Files(..)
        | E::Runtime(..) | E::SandboxContainer(..)
        | E::Crashed(_) => os_code(error),
    }
    pod::StopError: error {
        E::Orphans(_, pod::KillError::Undead { .. }) => Code::DeadlineExceeded,
        E::Orphans(..) | E::Network(..) | E::Crashed(_) => os_code(error),
    }
    pod::RemoveError: error {
        E::Stop(_, stop) => stop.code(),
        E::Container(_, _, remove) => remove.code(),
        E::Blocking(..) => Code::DeadlineExceeded,
        E::Cgroup(..) | E::Record(..) | E::Crashed(_) => os_code(error),
    }
    CreateError: error {
        E::PodNotReady { .. } => Code::FailedPrecondition,
        E::Conflict { .. } => Code::AlreadyExists,
        E::ImageName { .. } => Code::InvalidArgument,
        E::ImageMissing { .. } => Code::NotFound,
        E::Signature { source: image::SignatureError::Policy(_), .. } => Code::FailedPrecondition,
        E::Signature { source: image::SignatureError::Store(_), .. } => os_code(error),
        E::Signature { .. } => Code::PermissionDenied,
        E::Limit { source: LimitError::Unavailable { .. }, .. } => Code::FailedPrecondition,
        E::Limit { .. } => Code::InvalidArgument,
        E::Overtaken(_) => Code::Aborted,
        E::Checkpoint { source, .. } | E::Restore(_, source) => source.code(),
        E::Remains(_, remove) => remove.code(),
        E::Log(_, log) => log.code(),
        E::Mount(_, MountError::Open { source, .. } | MountError::Relabel { source, .. })
        | E::Profile(_, ProfileError::Read { source, .. })
        | E::Device(_, source) => source.code(),
        E::Hook(_, hook) => hook.code(),
        E::Nri(..) | E::Outside(..) => Code::FailedPrecondition,
        E::Place(_, PlaceError::Record(_)) => os_code(error),
        E::Place(_, PlaceError::Blocking(_)) | E::NetDevices(_, NetDevicesError::Blocking(_)) => Code::DeadlineExceeded,
        E::Place(..) | E::NetDevices(..) => Code::FailedPrecondition,
        E::Bundle(
            _,
            BundleError::NoSeccomp { .. } | BundleError::OwnKernel { .. } | BundleError::ExecOutside { .. }
            | BundleError::NoMemoryPolicy(_),
        ) => Code::FailedPrecondition,
        E::Class { source: ClassError::Unknown { .. } | ClassError::Denied { .. }, .. } => Code::InvalidArgument,
        E::Class { .. } => Code::FailedPrecondition,
        E::Devices(_, DevicesError::Node { source, .. }) => source.code(),
        E::Devices(_, DevicesError::Cdi(CdiError::Blocking(_))) => Code::DeadlineExceeded,
        E::Devices(..) => Code::InvalidArgument,
        E::Mount(..) | E::Spec(..) | E::Plan(..) | E::Profile(..) | E::Accounts(..) => Code::InvalidArgument,
        E::Supervisor(_, call) => call.code(),
        E::Blocking(..) | E::AppArmor(_, AppArmorError::Late { .. }) => Code::DeadlineExceeded,
        E::AppArmor(..) => Code::FailedPrecondition,
        E::Selinux(_, selinux) => selinux.code(),
        E::ImageVolume { source: snapshot::MountError::SubPath { .. }, .. } => Code::InvalidArgument,
        E::ImageVolume { source: snapshot::MountError::Unmapped(_), .. }
        | E::Layer(_, snapshot::ContainerError::Mount { source: snapshot::MountError::Unmapped(_), .. }) => Code::FailedPrecondition,
        E::ImageVolume { .. } => os_code(error),
        E::Id(..) | E::Record(..) | E::Pin(..) | E::Layer(..) | E::Volumes(..) | E::ImageConfig(..)
        | E::Seccomp(..) | E::Hostname(..) | E::Bundle(..) | E::Crashed(_) => os_code(error),
    }
    container::HookError: error {
        E::Run { source: Failure::TimedOut { .. }, .. } | E::Blocking(_) => Code::DeadlineExceeded,
        E::Run { .. } | E::Directory(_) => Code::FailedPrecondition,
        E::Exec { source: ExecError::Supervisor { source, .. }, .. } | E::Supervisor(source) => source.code(),
        E::Lost { .. } => Code::Unavailable,
        E::Exec { .. } | E::Bundle { .. } => os_code(error),
    }
    container::StartError: error {
        E::State { .. } | E::FailedBefore { .. } | E::PodNotReady(_) => Code::FailedPrecondition,
        E::Supervisor(_, call) => call.code(),
        E::Hook(_, hook) => hook.code(),
        E::Nri(..) => Code::FailedPrecondition,
        E::Record(..) => os_code(error),
        E::Crashed(_) => Code::Internal,
    }
    container::UpdateError: error {
        E::State { .. } | E::PodNotReady(_) | E::Nri(..) | E::Outside(..) => Code::FailedPrecondition,
        E::Spec(..) | E::Plan(..) => Code::InvalidArgument,
        E::Supervisor(_, call) => call.code(),
        E::Blocking(..) => Code::DeadlineExceeded,
        E::Processes(..) | E::Record(..) | E::Crashed(_) => os_code(error),
    }
    checkpoint::CheckpointError: error {
        E::State { .. } | E::Unsupported { .. } => Code::FailedPrecondition,
        E::Criu(..) | E::Dump { .. } => Code::FailedPrecondition,
        E::Busy(_) => Code::Aborted,
        E::Location { source, .. } => path_code(source),
        E::Freeze(_, call) | E::Supervisor(_, call) => call.code(),
        E::Late { .. } | E::Blocking(..) => Code::DeadlineExceeded,
        E::Files { .. } | E::Record(..) | E::Crashed(_) => os_code(error),
    }
    files::FilesError: error {
        E::State { .. } | E::OwnKernel { .. } | E::NoImage(_) | E::NoUserNamespace(_) => Code::FailedPrecondition,
        E::UserNamespace(_, error) => error.code(),
        E::TooMany => Code::ResourceExhausted,
        E::Hung(_) | E::Blocking(_) => Code::DeadlineExceeded,
        E::Worker { kind, .. } => trouble_code(*kind),
        E::Open { .. } | E::Layer(_) | E::Start(_) | E::Ended => os_code(error),
    }
    checkpoint::PodCheckpointError: error {
        E::NoContainers | E::Twice(_) | E::TwoOfAName(_) | E::Elsewhere { .. } => Code::InvalidArgument,
        E::Find(error) => error.code(),
        E::Directory { source, .. } => path_code(source),
        E::Container(_, error) => error.code(),
        E::Cancelled(_) => Code::Cancelled,
        E::Blocking(..) => Code::DeadlineExceeded,
        E::Crashed(_) => Code::Internal,
    }
    checkpoint::PodRestoreError: error {
        E::Open { source, .. } => open_code(source),
        E::NoConfig(_) | E::NotInCheckpoint(_) | E::Twice(_) | E::UnknownHandler { .. } => Code::InvalidArgument,
        E::Handler { .. } | E::Criu(..) => Code::FailedPrecondition,
        E::Exists { .. } => Code::AlreadyExists,
        E::Run(_, error) => error.code(),
        E::Create(_, error) => error.code(),
        E::Late { .. } | E::Blocking(_) => Code::DeadlineExceeded,
        E::Note { .. } | E::Crashed(_) => os_code(error),
    }
    checkpoint::RestoreError: error {
        E::Open(error) => open_code(error),
        E::NoImage { .. } => Code::NotFound,
        E::Criu(_) | E::Unsupported(_) | E::Failed(_) => Code::FailedPrecondition,
        E::NoMount(_) | E::NewMount(_) | E::OtherImage { .. } | E::Layer(_) => Code::InvalidArgument,
        E::Excess(_) => Code::PermissionDenied,
        E::Supervisor(call) => call.code(),
        E::Blocking(_) => Code::DeadlineExceeded,
        E::Files { .. } | E::Bundle(_) | E::Cgroup(_) => os_code(error),
    }
    pod::UpdateError: error {
        E::NotReady(_) | E::Nri(..) => Code::FailedPrecondition,
        E::Record(..) | E::Crashed(_) => os_code(error),
    }
    container::StopError: error {
        E::Undead(..) | E::Blocking(..) => Code::DeadlineExceeded,
        E::Orphans(..) | E::Crashed(_) => os_code(error),
    }
    container::RemoveError: error {
        E::Stop(_, stop) => stop.code(),
        E::Blocking(..) => Code::DeadlineExceeded,
        E::NetDevices(_, NetDevicesError::Blocking(_)) => Code::DeadlineExceeded,
        E::Record(..) | E::Kill(..) | E::Cgroup(..) | E::NetDevices(..) | E::Class(..) | E::Layer(..) | E::Volumes(..) | E::Image(..)
        | E::Crashed(_) => os_code(error),
    }
    LogError: error {
        E::Escapes(_) | E::NoDirectory(_) => Code::InvalidArgument,
        E::Open { source, .. } => source.code(),
        E::NotRunning(_) | E::NoLog(_) => Code::FailedPrecondition,
        E::Supervisor(_, call) => call.code(),
    }
    ExecError: error {
        E::NoCommand | E::Nul { .. } => Code::InvalidArgument,
        E::NotRunning(_) | E::Outside(..) => Code::FailedPrecondition,
        E::Supervisor { source, .. } => source.code(),
        // The kubelet turns this code into a probe's timeout.
        E::TimedOut { .. } => Code::DeadlineExceeded,
        E::Lost(_) => Code::Unavailable,
        E::Record(..) | E::Spec(..) | E::Seccomp(..) | E::Pipe(..) | E::Process(..) | E::Read(..) => os_code(error),
    }
    container::AttachError: error {
        E::NotRunning(_) => Code::FailedPrecondition,
        E::Supervisor(_, call) => call.code(),
        E::Pipe(..) => os_code(error),
    }
    PodCidrError: error {
        E { source, .. } => pod_cidr_code(source),
    }
    streaming::UrlError: error {
        E::Invalid(_) => Code::InvalidArgument,
        E::TooMany(_) => Code::ResourceExhausted,
        E::Random(_) => Code::Internal,
    }
    SelinuxError: error {
        E::Unknown { .. } => Code::InvalidArgument,
        E::Mute(_) | E::Judge { .. } => Code::FailedPrecondition,
        E::Exhausted => Code::ResourceExhausted,
        E::Random(_) => os_code(error),
    }
    PathError: error {
        E::System(source) | E::Node { source, .. } | E::Relabel { source, .. } => path_code(source),
        E::RelabelLate | E::Hung | E::StillHung(_) => Code::DeadlineExceeded,
        E::TooManyHang => Code::ResourceExhausted,
        E::NotAText(_) | E::NoNodes { .. } => Code::InvalidArgument,
        E::Start(_) | E::Ask(_) | E::Hear(_) | E::Ended => os_code(error),
    }
    CallError: error {
        E::Refused(refusal) => match refusal.kind {
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::InvalidArgument => Code::InvalidArgument,
            ErrorKind::FailedPrecondition | ErrorKind::CannotExecute => Code::FailedPrecondition,
            ErrorKind::ResourceExhausted => Code::ResourceExhausted,
            ErrorKind::Internal => Code::Internal,
            ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
            ErrorKind::Unavailable => Code::Unavailable,
        },
        E::Gone => Code::Unavailable,
        E::NoLabels | E::NoMemoryPolicies => Code::FailedPrecondition,
        E::Silent(_) => Code::DeadlineExceeded,
        E::Send(_) | E::Prepare(_) | E::Mismatch { .. } => os_code(error),
    }
    image::FindError: error {
        E::Reference(_) | E::Ambiguous { .. } => Code::InvalidArgument,
    }
    image::RemoveError: error {
        E::Find(_) => Code::InvalidArgument,
        E::Store { source, .. } => match source.is_exhausted() {
            true => Code::ResourceExhausted,
            false => Code::Internal,
        },
    }
}

/// What the operating system's error at the end of a chain means to a client.
fn os_code(error: &(dyn Error + 'static)) -> Code {
    use std::io::ErrorKind as Kind;
    let mut next = Some(error);
    while let Some(error) = next {
        let kind = error
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind)
            .or_else(|| {
                // Where an error is told to several.
                let shared = error.downcast_ref::<std::sync::Arc<std::io::Error>>();
                shared.map(|error| error.kind())
            })
            .or_else(|| {
                error
                    .downcast_ref::<rustix::io::Errno>()
                    .map(|errno| errno.kind())
            });
        if let Some(Kind::StorageFull | Kind::QuotaExceeded | Kind::OutOfMemory) = kind {
            return Code::ResourceExhausted;
        }
        next = error.source();
    }
    Code::Internal
}

/// A checkpoint that a client has named: what it is, or what it takes to read it.
fn open_code(error: &checkpoint::OpenError) -> Code {
    use checkpoint::OpenError as E;
    match error {
        E::Open(error) => path_code(error),
        E::NoFile | E::Compressed | E::Archive(_) | E::Member(_) | E::NoCheckpoint(_) => {
            Code::InvalidArgument
        }
        E::Decode { .. } | E::TooLarge { .. } => Code::InvalidArgument,
        E::Version { .. } => Code::InvalidArgument,
        E::Take { .. } => os_code(error),
    }
}

/// What the system says of a path that a client has named: the client's mistake, or the node's trouble.
fn path_code(error: &std::io::Error) -> Code {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::LOOP
            | Errno::NAMETOOLONG
            | Errno::INVAL
            | Errno::ACCESS
            | Errno::PERM,
        ) => Code::InvalidArgument,
        Some(Errno::NOSPC | Errno::DQUOT | Errno::NOMEM | Errno::MFILE | Errno::NFILE) => {
            Code::ResourceExhausted
        }
        // A server that has gone, a disk that fails.
        Some(_) | None => Code::FailedPrecondition,
    }
}

fn network_code(error: &pod::NetworkError) -> Code {
    match error {
        pod::NetworkError::Attach(AttachError::Port { .. }) => Code::InvalidArgument,
        pod::NetworkError::Attach(AttachError::PortTaken { .. }) => Code::AlreadyExists,
        pod::NetworkError::Attach(AttachError::Exhausted { .. }) => Code::ResourceExhausted,
        pod::NetworkError::Attach(AttachError::Stuck { .. } | AttachError::Held { .. }) => {
            Code::DeadlineExceeded
        }
        pod::NetworkError::Annotation(_) => Code::InvalidArgument,
        pod::NetworkError::Plugins(error) => plugins_code(error),
        other => os_code(other),
    }
}

fn plugins_code(error: &cni::plugins::AttachError) -> Code {
    use cni::plugins::{AttachError, Reason};
    match error {
        AttachError::InvalidId { .. } | AttachError::Argument { .. } => Code::InvalidArgument,
        AttachError::NotReady { .. } => Code::Unavailable,
        AttachError::Taken { .. } => Code::AlreadyExists,
        AttachError::Plugin(error) if matches!(error.reason, Reason::Late { .. }) => {
            Code::DeadlineExceeded
        }
        AttachError::Record(error) => os_code(error),
        AttachError::Plugin(_) | AttachError::NoAddress { .. } => Code::Internal,
    }
}

fn pod_cidr_code(error: &pod_cidr::UpdateError) -> Code {
    use pod_cidr::UpdateError as E;
    match error {
        E::Subnet(_) | E::Twice(..) | E::NoIpv4 => Code::InvalidArgument,
        E::Network(RangeError::NoIpv6 { .. } | RangeError::Routed { .. }) => Code::InvalidArgument,
        E::Network(RangeError::GatewayTaken { .. } | RangeError::GatewayShared { .. }) => {
            Code::FailedPrecondition
        }
        E::Network(RangeError::Stuck { .. }) | E::Blocking(_) => Code::DeadlineExceeded,
        // The node's configuration, not the request's.
        E::Template { .. } | E::NoJson { .. } => Code::FailedPrecondition,
        E::Network(RangeError::Record(_) | RangeError::Step(_)) | E::File { .. } => os_code(error),
    }
}

fn cgroup_code(error: &cgroup::Error) -> Code {
    match error {
        cgroup::Error::Path(_) => Code::InvalidArgument,
        other => os_code(other),
    }
}

/// As [`chain`], without what a command printed: its output is its caller's, and may be a secret.
fn loggable(error: &(dyn Error + 'static)) -> String {
    match error.downcast_ref::<ExecError>() {
        Some(ExecError::TimedOut {
            id,
            command,
            timeout,
            tail: _,
        }) => format!(
            "exec {command:?} in container {id}: killed after the timeout of {} s",
            timeout.as_secs()
        ),
        Some(_) | None => chain(error),
    }
}

/// The error and its sources, joined as they are read. A text that its source begins with, as where a supervisor has told the whole
/// story already, is not said twice.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut next = error.source();
    while let Some(source) = next {
        let text = source.to_string();
        if texts
            .last()
            .is_some_and(|last| text.starts_with(last.as_str()))
        {
            texts.pop();
        }
        texts.push(text);
        next = source.source();
    }
    let mut text = texts.join(": ");
    if text.len() > MOST_BYTES {
        text.truncate(text.floor_char_boundary(MOST_BYTES));
        text.push('…');
    }
    text
}

/// A status travels in a header of HTTP/2, which has bounds; a longer one would be lost as a whole.
const MOST_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use supervisor_api::WireError;

    use super::*;
    use crate::id::ContainerId;

    #[test]
    fn what_a_command_printed_is_for_its_caller_alone() {
        let error = ExecError::TimedOut {
            id: ContainerId::parse(&"c".repeat(64)).unwrap(),
            command: "/probe".to_owned(),
            timeout: Duration::from_secs(3),
            tail: "password".to_owned(),
        };
        let logged = loggable(error.error());
        assert!(logged.contains("\"/probe\" in container ccc"), "{logged}");
        assert!(logged.contains("timeout of 3 s"), "{logged}");
        assert!(!logged.contains("password"), "{logged}");
        let status = error.into_status();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().contains("password"), "{status}");
    }

    #[test]
    fn a_timeout_in_an_execs_launch_is_a_timeout() {
        let refusal = WireError {
            kind: ErrorKind::DeadlineExceeded,
            message: "its time was over".to_owned(),
        };
        let error = ExecError::Supervisor {
            id: ContainerId::parse(&"c".repeat(64)).unwrap(),
            command: "/probe".to_owned(),
            source: CallError::Refused(refusal),
        };
        assert_eq!(error.into_status().code(), Code::DeadlineExceeded);
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Told(&'static str, #[source] Option<Box<Told>>);

    #[test]
    fn nothing_is_said_twice() {
        let end = Told("start container x: execute /no: not found", None);
        let outer = Told("start container x", Some(Box::new(end)));
        assert_eq!(chain(&outer), "start container x: execute /no: not found");
        let outer = Told("remove pod y", Some(Box::new(Told("stop it first", None))));
        assert_eq!(chain(&outer), "remove pod y: stop it first");
    }
}
