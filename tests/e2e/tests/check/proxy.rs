//! A runtime that is ours but for one thing: an endpoint that passes every call on, and spoils the answers to one of them.

use std::{
    convert::Infallible,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::TryStreamExt;
use http_body::Frame;
use http_body_util::{BodyExt, BodyStream, StreamBody};
use prost::Message;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Status, body::Body, server::NamedService, transport::Channel};
use tower::{Service, ServiceExt};

/// What is done to the answers to a call.
pub(super) enum Spoil {
    /// It is answered that it is done, and nothing is.
    Ignored,
    /// The answer says something else.
    Edited(Box<Edit>),
    /// Of a stream of answers those come for which this is true.
    Chosen(Box<Choice>),
}

/// A message, and what it becomes.
type Edit = dyn Fn(&[u8]) -> Vec<u8> + Send + Sync;

/// A message, and whether it is passed on.
type Choice = dyn Fn(&[u8]) -> bool + Send + Sync;

impl Spoil {
    pub(super) fn edited<M: Message + Default + 'static>(edit: fn(&mut M)) -> Self {
        Self::Edited(Box::new(move |bytes| {
            let mut message = M::decode(bytes).expect("the daemon's answers can be read");
            edit(&mut message);
            message.encode_to_vec()
        }))
    }

    pub(super) fn chosen<M: Message + Default + 'static>(choose: fn(&M) -> bool) -> Self {
        Self::Chosen(Box::new(move |bytes| {
            choose(&M::decode(bytes).expect("the daemon's answers can be read"))
        }))
    }
}

/// Serves until it is aborted.
pub(super) fn serve(
    socket: &Path,
    channel: Channel,
    method: &'static str,
    spoil: Spoil,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let listener = tokio::net::UnixListener::bind(socket)?;
    let spoiled = Arc::new((method, spoil));
    let runtime = Passing::<false>(channel.clone(), Arc::clone(&spoiled));
    let images = Passing::<true>(channel, spoiled);
    Ok(tokio::spawn(async move {
        let server = tonic::transport::Server::builder();
        let serving = { server }.add_service(runtime).add_service(images);
        // It ends by being aborted.
        let _ = serving
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await;
    }))
}

#[derive(Clone)]
struct Passing<const IMAGES: bool>(Channel, Arc<(&'static str, Spoil)>);

impl NamedService for Passing<false> {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

impl NamedService for Passing<true> {
    const NAME: &'static str = "runtime.v1.ImageService";
}

impl<const IMAGES: bool> Service<http::Request<Body>> for Passing<IMAGES> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (channel, spoiled) = (self.0.clone(), Arc::clone(&self.1));
        let hit = request.uri().path().ends_with(&format!("/{}", spoiled.0));
        Box::pin(async move {
            let answer = match (hit, &spoiled.1) {
                (true, Spoil::Ignored) => return Ok(answered(Vec::new(), None)),
                _ => channel.oneshot(request).await,
            };
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => return Ok(Status::unavailable(error.to_string()).into_http()),
            };
            match (hit, &spoiled.1) {
                (true, Spoil::Edited(edit)) => Ok(edited(answer, edit).await),
                (true, Spoil::Chosen(_)) => Ok(thinned(answer, Arc::clone(&spoiled))),
                _ => Ok(answer),
            }
        })
    }
}

async fn edited(answer: http::Response<Body>, edit: &Edit) -> http::Response<Body> {
    let (parts, body) = answer.into_parts();
    let Ok(collected) = body.collect().await else {
        return Status::unavailable("the daemon has gone").into_http();
    };
    let trailers = collected.trailers().cloned();
    let bytes = collected.to_bytes();
    // A refusal has no message.
    match bytes.get(5..) {
        Some(message) => answered(edit(message), trailers),
        None => http::Response::from_parts(parts, Body::empty()),
    }
}

/// A stream without some of its messages.
fn thinned(
    answer: http::Response<Body>,
    spoiled: Arc<(&'static str, Spoil)>,
) -> http::Response<Body> {
    let (parts, body) = answer.into_parts();
    let mut came = BytesMut::new();
    let frames = BodyStream::new(body).map_ok(move |frame| match frame.into_data() {
        Ok(data) => {
            came.extend_from_slice(&data);
            Frame::data(passed_on(&mut came, &spoiled.1))
        }
        Err(trailers) => trailers,
    });
    http::Response::from_parts(parts, Body::new(StreamBody::new(frames)))
}

/// Of the whole messages that have come, those that are passed on.
fn passed_on(came: &mut BytesMut, spoil: &Spoil) -> Bytes {
    let mut on = BytesMut::new();
    while let Some(&[_, a, b, c, d]) = came.first_chunk() {
        let length = 5 + u32::from_be_bytes([a, b, c, d]) as usize;
        if came.len() < length {
            break;
        }
        let whole = came.split_to(length);
        match spoil {
            Spoil::Chosen(choose) if !choose(&whole[5..]) => {}
            Spoil::Chosen(_) | Spoil::Edited(_) | Spoil::Ignored => on.extend_from_slice(&whole),
        }
    }
    on.freeze()
}

/// One message, and how the call went: well, unless the trailers say something else.
fn answered(message: Vec<u8>, trailers: Option<http::HeaderMap>) -> http::Response<Body> {
    let mut bytes = BytesMut::with_capacity(message.len() + 5);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).expect("a small message"));
    bytes.put_slice(&message);
    let trailers = trailers.unwrap_or_else(|| {
        let well = (
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        );
        http::HeaderMap::from_iter([well])
    });
    let frames = [Frame::data(Bytes::from(bytes)), Frame::trailers(trailers)];
    let frames = futures_util::stream::iter(frames.map(Ok::<_, Status>));
    let mut answer = http::Response::new(Body::new(StreamBody::new(frames)));
    let kind = http::HeaderValue::from_static("application/grpc");
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    answer
}
