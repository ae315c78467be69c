//! One end of a trunk.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot, watch},
};

use crate::{
    MESSAGE_BYTES,
    frame::{self, Assembly, FrameError, Message, REQUEST, RESPONSE},
    wire,
};

/// Which end it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Runtime,
    Plugin,
}

impl Side {
    /// The connections of its own calls, and of the other end's.
    fn connections(self) -> (u32, u32) {
        const PLUGIN_SERVES: u32 = 1;
        const RUNTIME_SERVES: u32 = 2;
        match self {
            Self::Runtime => (PLUGIN_SERVES, RUNTIME_SERVES),
            Self::Plugin => (RUNTIME_SERVES, PLUGIN_SERVES),
        }
    }
}

/// A code of gRPC's, which ttrpc uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub i32);

impl Code {
    pub const UNKNOWN: Self = Self(2);
    pub const INVALID_ARGUMENT: Self = Self(3);
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    pub const UNIMPLEMENTED: Self = Self(12);
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The other end answered with an error.
    #[error("{message} (code {})", code.0)]
    Refused { code: Code, message: String },
    #[error("no answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    #[error("{0}")]
    Closed(String),
    #[error("the answer makes no sense: {0}")]
    Answer(String),
    #[error("the message is longer than {MESSAGE_BYTES} bytes")]
    Long,
}

/// A call of the other end's.
#[derive(Debug)]
pub struct Call {
    pub service: String,
    pub method: String,
    pub payload: Vec<u8>,
    pub reply: Reply,
}

/// The answer to a call; one that is dropped is an error for the caller.
#[derive(Debug)]
pub struct Reply {
    stream: u32,
    answer: oneshot::Sender<wire::Response>,
}

impl Reply {
    /// Answers.
    pub fn ok(self, message: &impl prost::Message) {
        let response = wire::Response {
            status: None,
            payload: message.encode_to_vec(),
        };
        // A caller that is gone needs none.
        let _gone = self.answer.send(response);
    }

    /// Refuses.
    pub fn refuse(self, code: Code, message: impl Into<String>) {
        let status = wire::Status {
            code: code.0,
            message: message.into(),
        };
        let response = wire::Response {
            status: Some(status),
            payload: Vec::new(),
        };
        let _gone = self.answer.send(response);
    }
}

/// One end of a trunk. Dropping the last copy closes it.
#[derive(Debug, Clone)]
pub struct Peer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Odd, as a client's are.
    next: AtomicU32,
    out: mpsc::Sender<(u32, Message)>,
    connection: u32,
    end: watch::Sender<Option<String>>,
}

type Waiting = HashMap<u32, oneshot::Sender<wire::Response>>;

/// Calls of the other end that wait for an answer; one that makes more is cut off.
const MOST_CALLS: usize = 64;

impl Peer {
    /// Serves an end of a trunk; calls of the other end come to `calls`.
    pub fn start<S>(stream: S, side: Side, calls: mpsc::Sender<Call>) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(stream);
        let (out, queue) = mpsc::channel(MOST_CALLS);
        let (ours, theirs) = side.connections();
        let (end, _) = watch::channel(None);
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            next: AtomicU32::new(1),
            out: out.clone(),
            connection: ours,
            end,
        });
        let weak = Arc::downgrade(&shared);
        let mut ended = shared.end.subscribe();
        tokio::spawn(async move {
            let serving = async {
                tokio::select! {
                    error = listen(read, (ours, theirs), &weak, &calls, &out) => error.to_string(),
                    error = speak(write, queue) => error,
                }
            };
            let why = tokio::select! {
                why = serving => why,
                // Closed by this end, or nobody holds it any more.
                changed = ended.changed() => match changed {
                    Ok(()) => return,
                    Err(_dropped) => return,
                },
            };
            if let Some(shared) = weak.upgrade() {
                shared.close(&why);
            }
        });
        Self { shared }
    }

    /// Calls a method of the other end's service, and waits for the answer as long as `bound`. Cancellation forgets the call.
    ///
    /// # Errors
    /// As [`CallError`] says. After `Timeout` the other end may still do what it was asked.
    pub async fn call<A: prost::Message + Default>(
        &self,
        service: &str,
        method: &str,
        request: &impl prost::Message,
        bound: Duration,
    ) -> Result<A, CallError> {
        let request = wire::Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: request.encode_to_vec(),
            timeout_nano: i64::try_from(bound.as_nanos()).unwrap_or(i64::MAX),
        };
        let body = request.encode_to_vec();
        if body.len() > MESSAGE_BYTES {
            return Err(CallError::Long);
        }
        let stream = self.shared.next.fetch_add(2, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.shared.lock().insert(stream, sender);
        let _forget = Forget(&self.shared, stream);
        if let Some(why) = self.closed() {
            return Err(CallError::Closed(why));
        }
        let message = Message {
            stream,
            kind: REQUEST,
            body,
        };
        let exchange = async {
            let sent = self.shared.out.send((self.shared.connection, message));
            sent.await.ok()?;
            answer.await.ok()
        };
        let response = match tokio::time::timeout(bound, exchange).await {
            Err(_elapsed) => return Err(CallError::Timeout(bound)),
            Ok(None) => {
                let why = self.closed();
                return Err(CallError::Closed(
                    why.unwrap_or_else(|| "the connection is closed".to_owned()),
                ));
            }
            Ok(Some(response)) => response,
        };
        match response.status {
            Some(status) if status.code != 0 => Err(CallError::Refused {
                code: Code(status.code),
                message: status.message,
            }),
            Some(_) | None => A::decode(response.payload.as_slice())
                .map_err(|error| CallError::Answer(error.to_string())),
        }
    }

    /// Closes the trunk; calls under way fail with the reason.
    pub fn close(&self, why: &str) {
        self.shared.close(why);
    }

    /// Why it is closed, if it is.
    #[must_use]
    pub fn closed(&self) -> Option<String> {
        self.shared.end.borrow().clone()
    }

    /// Completes when the trunk is closed, with the reason.
    pub async fn ended(&self) -> String {
        let mut end = self.shared.end.subscribe();
        // The sender lives in `self`: the wait cannot fail.
        let ended = end.wait_for(Option::is_some).await;
        ended.ok().and_then(|why| why.clone()).unwrap_or_default()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, why: &str) {
        self.end.send_if_modified(|end| {
            let first = end.is_none();
            if first {
                *end = Some(why.to_owned());
            }
            first
        });
        self.lock().clear();
    }
}

struct Forget<'a>(&'a Shared, u32);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

async fn speak(
    mut trunk: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<(u32, Message)>,
) -> String {
    while let Some((connection, message)) = queue.recv().await {
        if let Err(error) = frame::write(&mut trunk, connection, &message).await {
            return error.to_string();
        }
    }
    "nobody speaks any more".to_owned()
}

async fn listen(
    mut trunk: impl AsyncRead + Unpin,
    (ours, theirs): (u32, u32),
    shared: &std::sync::Weak<Shared>,
    calls: &mpsc::Sender<Call>,
    out: &mpsc::Sender<(u32, Message)>,
) -> ListenError {
    let (mut answers, mut requests) = (Assembly::default(), Assembly::default());
    let open = Arc::new(tokio::sync::Semaphore::new(MOST_CALLS));
    loop {
        let heard = async {
            let (connection, bytes) = frame::read(&mut trunk).await?;
            if connection == ours {
                answers.add(&bytes);
                while let Some(message) = answers.take()? {
                    answer(shared, message)?;
                }
            } else if connection == theirs {
                requests.add(&bytes);
                while let Some(message) = requests.take()? {
                    let place = Arc::clone(&open).try_acquire_owned();
                    let place = place.map_err(|_full| ListenError::Flood)?;
                    request(message, theirs, calls, out, place).await?;
                }
            }
            // Other connections are nobody's, and what comes on them is dropped.
            Ok(())
        };
        if let Err(error) = heard.await {
            return error;
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ListenError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a message does not decode: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("a message of type {0} makes no sense here")]
    Kind(u8),
    #[error("more than {MOST_CALLS} calls wait for an answer")]
    Flood,
    #[error("nobody answers calls any more")]
    Deaf,
}

fn answer(shared: &std::sync::Weak<Shared>, message: Message) -> Result<(), ListenError> {
    if message.kind != RESPONSE {
        return Err(ListenError::Kind(message.kind));
    }
    let response = wire::Response::decode(message.body.as_slice())?;
    let waiting = shared
        .upgrade()
        .and_then(|shared| shared.lock().remove(&message.stream));
    // One that comes too late is nobody's.
    if let Some(waiting) = waiting {
        let _gave_up = waiting.send(response);
    }
    Ok(())
}

async fn request(
    message: Message,
    connection: u32,
    calls: &mpsc::Sender<Call>,
    out: &mpsc::Sender<(u32, Message)>,
    place: tokio::sync::OwnedSemaphorePermit,
) -> Result<(), ListenError> {
    if message.kind != REQUEST {
        return Err(ListenError::Kind(message.kind));
    }
    let request = wire::Request::decode(message.body.as_slice())?;
    let (answer, answered) = oneshot::channel();
    let reply = Reply {
        stream: message.stream,
        answer,
    };
    let stream = reply.stream;
    let call = Call {
        service: request.service,
        method: request.method,
        payload: request.payload,
        reply,
    };
    calls.send(call).await.map_err(|_deaf| ListenError::Deaf)?;
    let out = out.clone();
    tokio::spawn(async move {
        let _place = place;
        let response = answered.await.unwrap_or_else(|_dropped| wire::Response {
            status: Some(wire::Status {
                code: Code::UNKNOWN.0,
                message: "the call was dropped".to_owned(),
            }),
            payload: Vec::new(),
        });
        let message = Message {
            stream,
            kind: RESPONSE,
            body: response.encode_to_vec(),
        };
        // A closed trunk needs no answers.
        let _closed = out.send((connection, message)).await;
    });
    Ok(())
}
