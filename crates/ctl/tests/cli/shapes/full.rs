//! A runtime that says all that can be said: each answer is made from the interface's own description, with every field set.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};

use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey,
    MessageDescriptor, Value,
};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use crate::serving::Serving;

/// A pod's is refused where there is Linux's too.
const ELSEWHERE: &str = "runtime.v1.PodSandboxStats.windows";

/// When everything was made: 2026-11-21, in nanoseconds.
const LONG_AGO: i64 = 1_795_248_000_000_000_000;

/// It serves until this is dropped.
pub(super) struct Full {
    socket: PathBuf,
    _serving: Serving,
}

impl Full {
    pub(super) fn start(socket: &Path) -> Self {
        let answers = Answers {
            pool: DescriptorPool::decode(cri::DESCRIPTOR_SET).unwrap(),
            calls: Arc::default(),
        };
        let serving = Serving::start(socket, move |clients| {
            tonic::transport::Server::builder()
                .add_service(Answering::<false>(answers.clone()))
                .add_service(Answering::<true>(answers))
                .serve_with_incoming(clients)
        });
        Self {
            socket: socket.to_owned(),
            _serving: serving,
        }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

#[derive(Clone)]
struct Answers {
    pool: DescriptorPool,
    /// Counters grow from one call to the next, as those of a runtime do.
    calls: Arc<AtomicI64>,
}

#[derive(Clone)]
struct Answering<const IMAGES: bool>(Answers);

impl NamedService for Answering<false> {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

impl NamedService for Answering<true> {
    const NAME: &'static str = "runtime.v1.ImageService";
}

impl<const IMAGES: bool> Service<http::Request<Body>> for Answering<IMAGES> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.answer(request.uri().path());
        Box::pin(async move {
            let Some(answer) = answer else {
                return Ok(Status::unimplemented("no such method").into_http());
            };
            // A stream of one message looks as a single one does.
            let answering = service_fn(move |_: Request<()>| {
                let answer = answer.clone();
                async move { Ok::<_, Status>(Response::new(answer)) }
            });
            let codec = ProstCodec::<DynamicMessage, ()>::default();
            Ok(Grpc::new(codec).unary(answering, request).await)
        })
    }
}

impl Answers {
    fn answer(&self, path: &str) -> Option<DynamicMessage> {
        let (service, method) = path.trim_start_matches('/').split_once('/')?;
        let service = self.pool.get_service_by_name(service)?;
        let method = service.methods().find(|it| it.name() == method)?;
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        Some(Filler(calls).message(&method.output()))
    }
}

/// How many calls there were before.
struct Filler(i64);

impl Filler {
    fn message(&self, of: &MessageDescriptor) -> DynamicMessage {
        let mut message = DynamicMessage::new(of.clone());
        for field in of.fields().filter(|it| it.full_name() != ELSEWHERE) {
            message.set_field(&field, self.field(&field));
        }
        message
    }

    fn field(&self, field: &FieldDescriptor) -> Value {
        if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
            let value = match field.name() {
                "info" => Value::String("{\"inside\":1}".to_owned()),
                _ => self.value(&entry.map_entry_value_field()),
            };
            return Value::Map([(MapKey::String("key".to_owned()), value)].into());
        }
        if field.full_name() == "runtime.v1.RuntimeStatus.conditions" {
            return conditions(field);
        }
        let value = self.value(field);
        match field.is_list() {
            true => Value::List(vec![value]),
            false => value,
        }
    }

    fn value(&self, field: &FieldDescriptor) -> Value {
        let count = self.0 + 1;
        match field.kind() {
            Kind::Message(message) => Value::Message(self.message(&message)),
            Kind::Enum(values) => Value::EnumNumber(most(&values)),
            Kind::String => Value::String(text(field.name()).to_owned()),
            Kind::Bytes => Value::Bytes("bytes\n".into()),
            Kind::Bool => Value::Bool(true),
            Kind::Double => Value::F64(count as f64),
            Kind::Float => Value::F32(count as f32),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(count as i32),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(count as u32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(LONG_AGO + count),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(count as u64),
        }
    }
}

/// The two that a status has to have.
fn conditions(field: &FieldDescriptor) -> Value {
    let Kind::Message(of) = field.kind() else {
        unreachable!("conditions are messages");
    };
    let condition = |name: &str| {
        let mut condition = DynamicMessage::new(of.clone());
        condition.set_field_by_name("type", Value::String(name.to_owned()));
        condition.set_field_by_name("status", Value::Bool(true));
        Value::Message(condition)
    };
    Value::List(["RuntimeReady", "NetworkReady"].map(condition).to_vec())
}

fn text(field: &str) -> &'static str {
    match field {
        "repo_tags" => "repository:tag",
        "repo_digests" => "repository@sha256:ab",
        _ => "text",
    }
}

/// The second one, which is not the default: a container runs.
fn most(values: &EnumDescriptor) -> i32 {
    let number = values.values().nth(1).map(|value| value.number());
    number.unwrap_or_default()
}
