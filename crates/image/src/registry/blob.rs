use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::host::{Failed, Host, Patience};
use super::ranges::Ranged;
use super::session::{Candidates, Capability, Session};
use super::{RegistryError, RegistryFailure};

/// Why a blob was not handed over.
#[derive(Debug)]
pub(crate) enum FetchError {
    Registry(RegistryError),
    /// The other end wants no more, and says why.
    Closed,
    /// What was to be read from this machine's disk could not be.
    Disk(std::io::Error),
}

/// An attempt that brought this much has earned the others again.
const PROGRESS_BYTES: u64 = 1 << 20;

impl Session {
    /// Streams a blob of `size` bytes to `sink`. A body that breaks off is continued where it did, by range where the server has
    /// ranges, and a large one comes in several at once; also by the next host: the digest says that it is the same. `progress` is told how many bytes have come.
    pub(crate) async fn blob(
        &self,
        digest: &str,
        size: u64,
        sink: mpsc::Sender<Bytes>,
        progress: impl Fn(u64),
    ) -> Result<(), FetchError> {
        let request = format!("GET blob {digest}");
        let path = format!("blobs/{digest}");
        let mut stream = Stream {
            sink,
            size,
            sent: 0,
            ranges: true,
            closed: false,
        };
        let Candidates { hosts, mut tried } =
            (self.candidates(Capability::Pull, &request)).map_err(FetchError::Registry)?;
        let mut hosts = hosts.into_iter().peekable();
        while let Some((index, host)) = hosts.next() {
            let patience = match hosts.peek() {
                Some(_) => Patience::Short,
                None => Patience::Full,
            };
            let before = stream.sent;
            stream.ranges = true;
            let work = host.blob(&path, &mut stream, &progress, patience);
            let result = host.within_its_time(patience, work).await;
            if stream.sent > before {
                self.gave(digest, index);
            }
            if stream.closed {
                return Err(FetchError::Closed);
            }
            match result {
                Ok(()) => return Ok(()),
                Err(failure) if patience == Patience::Full => {
                    let error = self.error(host, request, tried, failure);
                    return Err(FetchError::Registry(error));
                }
                Err(failure) => tried.push(self.go_on(host, &request, &failure)),
            }
        }
        Ok(())
    }
}

impl Host {
    async fn blob(
        &self,
        path: &str,
        stream: &mut Stream,
        progress: &impl Fn(u64),
        patience: Patience,
    ) -> Result<(), RegistryFailure> {
        let mut attempt = 1;
        loop {
            let before = stream.sent;
            let result = self.stream(path, stream, progress).await;
            let Err(failed) = result else { return Ok(()) };
            if stream.sent - before >= PROGRESS_BYTES {
                attempt = 1;
            }
            self.wait(failed, &mut attempt, patience).await?;
        }
    }

    async fn stream(
        &self,
        path: &str,
        stream: &mut Stream,
        progress: &impl Fn(u64),
    ) -> Result<(), Failed> {
        if self.wants_ranges(stream) {
            match self.in_ranges(path, stream, progress).await? {
                Ranged::Done => return Ok(()),
                Ranged::Whole(response) => return self.body(*response, stream, progress).await,
                Ranged::Wrong => stream.ranges = false,
            }
        }
        let mut headers = HeaderMap::new();
        if stream.sent > 0
            && stream.ranges
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", stream.sent))
        {
            headers.insert(RANGE, range);
        }
        let response = self.get(path, &headers).await?;
        self.body(response, stream, progress).await
    }

    /// All that the response has and `stream` has not.
    async fn body(
        &self,
        response: Response<Incoming>,
        stream: &mut Stream,
        progress: &impl Fn(u64),
    ) -> Result<(), Failed> {
        let mut skip = stream.start_of(&response)?;
        let mut body = response.into_body();
        let mut rate = Rate::default();
        let timeouts = &self.client.timeouts;
        loop {
            let asked = Instant::now();
            let frame = tokio::select! {
                frame = self.client.frame(&mut body) => frame,
                () = stream.sink.closed() => {
                    stream.closed = true;
                    return Ok(());
                }
            };
            let piece = match frame {
                Ok(piece) => piece,
                Err(RegistryFailure::Transport(error)) if is_incomplete(&*error) => None,
                Err(failure) => return Err(failure.into()),
            };
            let Some(mut piece) = piece else {
                if stream.sent < stream.size {
                    return Err(RegistryFailure::Truncated {
                        found: stream.sent,
                        expected: stream.size,
                    }
                    .into());
                }
                return Ok(());
            };
            rate.add(asked.elapsed(), piece.len() as u64);
            rate.check(timeouts.rate_window, timeouts.min_rate_bytes)?;
            let skipped = piece.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
            piece.advance(skipped);
            skip -= skipped as u64;
            if !piece.is_empty() && !stream.send(piece).await? {
                return Ok(());
            }
            progress(stream.sent);
        }
    }
}

pub(super) struct Stream {
    pub(super) sink: mpsc::Sender<Bytes>,
    pub(super) size: u64,
    pub(super) sent: u64,
    /// Whether the server's ranges are worth anything, for all that is known.
    pub(super) ranges: bool,
    pub(super) closed: bool,
}

impl Stream {
    /// How many bytes of the response have been sent before.
    fn start_of(&self, response: &Response<Incoming>) -> Result<u64, RegistryFailure> {
        let header = |name| response.headers().get(name)?.to_str().ok();
        let (start, skip) = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let start = header(CONTENT_RANGE).and_then(|range| {
                    range
                        .strip_prefix("bytes ")?
                        .split('-')
                        .next()?
                        .parse()
                        .ok()
                });
                if start != Some(self.sent) {
                    return Err(RegistryFailure::Request {
                        reason: format!(
                            "the server continued elsewhere than at byte {}",
                            self.sent
                        ),
                    });
                }
                (self.sent, 0)
            }
            // The server has no ranges: all of it comes again.
            _ => (0, self.sent),
        };
        let length: Option<u64> = header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
        match length.map(|length| start.saturating_add(length)) {
            Some(end) if end > self.size => Err(RegistryFailure::TooLarge { limit: self.size }),
            Some(end) if end < self.size => Err(RegistryFailure::Mismatch {
                found: end,
                expected: self.size,
            }),
            _ => Ok(skip),
        }
    }

    /// False when the other end wants no more.
    async fn send(&mut self, piece: Bytes) -> Result<bool, RegistryFailure> {
        let sent = self.sent + piece.len() as u64;
        if sent > self.size {
            return Err(RegistryFailure::TooLarge { limit: self.size });
        }
        if self.sink.send(piece).await.is_err() {
            self.closed = true;
            return Ok(false);
        }
        self.sent = sent;
        Ok(true)
    }
}

/// The connection was closed before the body's promised end.
pub(super) fn is_incomplete(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::UnexpectedEof;
        }
        cause = error.source();
    }
    false
}

/// How fast a body comes, counting only the time that was spent waiting for it.
#[derive(Default)]
pub(super) struct Rate {
    waited: Duration,
    bytes: u64,
}

impl Rate {
    pub(super) fn add(&mut self, waited: Duration, bytes: u64) {
        self.waited += waited;
        self.bytes += bytes;
    }

    pub(super) fn check(&mut self, window: Duration, least: u64) -> Result<(), RegistryFailure> {
        if self.waited < window {
            return Ok(());
        }
        let found = (self.bytes as f64 / self.waited.as_secs_f64()) as u64;
        *self = Self::default();
        if found < least {
            return Err(RegistryFailure::TooSlow { found, least });
        }
        Ok(())
    }
}
