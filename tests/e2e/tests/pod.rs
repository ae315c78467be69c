//! Pods: from request to removal, and what may be asked twice.

use std::time::{Duration, SystemTime};

use cri::v1::{PodSandboxFilter, PodSandboxState, PodSandboxStateValue, StreamPodSandboxesRequest};
use e2e::{Host, PodSettings, scenario};
use tonic::Code;

#[test]
fn a_pod_lives_and_goes() {
    scenario(async |host| {
        let pod = PodSettings::edited("whole", |config| {
            config.labels = [("app".to_owned(), "a=b, c".to_owned())].into();
            config.annotations =
                [("note".to_owned(), "line\nother \"quoted\" ✓".to_owned())].into();
        });
        let before = now_ns();
        let id = host.run_pod(&pod).await?;
        let status = host.cri.pod_status(&id, true).await?;
        let info = status.info;
        let status = status.status.unwrap();
        let asked = host.pod_config(&pod);
        assert_eq!(status.id, id);
        assert_eq!(status.state(), PodSandboxState::SandboxReady);
        assert_eq!(status.metadata, asked.metadata);
        assert_eq!(status.labels, asked.labels);
        assert_eq!(status.annotations, asked.annotations);
        assert!(status.created_at >= before && status.created_at <= now_ns());
        let network = status.network.unwrap();
        assert!(
            network.ip.parse::<std::net::Ipv4Addr>().is_ok(),
            "{network:?}"
        );
        assert_eq!(network.additional_ips.len(), 1);
        assert!(
            network.additional_ips[0]
                .ip
                .parse::<std::net::Ipv6Addr>()
                .is_ok()
        );
        assert!(info.contains_key("info"), "{info:?}");

        host.cri.stop_pod(&id).await?;
        let status = host.cri.pod_status(&id, false).await?.status.unwrap();
        assert_eq!(status.state(), PodSandboxState::SandboxNotready);
        host.cri.stop_pod(&id).await?;
        host.cri.remove_pod(&id).await?;
        host.cri.remove_pod(&id).await?;
        host.cri.stop_pod(&id).await?;
        let gone = host.cri.pod_status(&id, false).await.unwrap_err();
        assert_eq!(gone.code(), Code::NotFound, "{gone}");
        Ok(())
    });
}

#[test]
fn removing_a_running_pod_stops_it() {
    scenario(async |host| {
        let pod = PodSettings::new("forced");
        let id = host.run_pod(&pod).await?;
        let sleeper = e2e::ContainerSettings::sleeper("sleeper");
        host.run(&id, &pod, &sleeper).await?;
        host.cri.remove_pod(&id).await?;
        assert!(host.cri.pods(None).await?.is_empty());
        assert!(host.cri.containers(None).await?.is_empty());
        Ok(())
    });
}

#[test]
fn a_request_that_is_repeated_gets_the_same_pod() {
    scenario(async |host| {
        let pod = PodSettings::new("twice");
        // Both are in flight at once.
        let (first, second) = tokio::join!(host.run_pod(&pod), host.run_pod(&pod));
        let (first, second) = (first?, second?);
        assert_eq!(first, second);
        assert_eq!(host.run_pod(&pod).await?, first);
        assert_eq!(host.cri.pods(None).await?.len(), 1);

        let mut other = host.pod_config(&pod);
        other.hostname = "another".into();
        let refusal = host.cri.run_pod(other).await.unwrap_err();
        assert_eq!(refusal.code(), Code::AlreadyExists, "{refusal}");
        assert!(refusal.message().contains("twice"), "{refusal}");

        let mut next = host.pod_config(&pod);
        next.metadata.as_mut().unwrap().attempt = 1;
        assert_ne!(host.cri.run_pod(next).await?, first);
        Ok(())
    });
}

#[test]
fn a_client_that_goes_away_abandons_nothing() {
    scenario(async |host| {
        let pod = PodSettings::new("patient");
        std::fs::create_dir_all(host.pod_config(&pod).log_directory)?;
        // Dropping the future cancels the call.
        let request = host.cri.run_pod(host.pod_config(&pod));
        let _ = tokio::time::timeout(Duration::from_millis(3), request).await;
        let id = host.run_pod(&pod).await?;
        let pods = host.cri.pods(None).await?;
        assert_eq!(pods.iter().map(|pod| &pod.id).collect::<Vec<_>>(), [&id]);
        Ok(())
    });
}

#[test]
fn filters_select_by_id_prefix_state_and_labels() {
    scenario(async |host| {
        let (ready, stopped) = two_pods(host).await?;
        let by = async |filter: PodSandboxFilter| -> anyhow::Result<Vec<String>> {
            let pods = host.cri.pods(Some(filter)).await?;
            Ok(pods.into_iter().map(|pod| pod.id).collect())
        };
        let prefix = ready[..12].to_owned();
        assert_eq!(
            by(PodSandboxFilter {
                id: prefix,
                ..Default::default()
            })
            .await?,
            std::slice::from_ref(&ready)
        );
        let state = Some(PodSandboxStateValue {
            state: PodSandboxState::SandboxNotready.into(),
        });
        assert_eq!(
            by(PodSandboxFilter {
                state,
                ..Default::default()
            })
            .await?,
            std::slice::from_ref(&stopped)
        );
        let label_selector = [("tier".to_owned(), "front".to_owned())].into();
        let found = by(PodSandboxFilter {
            label_selector,
            ..Default::default()
        })
        .await?;
        assert_eq!(found, std::slice::from_ref(&ready));
        let label_selector = [("tier".to_owned(), "none".to_owned())].into();
        assert!(
            by(PodSandboxFilter {
                label_selector,
                ..Default::default()
            })
            .await?
            .is_empty()
        );

        let mut listed: Vec<String> = host
            .cri
            .pods(None)
            .await?
            .into_iter()
            .map(|pod| pod.id)
            .collect();
        listed.sort();
        assert_eq!(listed, streamed(host).await?);
        Ok(())
    });
}

async fn two_pods(host: &Host) -> anyhow::Result<(String, String)> {
    let ready = PodSettings::edited("ready", |config| {
        config.labels = [("tier".to_owned(), "front".to_owned())].into();
    });
    let ready = host.run_pod(&ready).await?;
    let stopped = host.run_pod(&PodSettings::new("stopped")).await?;
    host.cri.stop_pod(&stopped).await?;
    Ok((ready, stopped))
}

async fn streamed(host: &Host) -> anyhow::Result<Vec<String>> {
    let mut rpc = host.cri.client.runtime_service();
    let reply = rpc
        .stream_pod_sandboxes(StreamPodSandboxesRequest::default())
        .await?;
    let mut stream = reply.into_inner();
    let mut ids = Vec::new();
    while let Some(batch) = stream.message().await? {
        ids.extend(batch.pod_sandboxes.into_iter().map(|pod| pod.id));
    }
    ids.sort();
    Ok(ids)
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}
