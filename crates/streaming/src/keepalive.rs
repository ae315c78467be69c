//! What a TCP connection is set to, so that a keystroke goes out at once and a client whose machine has vanished is noticed.

use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// A silent peer is asked after this, and then this often.
const ASK: Duration = Duration::from_secs(30);

/// Questions without an answer before the connection counts as lost.
const QUESTIONS: u32 = 4;

pub(crate) fn set(socket: &TcpStream) {
    let all = sockopt::set_tcp_nodelay(socket, true)
        .and_then(|()| sockopt::set_socket_keepalive(socket, true))
        .and_then(|()| sockopt::set_tcp_keepidle(socket, ASK))
        .and_then(|()| sockopt::set_tcp_keepintvl(socket, ASK))
        .and_then(|()| sockopt::set_tcp_keepcnt(socket, QUESTIONS));
    if let Err(error) = all {
        // The connection has most likely ended already, and whoever reads it will hear so.
        tracing::debug!(%error, "set up a streaming connection");
    }
}
