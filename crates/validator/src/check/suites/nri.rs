use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nri::{Call, Code, Peer, RUNTIME, Side, api};
use prost::Message;
use tokio::{net::UnixStream, sync::mpsc};

use crate::check::{
    case::{Case, Ended, Verdict, case, ensure, ensure_eq, skip},
    scene::{Pod, Scene},
};

pub(super) const CASES: &[Case] = &[
    case!(
        "nri",
        "a plugin is told of a pod's and a container's life in order",
        told
    ),
    case!(
        "nri",
        "a plugin that comes later is told of what is there",
        synchronized
    ),
    case!("nri", "a plugin changes a container's environment", adjusts),
    case!(
        "nri",
        "a container that a plugin refuses is not made, leaves nothing, and may come later",
        refuses_container
    ),
    case!(
        "nri",
        "a pod that a plugin refuses is not run, leaves nothing, and may come later",
        refuses_pod
    ),
];

const BOUND: Duration = Duration::from_secs(30);

/// What a plugin does about containers and pods of its scene.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Conduct {
    Watches,
    SetsVariable,
    RefusesContainers,
    RefusesPods,
}

/// A plugin that heeds the pods of one scene alone. It goes when it is dropped.
struct Plugin {
    peer: Peer,
    seen: Arc<Mutex<Vec<(String, String)>>>,
    synchronized: Arc<Mutex<Vec<String>>>,
}

/// A request about a pod, or about a container in it.
#[derive(Clone, PartialEq, Message)]
struct About {
    #[prost(message, optional, tag = "1")]
    pod: Option<api::PodSandbox>,
    #[prost(message, optional, tag = "2")]
    container: Option<api::Container>,
}

impl Plugin {
    async fn connect(scene: &Scene<'_>, conduct: Conduct) -> Verdict<Self> {
        let Some(socket) = scene.bed.settings.nri_socket.clone() else {
            skip!("no NRI socket is given");
        };
        let failed = |what: &str, why: String| Ended::Failed(format!("{what}: {why}"));
        let stream = UnixStream::connect(Path::new(&socket))
            .await
            .map_err(|error| {
                failed(
                    &format!("connect to {}", socket.display()),
                    error.to_string(),
                )
            })?;
        let (sender, mut calls) = mpsc::channel::<Call>(16);
        let plugin = Self {
            peer: Peer::start(stream, Side::Plugin, sender),
            seen: Arc::default(),
            synchronized: Arc::default(),
        };
        let own = format!("{}-", scene.name);
        let (seen, known) = (Arc::clone(&plugin.seen), Arc::clone(&plugin.synchronized));
        let (ready, synchronized) = tokio::sync::oneshot::channel();
        let mut ready = Some(ready);
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                let about = about(&call);
                if call.method == "Synchronize" {
                    let request =
                        api::SynchronizeRequest::decode(&*call.payload).unwrap_or_default();
                    let containers = request.containers.into_iter().map(|it| it.id);
                    held(&known).extend(containers);
                    call.reply.ok(&api::Empty {});
                    ready.take().map(|ready| ready.send(()));
                    continue;
                }
                let pod = about.pod.map(|it| it.name).unwrap_or_default();
                let container = about.container.map(|it| it.name).unwrap_or_default();
                if !pod.starts_with(&own) {
                    call.reply.ok(&api::Empty {});
                    continue;
                }
                held(&seen).push((call.method.clone(), container));
                answer(call, conduct);
            }
        });
        let request = api::RegisterPluginRequest {
            plugin_name: format!("check-{}-{}", scene.bed.run, scene.name),
            plugin_idx: "77".to_owned(),
            nri_version: nri::VERSION.to_owned(),
        };
        let registered = plugin
            .peer
            .call::<api::Empty>(RUNTIME, "RegisterPlugin", &request, BOUND)
            .await;
        registered.map_err(|error| failed("register a plugin", error.to_string()))?;
        match tokio::time::timeout(BOUND, synchronized).await {
            Ok(Ok(())) => Ok(plugin),
            Ok(Err(_)) | Err(_) => Err(Ended::Failed("the plugin is not synchronized".to_owned())),
        }
    }

    /// Methods that it was asked, those about containers of no name apart.
    fn methods(&self, container: &str) -> Vec<String> {
        let seen = held(&self.seen);
        let own = seen.iter().filter(|(_, about)| about == container);
        own.map(|(method, _)| method.clone()).collect()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.peer.close("the case is over");
    }
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn about(call: &Call) -> About {
    match call.method.as_str() {
        "Configure" | "Synchronize" | "Shutdown" => About::default(),
        // Their second field is something else.
        method if method.ends_with("PodSandbox") => About {
            pod: api::StopPodSandboxRequest::decode(&*call.payload)
                .ok()
                .and_then(|it| it.pod),
            container: None,
        },
        _ => About::decode(&*call.payload).unwrap_or_default(),
    }
}

fn answer(call: Call, conduct: Conduct) {
    match (conduct, call.method.as_str()) {
        (Conduct::SetsVariable, "CreateContainer") => {
            call.reply.ok(&api::CreateContainerResponse {
                adjust: Some(api::ContainerAdjustment {
                    env: vec![api::KeyValue {
                        key: "BY_PLUGIN".to_owned(),
                        value: "a value".to_owned(),
                    }],
                    ..Default::default()
                }),
                ..Default::default()
            })
        }
        (Conduct::RefusesContainers, "CreateContainer")
        | (Conduct::RefusesPods, "RunPodSandbox") => {
            call.reply
                .refuse(Code::UNKNOWN, "the plugin of this case refuses");
        }
        (
            Conduct::Watches
            | Conduct::SetsVariable
            | Conduct::RefusesContainers
            | Conduct::RefusesPods,
            _,
        ) => {
            call.reply.ok(&api::Empty {});
        }
    }
}

async fn told(scene: &Scene<'_>) -> Verdict {
    let plugin = Plugin::connect(scene, Conduct::Watches).await?;
    let (pod, id) = scene.any_container().await?;
    scene.stop(&id, 30).await?;
    scene.remove(&id).await?;
    scene.stop_pod(&pod.id).await?;
    scene.remove_pod(&pod.id).await?;
    let of_container = async || {
        let seen = plugin.methods("sleeper");
        Ok(seen
            .iter()
            .any(|it| it == "RemoveContainer")
            .then_some(seen))
    };
    let seen = scene.until("RemoveContainer", of_container).await?;
    let known = [
        "CreateContainer",
        "StartContainer",
        "StopContainer",
        "RemoveContainer",
    ];
    let main: Vec<_> = seen
        .iter()
        .filter(|it| known.contains(&it.as_str()))
        .collect();
    ensure_eq!(main, known, "what is told of the container");
    let known = ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"];
    let of_pod = async || {
        let seen = plugin.methods("");
        Ok(seen
            .iter()
            .any(|it| it == "RemovePodSandbox")
            .then_some(seen))
    };
    let seen = scene.until("RemovePodSandbox", of_pod).await?;
    let main: Vec<_> = seen
        .iter()
        .filter(|it| known.contains(&it.as_str()))
        .collect();
    ensure_eq!(main, known, "what is told of the pod");
    Ok(())
}

async fn synchronized(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let plugin = Plugin::connect(scene, Conduct::Watches).await?;
    let known = held(&plugin.synchronized).clone();
    ensure!(
        known.contains(&id),
        "{id} is not among {} containers",
        known.len()
    );
    Ok(())
}

async fn adjusts(scene: &Scene<'_>) -> Verdict {
    let _plugin = Plugin::connect(scene, Conduct::SetsVariable).await?;
    let pod = scene.any_pod().await?;
    let config = scene.script(&pod, "one", "echo $BY_PLUGIN");
    ensure_eq!(
        scene.written_by(&pod, config).await?,
        "a value\n",
        "the variable"
    );
    Ok(())
}

async fn refuses_container(scene: &Scene<'_>) -> Verdict {
    let plugin = Plugin::connect(scene, Conduct::RefusesContainers).await?;
    let pod: Pod = scene.any_pod().await?;
    let config = scene.sleeper(&pod, "one");
    ensure!(
        scene.try_create(&pod, config.clone()).await.is_err(),
        "it is created"
    );
    ensure!(scene.own_containers().await?.is_empty(), "it is listed");
    drop(plugin);
    // A runtime notices a moment later that the plugin has gone.
    let made = async || Ok(scene.try_create(&pod, config.clone()).await.ok());
    scene
        .until("the container, once the plugin has gone", made)
        .await?;
    Ok(())
}

async fn refuses_pod(scene: &Scene<'_>) -> Verdict {
    let plugin = Plugin::connect(scene, Conduct::RefusesPods).await?;
    let config = scene.network_pod("pod");
    ensure!(scene.try_pod(config.clone()).await.is_err(), "it runs");
    let left = scene.own_pods().await?;
    ensure!(
        left.iter()
            .all(|it| it.state() != cri::v1::PodSandboxState::SandboxReady),
        "it is ready"
    );
    drop(plugin);
    let made = async || Ok(scene.try_pod(config.clone()).await.ok());
    scene
        .until("the pod, once the plugin has gone", made)
        .await?;
    Ok(())
}
