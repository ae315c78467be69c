//! One connection to one supervisor.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::io::Errno;
pub(crate) use supervisor_api::Event;
use supervisor_api::{
    LABELS, MEMORY_POLICY, Message, Outgoing, OutgoingError, ReceiveError, ReplyBody, Request,
    RequestBody, WireError,
};
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// A supervisor that takes longer than this over anything is as good as gone for the caller; the operation itself goes on there.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// Why a request to a supervisor has no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The supervisor answered, and the answer is a refusal.
    #[error(transparent)]
    Refused(WireError),
    #[error("the pod's supervisor is gone")]
    Gone,
    #[error("the pod's supervisor did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("send a request to the pod's supervisor")]
    Send(#[source] io::Error),
    #[error("prepare a request to the pod's supervisor")]
    Prepare(#[source] OutgoingError),
    #[error("the pod's supervisor answered {request} with {reply}")]
    Mismatch {
        request: &'static str,
        reply: String,
    },
    #[error(
        "the pod's supervisor is of a version that knows no labels of security modules: make the pod again"
    )]
    NoLabels,
    #[error(
        "the pod's supervisor is of a version that knows no memory policies: make the pod again"
    )]
    NoMemoryPolicies,
}

/// A reply and the descriptors that came with it.
type Answer = Result<(ReplyBody, Vec<OwnedFd>), WireError>;

/// Requests that wait for their reply; `None` once the connection has ended.
type Waiting = Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>;

/// A connection to a supervisor. Dropping it closes the connection and stops the reader.
#[derive(Debug)]
pub(crate) struct Link {
    socket: Arc<AsyncFd<OwnedFd>>,
    waiting: Arc<Waiting>,
    sequence: AtomicU64,
    /// Its Hello says that the other side knows requests with labels.
    labels: AtomicBool,
    /// The same, of requests with a memory policy.
    memory_policies: AtomicBool,
    reader: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Link {
    /// Takes a connected, non-blocking `SOCK_SEQPACKET` socket. Events arrive on the returned channel, which closes when the
    /// supervisor hangs up: that is how its death is noticed.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<(Self, mpsc::UnboundedReceiver<Event>)> {
        // Its successor is an unsafe function, for inner types that may change their descriptor; this one is owned and never does.
        #[expect(
            deprecated,
            reason = "sound for an OwnedFd, and unsafe code lives in one crate"
        )]
        let socket = Arc::new(AsyncFd::new(socket)?);
        let waiting: Arc<Waiting> = Arc::new(Mutex::new(Some(HashMap::new())));
        let (events, receiver) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read(Arc::clone(&socket), Arc::clone(&waiting), events));
        Ok((
            Self {
                socket,
                waiting,
                sequence: AtomicU64::new(1),
                labels: AtomicBool::new(false),
                memory_policies: AtomicBool::new(false),
                reader,
            },
            receiver,
        ))
    }

    /// The first request on every connection; its answer says that the other side is of our kind. The next request may be sent before
    /// that answer is there.
    pub(crate) async fn greet(&self) -> Result<Greeting<'_>, CallError> {
        Ok(Greeting(self.send(RequestBody::Hello, Vec::new()).await?))
    }

    /// Sends a request and waits for its reply. Dropping the future drops the reply, not the request.
    pub(crate) async fn call(
        &self,
        body: RequestBody,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(ReplyBody, Vec<OwnedFd>), CallError> {
        self.send(body, descriptors).await?.answer().await
    }

    /// As [`Link::call`], for requests answered by [`ReplyBody::Done`].
    pub(crate) async fn order(
        &self,
        request: &'static str,
        body: RequestBody,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), CallError> {
        match self.call(body, descriptors).await? {
            (ReplyBody::Done, _) => Ok(()),
            (other, _) => Err(mismatch(request, &other)),
        }
    }

    /// As [`Link::call`], for what may take its time.
    pub(crate) async fn call_within(
        &self,
        body: RequestBody,
        descriptors: Vec<OwnedFd>,
        bound: Duration,
    ) -> Result<(ReplyBody, Vec<OwnedFd>), CallError> {
        self.send(body, descriptors)
            .await?
            .answer_within(bound)
            .await
    }

    /// As [`Link::order`], for what may take its time.
    pub(crate) async fn order_within(
        &self,
        request: &'static str,
        body: RequestBody,
        descriptors: Vec<OwnedFd>,
        bound: Duration,
    ) -> Result<(), CallError> {
        match self
            .send(body, descriptors)
            .await?
            .answer_within(bound)
            .await?
        {
            (ReplyBody::Done, _) => Ok(()),
            (other, _) => Err(mismatch(request, &other)),
        }
    }

    /// Sends a request. Requests sent one after the other arrive in that order.
    async fn send(
        &self,
        body: RequestBody,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Sent<'_>, CallError> {
        // It would hang up on what it does not know.
        let body = body.packed();
        match &body {
            RequestBody::Labelled { .. } if !self.labels.load(Ordering::Relaxed) => {
                return Err(CallError::NoLabels);
            }
            RequestBody::Placed { .. } if !self.memory_policies.load(Ordering::Relaxed) => {
                return Err(CallError::NoMemoryPolicies);
            }
            _ => {}
        }
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let outgoing =
            Outgoing::new(&Request { sequence, body }, descriptors).map_err(CallError::Prepare)?;
        let (sender, answer) = oneshot::channel();
        lock(&self.waiting)
            .as_mut()
            .ok_or(CallError::Gone)?
            .insert(sequence, sender);
        let sent = Sent {
            link: self,
            sequence,
            answer,
        };
        loop {
            let mut ready = self.socket.writable().await.map_err(CallError::Send)?;
            match ready.try_io(|socket| Ok(outgoing.send(socket.as_fd())?)) {
                Ok(Ok(())) => return Ok(sent),
                Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Err(CallError::Gone);
                }
                Ok(Err(error)) => return Err(CallError::Send(error)),
                Err(_would_block) => {}
            }
        }
    }
}

/// A request that was sent. Dropping it forgets its answer.
#[derive(Debug)]
struct Sent<'a> {
    link: &'a Link,
    sequence: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Sent<'_> {
    async fn answer(self) -> Result<(ReplyBody, Vec<OwnedFd>), CallError> {
        self.answer_within(ANSWER_WITHIN).await
    }

    async fn answer_within(
        mut self,
        bound: Duration,
    ) -> Result<(ReplyBody, Vec<OwnedFd>), CallError> {
        match tokio::time::timeout(bound, &mut self.answer).await {
            Ok(Ok(answer)) => answer.map_err(CallError::Refused),
            Ok(Err(_closed)) => Err(CallError::Gone),
            Err(_elapsed) => Err(CallError::Silent(bound)),
        }
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = lock(&self.link.waiting).as_mut() {
            waiting.remove(&self.sequence);
        }
    }
}

/// A Hello on its way.
#[derive(Debug)]
pub(crate) struct Greeting<'a>(Sent<'a>);

impl Greeting<'_> {
    pub(crate) async fn answered(self) -> Result<(), CallError> {
        let link = self.0.link;
        match self.0.answer().await? {
            (
                ReplyBody::Hello {
                    supervisor_version,
                    pid,
                },
                _,
            ) => {
                tracing::debug!(supervisor_version, pid, "connected to a supervisor");
                let known = supervisor_version.split_once('+').map(|(_, known)| known);
                let knows =
                    |word| known.is_some_and(|known| known.split('.').any(|one| one == word));
                link.labels.store(knows(LABELS), Ordering::Relaxed);
                link.memory_policies
                    .store(knows(MEMORY_POLICY), Ordering::Relaxed);
                Ok(())
            }
            (other, _) => Err(mismatch("Hello", &other)),
        }
    }
}

/// A reply of the wrong kind: the other side has a defect, and its words are worth seeing.
pub(crate) fn mismatch(request: &'static str, reply: &ReplyBody) -> CallError {
    CallError::Mismatch {
        request,
        reply: format!("{reply:?}"),
    }
}

fn lock(
    waiting: &Waiting,
) -> std::sync::MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Answer>>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(
    socket: Arc<AsyncFd<OwnedFd>>,
    waiting: Arc<Waiting>,
    events: mpsc::UnboundedSender<Event>,
) {
    loop {
        match receive(&socket).await {
            Ok(Some((Message::Event(event), _))) => {
                if events.send(event).is_err() {
                    break;
                }
            }
            Ok(Some((Message::Reply { sequence, result }, descriptors))) => {
                let waiter = lock(&waiting)
                    .as_mut()
                    .and_then(|waiting| waiting.remove(&sequence));
                if waiter.is_none()
                    && let Err(refusal) = &result
                {
                    tracing::warn!(refusal = %refusal.message, "a supervisor refuses what nobody waits for");
                }
                if let Some(waiter) = waiter {
                    // A caller that has gone does not want its reply.
                    let _gone = waiter.send(result.map(|body| (body, descriptors)));
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "a supervisor's message could not be read; hanging up");
                break;
            }
        }
    }
    // Dropping the senders tells every waiting caller; `None` tells the later ones.
    lock(&waiting).take();
}

/// The next message and its descriptors; `None` at the end of the connection.
async fn receive(
    socket: &AsyncFd<OwnedFd>,
) -> Result<Option<(Message, Vec<OwnedFd>)>, ReceiveError> {
    loop {
        let mut ready = match socket.readable().await {
            Ok(ready) => ready,
            Err(_runtime_shutting_down) => return Ok(None),
        };
        match supervisor_api::receive(socket.get_ref().as_fd()) {
            Err(ReceiveError::Socket(Errno::AGAIN)) => ready.clear_ready(),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use oci_plan::Labels;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use supervisor_api::{Exec, receive as receive_blocking};

    use super::*;

    /// Says Hello as `version`, then Done to everything, and returns what it was asked.
    fn supervisor(socket: &OwnedFd, version: &str) -> Vec<RequestBody> {
        let mut asked = Vec::new();
        while let Ok(Some((request, _))) = receive_blocking::<Request>(socket.as_fd()) {
            let body = match asked.is_empty() {
                true => ReplyBody::Hello {
                    supervisor_version: version.to_owned(),
                    pid: 1,
                },
                false => ReplyBody::Done,
            };
            let reply = Message::Reply {
                sequence: request.sequence,
                result: Ok(body),
            };
            asked.push(request.body);
            let outgoing = Outgoing::new(&reply, Vec::new()).unwrap();
            outgoing.send(socket.as_fd()).unwrap();
        }
        asked
    }

    fn exec(labels: &Labels) -> RequestBody {
        let json = serde_json::json!({ "ociVersion": "1.1.0", "process": { "user": { "uid": 0, "gid": 0 }, "args": ["x"], "cwd": "/" } });
        let spec = serde_json::from_value(json).unwrap();
        let args = vec!["true".to_owned()];
        let mut process = oci_plan::spec::exec_process(&spec, args, None, None).unwrap();
        process.labels = labels.clone();
        RequestBody::Exec(Box::new(Exec {
            container_id: "c".into(),
            exec_id: "e".into(),
            process,
            stdin: None,
            stdout: None,
            stderr: None,
            timeout_ms: None,
            bound_to_connection: true,
        }))
    }

    #[tokio::test]
    async fn a_supervisor_runs_nothing_that_has_what_it_does_not_know() {
        let labels = Labels {
            apparmor: Some("p".into()),
            selinux: None,
        };
        for (version, knows, places) in [
            ("0.1.0", false, false),
            ("0.1.0+other", false, false),
            ("0.1.0+labels", true, false),
            ("9.0.0+other.labels.memory-policy", true, true),
        ] {
            let (ours, theirs) = socketpair(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )
            .unwrap();
            rustix::io::ioctl_fionbio(&ours, true).unwrap();
            let peer = tokio::task::spawn_blocking(move || supervisor(&theirs, version));
            let (link, events) = Link::new(ours).unwrap();
            link.greet().await.unwrap().answered().await.unwrap();
            let plain = link.call(exec(&Labels::default()), Vec::new()).await;
            assert!(plain.is_ok(), "{plain:?}");
            let labelled = link.call(exec(&labels), Vec::new()).await;
            match labelled {
                Err(CallError::NoLabels) => assert!(!knows, "{version}"),
                other => assert!(knows && other.is_ok(), "{version}: {other:?}"),
            }
            let mut placed = exec(&labels);
            if let RequestBody::Exec(exec) = &mut placed {
                exec.process.habits.memory_policy = Some(oci_plan::MemoryPolicy::default());
            }
            match link.call(placed, Vec::new()).await {
                Err(CallError::NoMemoryPolicies) => assert!(!places, "{version}"),
                other => assert!(places && other.is_ok(), "{version}: {other:?}"),
            }
            drop((link, events));
            // The reader lets go of the socket at its next turn.
            let asked = peer.await.unwrap();
            let told = asked.iter().any(
                |one| matches!(one, RequestBody::Labelled { labels: told, .. } if *told == labels),
            );
            assert_eq!(told, knows, "{version}");
            let unpacked = asked.into_iter().map(RequestBody::unpacked);
            let policies = unpacked.filter(|one| match one {
                RequestBody::Exec(exec) => exec.process.habits.memory_policy.is_some(),
                _ => false,
            });
            assert_eq!(policies.count(), usize::from(places), "{version}");
        }
    }
}
