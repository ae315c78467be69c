//! Plugins without which nothing is let through.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
};

use cri::v1::{ContainerState, LinuxContainerResources};
use e2e::{ContainerSettings, Host, Limits, PodSettings, scenario_with};
use testkit::{
    ledger::Ledger,
    nri_plugin::{Plugin, Reaction},
};

use super::{MIB, SETTINGS, main_with_64_mib, of_pod, socket};

/// What becomes of the guard when it is asked this.
type End = (&'static str, fn() -> Reaction);

const WELL: End = ("", Reaction::content);

async fn guard(host: &Host, end: &Arc<Mutex<End>>) -> anyhow::Result<Plugin> {
    let end = Arc::clone(end);
    let react = move |told: &testkit::nri_plugin::Told| {
        let (method, reaction) = *end.lock().unwrap_or_else(PoisonError::into_inner);
        match told.method == method {
            true => reaction(),
            false => Reaction::content(),
        }
    };
    Plugin::connect(&socket(host), "10", "guard", react).await
}

/// The host's first pod has no guard: that one is required comes with a restart.
fn guarded(timeout: &str, story: impl AsyncFnOnce(&mut Host) -> anyhow::Result<()>) {
    let settings = SETTINGS.replace("request_timeout = \"60s\"", timeout);
    scenario_with(&format!("{settings}required = []\n"), async |host| {
        let path = host.sandbox.directory().join("config.toml");
        let text = fs::read_to_string(&path)?;
        fs::write(
            &path,
            text.replace("required = []", "required = [\"guard\"]"),
        )?;
        host.restart_daemon().await?;
        host.before = Ledger::take_settled(&host.sandbox)?;
        story(host).await
    });
}

fn missing(error: &tonic::Status) {
    let words = "guard is required and is not connected";
    assert!(error.message().contains(words), "{error}");
}

#[test]
fn nothing_is_let_through_without_a_required_plugin() {
    guarded("request_timeout = \"60s\"", async |host| {
        let pod = PodSettings::new("guarded");
        let error = host.run_pod(&pod).await.unwrap_err();
        assert!(
            format!("{error:#}").contains("guard is required"),
            "{error:#}"
        );
        let status = host.cri.status(false).await?.status.unwrap_or_default();
        let mut conditions = status.conditions.iter();
        let told = |one: &cri::v1::RuntimeCondition| {
            one.r#type == "LongshoreNri" && one.message.contains("guard: it is required")
        };
        assert!(conditions.any(told), "{status:?}");

        let end = Arc::new(Mutex::new(WELL));
        let well = guard(host, &end).await?;
        let pod_id = host.run_pod(&pod).await?;
        let main = main_with_64_mib();
        let id = host.run(&pod_id, &pod, &main).await?;
        let made = host
            .create(&pod_id, &pod, &ContainerSettings::sleeper("made"))
            .await?;
        drop(well);

        let limits = Limits::of(host, &id).await?;
        let less = LinuxContainerResources {
            memory_limit_in_bytes: 32 * MIB,
            ..Default::default()
        };
        // One that dies, and one that is mad, of each request that it could have refused.
        for reaction in [|| Reaction::Die, || Reaction::Answer(vec![0xff; 3])] {
            for method in [
                "RunPodSandbox",
                "UpdatePodSandbox",
                "CreateContainer",
                "StartContainer",
                "UpdateContainer",
            ] {
                *end.lock().unwrap_or_else(PoisonError::into_inner) = (method, reaction);
                let plugin = guard(host, &end).await?;
                let other = PodSettings::new("other");
                let answer = match method {
                    "RunPodSandbox" => {
                        let config = host.pod_config(&other);
                        host.cri.run_pod(config).await.map(drop)
                    }
                    "UpdatePodSandbox" => host.cri.update_pod(of_pod(&pod_id, less.clone())).await,
                    "CreateContainer" => {
                        let second = ContainerSettings::sleeper("second");
                        host.create(&pod_id, &pod, &second).await.map(drop)
                    }
                    "StartContainer" => host.cri.start(&made).await,
                    _ => host.cri.update(&id, less.clone()).await,
                };
                missing(&answer.unwrap_err());
                assert_eq!(plugin.count(method), 1, "{method}");
                // Nothing is half done.
                assert_eq!(host.cri.pods(None).await?.len(), 1, "{method}");
                assert_eq!(host.cri.containers(None).await?.len(), 2, "{method}");
                assert_eq!(limits.memory()?, (64 * MIB).to_string(), "{method}");
                let status = host.cri.container_status(&made).await?;
                assert_eq!(status.state(), ContainerState::ContainerCreated, "{method}");
            }
        }
        // What nobody may refuse goes on, and when it is back all does.
        host.cri.stop(&id, 10).await?;
        *end.lock().unwrap_or_else(PoisonError::into_inner) = WELL;
        let _well = guard(host, &end).await?;
        host.cri.start(&made).await?;
        Ok(())
    });
}

#[test]
fn a_required_plugin_that_is_slow_lets_nothing_through() {
    guarded("request_timeout = \"5s\"", async |host| {
        let end: End = ("RunPodSandbox", || Reaction::Silence);
        let _guard = guard(host, &Arc::new(Mutex::new(end))).await?;
        let config = host.pod_config(&PodSettings::new("slow"));
        missing(&host.cri.run_pod(config).await.unwrap_err());
        assert!(host.cri.pods(None).await?.is_empty());
        Ok(())
    });
}
