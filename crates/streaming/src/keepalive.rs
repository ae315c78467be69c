//! What a TCP connection is set to, so that a keystroke goes out at once and a client whose machine has vanished is noticed.

use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// Questions without an answer before the connection counts as lost. The first comes after as long a silence as lies between two.
const QUESTIONS: u32 = 4;

/// A peer that has acknowledged nothing for `vanished` is lost. While bytes for it are on their way the kernel asks no questions, but sends
/// them again and again; that gets the same bound (tcp(7), TCP_USER_TIMEOUT), which is otherwise about a quarter of an hour.
pub(crate) fn set(socket: &TcpStream, vanished: Duration) {
    // The kernel counts in seconds, and takes no zero.
    let ask = Duration::from_secs((vanished.as_secs() / u64::from(QUESTIONS + 1)).max(1));
    let bound = u32::try_from(vanished.as_millis()).unwrap_or(u32::MAX);
    let all = sockopt::set_tcp_nodelay(socket, true)
        .and_then(|()| sockopt::set_socket_keepalive(socket, true))
        .and_then(|()| sockopt::set_tcp_keepidle(socket, ask))
        .and_then(|()| sockopt::set_tcp_keepintvl(socket, ask))
        .and_then(|()| sockopt::set_tcp_keepcnt(socket, QUESTIONS))
        .and_then(|()| sockopt::set_tcp_user_timeout(socket, bound));
    if let Err(error) = all {
        // The connection has most likely ended already, and whoever reads it will hear so.
        tracing::debug!(%error, "set up a streaming connection");
    }
}
