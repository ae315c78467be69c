use std::path::PathBuf;
use std::sync::Arc;
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
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::OnceCell;

use super::RegistryFailure;
use super::endpoint::is_loopback;
use crate::{ImagesConfig, Timeouts};

pub(super) const USER_AGENT: &str = concat!("longshore/", env!("CARGO_PKG_VERSION"));

/// One for all pulls; keeps connections for a while.
#[derive(Debug)]
pub(crate) struct Client {
    plain: HyperClient<HttpConnector, Full<Bytes>>,
    /// Made when it is first wanted: the certificates take time and memory, and there may be none.
    tls: OnceCell<HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>>,
    pub(super) timeouts: Timeouts,
    insecure: Vec<String>,
    ca_files: Vec<PathBuf>,
}

impl Client {
    pub(crate) fn new(config: &ImagesConfig) -> Self {
        let timeouts = config.timeouts.clone();
        Self {
            plain: builder().build(connector(&timeouts)),
            tls: OnceCell::new(),
            timeouts,
            insecure: config.insecure_registries.clone(),
            ca_files: config.ca_files.clone(),
        }
    }

    /// Whether a registry (`host` or `host:port`) is spoken to in plain HTTP by configuration.
    pub(super) fn is_insecure(&self, domain: &str) -> bool {
        self.insecure.iter().any(|host| host == domain)
    }

    /// Sends a request and waits for the head of its response.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, RegistryFailure> {
        let secure = request.uri().scheme_str() == Some("https");
        let exchange = async {
            match secure {
                true => self.tls().await?.request(request).await,
                false => self.plain.request(request).await,
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
        match self.send(request).await {
            // Go's and nginx's answer to plain HTTP on a TLS port.
            Ok(response) => response.status() != http::StatusCode::BAD_REQUEST,
            Err(RegistryFailure::Transport(error)) => {
                // No connection at all says nothing; a conversation that breaks off does.
                error
                    .downcast_ref::<hyper_util::client::legacy::Error>()
                    .is_some_and(hyper_util::client::legacy::Error::is_connect)
            }
            Err(_) => true,
        }
    }

    async fn tls(
        &self,
    ) -> Result<&HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>, RegistryFailure> {
        self.tls
            .get_or_try_init(|| async {
                let files = self.ca_files.clone();
                let roots = tokio::task::spawn_blocking(move || roots(&files))
                    .await
                    .map_err(|error| unusable(&error))??;
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let config = rustls::ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .map_err(|error| unusable(&error))?
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                let https = HttpsConnectorBuilder::new()
                    .with_tls_config(config)
                    .https_or_http()
                    .enable_http1()
                    .wrap_connector(connector(&self.timeouts));
                Ok(builder().build(https))
            })
            .await
    }
}

fn unusable(error: &dyn std::fmt::Display) -> RegistryFailure {
    RegistryFailure::Request {
        reason: format!("TLS cannot be set up: {error}"),
    }
}

fn roots(files: &[PathBuf]) -> Result<RootCertStore, RegistryFailure> {
    let mut roots = RootCertStore::empty();
    // Certificates that do not parse are the system's problem; the others do.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for path in files {
        let bad = |error: &dyn std::fmt::Display| {
            unusable(&format_args!(
                "{} has no certificates: {error}",
                path.display()
            ))
        };
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(&error))? {
            let certificate = certificate.map_err(|error| bad(&error))?;
            roots.add(certificate).map_err(|error| bad(&error))?;
        }
    }
    Ok(roots)
}

fn connector(timeouts: &Timeouts) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(timeouts.connect));
    connector.set_nodelay(true);
    connector
}

fn builder() -> hyper_util::client::legacy::Builder {
    let mut builder = HyperClient::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(4)
        // What one connection reads ahead.
        .http1_max_buf_size(256 * 1024);
    builder
}
