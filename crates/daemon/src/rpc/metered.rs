//! Each call: under way as long as somebody waits for it, counted when it ends.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::metrics::Metrics;

/// The calls that somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    now: Mutex<BTreeMap<u64, (String, Instant)>>,
    next: AtomicU64,
}

impl Calls {
    /// Each RPC's name and age, the oldest first.
    pub(crate) fn now(&self) -> Vec<(String, Duration)> {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.values()
            .map(|(rpc, since)| (rpc.clone(), since.elapsed()))
            .collect()
    }
}

/// The layer. Outermost, so that it counts what the client sees.
#[derive(Debug, Clone)]
pub(crate) struct Metered {
    pub(crate) calls: Arc<Calls>,
    pub(crate) metrics: Arc<Metrics>,
}

impl<S> Layer<S> for Metered {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Counting<S> {
        Counting {
            inner,
            meter: self.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Counting<S> {
    inner: S,
    meter: Metered,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S, B> Service<Request<B>> for Counting<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Answer<S::Error> {
        let path = request.uri().path();
        let call = Call::begin(&self.meter, path.rsplit('/').next().unwrap_or(path));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut call = call;
            let response = match answer.await {
                Ok(response) => response,
                Err(error) => {
                    call.code = Code::Internal;
                    return Err(error);
                }
            };
            if let Some(code) = code(response.headers()) {
                call.code = code;
                return Ok(response);
            }
            let call = Some(call);
            Ok(response.map(|body| Body::new(Measured { body, call })))
        })
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    Status::from_header_map(headers).map(|status| status.code())
}

/// A call under way. It ends when this is dropped; a client that goes away before the end cancels it.
#[derive(Debug)]
struct Call {
    meter: Metered,
    key: u64,
    rpc: String,
    since: Instant,
    code: Code,
}

impl Call {
    fn begin(meter: &Metered, rpc: &str) -> Self {
        let since = Instant::now();
        let key = meter.calls.next.fetch_add(1, Ordering::Relaxed);
        let mut now = meter
            .calls
            .now
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        now.insert(key, (rpc.to_owned(), since));
        drop(now);
        Self {
            meter: meter.clone(),
            key,
            rpc: rpc.to_owned(),
            since,
            code: Code::Cancelled,
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut now = self
            .meter
            .calls
            .now
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        now.remove(&self.key);
        drop(now);
        let took = self.since.elapsed();
        self.meter.metrics.called(&self.rpc, self.code, took);
    }
}

/// A reply that says in its trailers how the call ended.
struct Measured {
    body: Body,
    /// Until the client gets to know how it ended.
    call: Option<Call>,
}

impl http_body::Body for Measured {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(code) = frame.trailers_ref().and_then(code)
            && let Some(mut call) = self.call.take()
        {
            call.code = code;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Full;
    use hyper::body::Bytes;

    use super::*;

    fn meter() -> Metered {
        Metered {
            calls: Arc::default(),
            metrics: Arc::default(),
        }
    }

    fn request() -> Request<()> {
        Request::builder()
            .uri("/runtime.v1.RuntimeService/StopContainer")
            .body(())
            .unwrap()
    }

    #[tokio::test]
    async fn a_call_is_there_until_it_ends() {
        let meter = meter();
        let mut refusing = meter.layer(tower::service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Status::not_found("no").into_http())
        }));
        let call = refusing.call(request());
        let now = meter.calls.now();
        assert_eq!(now.len(), 1);
        assert_eq!(now[0].0, "StopContainer");
        let response = call.await.unwrap();
        assert_eq!(code(response.headers()), Some(Code::NotFound));
        assert!(meter.calls.now().is_empty());

        let mut silent = meter.layer(tower::service_fn(|_: Request<()>| {
            std::future::pending::<Result<Response<Body>, Infallible>>()
        }));
        let call = silent.call(request());
        assert_eq!(meter.calls.now().len(), 1);
        drop(call);
        assert!(meter.calls.now().is_empty());
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_body() {
        let meter = meter();
        let mut streaming = meter.layer(tower::service_fn(|_: Request<()>| async {
            let body = Full::new(Bytes::from_static(b"a message"));
            Ok::<_, Infallible>(Response::new(Body::new(body)))
        }));
        let response = streaming.call(request()).await.unwrap();
        assert_eq!(meter.calls.now().len(), 1);
        drop(response);
        assert!(meter.calls.now().is_empty());
    }
}
