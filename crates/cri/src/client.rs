//! A thin client: one unix socket, all services, a bound on every call.
//!
//! ```no_run
//! # use longshore_cri as cri;
//! # async fn version() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use cri::client::{Client, Endpoint};
//! use cri::v1::VersionRequest;
//!
//! let endpoint: Endpoint = "unix:///run/longshore/longshore.sock".parse()?;
//! let client = Client::connect(endpoint, Duration::from_secs(2)).await?;
//! let reply = client
//!     .runtime(Some(Duration::from_secs(2)), VersionRequest::default(), async |mut rpc, request| {
//!         rpc.version(request).await
//!     })
//!     .await?;
//! # Ok(()) }
//! ```

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use tokio::net::UnixStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::MAX_MESSAGE_BYTES;
use crate::progress::files_client::FilesClient;
use crate::progress::images_client::ImagesClient;
use crate::progress::operations_client::OperationsClient;
use crate::progress::progress_client::ProgressClient;
use crate::progress::store_client::StoreClient;
use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;

/// Where a CRI runtime listens: the path of a unix socket.
///
/// Parsed from `unix:///run/x.sock`, `unix:/run/x.sock` or a bare absolute path; displayed as the first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    socket: PathBuf,
}

/// Why a text is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Only unix sockets are spoken to.
    #[error("endpoint {text:?}: scheme {scheme:?} is not supported, use unix:///PATH")]
    Scheme {
        /// The whole text.
        text: String,
        /// What stands before `://`.
        scheme: String,
    },
    /// A relative path would depend on the working directory.
    #[error("endpoint {text:?}: the socket's path is not absolute, use unix:///PATH")]
    Relative {
        /// The whole text.
        text: String,
    },
}

impl Endpoint {
    /// The endpoint of a socket's path.
    pub fn of_socket(path: impl Into<PathBuf>) -> Self {
        Self {
            socket: path.into(),
        }
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Default for Endpoint {
    /// [`DEFAULT_SOCKET`](crate::DEFAULT_SOCKET).
    fn default() -> Self {
        Self::of_socket(crate::DEFAULT_SOCKET)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let path = match text.split_once("://") {
            Some(("unix", path)) => path,
            Some((scheme, _)) => {
                return Err(EndpointError::Scheme {
                    text: text.to_owned(),
                    scheme: scheme.to_owned(),
                });
            }
            None => text.strip_prefix("unix:").unwrap_or(text),
        };
        if !path.starts_with('/') {
            return Err(EndpointError::Relative {
                text: text.to_owned(),
            });
        }
        Ok(Self::of_socket(path))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.socket.display())
    }
}

/// Why a runtime could not be reached. The text says what to look at.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// `connect(2)` failed.
    #[error("connect to {}: {}", .endpoint.socket().display(), reason(.source))]
    Socket {
        /// Where to.
        endpoint: Endpoint,
        /// Not repeated in chains: the text says it in words.
        source: io::Error,
    },
    /// Nobody accepted in time.
    #[error("connect to {}: nobody answered within {waited:?} (is the runtime overloaded or stopped?)", .endpoint.socket().display())]
    Timeout {
        /// Where to.
        endpoint: Endpoint,
        /// The bound.
        waited: Duration,
    },
    /// The socket accepts, but what answers does not speak HTTP/2.
    #[error("connect to {}: {reason} (is this a gRPC socket?)", .endpoint.socket().display())]
    Protocol {
        /// Where to.
        endpoint: Endpoint,
        /// The whole chain of the transport's error.
        reason: String,
    },
}

/// The io error in a person's words, with what to try.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file (is longshored running?)".to_owned(),
        io::ErrorKind::ConnectionRefused => {
            "nobody listens there (is longshored running?)".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied (run as root, or as a member of the socket's group)".to_owned()
        }
        _ => error.to_string(),
    }
}

/// A connection to one runtime. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
    channel: Channel,
}

impl Client {
    /// Connects; the socket's own errors come out as they are, not wrapped in the transport's.
    ///
    /// A connection that is lost later is made again by the next call.
    pub async fn connect(endpoint: Endpoint, timeout: Duration) -> Result<Self, ConnectError> {
        let expired = || ConnectError::Timeout {
            endpoint: endpoint.clone(),
            waited: timeout,
        };
        // The first connection is ours, for its error; the connector hands it to the transport.
        let first = tokio::time::timeout(timeout, connect(endpoint.socket()))
            .await
            .map_err(|_| expired())?
            .map_err(|source| ConnectError::Socket {
                endpoint: endpoint.clone(),
                source,
            })?;
        let mut first = Some(first);
        let path = endpoint.socket().to_owned();
        let connector = tower::service_fn(move |_: http::Uri| {
            let ready = first.take();
            let path = path.clone();
            async move {
                let stream = match ready {
                    Some(stream) => stream,
                    None => connect(&path).await?,
                };
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        // The URI only fills the :authority header; gRPC servers expect a name there.
        let transport = tonic::transport::Endpoint::from_static("http://localhost");
        let channel = tokio::time::timeout(timeout, transport.connect_with_connector(connector))
            .await
            .map_err(|_| expired())?
            .map_err(|source| ConnectError::Protocol {
                endpoint: endpoint.clone(),
                reason: chain(&source),
            })?;
        Ok(Self { endpoint, channel })
    }

    /// What this is connected to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The connection itself, for methods that no generated client has.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The generated client of the runtime service, for streams; calls with one reply go through [`Client::runtime`].
    pub fn runtime_service(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The generated client of the image service, for streams.
    pub fn image_service(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The generated client of the service that tells of images what CRI does not; only Longshore has it.
    pub fn images_service(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone())
    }

    /// The generated client of the service that looks after the store of images; only Longshore has it.
    pub fn store_service(&self) -> StoreClient<Channel> {
        StoreClient::new(self.channel.clone())
    }

    /// The generated client of the service that tells what is under way, which only Longshore has.
    pub fn operations_service(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.channel.clone())
    }

    /// The generated client of the service that has containers' files, which only Longshore has.
    pub fn files_service(&self) -> FilesClient<Channel> {
        FilesClient::new(self.channel.clone())
    }

    /// The generated client of the progress service, which only Longshore has.
    pub fn progress_service(&self) -> ProgressClient<Channel> {
        ProgressClient::new(self.channel.clone())
    }

    /// One call of the runtime service. `deadline` is enforced here, up to the reply's last byte, and the server is told of it
    /// (`grpc-timeout`, with a second on top); `None` waits for ever. Dropping the future cancels the call.
    pub async fn runtime<Req, Resp>(
        &self,
        deadline: Option<Duration>,
        request: Req,
        rpc: impl AsyncFnOnce(
            RuntimeServiceClient<Channel>,
            Request<Req>,
        ) -> Result<Response<Resp>, Status>,
    ) -> Result<Resp, Status> {
        let call = rpc(self.runtime_service(), with_deadline(request, deadline));
        within(deadline, call).await
    }

    /// One call of the image service; as [`Client::runtime`].
    pub async fn image<Req, Resp>(
        &self,
        deadline: Option<Duration>,
        request: Req,
        rpc: impl AsyncFnOnce(
            ImageServiceClient<Channel>,
            Request<Req>,
        ) -> Result<Response<Resp>, Status>,
    ) -> Result<Resp, Status> {
        let call = rpc(self.image_service(), with_deadline(request, deadline));
        within(deadline, call).await
    }
}

/// `sun_path` without its end (unix(7)).
const LONGEST_ADDRESS: usize = 107;

/// A path longer than an address holds goes through its directory's descriptor.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return UnixStream::connect(path).await;
    };
    if path.as_os_str().len() <= LONGEST_ADDRESS {
        return UnixStream::connect(path).await;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let number = directory.as_raw_fd().to_string();
    let short = Path::new("/proc/self/fd").join(number).join(name);
    UnixStream::connect(short).await
}

fn with_deadline<T>(message: T, deadline: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(deadline) = deadline {
        // Ours comes first: the transport's would say "cancelled".
        request.set_timeout(deadline.saturating_add(Duration::from_secs(1)));
    }
    request
}

/// The transport's own timeout ends with the reply's headers; this one covers its body too.
async fn within<T>(
    deadline: Option<Duration>,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    let reply = match deadline {
        None => call.await,
        Some(limit) => tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(format!(
                "no answer within {limit:?}"
            )))
        }),
    };
    reply.map(Response::into_inner)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_or_paths() {
        for text in ["unix:///run/x.sock", "unix:/run/x.sock", "/run/x.sock"] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), "unix:///run/x.sock");
        }
        assert_eq!(
            "tcp://1.2.3.4:5"
                .parse::<Endpoint>()
                .unwrap_err()
                .to_string(),
            "endpoint \"tcp://1.2.3.4:5\": scheme \"tcp\" is not supported, use unix:///PATH"
        );
        assert!("run/x.sock".parse::<Endpoint>().is_err());
        assert!("unix://x.sock".parse::<Endpoint>().is_err());
    }

    #[tokio::test]
    async fn a_path_may_be_longer_than_an_address() {
        let start = std::env::temp_dir().join(format!("long-address-{}", std::process::id()));
        let directory = start.join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&directory).unwrap();
        let opened = std::fs::File::open(&directory).unwrap();
        let short = format!("/proc/self/fd/{}/socket", opened.as_raw_fd());
        let listener = tokio::net::UnixListener::bind(short).unwrap();
        connect(&directory.join("socket")).await.unwrap();
        listener.accept().await.unwrap();
        let missing = connect(&directory.join("nothing")).await.unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        std::fs::remove_dir_all(start).unwrap();
    }

    #[tokio::test]
    async fn a_missing_socket_says_what_to_do() {
        let endpoint = Endpoint::of_socket("/nonexistent/longshore.sock");
        let error = Client::connect(endpoint, Duration::from_secs(1))
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "connect to /nonexistent/longshore.sock: no such file (is longshored running?)"
        );
    }
}
