//! The caller's deadline, answered as gRPC wants it.
//!
//! tonic keeps the deadline too, outside this layer, but ends the call with CANCELLED. Callers look for DEADLINE_EXCEEDED: a kubelet and
//! its tests tell by it a slow runtime from a broken one. Whether a caller sees the server's answer or its own timer's is a race.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

const GRPC_TIMEOUT: &str = "grpc-timeout";

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CallersDeadline;

impl<S> Layer<S> for CallersDeadline {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Bounded<S> {
        Bounded { inner }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Bounded<S> {
    inner: S,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S, B> Service<Request<B>> for Bounded<S>
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
        let Some(limit) = timeout(request.headers()) else {
            return Box::pin(self.inner.call(request));
        };
        let path = request.uri().path();
        let method = path.rsplit('/').next().unwrap_or(path).to_owned();
        // The timer starts here and not at the first poll: so it ends before tonic's, which is started when this returns.
        let answer = tokio::time::timeout(limit, self.inner.call(request));
        Box::pin(async move {
            answer.await.unwrap_or_else(|_| {
                let text = format!("{method}: not done within the caller's deadline of {limit:?}");
                Ok(Status::deadline_exceeded(text).into_http())
            })
        })
    }
}

/// How long the caller of an RPC will still wait, less what undoing and an answer take.
pub(super) fn left<T>(request: &tonic::Request<T>) -> Option<Duration> {
    let limit = timeout(request.metadata().as_ref())?;
    Some(limit - (limit / 5).min(Duration::from_secs(5)))
}

/// gRPC over HTTP/2, "Timeout": at most eight digits and a unit. What is none is no deadline, as for tonic.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tonic::Code;

    use super::*;

    fn request(timeout: &str) -> Request<()> {
        Request::builder()
            .uri("/runtime.v1.RuntimeService/StopContainer")
            .header(GRPC_TIMEOUT, timeout)
            .body(())
            .unwrap()
    }

    fn limit(text: &str) -> Option<Duration> {
        timeout(request(text).headers())
    }

    #[test]
    fn timeouts_are_read() {
        assert_eq!(limit("2S"), Some(Duration::from_secs(2)));
        assert_eq!(
            limit("99999999H"),
            Some(Duration::from_secs(359_999_996_400))
        );
        assert_eq!(limit("3M"), Some(Duration::from_secs(180)));
        assert_eq!(limit("15m"), Some(Duration::from_millis(15)));
        assert_eq!(limit("15u"), Some(Duration::from_micros(15)));
        assert_eq!(limit("15n"), Some(Duration::from_nanos(15)));
        for none in ["", "S", "1", "1s", "+1S", "-1S", "1 S", "123456789S"] {
            assert_eq!(limit(none), None, "{none:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn a_call_that_is_late_exceeds_its_deadline_and_is_dropped() {
        let mut service = CallersDeadline.layer(tower::service_fn(|_: Request<()>| {
            std::future::pending::<Result<Response<Body>, Infallible>>()
        }));
        for _ in 0..50 {
            let call = service.call(request("2m"));
            // As tonic does it: started after ours, asked after ours. It must never be the first.
            let answer = tokio::time::timeout(Duration::from_millis(2), call).await;
            let Ok(Ok(answer)) = answer else {
                panic!("the outer timer was first")
            };
            let status = Status::from_header_map(answer.headers()).unwrap();
            assert_eq!(status.code(), Code::DeadlineExceeded);
            assert_eq!(
                status.message(),
                "StopContainer: not done within the caller's deadline of 2ms"
            );
        }
    }

    #[tokio::test]
    async fn a_call_in_time_is_passed_on() {
        let mut service = CallersDeadline.layer(tower::service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }));
        for timeout in ["5M", "nonsense"] {
            let answer = service.call(request(timeout)).await.unwrap();
            assert_eq!(answer.headers().get("grpc-status"), None);
        }
    }
}
