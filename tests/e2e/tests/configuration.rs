//! What the daemon is told, when it starts and while it runs.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use cri::v1::RuntimeCondition;
use e2e::{Host, PodSettings, scenario};
use testkit::{daemon::binary, sandbox::poll};

const SOON: Duration = Duration::from_secs(90);

/// Writes a drop-in, and has the daemon read its configuration again.
async fn reload(host: &Host, text: &str) -> anyhow::Result<()> {
    let directory = host.sandbox.directory().join("conf.d");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("10-test.toml"), text)?;
    let pid = host.daemon.pid().context("the daemon runs")?;
    rustix::process::kill_process(pid, rustix::process::Signal::HUP)?;
    Ok(())
}

/// The condition about the configuration, once it is `reason`; `None` for no trouble.
async fn until(host: &Host, reason: Option<&str>) -> anyhow::Result<Option<RuntimeCondition>> {
    let end = tokio::time::Instant::now() + SOON;
    loop {
        let status = host.cri.status(false).await?.status;
        let conditions = status.context("a status")?.conditions;
        let condition = conditions
            .into_iter()
            .find(|condition| condition.r#type == "LongshoreConfiguration");
        if condition.as_ref().map(|found| found.reason.as_str()) == reason {
            return Ok(condition);
        }
        ensure!(tokio::time::Instant::now() < end, "{condition:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn sighup_takes_what_it_may_and_says_the_rest() {
    scenario(async |host| {
        reload(host, "network.mtu = 1400\nlog = \"trace\"\n").await?;
        // The command line of the daemon under test says nothing of the log, its file does.
        let waiting = until(host, Some("RestartNeeded")).await?.unwrap();
        assert!(waiting.message.contains("network.mtu"), "{waiting:?}");
        let log = host.daemon.log();
        assert!(log.contains("changed=\"log\""), "{log}");
        poll(SOON, || host.daemon.log().contains("TRACE").then_some(()))
            .context("the log says more now")?;

        reload(host, "[network]\nmtuu = 1400\nmasquerade = 5\n").await?;
        let broken = until(host, Some("ConfigurationBroken")).await?.unwrap();
        assert!(!broken.status);
        for said in [
            "conf.d/10-test.toml:2:1: unknown key `network.mtuu`; is `network.mtu` meant?",
            "conf.d/10-test.toml:3:14: network.masquerade: 5 is not true or false",
        ] {
            assert!(broken.message.contains(said), "{broken:?}");
            assert!(host.daemon.log().contains(said));
        }
        // What held goes on.
        host.run_pod(&PodSettings::new("unimpressed")).await?;

        reload(host, "").await?;
        until(host, None).await?;
        Ok(())
    });
}

#[test]
fn registries_are_asked_as_the_configuration_says_now() {
    scenario(async |host| {
        let program = binary("longshore")?.display().to_string();
        let explain = format!("{program} explain-pull registry.test/some/image");
        let plain = "plain HTTP by registries.insecure";
        let before = host.sandbox.sh(&explain)?;
        assert!(!before.contains(plain), "{before}");
        reload(host, "registries.insecure = [\"registry.test\"]\n").await?;
        let explained = || host.sandbox.sh(&explain).ok();
        poll(SOON, || explained().filter(|text| text.contains(plain)))
            .with_context(|| format!("never: {:?}", explained()))?;
        until(host, None).await?;
        reload(host, "").await?;
        poll(SOON, || explained().filter(|text| !text.contains(plain)))
            .with_context(|| format!("never again: {:?}", explained()))?;
        Ok(())
    });
}

#[test]
fn the_configuration_is_shown_and_judged_without_serving() {
    scenario(async |host| {
        let program = binary("longshored")?.display().to_string();
        let file = host.sandbox.directory().join("config.toml");
        let config = format!("--config={}", file.display());
        let run = |words: &str| host.sandbox.sh(&format!("{program} {words} 2>&1"));

        let text = run("config default")?;
        let default = host.sandbox.directory().join("default.toml");
        fs::write(&default, &text)?;
        let checked = run(&format!("config check --config {}", default.display()))?;
        assert_eq!(checked, format!("good: {}\n", default.display()));

        let dump = run(&format!("config dump {config} --state /elsewhere"))?;
        let text = fs::read_to_string(host.sandbox.view(&file))?;
        let parent = text
            .lines()
            .position(|line| line.starts_with("cgroup_parent"));
        let parent = parent.context("the test-kit names a cgroup parent")? + 1;
        for (setting, origin) in [
            ("state = \"/elsewhere\"", "--state"),
            ("address = \"/elsewhere/longshore.sock\"", "default"),
            ("cgroup_parent = ", &format!("{}:{parent}", file.display())),
        ] {
            let line = dump.lines().find(|line| line.starts_with(setting));
            let line = line.with_context(|| format!("{setting} in {dump}"))?;
            assert!(line.ends_with(&format!("# {origin}")), "{line}");
        }

        fs::write(&default, "rooot = 1")?;
        let refusal = run(&format!("config check --config {}", default.display())).unwrap_err();
        assert!(format!("{refusal:#}").contains("exit status: 1"));
        let serving = format!("{program} --config {} 2>&1 || true", default.display());
        let said = host.sandbox.sh(&serving)?;
        assert_eq!(
            said,
            format!(
                "longshored: {}:1:1: unknown key `rooot`; is `root` meant?\n",
                default.display()
            )
        );
        Ok(())
    });
}
