//! A plugin of the Node Resource Interface that does what its test says, and remembers what it was asked.

use std::{
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use nri::{Call, Code, Peer, RUNTIME, Side, api};
use prost::Message;
use tokio::{
    net::UnixStream,
    sync::{Semaphore, mpsc},
};

/// Something that a plugin was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// A method of the protocol's service Plugin.
    pub method: String,
    /// The name of the pod, where it is about one.
    pub pod: String,
    /// The name of the container, where it is about one.
    pub container: String,
    /// The whole request.
    pub payload: Vec<u8>,
}

/// What a plugin does about something that it is asked.
#[derive(Debug)]
pub enum Reaction {
    /// A message of the method's own type.
    Answer(Vec<u8>),
    /// Answers emptily once the semaphore has a permit.
    Wait(Arc<Semaphore>),
    Refuse(String),
    /// Never answers.
    Silence,
    /// Goes away.
    Die,
}

impl Reaction {
    /// No wish.
    #[must_use]
    pub fn content() -> Self {
        Self::Answer(Vec::new())
    }

    /// Answers with a message.
    #[must_use]
    pub fn answer(message: &impl Message) -> Self {
        Self::Answer(message.encode_to_vec())
    }

    /// Answers to CreateContainer.
    #[must_use]
    pub fn adjust(adjust: api::ContainerAdjustment) -> Self {
        Self::answer(&api::CreateContainerResponse {
            adjust: Some(adjust),
            ..Default::default()
        })
    }
}

/// A plugin that is connected. It goes when it is dropped.
#[derive(Debug)]
pub struct Plugin {
    pub peer: Peer,
    told: Arc<Mutex<Vec<Told>>>,
}

/// How long a daemon may take over anything.
const BOUND: Duration = Duration::from_secs(60);

impl Plugin {
    /// Connects to a runtime's socket, and returns once the runtime has asked it to synchronize.
    ///
    /// # Errors
    /// Nobody listens, or the runtime does not want it.
    pub async fn connect(
        socket: &Path,
        index: &str,
        name: &str,
        react: impl Fn(&Told) -> Reaction + Send + 'static,
    ) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket)
            .await
            .with_context(|| format!("connect to {}", socket.display()))?;
        let plugin = Self::serve(stream, index, name, react).await?;
        let asked =
            || (plugin.count("Synchronize") > 0 || plugin.peer.closed().is_some()).then_some(());
        poll(BOUND, asked).await.context("it is not synchronized")?;
        Ok(plugin)
    }

    /// Serves a plugin that the runtime has started, on its standard input.
    ///
    /// # Errors
    /// As [`Plugin::connect`].
    pub async fn installed(
        react: impl Fn(&Told) -> Reaction + Send + 'static,
    ) -> anyhow::Result<Self> {
        use std::os::fd::AsFd;
        let socket: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned()?;
        let stream = std::os::unix::net::UnixStream::from(socket);
        stream.set_nonblocking(true)?;
        Self::serve(UnixStream::from_std(stream)?, "", "", react).await
    }

    async fn serve(
        stream: UnixStream,
        index: &str,
        name: &str,
        react: impl Fn(&Told) -> Reaction + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (sender, mut calls) = mpsc::channel::<Call>(16);
        let peer = Peer::start(stream, Side::Plugin, sender);
        let told = Arc::<Mutex<Vec<Told>>>::default();
        let plugin = Self {
            peer: peer.clone(),
            told: Arc::clone(&told),
        };
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                let one = about(&call);
                let reaction = react(&one);
                told.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(one);
                match reaction {
                    Reaction::Answer(payload) => call.reply.ok(&Raw(payload)),
                    Reaction::Refuse(why) => call.reply.refuse(Code::UNKNOWN, why),
                    Reaction::Silence | Reaction::Die => {
                        if matches!(reaction, Reaction::Die) {
                            peer.close("told to");
                        }
                        // One that is dropped would be an answer.
                        tokio::spawn(async move {
                            let _kept = call.reply;
                            std::future::pending::<()>().await;
                        });
                    }
                    Reaction::Wait(until) => {
                        tokio::spawn(async move {
                            let _permit = until.acquire().await;
                            call.reply.ok(&api::Empty {});
                        });
                    }
                }
            }
        });
        let request = api::RegisterPluginRequest {
            plugin_name: name.to_owned(),
            plugin_idx: index.to_owned(),
            nri_version: nri::VERSION.to_owned(),
        };
        plugin
            .peer
            .call::<api::Empty>(RUNTIME, "RegisterPlugin", &request, BOUND)
            .await
            .context("register")?;
        Ok(plugin)
    }

    /// All that it was asked.
    #[must_use]
    pub fn told(&self) -> Vec<Told> {
        self.told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Methods that it was asked about a pod and its containers, in order: `RunPodSandbox`, `CreateContainer main`.
    #[must_use]
    pub fn about(&self, pod: &str) -> Vec<String> {
        let told = self.told();
        let about = told.iter().filter(|one| one.pod == pod);
        about
            .map(|one| {
                format!("{} {}", one.method, one.container)
                    .trim_end()
                    .to_owned()
            })
            .collect()
    }

    /// How often it was asked something.
    #[must_use]
    pub fn count(&self, method: &str) -> usize {
        self.told()
            .iter()
            .filter(|one| one.method == method)
            .count()
    }

    /// Waits until it was asked something about a pod.
    ///
    /// # Errors
    /// It is not, in a minute.
    pub async fn until(&self, pod: &str, what: &str) -> anyhow::Result<()> {
        let asked = || self.about(pod).iter().any(|one| one == what).then_some(());
        if poll(BOUND, asked).await.is_none() {
            bail!("{what:?} is not in {:?}", self.about(pod));
        }
        Ok(())
    }

    /// Asks the runtime to change or to end containers; returns those that it could not change.
    ///
    /// # Errors
    /// The runtime refuses.
    pub async fn update(
        &self,
        update: Vec<api::ContainerUpdate>,
        evict: Vec<api::ContainerEviction>,
    ) -> anyhow::Result<Vec<api::ContainerUpdate>> {
        let request = api::UpdateContainersRequest { update, evict };
        let answer: api::UpdateContainersResponse = self
            .peer
            .call(RUNTIME, "UpdateContainers", &request, BOUND)
            .await?;
        Ok(answer.failed)
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.peer.close("dropped");
    }
}

/// Looks again and again, for as long as `limit`.
async fn poll<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = tokio::time::Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if tokio::time::Instant::now() >= end {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Every request that is about a pod, or a container too, has them in its fields 1 and 2.
#[derive(Clone, PartialEq, Message)]
struct About {
    #[prost(message, optional, tag = "1")]
    pod: Option<api::PodSandbox>,
    #[prost(message, optional, tag = "2")]
    container: Option<api::Container>,
}

fn about(call: &Call) -> Told {
    let both = match call.method.as_str() {
        "Configure" | "Synchronize" | "Shutdown" => About::default(),
        // Their second field is something else.
        method if method.ends_with("PodSandbox") => About {
            pod: api::StopPodSandboxRequest::decode(call.payload.as_slice())
                .ok()
                .and_then(|request| request.pod),
            container: None,
        },
        _ => About::decode(call.payload.as_slice()).unwrap_or_default(),
    };
    Told {
        method: call.method.clone(),
        pod: both.pod.map(|pod| pod.name).unwrap_or_default(),
        container: both
            .container
            .map(|container| container.name)
            .unwrap_or_default(),
        payload: call.payload.clone(),
    }
}

/// A message that is encoded already.
#[derive(Debug, Default)]
struct Raw(Vec<u8>);

impl Message for Raw {
    fn encode_raw(&self, buffer: &mut impl prost::bytes::BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: prost::encoding::WireType,
        buffer: &mut impl prost::bytes::Buf,
        context: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        prost::encoding::skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}
