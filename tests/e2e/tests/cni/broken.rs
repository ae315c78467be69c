//! Plugins that do not do what they should.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use anyhow::ensure;
use e2e::{PodSettings, long_scenario};

use super::{NETWORK, Site};

/// Longer than any plugin needs here, shorter than a test.
const IMPATIENT: &str = "[cni]\ntimeout = \"3s\"";

fn impatient(story: impl AsyncFnOnce(&mut Site<'_>) -> anyhow::Result<()>) {
    e2e::scenario_with(IMPATIENT, async |host| {
        let mut site = Site::with(host, NETWORK).await?;
        story(&mut site).await
    });
}

#[test]
fn a_failed_add_is_told_and_undone() {
    impatient(async |site| {
        for (name, script, word) in [
            (
                "refuses",
                "echo '{\"code\": 11, \"msg\": \"no addresses left\"}'; exit 1",
                "no addresses left (code 11)",
            ),
            (
                "mumbles",
                "echo broken pipe dream; echo x > ALLOCATED/$CNI_CONTAINERID; exit 0",
                "broken pipe dream",
            ),
            ("is-mute", "exit 0", "no result"),
            (
                "floods",
                "head -c 100000000 /dev/zero; exit 0",
                "more than 1048576 bytes",
            ),
            (
                "dies",
                "echo x > ALLOCATED/$CNI_CONTAINERID; echo ouch >&2; kill -SEGV $$",
                "signal: 11",
            ),
            (
                "leaks",
                "sleep 1000 & echo x > ALLOCATED/$CNI_CONTAINERID; echo '{}'; exit 0",
                "gave eth0 no address",
            ),
            (
                "hangs",
                "echo x > ALLOCATED/$CNI_CONTAINERID; setsid sleep 1000 & sleep 1000",
                "not done after 3s",
            ),
            ("is-late", "sleep 4", "not done after 3s"),
        ] {
            let allocated = site.path("lib/allocated").display().to_string();
            site.command("ADD", &script.replace("ALLOCATED", &allocated))?;
            let error = site
                .host
                .run_pod(&PodSettings::new(name))
                .await
                .unwrap_err();
            let error = format!("{error:#}");
            ensure!(
                error.contains(word) && error.len() < 4096,
                "{name}: {error}"
            );
            if !error.contains("no address") {
                ensure!(
                    error.contains("ADD of plugin obedient for network testnet"),
                    "{name}: {error}"
                );
            }
            site.command("ADD", "")?;
            ensure!(
                site.allocated().is_empty(),
                "{name}: {:?}",
                site.allocated()
            );
            site.host.settles().map_err(|error| error.context(name))?;
        }
        let plugin = site.path("plugins/obedient");
        fs::set_permissions(&plugin, PermissionsExt::from_mode(0o644))?;
        let message = site.until_ready(false, "PluginMissing").await?;
        ensure!(message.contains("Permission denied"), "{message}");
        fs::set_permissions(&plugin, PermissionsExt::from_mode(0o755))?;
        site.until_ready(true, "CNIConfiguration").await?;
        Ok(())
    });
}

#[test]
fn a_hanging_plugin_holds_up_no_other_pod() {
    impatient(async |site| {
        site.command(
            "ADD",
            "[[ $CNI_ARGS == *K8S_POD_NAME=stuck* ]] && sleep 1000",
        )?;
        let stuck = PodSettings::new("stuck");
        let config = site.host.pod_config(&stuck);
        fs::create_dir_all(&config.log_directory)?;
        let client = site.host.cri.clone();
        let hanging = tokio::spawn(async move { client.run_pod(config).await });
        site.until("asked", || site.told("log").lines().count() > 2)?;
        site.host.run_pod(&PodSettings::new("free")).await?;
        ensure!(!hanging.is_finished(), "the other pod was waited for");
        ensure!(hanging.await?.is_err());
        site.command("ADD", "")
    });
}

#[test]
fn a_failing_del_keeps_no_pod_from_its_end() {
    impatient(async |site| {
        let id = site.host.run_pod(&PodSettings::new("ends")).await?;
        let netns = fs::read_to_string(site.path("lib/allocated").join(&id))?;
        let netns = site.host.sandbox.view(netns.trim());
        site.command(
            "DEL",
            "echo '{\"code\": 5, \"msg\": \"controller away\"}'; exit 1",
        )?;
        site.host.cri.stop_pod(&id).await?;
        site.host.cri.remove_pod(&id).await?;
        ensure!(site.host.cri.pods(None).await?.is_empty());
        let condition = site
            .condition("LongshoreNetwork")
            .await?
            .unwrap_or_default();
        ensure!(
            condition.message.contains(&id) && condition.message.contains("controller away"),
            "{condition:?}"
        );
        // The namespace is there for the next try, and the record for the next daemon.
        ensure!(netns.exists());
        site.host.restart_daemon().await?;
        ensure!(site.allocated().contains(&id));
        site.command("DEL", "")?;
        site.until("detached", || site.allocated().is_empty())?;
        site.until("unpinned", || !netns.exists())?;

        // One that hangs is killed, and its pod ends.
        let id = site.host.run_pod(&PodSettings::new("ends-too")).await?;
        site.command("DEL", "sleep 1000")?;
        site.host.cri.stop_pod(&id).await?;
        site.host.cri.remove_pod(&id).await?;
        site.command("DEL", "")?;
        site.until("detached", || site.allocated().is_empty())
    });
}

#[test]
fn a_second_stop_joins_the_one_whose_plugin_hangs() {
    impatient(async |site| {
        let id = site.host.run_pod(&PodSettings::new("twice")).await?;
        fs::write(site.path("state/log"), "")?;
        site.command("DEL", "sleep 1000")?;
        let stop = || {
            let (client, id) = (site.host.cri.clone(), id.clone());
            tokio::spawn(async move { client.stop_pod(&id).await })
        };
        let first = stop();
        site.until("at DEL", || site.told("log").contains("DEL"))?;
        // Who gives up and asks again waits with the first, and the plugin is not asked twice for it.
        let second = stop();
        let third = stop();
        third.abort();
        first.await??;
        second.await??;
        assert_eq!(site.told("log").matches("DEL").count(), 1);
        assert!(site.host.cri.pod_ip(&id).await?.is_empty());
        site.command("DEL", "")?;
        site.host.cri.remove_pod(&id).await?;
        site.until("detached", || site.allocated().is_empty())
    });
}

/// `/run` is empty and the namespace is gone: the plugin is asked all the same, with what ADD had, for addresses on disk.
#[test]
fn after_a_reboot_plugins_let_go_of_what_they_gave() {
    long_scenario(Duration::from_secs(600), async |host| {
        let site = Site::new(host)?;
        site.configure("10-net.conflist", NETWORK)?;
        // The first boot was not like the later ones: the built-in network served.
        site.host.reboot().await?;
        site.host.warm_up().await?;
        let id = site.host.run_pod(&PodSettings::new("before")).await?;
        ensure!(site.allocated().contains(&id));
        site.host.reboot().await?;
        site.until("detached", || site.allocated().is_empty())?;
        let environment = site.told("env.DEL");
        let netns = environment
            .lines()
            .find(|line| line.starts_with("CNI_NETNS="));
        ensure!(matches!(netns, None | Some("CNI_NETNS=")), "{environment}");
        ensure!(environment.contains(&format!("CNI_CONTAINERID={id}")));
        ensure!(site.told("config.DEL").contains("\"prevResult\""));
        // The network serves the next pod.
        let id = site.host.run_pod(&PodSettings::new("after")).await?;
        assert_eq!(site.host.cri.pod_ip(&id).await?, "203.0.113.7");
        site.host.remove_all_pods().await?;
        ensure!(site.allocated().is_empty());
        site.host.settles()
    });
}

/// The plugin of a daemon that was killed goes on: what it adds must not be added after it was removed.
#[test]
fn a_daemon_that_dies_while_a_plugin_runs_leaks_nothing() {
    long_scenario(Duration::from_secs(600), async |host| {
        let site = Site::with(host, NETWORK).await?;
        let allocated = site.path("lib/allocated");
        for (name, script) in [
            (
                "before",
                "echo at ADD >> STATE/log; setsid sleep 2; sleep 1000",
            ),
            ("late", "echo at ADD >> STATE/log; sleep 2"),
            (
                "after",
                "echo x > ALLOCATED/$CNI_CONTAINERID; echo at ADD >> STATE/log; sleep 1000",
            ),
        ] {
            let script = script
                .replace("STATE", &site.path("state").display().to_string())
                .replace("ALLOCATED", &allocated.display().to_string());
            fs::write(site.path("state/log"), "")?;
            site.command("ADD", &script)?;
            let config = site.host.pod_config(&PodSettings::new(name));
            fs::create_dir_all(&config.log_directory)?;
            let client = site.host.cri.clone();
            let run = tokio::spawn(async move { client.run_pod(config).await });
            site.until("at ADD", || site.told("log").contains("at ADD"))?;
            site.host.daemon.kill();
            ensure!(run.await?.is_err());
            site.command("ADD", "")?;
            site.host.start_daemon().await?;
            ensure!(site.host.cri.pods(None).await?.is_empty(), "{name}");
            site.host.settles().map_err(|error| error.context(name))?;
        }
        let id = site.host.run_pod(&PodSettings::new("stopping")).await?;
        fs::write(site.path("state/log"), "")?;
        site.command("DEL", "sleep 1000")?;
        let (client, pod) = (site.host.cri.clone(), id.clone());
        let stop = tokio::spawn(async move { client.stop_pod(&pod).await });
        site.until("at DEL", || site.told("log").contains("DEL"))?;
        site.host.daemon.kill();
        ensure!(stop.await?.is_err());
        site.command("DEL", "")?;
        site.host.start_daemon().await?;
        site.host.cri.stop_pod(&id).await?;
        site.host.cri.remove_pod(&id).await?;
        site.host.settles()
    });
}
