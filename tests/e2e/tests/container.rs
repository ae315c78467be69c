//! Containers: from request to removal, and how they end.

use cri::v1::{
    ContainerFilter, ContainerState, ContainerStateValue, ContainerStatsFilter,
    LinuxContainerResources, StreamContainerStatsRequest, StreamContainersRequest,
};
use e2e::{ContainerSettings, PodSettings, scenario};
use tonic::Code;

#[test]
fn a_container_lives_and_goes() {
    scenario(async |host| {
        let pod = PodSettings::new("whole");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sleeper("main").edited(|config| {
            config.labels = [("k".to_owned(), "v".to_owned())].into();
            config.annotations = [("note".to_owned(), " ✓ ".to_owned())].into();
        });
        let id = host.create(&pod_id, &pod, &settings).await?;
        let created = host.cri.container_status(&id).await?;
        assert_eq!(created.state(), ContainerState::ContainerCreated);
        assert!(created.created_at > 0);
        assert_eq!((created.started_at, created.finished_at), (0, 0));

        host.cri.start(&id).await?;
        let running = host.cri.container_status_with(&id, true).await?;
        let info = running.info;
        let running = running.status.unwrap();
        let asked = settings.config(&host.image);
        assert_eq!(running.state(), ContainerState::ContainerRunning);
        assert!(running.started_at >= running.created_at);
        assert_eq!(running.metadata, asked.metadata);
        assert_eq!(running.labels, asked.labels);
        assert_eq!(running.annotations, asked.annotations);
        assert_eq!(
            running.log_path,
            host.log_path(&pod, &settings).to_string_lossy()
        );
        assert!(running.image_id.starts_with("sha256:"), "{running:?}");
        assert!(running.image_ref.contains("@sha256:"), "{running:?}");
        assert_eq!(running.image.unwrap().user_specified_image, host.image);
        assert!(running.user.unwrap().linux.is_some());
        let info = &info["info"];
        for key in ["pid", "sandboxID", "runtimeSpec", "config"] {
            assert!(
                info.contains(&format!("\"{key}\"")),
                "{key} is not in {info}"
            );
        }

        host.cri.stop(&id, 10).await?;
        let exited = host.cri.container_status(&id).await?;
        assert_eq!(exited.state(), ContainerState::ContainerExited);
        assert_eq!((exited.exit_code, &*exited.reason), (0, "Completed"));
        assert!(exited.finished_at >= exited.started_at);
        host.cri.stop(&id, 10).await?;
        host.cri.remove(&id).await?;
        host.cri.remove(&id).await?;
        host.cri.stop(&id, 10).await?;
        let gone = host.cri.container_status(&id).await.unwrap_err();
        assert_eq!(gone.code(), Code::NotFound, "{gone}");
        Ok(())
    });
}

#[test]
fn exit_codes_and_signals_are_told() {
    scenario(async |host| {
        let pod = PodSettings::new("codes");
        let pod_id = host.run_pod(&pod).await?;
        for (name, script, code, reason) in [
            ("zero", "true", 0, "Completed"),
            ("three", "exit 3", 3, "Error"),
            ("killed", "kill -9 $$; sleep 9", 137, "Error"),
            ("aborted", "kill -6 $$; sleep 9", 134, "Error"),
        ] {
            // PID 1 of a PID namespace cannot kill itself: a child does it, and the shell passes its status on.
            let script = match name {
                "killed" => "sh -c 'kill -9 $$'; exit $?",
                "aborted" => "sh -c 'kill -6 $$'; exit $?",
                _ => script,
            };
            let settings = ContainerSettings::sh(name, script);
            let (status, _) = host.run_to_end(&pod_id, &pod, &settings).await?;
            assert_eq!(
                (status.exit_code, &*status.reason),
                (code, reason),
                "{name}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_container_out_of_memory_says_so() {
    scenario(async |host| {
        let pod = PodSettings::new("hungry");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh("hungry", "exec tail /dev/zero").edited(|config| {
            let resources = LinuxContainerResources {
                memory_limit_in_bytes: 16 << 20,
                memory_swap_limit_in_bytes: 16 << 20,
                ..Default::default()
            };
            config.linux.get_or_insert_default().resources = Some(resources);
        });
        let (status, _) = host.run_to_end(&pod_id, &pod, &settings).await?;
        assert_eq!(
            (status.exit_code, &*status.reason),
            (137, "OOMKilled"),
            "{status:?}"
        );
        let resources = status.resources.unwrap().linux.unwrap();
        assert_eq!(resources.memory_limit_in_bytes, 16 << 20);
        Ok(())
    });
}

#[test]
fn a_childs_death_for_want_of_memory_is_told_too() {
    scenario(async |host| {
        let pod = PodSettings::new("hungry-child");
        let pod_id = host.run_pod(&pod).await?;
        let limited = |config: &mut cri::v1::ContainerConfig| {
            let resources = LinuxContainerResources {
                memory_limit_in_bytes: 16 << 20,
                memory_swap_limit_in_bytes: 16 << 20,
                ..Default::default()
            };
            config.linux.get_or_insert_default().resources = Some(resources);
        };
        // However init ends, as with the peers; a death by SIGKILL alone is none for want of memory.
        for (name, script, code, reason) in [
            ("shrugs", "tail /dev/zero; exit 0", 0, "OOMKilled"),
            ("fails", "tail /dev/zero; exit 3", 3, "OOMKilled"),
            ("killed", "sh -c 'kill -9 $$'; exit $?", 137, "Error"),
            ("lives-on", "sh -c 'kill -9 $$'; exit 0", 0, "Completed"),
        ] {
            let settings = ContainerSettings::sh(name, script).edited(limited);
            let (status, _) = host.run_to_end(&pod_id, &pod, &settings).await?;
            assert_eq!(
                (status.exit_code, &*status.reason),
                (code, reason),
                "{script}: {status:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_request_that_is_repeated_gets_the_same_container() {
    scenario(async |host| {
        let pod = PodSettings::new("twice");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sleeper("main");
        let (first, second) = tokio::join!(
            host.create(&pod_id, &pod, &settings),
            host.create(&pod_id, &pod, &settings)
        );
        let id = first?;
        assert_eq!(id, second?);
        assert_eq!(host.create(&pod_id, &pod, &settings).await?, id);

        let other = ContainerSettings::sh("main", "false");
        let refusal = host.create(&pod_id, &pod, &other).await.unwrap_err();
        assert_eq!(refusal.code(), Code::AlreadyExists, "{refusal}");
        let next = host.create(&pod_id, &pod, &other.attempt(1)).await?;
        assert_ne!(next, id);

        let (first, second) = tokio::join!(host.cri.start(&id), host.cri.start(&id));
        // Whoever comes while the first is in flight joins it; whoever comes later is told that it runs.
        for answer in [first, second] {
            let late = |status: &tonic::Status| status.code() == Code::FailedPrecondition;
            assert!(answer.as_ref().map_or_else(late, |()| true), "{answer:?}");
        }
        let status = host.cri.container_status(&id).await?;
        assert_eq!(status.state(), ContainerState::ContainerRunning);
        assert_eq!(host.cri.containers(None).await?.len(), 2);
        Ok(())
    });
}

#[test]
fn removing_a_running_container_kills_it() {
    scenario(async |host| {
        let pod = PodSettings::new("forced");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        host.cri.remove(&id).await?;
        assert!(host.cri.containers(None).await?.is_empty());
        assert!(
            host.sandbox
                .processes()
                .iter()
                .all(|process| process.name != "sleep")
        );
        Ok(())
    });
}

#[test]
fn filters_select_by_id_prefix_pod_state_and_labels() {
    scenario(async |host| {
        let (one, two) = (PodSettings::new("one"), PodSettings::new("two"));
        let (one_id, two_id) = (host.run_pod(&one).await?, host.run_pod(&two).await?);
        let labelled = ContainerSettings::sleeper("a")
            .edited(|config| config.labels = [("k".to_owned(), "v".to_owned())].into());
        let a = host.run(&one_id, &one, &labelled).await?;
        let b = host
            .create(&two_id, &two, &ContainerSettings::sleeper("b"))
            .await?;

        let by = async |filter: ContainerFilter| -> anyhow::Result<Vec<String>> {
            let found = host.cri.containers(Some(filter)).await?;
            Ok(found.into_iter().map(|container| container.id).collect())
        };
        let filter = ContainerFilter {
            id: a[..10].to_owned(),
            ..Default::default()
        };
        assert_eq!(by(filter).await?, std::slice::from_ref(&a));
        let filter = ContainerFilter {
            pod_sandbox_id: two_id.clone(),
            ..Default::default()
        };
        assert_eq!(by(filter).await?, std::slice::from_ref(&b));
        let state = Some(ContainerStateValue {
            state: ContainerState::ContainerCreated.into(),
        });
        assert_eq!(
            by(ContainerFilter {
                state,
                ..Default::default()
            })
            .await?,
            std::slice::from_ref(&b)
        );
        let label_selector = [("k".to_owned(), "v".to_owned())].into();
        assert_eq!(
            by(ContainerFilter {
                label_selector,
                ..Default::default()
            })
            .await?,
            std::slice::from_ref(&a)
        );

        let mut rpc = host.cri.client.runtime_service();
        let reply = rpc
            .stream_containers(StreamContainersRequest::default())
            .await?;
        let mut stream = reply.into_inner();
        let mut streamed = Vec::new();
        while let Some(batch) = stream.message().await? {
            streamed.extend(batch.containers.into_iter().map(|container| container.id));
        }
        streamed.sort();
        let mut expected = [a, b];
        expected.sort();
        assert_eq!(streamed, expected);
        Ok(())
    });
}

#[test]
fn stats_count_what_a_container_uses() {
    scenario(async |host| {
        let pod = PodSettings::new("busy");
        let pod_id = host.run_pod(&pod).await?;
        let busy = ContainerSettings::sh(
            "busy",
            "dd if=/dev/zero of=/big bs=1M count=8; while :; do :; done",
        );
        let id = host.run(&pod_id, &pod, &busy).await?;
        host.until_logged(&pod, &busy, "8+0 records out").await?;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let stats = host.cri.container_stats(&id).await?.unwrap();
        assert_eq!(stats.attributes.as_ref().unwrap().id, id);
        let cpu = stats
            .cpu
            .as_ref()
            .unwrap()
            .usage_core_nano_seconds
            .unwrap()
            .value;
        assert!(cpu > 0, "{stats:?}");
        let memory = stats.memory.as_ref().unwrap();
        assert!(memory.working_set_bytes.unwrap().value > 0, "{stats:?}");
        assert!(stats.writable_layer.is_some(), "{stats:?}");

        let filter = ContainerStatsFilter {
            pod_sandbox_id: pod_id.clone(),
            ..Default::default()
        };
        assert_eq!(host.cri.list_stats(Some(filter)).await?.len(), 1);
        let mut rpc = host.cri.client.runtime_service();
        let reply = rpc
            .stream_container_stats(StreamContainerStatsRequest::default())
            .await?;
        let first = reply.into_inner().message().await?.unwrap();
        assert_eq!(first.container_stats.len(), 1);
        let missing = host.cri.container_stats("0123456789ab").await.unwrap_err();
        assert_eq!(missing.code(), Code::NotFound, "{missing}");
        Ok(())
    });
}
