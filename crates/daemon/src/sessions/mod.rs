//! What the streaming server serves: execs, attaches and forwarded ports, from their URL to their end.
//!
//! ```text
//!  client ──SPDY or WebSocket──▶ streaming ──▶ a session ──pipe or terminal──▶ a process of the container
//!                                                  └──────socket───────────▶ a port in the pod's network
//! ```
//!
//! Nothing else carries the bytes: the supervisor has handed the descriptors over. A session is one future; dropping it lets go of
//! everything, and kills the command of an exec.

mod attach;
mod exec;
mod port_forward;
mod pump;
mod sockets;

use std::sync::Arc;

use streaming::{AttachRequest, Duplex, ExecRequest, ExitStatus, SessionError, Streams};

pub(crate) use self::sockets::Sockets;
use crate::{container::Container, pod::Pod, runtime::Runtime};

/// The server that hands out URLs.
pub(crate) type Server = streaming::Server<Sessions>;

#[derive(Debug)]
pub(crate) struct Sessions {
    runtime: Arc<Runtime>,
    sockets: Sockets,
}

impl Sessions {
    pub(crate) fn new(runtime: Arc<Runtime>, sockets: Sockets) -> Self {
        Self { runtime, sockets }
    }

    /// It may have gone between its URL and its client.
    fn container(&self, id: &str) -> Result<Arc<Container>, SessionError> {
        let found = self.runtime.inventory.find_container(id);
        found.map_err(|error| SessionError::because("the session cannot begin", error))
    }

    fn pod(&self, id: &str) -> Result<Arc<Pod>, SessionError> {
        let found = self.runtime.inventory.find_pod(id);
        found.map_err(|error| SessionError::because("the session cannot begin", error))
    }
}

impl streaming::Sessions for Sessions {
    async fn exec(
        &self,
        request: ExecRequest,
        streams: Streams,
    ) -> Result<ExitStatus, SessionError> {
        let container = self.container(&request.container_id)?;
        let _open = self.runtime.metrics.session("exec");
        exec::exec(&self.runtime, &container, request, streams).await
    }

    async fn attach(
        &self,
        request: AttachRequest,
        streams: Streams,
    ) -> Result<Option<ExitStatus>, SessionError> {
        let container = self.container(&request.container_id)?;
        let _open = self.runtime.metrics.session("attach");
        attach::attach(&container, &request, streams).await?;
        // How the container ended is its own status, not that of who watched: as on the peers.
        Ok(None)
    }

    async fn port_forward(
        &self,
        sandbox_id: String,
        port: u16,
        stream: Duplex,
    ) -> Result<(), SessionError> {
        let pod = self.pod(&sandbox_id)?;
        let _open = self.runtime.metrics.session("port-forward");
        port_forward::port_forward(&self.runtime, &self.sockets, &pod, port, stream).await
    }
}

/// An error of ours, in its own words.
fn session_error(error: impl std::error::Error + Send + Sync + 'static) -> SessionError {
    SessionError::new(crate::rpc::chain(&error))
}

/// Why a session has ended that could have gone on.
fn client_gone() -> SessionError {
    SessionError::new("the client is gone")
}
