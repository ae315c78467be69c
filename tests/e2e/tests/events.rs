//! GetContainerEvents: every change once, in order, each with the statuses of its moment.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use cri::v1::{
    ContainerEventResponse, ContainerEventType, ContainerState, GetEventsRequest, PodSandboxState,
};
use e2e::{ContainerSettings, Cri, PodSettings, scenario};
use tonic::{Code, Status, Streaming};

use ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
    ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
};

const HANG_GUARD: Duration = Duration::from_secs(120);

struct Reader(Streaming<ContainerEventResponse>);

impl Reader {
    async fn connect(cri: &Cri) -> anyhow::Result<Self> {
        let mut rpc = cri.client.runtime_service();
        let reply = rpc
            .get_container_events(GetEventsRequest::default())
            .await?;
        Ok(Self(reply.into_inner()))
    }

    async fn next(&mut self) -> anyhow::Result<ContainerEventResponse> {
        let event = tokio::time::timeout(HANG_GUARD, self.0.message()).await;
        event.context("no event comes")??.context("the events end")
    }

    /// Everything up to an event of this kind about this id.
    async fn until(
        &mut self,
        kind: ContainerEventType,
        id: &str,
    ) -> anyhow::Result<Vec<ContainerEventResponse>> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await?;
            let last = event.container_event_type() == kind && event.container_id == id;
            events.push(event);
            if last {
                return Ok(events);
            }
        }
    }

    /// What it ends with.
    async fn end(&mut self) -> anyhow::Result<Status> {
        loop {
            let event = tokio::time::timeout(HANG_GUARD, self.0.message()).await;
            match event.context("the events do not end")? {
                Ok(Some(_)) => {}
                Ok(None) => anyhow::bail!("they end without a reason"),
                Err(status) => return Ok(status),
            }
        }
    }
}

fn told(events: &[ContainerEventResponse]) -> Vec<(String, ContainerEventType)> {
    let told = events.iter();
    told.map(|event| (event.container_id.clone(), event.container_event_type()))
        .collect()
}

/// The state that the event's own statuses give its container.
fn state_in(event: &ContainerEventResponse) -> Option<ContainerState> {
    let own = |status: &&cri::v1::ContainerStatus| status.id == event.container_id;
    let own = event.containers_statuses.iter().find(own);
    own.map(cri::v1::ContainerStatus::state)
}

/// What must hold of any sequence of events: time goes forward, each thing's changes come in the order of its life, and statuses are of the
/// moment.
fn check(events: &[ContainerEventResponse]) -> anyhow::Result<()> {
    let mut before: BTreeMap<&str, ContainerEventType> = BTreeMap::new();
    let mut last = 0;
    for event in events {
        ensure!(
            event.created_at > last,
            "time does not go forward: {event:?}"
        );
        last = event.created_at;
        let kind = event.container_event_type();
        let earlier = before.insert(&event.container_id, kind);
        let follows = match kind {
            Created => earlier.is_none(),
            Started => earlier == Some(Created),
            Stopped => matches!(earlier, Some(Created | Started)),
            Deleted => earlier == Some(Stopped),
        };
        ensure!(
            follows,
            "{kind:?} after {earlier:?}: {}",
            event.container_id
        );
        let pod = event.pod_sandbox_status.as_ref().context("no pod status")?;
        if pod.id == event.container_id {
            let ready = pod.state() == PodSandboxState::SandboxReady;
            ensure!(ready == matches!(kind, Created | Started), "{event:?}");
            continue;
        }
        let expected = match kind {
            Created => Some(ContainerState::ContainerCreated),
            Started => Some(ContainerState::ContainerRunning),
            Stopped => Some(ContainerState::ContainerExited),
            Deleted => None,
        };
        ensure!(state_in(event) == expected, "{event:?}");
        // Its neighbours are as the events before this one left them.
        for status in &event.containers_statuses {
            let state = match before.get(status.id.as_str()) {
                Some(Created) => ContainerState::ContainerCreated,
                Some(Started) => ContainerState::ContainerRunning,
                Some(Stopped) => ContainerState::ContainerExited,
                Some(Deleted) | None => anyhow::bail!("{} is not there: {event:?}", status.id),
            };
            ensure!(status.state() == state, "{}: {event:?}", status.id);
        }
    }
    Ok(())
}

#[test]
fn a_pods_life_is_told_in_order() {
    scenario(async |host| {
        let mut reader = Reader::connect(&host.cri).await?;
        let pod = PodSettings::new("told");
        let pod_id = host.run_pod(&pod).await?;
        let sleeper = ContainerSettings::sleeper("sleeper");
        let id = host.run(&pod_id, &pod, &sleeper).await?;
        let brief = ContainerSettings::sh("brief", "exit 3");
        let brief = host.run(&pod_id, &pod, &brief).await?;
        host.until_exited(&brief).await?;
        let absent = ContainerSettings::new("absent", ["/no/such/program"]);
        let absent = host.create(&pod_id, &pod, &absent).await?;
        host.cri.start(&absent).await.unwrap_err();
        host.cri.stop(&id, 10).await?;
        host.cri.remove(&id).await?;
        host.cri.stop_pod(&pod_id).await?;
        host.cri.remove_pod(&pod_id).await?;

        let events = reader.until(Deleted, &pod_id).await?;
        check(&events)?;
        let about = |id: &str| -> Vec<_> {
            let told = told(&events).into_iter();
            told.filter(|(told, _)| told == id)
                .map(|(_, kind)| kind)
                .collect()
        };
        let whole = [Created, Started, Stopped, Deleted];
        assert_eq!(about(&pod_id), whole);
        assert_eq!(about(&id), whole);
        assert_eq!(about(&brief), whole);
        assert_eq!(about(&absent), [Created, Stopped, Deleted]);
        let exit = |id: &str| {
            let ended = |event: &&ContainerEventResponse| {
                event.container_id == id && event.container_event_type() == Stopped
            };
            let event = events.iter().find(ended).unwrap();
            let own = event
                .containers_statuses
                .iter()
                .find(|status| status.id == id);
            own.unwrap().clone()
        };
        assert_eq!(exit(&brief).exit_code, 3);
        assert_eq!(exit(&absent).reason, "StartError");
        assert!(exit(&absent).started_at == 0 && exit(&brief).started_at > 0);
        let first = events[0].pod_sandbox_status.clone().unwrap();
        assert!(!first.network.unwrap().ip.is_empty());
        Ok(())
    });
}

#[test]
fn readers_under_concurrency_hear_the_same_in_the_same_order() {
    scenario(async |host| {
        let (mut one, mut other) = (
            Reader::connect(&host.cri).await?,
            Reader::connect(&host.cri).await?,
        );
        // One that goes away in the middle troubles nobody.
        let gone = Reader::connect(&host.cri).await?;
        let life = async |number: usize| -> anyhow::Result<()> {
            let pod = PodSettings::new(&format!("crowd-{number}"));
            let pod_id = host.run_pod(&pod).await?;
            let container = async |name: &str| -> anyhow::Result<()> {
                let brief = ContainerSettings::sh(name, "exit 0");
                let id = host.run(&pod_id, &pod, &brief).await?;
                host.until_exited(&id).await?;
                host.cri.remove(&id).await?;
                Ok(())
            };
            let container = |name| Box::pin(container(name));
            tokio::try_join!(container("a"), container("b"), container("c"))?;
            host.cri.stop_pod(&pod_id).await?;
            host.cri.remove_pod(&pod_id).await?;
            Ok(())
        };
        let vanish = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(gone);
            anyhow::Ok(())
        };
        // Futures of requests are large, and a thread's stack is not.
        let life = |number| Box::pin(life(number));
        tokio::try_join!(life(0), life(1), life(2), life(3), vanish)?;
        let last = PodSettings::new("last");
        let last = host.run_pod(&last).await?;
        let heard = one.until(Started, &last).await?;
        assert_eq!(heard, other.until(Started, &last).await?);
        check(&heard)?;
        // Four pods with three containers each, four changes of everything.
        assert_eq!(heard.len(), 4 * (1 + 3) * 4 + 2);
        Ok(())
    });
}

#[test]
fn a_reader_that_lags_is_cut_off_and_told_so() {
    scenario(async |host| {
        // Large statuses fill the bound, and gRPC's own windows, with few events.
        let large = |name: &str| {
            PodSettings::edited(name, |config| {
                let note = "x".repeat(3 << 20);
                config.annotations.insert("note".into(), note);
            })
        };
        let mut lagging = Reader::connect(&host.cri).await?;
        let mut prompt = Reader::connect(&host.cri).await?;
        let work = Box::pin(async {
            for number in 0..4 {
                let pod = host.run_pod(&large(&format!("large-{number}"))).await?;
                host.cri.stop_pod(&pod).await?;
                host.cri.remove_pod(&pod).await?;
            }
            let last = host.run_pod(&PodSettings::new("last")).await?;
            anyhow::Ok(last)
        });
        let (sender, mut last) = tokio::sync::watch::channel(None);
        let work = Box::pin(async {
            sender.send_replace(Some(work.await?));
            anyhow::Ok(())
        });
        // One that keeps reading hears everything.
        let read = Box::pin(async {
            let mut events = Vec::new();
            loop {
                let event = prompt.next().await?;
                let (id, kind) = (event.container_id.clone(), event.container_event_type());
                let network = event.pod_sandbox_status.clone();
                events.push(event);
                if kind == Started
                    && network.is_some_and(|pod| pod.metadata.unwrap().name == "last")
                {
                    let expected = last.wait_for(Option::is_some).await?.clone();
                    ensure!(expected == Some(id));
                    return Ok(events);
                }
            }
        });
        let ((), events) = tokio::try_join!(work, read)?;
        check(&events)?;
        assert_eq!(events.len(), 4 * 4 + 2);
        let end = lagging.end().await?;
        assert_eq!(end.code(), Code::ResourceExhausted, "{end:?}");
        assert!(end.message().contains("list"), "{end:?}");
        // And it may come back.
        let mut back = Reader::connect(&host.cri).await?;
        let pod = host.run_pod(&PodSettings::new("back")).await?;
        assert_eq!(told(&back.until(Started, &pod).await?).len(), 2);
        Ok(())
    });
}

#[test]
fn an_end_that_no_daemon_saw_is_told_by_the_next() {
    scenario(async |host| {
        let pod = PodSettings::new("orphaned");
        let pod_id = host.run_pod(&pod).await?;
        let ends = ContainerSettings::sh("ends", "sleep 2.25; exit 5");
        let id = host.run(&pod_id, &pod, &ends).await?;
        let stays = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("stays"))
            .await?;
        let mut reader = Reader::connect(&host.cri).await?;
        host.daemon.kill();
        // A reader of a daemon that dies is not left waiting.
        reader.end().await?;
        let ended = testkit::sandbox::poll(HANG_GUARD, || {
            let sleeps =
                |process: &testkit::sandbox::Process| process.args.contains(&"2.25".to_owned());
            (!host.sandbox.processes().iter().any(sleeps)).then_some(())
        });
        ended.context("the container does not end")?;
        host.start_daemon().await?;

        let mut reader = Reader::connect(&host.cri).await?;
        let event = reader.next().await?;
        assert_eq!(told(std::slice::from_ref(&event)), [(id.clone(), Stopped)]);
        let own = event
            .containers_statuses
            .iter()
            .find(|status| status.id == id)
            .unwrap();
        assert_eq!(own.exit_code, 5);
        // Told once; what is alive goes on being told.
        host.cri.stop(&stays, 10).await?;
        assert_eq!(told(&[reader.next().await?]), [(stays, Stopped)]);
        let mut second = Reader::connect(&host.cri).await?;
        host.cri.remove(&id).await?;
        assert_eq!(told(&[second.next().await?]), [(id, Deleted)]);
        Ok(())
    });
}

#[test]
fn a_lost_pod_is_told_of() {
    scenario(async |host| {
        let pod = PodSettings::new("lost");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("sleeper"))
            .await?;
        let mut reader = Reader::connect(&host.cri).await?;
        host.kill_supervisors()?;
        let mut ended = told(&[reader.next().await?, reader.next().await?]);
        ended.sort();
        let mut expected = [(id.clone(), Stopped), (pod_id.clone(), Stopped)];
        expected.sort();
        assert_eq!(ended, expected);
        host.cri.stop_pod(&pod_id).await?;
        host.cri.remove_pod(&pod_id).await?;
        let events = told(&reader.until(Deleted, &pod_id).await?);
        assert_eq!(events, [(id, Deleted), (pod_id, Deleted)]);
        Ok(())
    });
}

#[test]
fn a_daemon_that_is_asked_to_end_tells_its_readers() {
    scenario(async |host| {
        let mut reader = Reader::connect(&host.cri).await?;
        host.daemon.terminate()?;
        let end = reader.end().await?;
        assert_eq!(end.code(), Code::Unavailable, "{end:?}");
        host.daemon.kill();
        host.start_daemon().await
    });
}
