//! WebSocket (RFC 6455) as Kubernetes uses it: one connection, and a channel number before the bytes of each message.

pub mod codec;
pub(crate) mod connection;
pub(crate) mod tunnel;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::SinkExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

pub use self::codec::Codec;

/// Bytes of one message at most: the field's bound.
const LONGEST_MESSAGE: usize = 32 * 1024 * 1024;

/// Bytes that an idle connection keeps for reading.
const READ_BUFFER: usize = 32 * 1024;

/// RFC 6455, 4.2.2: what answers a handshake's key.
pub(crate) fn accept_key(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    BASE64_STANDARD.encode(digest)
}

pub(crate) async fn wrap<I: AsyncRead + AsyncWrite + Unpin>(
    socket: I,
    role: Role,
) -> WebSocketStream<I> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        // Every message is flushed as soon as it is there: nothing is gathered.
        .write_buffer_size(0)
        .max_message_size(Some(LONGEST_MESSAGE))
        .max_frame_size(Some(LONGEST_MESSAGE));
    WebSocketStream::from_raw_socket(socket, role, Some(config)).await
}

/// Sends one message.
pub(crate) async fn send<I: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<I>,
    codec: Codec,
    channel: u8,
    bytes: &[u8],
) -> Result<(), String> {
    let message = codec.encode(channel, bytes);
    let message = match String::from_utf8(message) {
        Ok(text) if codec.base64 => Message::text(text),
        Ok(text) => Message::binary(text.into_bytes()),
        Err(error) => Message::binary(error.into_bytes()),
    };
    let sent = SinkExt::send(socket, message).await;
    sent.map_err(|error| format!("greet the client: {error}"))
}

/// Closes the connection with a reason.
pub(crate) async fn refuse<I: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<I>,
    reason: &'static str,
) -> Result<(), String> {
    let close = CloseFrame {
        code: CloseCode::Policy,
        reason: reason.into(),
    };
    let closed = socket.close(Some(close)).await;
    closed.map_err(|error| format!("refuse the client: {error}"))?;
    Err(reason.to_owned())
}
