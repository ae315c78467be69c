//! What the daemon tells of itself: what it is doing, and what it has counted.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use e2e::{ContainerSettings, Host, PodSettings, scenario, scenario_with};
use serde_json::Value;
use testkit::daemon::binary;

const METRICS: &str = "127.0.0.1:9095";

fn ops(host: &Host) -> anyhow::Result<Value> {
    let mut command: Command = host.sandbox.command(binary("longshore")?);
    let output = command.args(["ops", "-o", "json"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What there is once it is as it should be; the scenario's limit guards.
async fn until(host: &Host, right: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    loop {
        let seen = ops(host)?;
        if right(&seen) {
            return Ok(seen);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn what_is_under_way_is_told_with_its_stage() {
    scenario(async |host| {
        let pod = PodSettings::new("busy");
        let pod_id = host.run_pod(&pod).await?;
        let deaf = ContainerSettings::sh("deaf", "trap '' TERM; while :; do sleep 1; done");
        let id = host.run(&pod_id, &pod, &deaf).await?;
        let idle = ops(host)?;
        assert_eq!(idle["operations"], Value::Array(Vec::new()), "{idle}");
        assert_eq!(idle["calls"], Value::Array(Vec::new()), "{idle}");

        let cri = host.cri.clone();
        let stopped = id.clone();
        let stop = tokio::spawn(async move { cri.stop(&stopped, 3600).await });
        let cri = host.cri.clone();
        let slow = id.clone();
        let exec = tokio::spawn(async move { cri.exec(&slow, &["sleep", "3600"], 3600).await });
        let seen = until(host, |seen| {
            let at = seen["operations"][0]["stage"].as_str().unwrap_or_default();
            at.contains("grace period") && seen["calls"][1]["rpc"].is_string()
        })
        .await?;
        let operation = &seen["operations"][0];
        assert_eq!(operation["rpc"], "StopContainer", "{seen}");
        assert_eq!(operation["id"], id.as_str(), "{seen}");
        let name = operation["name"].as_str().unwrap_or_default();
        ensure!(name.ends_with("busy/deaf"), "{seen}");
        ensure!(
            operation["ageNs"].as_i64() >= operation["stageAgeNs"].as_i64(),
            "{seen}"
        );

        // A client that goes abandons nothing; a removal ends both.
        stop.abort();
        let seen = until(host, |seen| {
            seen["calls"][0]["rpc"] == "ExecSync" && seen["calls"][1].is_null()
        })
        .await?;
        assert_eq!(seen["operations"][0]["rpc"], "StopContainer", "{seen}");
        host.cri.remove(&id).await?;
        // However it is told of its end.
        let _ended = exec.await?;
        let idle = ops(host)?;
        assert_eq!(idle["operations"], Value::Array(Vec::new()), "{idle}");
        Ok(())
    });
}

/// The status line and headers, and the body.
fn get(host: &Host, request: &str) -> anyhow::Result<(String, String)> {
    let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    host.sandbox.on_network(move || {
        let mut socket = TcpStream::connect(METRICS)?;
        socket.write_all(request.as_bytes())?;
        let mut reply = String::new();
        socket.read_to_string(&mut reply)?;
        let (head, body) = reply.split_once("\r\n\r\n").context("a reply")?;
        Ok((head.to_owned(), body.to_owned()))
    })?
}

#[test]
fn metrics_are_for_prometheus() {
    let settings = format!("metrics.address = \"{METRICS}\"\n");
    scenario_with(&settings, async |host| {
        let pod = PodSettings::new("counted");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        host.cri.sh(&id, "true").await?;
        let unknown = host.cri.container_status("no-such-container").await;
        ensure!(unknown.is_err(), "{unknown:?}");
        let (head, text) = get(host, "GET /metrics")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        ensure!(head.contains("application/openmetrics-text"), "{head}");
        for line in [
            "longshore_rpc_seconds_count{rpc=\"ExecSync\",code=\"Ok\"} 1",
            "longshore_rpc_seconds_count{rpc=\"ContainerStatus\",code=\"NotFound\"} 1",
            "longshore_pods{state=\"ready\"} 1",
            "longshore_containers{state=\"running\"} 1",
            "longshore_rpcs_now 0",
            "# EOF",
        ] {
            ensure!(text.lines().any(|one| one == line), "{line}: {text}");
        }
        for (request, status) in [
            ("GET /", "404"),
            ("GET /metrics/x", "404"),
            ("POST /metrics", "405"),
            ("HEAD /metrics", "200"),
        ] {
            let (head, _) = get(host, request)?;
            let told = head.split(' ').nth(1);
            ensure!(told == Some(status), "{request}: {head}");
        }
        // Who says nothing keeps nobody from asking.
        let silent = host.sandbox.on_network(|| TcpStream::connect(METRICS))??;
        let (head, _) = get(host, "GET /metrics")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        drop(silent);
        Ok(())
    });
}
