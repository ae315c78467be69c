//! A large blob in several requests at once: what one connection cannot bring, several can, and a mirror that is slow with one body is not
//! with another.
//!
//! The first range is asked for alone. A server that answers it with the whole blob has no ranges and is read as it is; one that answers with
//! another range is not asked for any more. Ranges are handed over in their order, and each is held in memory until it is: beside one range
//! for each blob there are at most as many as [`Client::slots`](super::Client) has permits.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use http::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::SemaphorePermit;

use super::RegistryFailure;
use super::blob::{Rate, Stream, is_incomplete};
use super::host::{Failed, Host};

/// Of one blob, waiting to be handed over included.
pub(super) const AT_ONCE: usize = 4;

/// Below so many ranges a blob is not large.
const LEAST_RANGES: u64 = 4;

/// What came of it.
pub(super) enum Ranged {
    /// All was handed over, or nobody wants more.
    Done,
    /// The server has no ranges: the blob from its beginning.
    Whole(Box<Response<Incoming>>),
    /// What the server calls a range is none of ours.
    Wrong,
}

/// Fetched, and not yet handed over.
struct Fetched<'a> {
    pieces: VecDeque<Bytes>,
    _slot: Option<SemaphorePermit<'a>>,
}

impl Host {
    /// Whether what is left of a blob is worth several requests.
    pub(super) fn wants_ranges(&self, stream: &Stream) -> bool {
        let least = self.client.range_bytes.saturating_mul(LEAST_RANGES);
        stream.ranges && least > 0 && stream.size - stream.sent >= least
    }

    /// Fetches what is left of a blob. After a failure the ranges before it have been handed over.
    pub(super) async fn in_ranges(
        &self,
        path: &str,
        stream: &mut Stream,
        progress: &impl Fn(u64),
    ) -> Result<Ranged, Failed> {
        let size = stream.size;
        let range_at = |start: u64| start..(start + self.client.range_bytes).min(size);
        let first = range_at(stream.sent);
        let response = self.ask(path, &first).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if is(&response, &first, size) => {}
            StatusCode::PARTIAL_CONTENT => return Ok(Ranged::Wrong),
            _ => return Ok(Ranged::Whole(Box::new(response))),
        }
        let mut next = first.end;
        let mut coming = FuturesOrdered::new();
        coming.push_back(self.range(path, first, size, Some(response), None));
        let mut fetched: VecDeque<Fetched<'_>> = VecDeque::new();
        let mut failed = None;
        loop {
            while failed.is_none() && next < size && coming.len() + fetched.len() < AT_ONCE {
                let slot = self.client.slots.try_acquire().ok();
                // One of each blob needs none: nobody waits for another pull's.
                if slot.is_none() && !(coming.is_empty() && fetched.is_empty()) {
                    break;
                }
                let range = range_at(next);
                next = range.end;
                coming.push_back(self.range(path, range, size, None, slot));
            }
            if fetched.is_empty() {
                match failed {
                    Some(RangeFailure::Wrong) => return Ok(Ranged::Wrong),
                    Some(RangeFailure::Failed(failed)) => return Err(failed),
                    None if coming.is_empty() => return Ok(Ranged::Done),
                    None => {}
                }
            }
            tokio::select! {
                () = stream.sink.closed() => {
                    stream.closed = true;
                    return Ok(Ranged::Done);
                }
                permit = stream.sink.reserve(), if !fetched.is_empty() => {
                    let Ok(permit) = permit else { continue };
                    let Some(first) = fetched.front_mut() else { continue };
                    if let Some(piece) = first.pieces.pop_front() {
                        stream.sent += piece.len() as u64;
                        permit.send(piece);
                        progress(stream.sent);
                    }
                    if first.pieces.is_empty() {
                        fetched.pop_front();
                    }
                }
                // Also while others wait to be handed over: a server does not wait for ever.
                Some(range) = coming.next(), if failed.is_none() => match range {
                    Ok(range) => fetched.push_back(range),
                    Err(failure) => failed = Some(failure),
                },
            }
        }
    }

    async fn ask(&self, path: &str, range: &Range<u64>) -> Result<Response<Incoming>, Failed> {
        let mut headers = HeaderMap::new();
        let text = format!("bytes={}-{}", range.start, range.end - 1);
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(RANGE, value);
        }
        self.get(path, &headers).await
    }

    async fn range<'a>(
        &self,
        path: &str,
        range: Range<u64>,
        size: u64,
        response: Option<Response<Incoming>>,
        slot: Option<SemaphorePermit<'a>>,
    ) -> Result<Fetched<'a>, RangeFailure> {
        let response = match response {
            Some(response) => response,
            None => self.ask(path, &range).await?,
        };
        if response.status() != StatusCode::PARTIAL_CONTENT || !is(&response, &range, size) {
            return Err(RangeFailure::Wrong);
        }
        let mut body = response.into_body();
        let expected = range.end - range.start;
        let mut found = 0;
        let mut pieces = VecDeque::new();
        let mut rate = Rate::default();
        let timeouts = &self.client.timeouts;
        // They share what there is.
        let least = timeouts.min_rate_bytes / AT_ONCE as u64;
        loop {
            let asked = Instant::now();
            let piece = match self.client.frame(&mut body).await {
                Err(RegistryFailure::Transport(error)) if is_incomplete(&*error) => None,
                piece => piece?,
            };
            let Some(piece) = piece else { break };
            rate.add(asked.elapsed(), piece.len() as u64);
            rate.check(timeouts.rate_window, least)?;
            found += piece.len() as u64;
            if found > expected {
                return Err(RangeFailure::Wrong);
            }
            pieces.push_back(piece);
        }
        match found == expected {
            true => Ok(Fetched {
                pieces,
                _slot: slot,
            }),
            false => Err(RegistryFailure::Truncated { found, expected }.into()),
        }
    }
}

enum RangeFailure {
    Wrong,
    Failed(Failed),
}

impl From<Failed> for RangeFailure {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

impl From<RegistryFailure> for RangeFailure {
    fn from(failure: RegistryFailure) -> Self {
        Self::Failed(failure.into())
    }
}

/// Whether a response has the range that was asked for, of a blob of the right size.
fn is(response: &Response<Incoming>, range: &Range<u64>, size: u64) -> bool {
    let has = || {
        let value = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
        let (bounds, whole) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = bounds.split_once('-')?;
        let found = first.parse::<u64>().ok()?..last.parse::<u64>().ok()?.checked_add(1)?;
        let whole = whole == "*" || whole.parse() == Ok(size);
        Some(found == *range && whole)
    };
    has().unwrap_or(false)
}
