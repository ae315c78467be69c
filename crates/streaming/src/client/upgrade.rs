//! The HTTP request that a session begins with.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{ClientError, Options, Transport};
use crate::{keepalive, websocket};

/// What the server and this client have agreed on.
pub(super) struct Agreed {
    pub(super) socket: TokioIo<Upgraded>,
    pub(super) protocol: Option<String>,
}

/// A refusal's words that are worth keeping.
const LONGEST_REFUSAL: usize = 16 * 1024;

/// A server that has acknowledged nothing for this long is lost.
const VANISHED: Duration = Duration::from_secs(150);

pub(super) async fn upgrade(
    url: &str,
    options: &Options,
    offered: &[&str],
) -> Result<Agreed, ClientError> {
    let unusable = |reason| ClientError::Url {
        url: url.to_owned(),
        reason,
    };
    let uri: Uri = url.parse().map_err(|_| unusable("it cannot be parsed"))?;
    let authority = uri
        .authority()
        .ok_or_else(|| unusable("it names no host"))?;
    let host = authority.as_str().to_owned();
    let is_tls = match uri.scheme_str() {
        Some("http" | "ws") => false,
        Some("https" | "wss") => true,
        _ => return Err(unusable("its scheme is neither http nor https")),
    };
    let name = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let port = authority
        .port_u16()
        .unwrap_or(if is_tls { 443 } else { 80 });
    let connect = |source| ClientError::Connect {
        host: host.clone(),
        source,
    };
    let socket = TcpStream::connect((name, port)).await.map_err(connect)?;
    keepalive::set(&socket, VANISHED);
    let ask = Ask {
        uri: &uri,
        host: &host,
        transport: options.transport,
        offered,
    };
    if !is_tls {
        return ask.on(socket).await;
    }
    let config = options.tls.as_ref();
    let config = config.ok_or_else(|| unusable("it wants TLS, and nobody is trusted"))?;
    let name = options.server_name.as_deref().unwrap_or(name);
    let server = ServerName::try_from(name.to_owned());
    let server = server.map_err(|_| unusable("no certificate can have the name of its host"))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
    let socket = connector.connect(server, socket).await.map_err(connect)?;
    ask.on(socket).await
}

struct Ask<'a> {
    uri: &'a Uri,
    host: &'a str,
    transport: Transport,
    offered: &'a [&'a str],
}

impl Ask<'_> {
    async fn on(
        &self,
        socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Agreed, ClientError> {
        let failed = |source| ClientError::Ask {
            host: self.host.to_owned(),
            source,
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
            .await
            .map_err(failed)?;
        tokio::spawn(connection.with_upgrades());
        let (request, accept) = self.request()?;
        let response = sender.send_request(request).await.map_err(failed)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST_REFUSAL).collect();
            let text = body.await.map(http_body_util::Collected::to_bytes);
            let text = String::from_utf8_lossy(&text.unwrap_or_default())
                .trim()
                .to_owned();
            return Err(ClientError::Refused { status, text });
        }
        let said = |name: &str| {
            let value = response.headers().get(name);
            value
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let protocol = match self.transport {
            Transport::Spdy => said("x-stream-protocol-version"),
            Transport::WebSocket => said("sec-websocket-protocol"),
        };
        let agreed = protocol.as_deref().unwrap_or_default();
        if !self.offered.contains(&agreed) || said("sec-websocket-accept") != accept {
            return Err(ClientError::Protocol(agreed.to_owned()));
        }
        let socket = hyper::upgrade::on(response).await.map_err(failed)?;
        let socket = TokioIo::new(socket);
        Ok(Agreed { socket, protocol })
    }

    /// The request, and what a WebSocket server must answer it with.
    fn request(&self) -> Result<(Request<Empty<Bytes>>, Option<String>), ClientError> {
        let path = self.uri.path_and_query();
        let request = Request::builder()
            .uri(path.map_or("/", http::uri::PathAndQuery::as_str))
            .header(header::HOST, self.host)
            .header(header::CONNECTION, "Upgrade");
        let (request, accept) = match self.transport {
            Transport::Spdy => {
                let mut request = request.method("POST").header(header::UPGRADE, "SPDY/3.1");
                for name in self.offered {
                    request = request.header("X-Stream-Protocol-Version", *name);
                }
                (request, None)
            }
            Transport::WebSocket => {
                let mut nonce = [0; 16];
                // Against proxies that would answer from a cache: it need not be secret, nor even fail when the kernel has no entropy yet.
                let _unseeded =
                    rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::NONBLOCK);
                let key = BASE64_STANDARD.encode(nonce);
                let request = request
                    .header(header::UPGRADE, "websocket")
                    .header(header::SEC_WEBSOCKET_VERSION, "13")
                    .header(header::SEC_WEBSOCKET_KEY, &key)
                    .header(header::SEC_WEBSOCKET_PROTOCOL, self.offered.join(", "));
                (request, Some(websocket::accept_key(&key)))
            }
        };
        let request = request.body(Empty::new()).map_err(|_| ClientError::Url {
            url: self.uri.to_string(),
            reason: "its path is no path",
        })?;
        Ok((request, accept))
    }
}
