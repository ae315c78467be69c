//! `longshore check`: the daemon passes, and a runtime that is wrong in one point does not.

mod proxy;
mod rounds;
mod spoiled;

use std::process::Output;

use anyhow::Context;
use e2e::{Host, scenario, scenario_with};
use serde_json::Value;
use testkit::daemon::{SOCKET, binary};

/// What cannot be tried here has scenarios of its own, or a reason in the kernel.
const LEFT_OUT: &[&str] = &["apparmor", "selinux", "nri", "full disk", "recovery"];

#[test]
fn the_daemon_passes() {
    scenario(async |host| {
        let directory = host.sandbox.directory().to_owned();
        let file = |name: &str| directory.join(name).display().to_string();
        let profiles = file("profiles");
        let (html, junit, testgrid) = (file("check.html"), file("check.xml"), file("testgrid"));
        let output = check(
            host,
            &[
                "--strict",
                "--parallel=6",
                // What fails here fails there.
                "--seed=1",
                "--output=json",
                &format!("--html={html}"),
                &format!("--junit={junit}"),
                &format!("--testgrid={testgrid}"),
                // Where there is a kubelet's, this is not the place to write to.
                &format!("--seccomp-directory={profiles}"),
                "--skip=^seccomp: (a profile of the node|one that is privileged)",
            ],
        )?;
        let report = passed(&output)?;
        let skipped: Vec<&Value> = cases(&report, "skipped");
        let unexplained = skipped.iter().find(|case| {
            let suite = case["suite"].as_str().unwrap_or_default();
            !LEFT_OUT.contains(&suite)
        });
        assert_eq!(unexplained, None, "a case is left out");
        assert!(cases(&report, "passed").len() > 200, "{report}");
        let page = std::fs::read_to_string(&html)?;
        assert!(page.contains("<svg") && page.contains("</html>"));
        assert!(std::fs::read_to_string(&junit)?.contains("failures=\"0\""));
        let finished = std::fs::read(format!("{testgrid}/finished.json"))?;
        let finished: Value = serde_json::from_slice(&finished)?;
        assert_eq!(finished["result"], "SUCCESS");
        Ok(())
    });
}

/// Everything that needs a word about the daemon: its profiles, its plugins' socket.
#[test]
fn the_daemon_passes_with_plugins_and_profiles() {
    let settings = "seccomp_directory = \"/run/profiles\"\n[nri]\nsocket = \"/run/nri/nri.sock\"\n";
    scenario_with(settings, async |host| {
        let output = check(
            host,
            &[
                "--strict",
                "--output=json",
                "--focus=^(nri|seccomp): ",
                "--seccomp-directory=/run/profiles",
                "--nri-socket=/run/nri/nri.sock",
            ],
        )?;
        let report = passed(&output)?;
        let all = (
            cases(&report, "passed").len(),
            cases(&report, "skipped").len(),
        );
        assert_eq!(all, (11, 0), "{report}");
        Ok(())
    });
}

/// It is killed and started again by commands, as an operator would.
#[test]
fn the_daemon_recovers() {
    scenario(async |host| {
        let running = host.sandbox.processes();
        let daemon = running.iter().find(|it| it.name == "longshored");
        let daemon = daemon.context("find the daemon")?;
        let words: Vec<String> = daemon.args.iter().map(|word| format!("'{word}'")).collect();
        let log = host.sandbox.directory().join("restarted.log");
        let restart = format!(
            "--restart-command=setsid {} >>{} 2>&1 </dev/null &",
            words.join(" "),
            log.display()
        );
        // In the sandbox there is no other.
        let killing = "pid=$(pidof longshored); kill -9 $pid; while kill -0 $pid 2>/dev/null; do sleep 0.02; done";
        let kill = format!("--kill-command={killing}");
        let arguments = [
            "--strict",
            "--output=json",
            "--focus=^recovery: ",
            &kill,
            &restart,
        ];
        let output = check(host, &arguments)?;
        let report = passed(&output);
        let report = report.with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
        let all = (
            cases(&report, "passed").len(),
            cases(&report, "skipped").len(),
        );
        assert_eq!(all, (15, 0), "{report}");
        host.sandbox.sh(killing)?;
        host.restart_daemon().await
    });
}

/// On a small file system of its own, which is filled.
#[test]
fn the_daemon_bears_a_full_disk() {
    scenario(async |host| {
        host.daemon.kill();
        let directory = host.sandbox.directory().display().to_string();
        host.sandbox.sh(&format!(
            "rm -r {directory}/lib; mkdir {directory}/lib; truncate -s 96M {directory}/disk; \
             mkfs.ext4 -q -m 0 -N 1024 {directory}/disk; mount -o loop {directory}/disk {directory}/lib"
        ))?;
        host.start_daemon().await?;
        host.cri.pull(&host.image).await?;
        host.warm_up().await?;
        let fill = format!("--fill-directory={directory}/lib");
        let output = check(
            host,
            &["--strict", "--output=json", "--focus=^full disk: ", &fill],
        )?;
        let report = passed(&output)?;
        let all = (
            cases(&report, "passed").len(),
            cases(&report, "skipped").len(),
        );
        assert_eq!(all, (4, 0), "{report}");
        Ok(())
    });
}

fn check(host: &Host, arguments: &[&str]) -> anyhow::Result<Output> {
    check_at(host, SOCKET, arguments)
}

fn check_at(host: &Host, socket: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = host.sandbox.command(binary("longshore")?);
    command.args(["--runtime-endpoint", socket, "check"]);
    command.args(["--directory".as_ref(), host.sandbox.directory().as_os_str()]);
    command
        .args(arguments)
        .output()
        .context("run longshore check")
}

/// The report of a run without failure.
fn passed(output: &Output) -> anyhow::Result<Value> {
    let said = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).with_context(|| said.to_string());
    let report: Value = report?;
    let word = |case: &Value, key: &str| case[key].as_str().unwrap_or_default().to_owned();
    let failed: Vec<String> = cases(&report, "failed")
        .into_iter()
        .map(|case| format!("{}: {}", word(case, "name"), word(case, "message")))
        .collect();
    anyhow::ensure!(
        output.status.success() && failed.is_empty(),
        "{failed:#?}\n{said}"
    );
    Ok(report)
}

fn cases<'a>(report: &'a Value, verdict: &str) -> Vec<&'a Value> {
    let all = report["cases"].as_array().into_iter().flatten();
    all.filter(|case| case["verdict"] == verdict).collect()
}
