//! `GET /metrics`, over HTTP/1.1.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::runtime::Runtime;

/// A collector or two, and somebody with a browser.
const CLIENTS: usize = 16;

/// For the head of a request; it is one line.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// When the kernel has no descriptor left for a client, others may close theirs meanwhile.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Listens for collectors.
#[derive(Debug)]
pub(crate) struct Server {
    listener: TcpListener,
    runtime: Arc<Runtime>,
}

impl Server {
    /// # Errors
    /// The address is none of this machine's, or taken.
    pub(crate) async fn bind(address: SocketAddr, runtime: Arc<Runtime>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        tracing::info!(address = %listener.local_addr()?, "metrics are served");
        Ok(Self { listener, runtime })
    }

    /// Never ends by itself.
    pub(crate) async fn serve(self) {
        let permits = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            let socket = match self.listener.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "a client of /metrics could not be taken");
                    tokio::time::sleep(AFTER_FAILURE).await;
                    continue;
                }
            };
            let runtime = Arc::clone(&self.runtime);
            tokio::spawn(async move {
                let answer = service_fn(|request: Request<Incoming>| {
                    std::future::ready(Ok::<_, io::Error>(answer(&runtime, &request)))
                });
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_WITHIN)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(socket), answer);
                // How a client ends is its own affair.
                let _gone = served.await;
                drop(permit);
            });
        }
    }
}

fn answer(runtime: &Runtime, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET | &Method::HEAD) => match runtime.metrics.text(runtime) {
            Ok(text) => (
                StatusCode::OK,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                text,
            ),
            Err(_unwritable) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain",
                "the metrics cannot be written\n".to_owned(),
            ),
        },
        ("/metrics", _) => (
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            "metrics are read with GET\n".to_owned(),
        ),
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain",
            "metrics are at /metrics\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
