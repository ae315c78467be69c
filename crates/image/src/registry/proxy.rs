//! Proxies, as the environment names them: `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`, in capitals or not.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::HeaderValue;
use http::{HeaderName, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::endpoint::is_loopback;

/// Which proxy is for which host. This machine is never reached through one. Credentials in a proxy's address are for the proxy, and
/// never shown.
#[derive(Clone)]
pub struct Proxies(Arc<Matcher>);

impl Proxies {
    /// By the process's environment, as it is now.
    pub fn from_environment() -> Self {
        let variable = |name: &str| {
            [name.to_owned(), name.to_ascii_lowercase()]
                .iter()
                .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
                .unwrap_or_default()
        };
        Self::new(
            &variable("HTTP_PROXY"),
            &variable("HTTPS_PROXY"),
            &variable("NO_PROXY"),
        )
    }

    /// For `http://` and for `https://` addresses, and the hosts that are reached without: all as in the environment, empty for none.
    pub fn new(http: &str, https: &str, without: &str) -> Self {
        let builder = Matcher::builder().http(http).https(https).no(without);
        Self(Arc::new(builder.build()))
    }

    fn intercept(&self, target: &Uri) -> Option<Intercept> {
        match target.authority() {
            Some(authority) if !is_loopback(authority) => self.0.intercept(target),
            _ => None,
        }
    }

    /// The proxy on the way to `target`, without its credentials.
    pub(super) fn shown(&self, target: &Uri) -> Option<String> {
        let uri = self.intercept(target)?.uri().clone();
        Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?))
    }

    /// What a proxy wants to see in each request that it reads: those without TLS.
    pub(super) fn authorization(&self, target: &Uri) -> Option<(HeaderName, HeaderValue)> {
        if target.scheme_str() != Some("http") {
            return None;
        }
        let value = self.intercept(target)?.basic_auth()?.clone();
        Some((http::header::PROXY_AUTHORIZATION, value))
    }
}

impl Default for Proxies {
    fn default() -> Self {
        Self::new("", "", "")
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Proxies")
    }
}

/// Connects to a host, or to the proxy that leads there.
#[derive(Debug, Clone)]
pub(super) struct Route {
    direct: HttpConnector,
    proxies: Proxies,
}

impl Route {
    pub(super) fn new(direct: HttpConnector, proxies: Proxies) -> Self {
        Self { direct, proxies }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Route {
    type Response = Reached;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Reached, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let mut direct = self.direct.clone();
        let proxy = self.proxies.intercept(&target);
        Box::pin(async move {
            let Some(proxy) = proxy else {
                let stream = direct.call(target).await?;
                return Ok(Reached {
                    stream,
                    proxied: false,
                });
            };
            if proxy.uri().scheme_str() != Some("http") {
                let scheme = proxy.uri().scheme_str().unwrap_or_default();
                return Err(format!(
                    "a proxy is spoken to by http://, and the environment has {scheme}://"
                )
                .into());
            }
            if target.scheme_str() == Some("http") {
                let stream = direct.call(proxy.uri().clone()).await?;
                return Ok(Reached {
                    stream,
                    proxied: true,
                });
            }
            let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
            if let Some(value) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(value.clone());
            }
            let stream = tunnel.call(target).await?;
            Ok(Reached {
                stream,
                proxied: false,
            })
        })
    }
}

/// A connection, and whether a proxy reads the requests on it.
#[derive(Debug)]
pub(super) struct Reached {
    stream: TokioIo<TcpStream>,
    proxied: bool,
}

impl Connection for Reached {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.proxied)
    }
}

impl Read for Reached {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for Reached {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }
}
