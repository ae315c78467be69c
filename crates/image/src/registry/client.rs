use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;
use tokio::sync::{OnceCell, Semaphore};

use super::RegistryFailure;
use super::endpoint::is_loopback;
use super::proxy::{Proxies, Route};
use super::ranges;
use super::tls::{self, Certificates};
use crate::{ImagesConfig, Timeouts};

pub(super) const USER_AGENT: &str = concat!("longshore/", env!("CARGO_PKG_VERSION"));

type Https = HyperClient<HttpsConnector<Route>, Full<Bytes>>;

/// One for all pulls; keeps connections for a while.
#[derive(Debug)]
pub(crate) struct Client {
    plain: HyperClient<Route, Full<Bytes>>,
    /// The system's certificate authorities and the configured ones. Read when first wanted: they take time and memory, and there
    /// may be none.
    roots: OnceCell<RootCertStore>,
    tls: OnceCell<Https>,
    pub(super) proxies: Proxies,
    pub(crate) timeouts: Timeouts,
    /// See [`ImagesConfig::range_bytes`].
    pub(super) range_bytes: u64,
    /// Ranges that may be in memory beside one for each blob.
    pub(super) slots: Semaphore,
    insecure: Vec<String>,
    ca_files: Vec<PathBuf>,
    pub(super) hosts_directory: Option<PathBuf>,
    pub(super) credentials_file: Option<PathBuf>,
    pub(super) credential_programs: Option<PathBuf>,
}

/// How a host with settings of its own is reached; otherwise as all are. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Transport {
    plain: Option<HyperClient<Route, Full<Bytes>>>,
    tls: Option<Https>,
}

impl Client {
    pub(crate) fn new(config: &ImagesConfig) -> Self {
        let timeouts = config.timeouts.clone();
        let route = Route::new(connector(timeouts.connect), config.proxies.clone());
        Self {
            plain: builder().build(route),
            roots: OnceCell::new(),
            tls: OnceCell::new(),
            proxies: config.proxies.clone(),
            timeouts,
            range_bytes: config.range_bytes,
            slots: Semaphore::new(ranges::AT_ONCE),
            insecure: config.insecure_registries.clone(),
            ca_files: config.ca_files.clone(),
            hosts_directory: config.hosts_directory.clone(),
            credentials_file: config.credentials_file.clone(),
            credential_programs: config.credential_programs.clone(),
        }
    }

    /// One with certificates of its own, or with its own patience.
    pub(super) async fn transport(
        &self,
        secure: bool,
        certificates: Option<&Certificates>,
        dial_timeout: Option<Duration>,
    ) -> Result<Transport, RegistryFailure> {
        let connect = dial_timeout.unwrap_or(self.timeouts.connect);
        let route = || Route::new(connector(connect), self.proxies.clone());
        let mut transport = Transport::default();
        match (secure, certificates, dial_timeout) {
            (true, Some(certificates), _) => {
                let config = certificates.config(self.roots().await?)?;
                transport.tls = Some(https(config, route()));
            }
            (true, None, Some(_)) => {
                let config = tls::system_config(self.roots().await?)?;
                transport.tls = Some(https(config, route()));
            }
            (false, _, Some(_)) => transport.plain = Some(builder().build(route())),
            (_, None, None) | (false, _, None) => {}
        }
        Ok(transport)
    }

    /// Whether a registry (`host` or `host:port`) is spoken to in plain HTTP by configuration.
    pub(super) fn is_insecure(&self, domain: &str) -> bool {
        self.insecure.iter().any(|host| host == domain)
    }

    /// Sends a request and waits for the head of its response.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        transport: &Transport,
    ) -> Result<Response<Incoming>, RegistryFailure> {
        let secure = request.uri().scheme_str() == Some("https");
        if let Some((name, value)) = self.proxies.authorization(request.uri()) {
            request.headers_mut().insert(name, value);
        }
        let exchange = async {
            match (secure, transport) {
                (true, Transport { tls: Some(tls), .. }) => tls.request(request).await,
                (true, _) => self.tls().await?.request(request).await,
                (
                    false,
                    Transport {
                        plain: Some(plain), ..
                    },
                ) => plain.request(request).await,
                (false, _) => self.plain.request(request).await,
            }
            .map_err(|error| RegistryFailure::Transport(error.into()))
        };
        let bound = self.timeouts.connect + self.timeouts.response;
        tokio::time::timeout(bound, exchange)
            .await
            .unwrap_or_else(|_| {
                Err(RegistryFailure::TimedOut {
                    what: "the head of the response",
                    seconds: bound.as_secs(),
                })
            })
    }

    /// Reads a whole body of at most `limit` bytes.
    pub(super) async fn read(
        &self,
        mut body: Incoming,
        limit: usize,
    ) -> Result<Bytes, RegistryFailure> {
        let mut bytes = Vec::new();
        while let Some(frame) = self.frame(&mut body).await? {
            if bytes.len() + frame.len() > limit {
                return Err(RegistryFailure::TooLarge {
                    limit: limit as u64,
                });
            }
            bytes.extend_from_slice(&frame);
        }
        Ok(bytes.into())
    }

    /// The next bytes of a body; `None` at its end.
    pub(super) async fn frame(
        &self,
        body: &mut Incoming,
    ) -> Result<Option<Bytes>, RegistryFailure> {
        let idle = self.timeouts.idle;
        loop {
            match tokio::time::timeout(idle, body.frame()).await {
                Err(_) => {
                    return Err(RegistryFailure::TimedOut {
                        what: "the next part of the body",
                        seconds: idle.as_secs(),
                    });
                }
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(RegistryFailure::Transport(error.into())),
                Ok(Some(Ok(frame))) => {
                    // Trailers are no data.
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Whether a registry on this machine expects plain HTTP; asks it.
    pub(super) async fn answers_plain(&self, ping: Uri) -> bool {
        debug_assert!(ping.authority().is_some_and(is_loopback));
        let request = Request::get(ping)
            .header(http::header::USER_AGENT, USER_AGENT)
            .body(Full::default());
        let Ok(request) = request else { return true };
        match self.send(request, &Transport::default()).await {
            // Go's and nginx's answer to plain HTTP on a TLS port.
            Ok(response) => response.status() != http::StatusCode::BAD_REQUEST,
            // No connection at all says nothing; a conversation that breaks off does.
            Err(failure @ RegistryFailure::Transport(_)) => failure.is_unreachable(),
            Err(_) => true,
        }
    }

    async fn tls(&self) -> Result<&Https, RegistryFailure> {
        self.tls
            .get_or_try_init(|| async {
                let config = tls::system_config(self.roots().await?)?;
                let route = Route::new(connector(self.timeouts.connect), self.proxies.clone());
                Ok(https(config, route))
            })
            .await
    }

    async fn roots(&self) -> Result<&RootCertStore, RegistryFailure> {
        self.roots
            .get_or_try_init(|| async {
                let files = self.ca_files.clone();
                tokio::task::spawn_blocking(move || tls::roots(&files))
                    .await
                    .map_err(|error| tls::unusable(&error))?
            })
            .await
    }
}

fn https(config: rustls::ClientConfig, route: Route) -> Https {
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .wrap_connector(route);
    builder().build(https)
}

fn connector(timeout: Duration) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(timeout));
    connector.set_nodelay(true);
    connector
}

fn builder() -> hyper_util::client::legacy::Builder {
    let mut builder = HyperClient::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(8)
        // What one connection reads ahead.
        .http1_max_buf_size(256 * 1024);
    builder
}
