//! Requests byte for byte, which the generated clients do not let through.

use std::{path::Path, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use hyper_util::rt::TokioIo;
use tonic::{
    Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

/// How long the next message of a stream is waited for.
const NEXT_WITHIN: Duration = Duration::from_millis(200);

/// A connection for requests that are bytes.
#[derive(Debug, Clone)]
pub struct Raw {
    channel: Channel,
}

impl Raw {
    /// # Errors
    /// Nobody listens.
    pub async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move {
                tokio::net::UnixStream::connect(socket)
                    .await
                    .map(TokioIo::new)
            }
        });
        let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(connector).await?;
        Ok(Self { channel })
    }

    /// Calls `METHOD` of `/SERVICE/METHOD`; of a stream, the first message, or nothing if none comes soon.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn call(&self, path: &str, streams: bool, request: Bytes) -> Result<Bytes, Status> {
        let path = path.parse().map_err(|_| Status::internal("no path"))?;
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        let ready = grpc.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let request = tonic::Request::new(request);
        if !streams {
            return Ok(grpc.unary(request, path, Verbatim).await?.into_inner());
        }
        let stream = grpc.server_streaming(request, path, Verbatim).await?;
        match tokio::time::timeout(NEXT_WITHIN, stream.into_inner().message()).await {
            Ok(message) => Ok(message?.unwrap_or_default()),
            Err(_quiet) => Ok(Bytes::new()),
        }
    }
}

/// Messages as they are.
#[derive(Debug, Clone, Copy)]
struct Verbatim;

impl Codec for Verbatim {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Verbatim {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Verbatim {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
