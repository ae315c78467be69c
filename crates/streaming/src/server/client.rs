//! One client, from its connection to its last byte: TLS, one HTTP request, and what it upgrades to.

use std::{
    io,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode};
use http_body_util::{Either, Empty, Full};
use hyper::{body::Incoming as Body, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    Shared,
    half_open::Newcomer,
    negotiation::{Protocol, Refusal, negotiate, refuse},
    port_forward,
    remote_command::{self, Channels, Ends, Wanted},
    rounds::side_by_side,
    token::Errand,
};
use crate::{
    hub::{Bounds, Hub},
    keepalive,
    session::Sessions,
    spdy::connection::{Connection, Patience, Role},
    websocket::{Codec, connection::Connection as ChannelConnection, frame::Side, tunnel::Tunnel},
};

/// How often a client that cannot be read from for now is asked whether it is there, within the time that makes it vanished; and the longest time
/// between two questions.
const ASKED: u32 = 5;
const ASKED_WITHIN: Duration = Duration::from_secs(5);

/// Of a command over WebSocket: its streams, and sizes of its terminal.
const CHANNELS: u8 = 5;

/// What a request was found to want.
struct Plan {
    upgrade: OnUpgrade,
    errand: Errand,
    protocol: Protocol,
}

pub(super) async fn serve<S: Sessions>(
    shared: Arc<Shared<S>>,
    socket: TcpStream,
    newcomer: Newcomer,
) {
    keepalive::set(&socket, shared.limits.vanished);
    let welcomed = timeout(shared.limits.creation, welcome(&shared, socket)).await;
    let plan = match welcomed {
        Ok(Ok(Some(plan))) => plan,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            tracing::info!(error, "a streaming client that made no request");
            return;
        }
        Err(_) => {
            tracing::info!("a streaming client that made no request in time");
            return;
        }
    };
    let upgraded = match plan.upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => {
            tracing::info!(%error, "a streaming client that went before its upgrade");
            return;
        }
    };
    let visit = Visit {
        shared,
        errand: plan.errand,
        newcomer,
    };
    let outcome = match plan.protocol {
        Protocol::SpdyCommand { language, resize } => {
            visit.spdy_command(upgraded, language, resize).await
        }
        Protocol::SpdyPorts => visit.spdy_ports(upgraded).await,
        Protocol::TunnelledPorts => visit.spdy_ports(Tunnel::new(upgraded, Side::Server)).await,
        Protocol::WebSocketCommand { codec, language } => {
            visit.channel_command(upgraded, codec, language).await
        }
        Protocol::WebSocketPorts { codec } => visit.channel_ports(upgraded, codec).await,
    };
    if let Err(error) = outcome {
        tracing::info!(error, "a streaming connection has failed");
    }
}

/// The TLS handshake and the request. `None` if the request was answered with an error.
async fn welcome<S: Sessions>(
    shared: &Arc<Shared<S>>,
    socket: TcpStream,
) -> Result<Option<Plan>, String> {
    let Some(certificate) = &shared.certificate else {
        return request(shared, socket).await;
    };
    let certificate = Arc::clone(certificate);
    let acceptor = tokio::task::spawn_blocking(move || certificate.acceptor())
        .await
        .map_err(|error| error.to_string())?;
    let socket = acceptor.accept(socket).await;
    let socket = socket.map_err(|error| format!("TLS handshake: {error}"))?;
    request(shared, socket).await
}

async fn request<S: Sessions>(
    shared: &Arc<Shared<S>>,
    socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Option<Plan>, String> {
    let (found, mut plan) = oneshot::channel();
    let found = std::sync::Mutex::new(Some(found));
    let answer = service_fn(|mut request: Request<Body>| {
        let answered = decide(shared, &mut request);
        let response = match answered {
            Ok((plan, response)) => {
                let sender = found.lock().ok().and_then(|mut found| found.take());
                if let Some(sender) = sender {
                    drop(sender.send(plan));
                }
                response.map(|()| Either::Left(Empty::new()))
            }
            Err(refusal) => {
                let (status, text) = (refusal.status, &refusal.text);
                let path = request.uri().path().split('/').nth(1).unwrap_or_default();
                tracing::info!(path, %status, text, "a streaming request is refused");
                refuse(&refusal).map(|text| Either::Right(Full::<bytes::Bytes>::from(text)))
            }
        };
        std::future::ready(Ok::<Response<_>, io::Error>(response))
    });
    let connection = http1::Builder::new()
        .max_buf_size(shared.limits.headers.max(8192))
        .serve_connection(TokioIo::new(socket), answer)
        .with_upgrades();
    pin!(connection)
        .await
        .map_err(|error| crate::chain(&error))?;
    // The connection is over, or upgraded: what was not found by now will not be, though it could be still.
    Ok(plan.try_recv().ok())
}

/// Uses the token up if everything else is in order.
fn decide<S>(
    shared: &Shared<S>,
    request: &mut Request<Body>,
) -> Result<(Plan, Response<()>), Refusal> {
    let now = Instant::now();
    let not_found = |reason: String| Refusal::new(StatusCode::NOT_FOUND, reason);
    let mut parts = request.uri().path().trim_matches('/').split('/');
    let (Some(path), Some(token), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(not_found(
            "there is nothing here: ask the runtime for a URL".to_owned(),
        ));
    };
    let (token, errand) = shared
        .tokens
        .look(path, token, now)
        .map_err(|reason| not_found(reason.to_string()))?;
    let (protocol, response) = negotiate(request, &errand)?;
    shared
        .tokens
        .spend(token, now)
        .map_err(|reason| not_found(reason.to_string()))?;
    let plan = Plan {
        upgrade: hyper::upgrade::on(request),
        errand,
        protocol,
    };
    Ok((plan, response))
}

/// A client whose request has been accepted.
struct Visit<S> {
    shared: Arc<Shared<S>>,
    errand: Errand,
    newcomer: Newcomer,
}

impl<S: Sessions> Visit<S> {
    fn patience(&self) -> Patience {
        let limits = &self.shared.limits;
        Patience {
            idle: limits.idle,
            farewell: limits.farewell,
            stall: matches!(self.errand, Errand::PortForward(_)).then_some(limits.stall),
            asks: Some((limits.vanished / ASKED).min(ASKED_WITHIN)),
        }
    }

    fn bounds(&self) -> Bounds {
        let limits = &self.shared.limits;
        Bounds {
            stream: limits.stream_buffer,
            overrun: limits.overrun.max(limits.stream_buffer),
            connection: limits.overrun.max(limits.stream_buffer) * 32,
            streams: limits.streams,
            newcomers: false,
        }
    }

    fn ends(&self, hub: &Arc<Hub>) -> Ends {
        Ends {
            hub: Arc::clone(hub),
            ending: self.shared.ending.subscribe(),
            farewell: self.shared.limits.farewell,
        }
    }

    async fn spdy_command<I: AsyncRead + AsyncWrite + Unpin>(
        self,
        socket: I,
        language: crate::status::Language,
        resize: bool,
    ) -> Result<(), String> {
        let hub = Hub::new(self.bounds(), 2);
        let (opened, mut incoming) = mpsc::channel(self.shared.limits.streams);
        let headers = self.shared.limits.headers;
        let patience = self.patience();
        let role = Role::Server(opened);
        let connection = Connection::new(socket, Arc::clone(&hub), role, headers, patience);
        let ends = self.ends(&hub);
        let Self {
            shared,
            errand,
            newcomer,
        } = self;
        let session = async move {
            let _finish = FinishOnDrop(Arc::clone(&hub));
            let Some(mut wanted) = Wanted::of(&errand) else {
                return;
            };
            wanted.resize &= resize;
            let collecting = remote_command::collect(&hub, &mut incoming, wanted);
            let Ok(collected) = timeout(shared.limits.creation, collecting).await else {
                tracing::info!(?wanted, "the client did not open all its streams in time");
                return;
            };
            let Some(channels) = collected else {
                return;
            };
            drop((newcomer, incoming));
            remote_command::run(&*shared.sessions, errand, channels, language, ends).await;
        };
        side_by_side(Box::pin(session), Box::pin(connection.run()))
            .await
            .map_err(|error| crate::chain(&error))
    }

    async fn spdy_ports<I: AsyncRead + AsyncWrite + Unpin>(self, socket: I) -> Result<(), String> {
        let bounds = Bounds {
            newcomers: true,
            ..self.bounds()
        };
        let hub = Hub::new(bounds, 2);
        let (opened, incoming) = mpsc::channel(self.shared.limits.streams);
        let headers = self.shared.limits.headers;
        let patience = self.patience();
        let role = Role::Server(opened);
        let connection = Connection::new(socket, Arc::clone(&hub), role, headers, patience);
        let ends = self.ends(&hub);
        let Self {
            shared,
            errand,
            newcomer,
        } = self;
        // Waiting for somebody to connect is what a forwarder does: this client is no newcomer any more.
        drop(newcomer);
        let session = async move {
            let _finish = FinishOnDrop(Arc::clone(&hub));
            let Errand::PortForward(request) = errand else {
                return;
            };
            let creation = shared.limits.creation;
            let sandbox = &request.sandbox_id;
            port_forward::serve(&shared.sessions, sandbox, &hub, incoming, creation, ends).await;
        };
        side_by_side(Box::pin(session), Box::pin(connection.run()))
            .await
            .map_err(|error| crate::chain(&error))
    }

    async fn channel_command<I: AsyncRead + AsyncWrite + Unpin>(
        self,
        socket: I,
        codec: Codec,
        language: crate::status::Language,
    ) -> Result<(), String> {
        let Some(wanted) = Wanted::of(&self.errand) else {
            return Ok(());
        };
        let hub = Hub::new(self.channel_bounds(), 0);
        hub.presume_heedless();
        for channel in 0..CHANNELS {
            hub.provide(u32::from(channel));
        }
        let channels = Channels {
            stdin: wanted.stdin.then(|| hub.read_half(0)),
            stdout: wanted.stdout.then(|| hub.write_half(1)),
            stderr: wanted.stderr.then(|| hub.write_half(2)),
            error: Some(hub.write_half(3)),
            resize: wanted.resize.then(|| hub.read_half(4)),
        };
        // What nobody asked for is dropped when it comes.
        if !wanted.stdin {
            drop(hub.read_half(0));
        }
        let unwanted = (!wanted.resize).then(|| hub.read_half(4));
        let driven = Arc::clone(&hub);
        let (side, patience) = (Side::Server, self.patience());
        let mut connection =
            ChannelConnection::new(socket, driven, codec, CHANNELS, side, patience);
        // Clients take an empty message on the first channel that they read as the sign that the session is there.
        let first = match (wanted.stdout, wanted.stderr) {
            (true, _) => 1,
            (_, true) => 2,
            _ => 3,
        };
        connection.greet(first, b"");
        let ends = self.ends(&hub);
        let Self {
            shared,
            errand,
            newcomer,
        } = self;
        drop(newcomer);
        let session = async move {
            let _finish = FinishOnDrop(hub);
            let running = remote_command::run(&*shared.sessions, errand, channels, language, ends);
            match unwanted {
                None => running.await,
                Some(sizes) => tokio::select! {
                    () = running => {}
                    () = remote_command::drop_sizes(sizes) => {}
                },
            }
        };
        side_by_side(Box::pin(session), Box::pin(connection.run()))
            .await
            .map_err(|error| crate::chain(&error))
    }

    /// Channels cannot be held up one by one: what one has not read holds up the others.
    fn channel_bounds(&self) -> Bounds {
        let bounds = self.bounds();
        Bounds {
            overrun: bounds.stream,
            ..bounds
        }
    }

    async fn channel_ports<I: AsyncRead + AsyncWrite + Unpin>(
        self,
        socket: I,
        codec: Codec,
    ) -> Result<(), String> {
        let Errand::PortForward(request) = &self.errand else {
            return Ok(());
        };
        let (request, bounds) = (request.clone(), self.bounds());
        let ports = request.ports;
        let hub = Hub::new(bounds, 0);
        let driven = Arc::clone(&hub);
        let (side, patience) = (Side::Server, self.patience());
        let channels = u8::try_from(ports.len() * 2).unwrap_or_default();
        let mut connection =
            ChannelConnection::new(socket, driven, codec, channels, side, patience);
        if channels == 0 {
            let reason = "1 to 127 ports must be named beforehand";
            connection.refuse(reason);
            let refused = connection.run().await;
            return refused
                .map_err(|error| crate::chain(&error))
                .and(Err(reason.to_owned()));
        }
        hub.presume_heedless();
        for (channel, port) in (0_u8..).zip(ports.iter().flat_map(|port| [port, port])) {
            hub.provide(u32::from(channel));
            connection.greet(channel, &port.to_le_bytes());
        }
        let ends = self.ends(&hub);
        let Self {
            shared, newcomer, ..
        } = self;
        drop(newcomer);
        let session = async move {
            let _finish = FinishOnDrop(Arc::clone(&hub));
            let forwarded = (0_u32..).step_by(2).zip(ports).map(|(data, port)| {
                let (sandbox, pair) = (request.sandbox_id.clone(), (data, data + 1));
                port_forward::forward(&*shared.sessions, sandbox, &hub, pair, port, ends.clone())
            });
            futures_util::future::join_all(forwarded).await;
        };
        side_by_side(Box::pin(session), Box::pin(connection.run()))
            .await
            .map_err(|error| crate::chain(&error))
    }
}

/// However the session ends, its connection does too.
struct FinishOnDrop(Arc<Hub>);

impl Drop for FinishOnDrop {
    fn drop(&mut self) {
        self.0.finish();
    }
}
