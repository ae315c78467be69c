//! Plugins that come late: they are told of everything that is there or being made, once.

use std::sync::Arc;

use e2e::{ContainerSettings, PodSettings, scenario_with};
use nri::api;
use prost::Message;
use testkit::nri_plugin::Reaction;
use tokio::sync::Semaphore;

use super::{SETTINGS, connect};

#[test]
fn a_late_plugin_loses_nothing() {
    scenario_with(SETTINGS, async |host| {
        let pod = PodSettings::new("late");
        let pod_id = host.run_pod(&pod).await?;
        let before = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("before"))
            .await?;
        // It is asked about a container while another one comes, and about others while it synchronizes.
        let (held, syncing) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let hold = Arc::clone(&held);
        let first = connect(host, "10", move |told| match told.method.as_str() {
            "CreateContainer" if told.container == "under-way" => Reaction::Wait(Arc::clone(&hold)),
            _ => Reaction::content(),
        })
        .await?;
        let create = |name: &'static str| {
            let (pod_id, pod, cri) = (pod_id.clone(), host.pod_config(&pod), host.cri.clone());
            let config = ContainerSettings::sleeper(name).config(&host.image);
            tokio::spawn(async move { cri.create(&pod_id, config, pod).await })
        };
        let under_way = create("under-way");
        first.until("late", "CreateContainer under-way").await?;
        let wait = Arc::clone(&syncing);
        let late = connect(host, "20", move |told| match told.method.as_str() {
            "Synchronize" => Reaction::Wait(Arc::clone(&wait)),
            _ => Reaction::content(),
        })
        .await?;
        held.add_permits(1);
        let during = create("during");
        first.until("late", "CreateContainer during").await?;
        syncing.add_permits(1);
        let (under_way, during) = (under_way.await??, during.await??);
        late.until("late", "PostCreateContainer during").await?;
        let told = late.told();
        let synchronized = told
            .iter()
            .find(|one| one.method == "Synchronize")
            .expect("it was asked");
        let synchronized = api::SynchronizeRequest::decode(synchronized.payload.as_slice())?;
        let mut known: Vec<_> = synchronized
            .containers
            .iter()
            .map(|one| one.id.clone())
            .collect();
        assert_eq!(synchronized.pods.len(), 1);
        let created = told.iter().filter(|one| one.method == "CreateContainer");
        for one in created {
            let request = api::CreateContainerRequest::decode(one.payload.as_slice())?;
            known.push(request.container.unwrap_or_default().id);
        }
        known.sort_unstable();
        let mut all = vec![before, under_way, during];
        all.sort_unstable();
        assert_eq!(known, all, "each once: {:?}", late.about("late"));
        Ok(())
    });
}

#[test]
fn late_plugins_lose_nothing_while_containers_come_and_go() {
    /// Of each pod; every second one is removed again.
    const CONTAINERS: usize = 6;
    scenario_with(SETTINGS, async |host| {
        let mut churn = Vec::new();
        for name in ["one", "two", "three"] {
            let pod = PodSettings::new(name);
            let pod_id = host.run_pod(&pod).await?;
            let (pod, cri, image) = (host.pod_config(&pod), host.cri.clone(), host.image.clone());
            churn.push(tokio::spawn(async move {
                let mut kept = Vec::new();
                for number in 0..CONTAINERS {
                    let settings = ContainerSettings::sleeper(&format!("c{number}"));
                    let id = cri
                        .create(&pod_id, settings.config(&image), pod.clone())
                        .await?;
                    match number % 2 {
                        0 => kept.push(id),
                        _ => cri.remove(&id).await?,
                    }
                }
                Ok::<_, tonic::Status>(kept)
            }));
        }
        let mut plugins = Vec::new();
        while !churn.iter().all(tokio::task::JoinHandle::is_finished) && plugins.len() < 20 {
            let index = format!("{:02}", plugins.len());
            plugins.push(connect(host, &index, |_| Reaction::content()).await?);
        }
        let mut kept = Vec::new();
        for task in churn {
            kept.extend(task.await??);
        }
        assert!(plugins.len() > 1, "some came while containers did");
        for plugin in &plugins {
            let mut known = Vec::new();
            for one in plugin.told() {
                match one.method.as_str() {
                    "Synchronize" => {
                        let all = api::SynchronizeRequest::decode(one.payload.as_slice())?;
                        known.extend(all.containers.into_iter().map(|container| container.id));
                    }
                    "CreateContainer" => {
                        let asked = api::CreateContainerRequest::decode(one.payload.as_slice())?;
                        known.push(asked.container.unwrap_or_default().id);
                    }
                    _ => {}
                }
            }
            let told = known.len();
            known.sort_unstable();
            known.dedup();
            assert_eq!(known.len(), told, "each once");
            for id in &kept {
                assert!(known.contains(id), "{id} is lost: {known:?}");
            }
        }
        Ok(())
    });
}
