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
use testkit::{
    daemon::binary,
    image::{Compression, ImageBuilder, Layer, noise},
    registry::{Fault, Rule},
};

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
fn a_pull_is_told_with_its_layers_and_bytes() {
    let settings = format!("metrics.address = \"{METRICS}\"\n");
    scenario_with(&settings, async |host| {
        let plain = |name: &str| {
            Layer::new()
                .file(name, 0o644, noise(3 << 20))
                .compression(Compression::None)
        };
        let built = ImageBuilder::new()
            .layer(plain("here"))
            .layer(plain("coming"))
            .build();
        let [first, second] = &*built.layers else {
            panic!("two layers");
        };
        let reference = host.registry.push("told", "1", &built);
        // Of the second layer so much comes, and no more; what has come is told in steps of a quarter of a MiB.
        let stall = Fault::Stall((2 << 20) + (600 << 10));
        host.registry.inject(Rule::new(&second.digest, stall));
        let cri = host.cri.clone();
        let name = reference.clone();
        let pull = tokio::spawn(async move { cri.pull(&name).await });
        let halfway = |seen: &Value| {
            let stage = seen["operations"][0]["stage"].as_str();
            stage.is_some_and(|stage| stage.contains("layers: 1 of 2, 5 of 6 MiB"))
        };
        let seen = until(host, halfway).await?;
        let operation = &seen["operations"][0];
        assert_eq!(operation["rpc"], "PullImage", "{seen}");
        assert_eq!(operation["name"], reference.as_str(), "{seen}");
        let (_, text) = get(host, "GET /metrics")?;
        for line in [
            "longshore_operations_now{rpc=\"PullImage\"} 1",
            "longshore_pull_layers_now{state=\"complete\"} 1",
            "longshore_pull_layers_now{state=\"fetching\"} 1",
            "longshore_pull_layers_now{state=\"waiting\"} 0",
        ] {
            ensure!(text.lines().any(|one| one == line), "{line}: {text}");
        }
        let value = |name: &str| -> anyhow::Result<usize> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            Ok(line.context("a metric")?.trim().parse()?)
        };
        let come = value("longshore_pull_bytes_now{state=\"come\"}")?;
        let to_come = value("longshore_pull_bytes_now{state=\"to_come\"}")?;
        assert_eq!(come + to_come, first.bytes.len() + second.bytes.len());
        ensure!(
            value("longshore_pull_fetched_bytes_total")? >= come,
            "{text}"
        );
        // It would go on for whoever asks again; with the daemon it ends, and leaves nothing.
        host.daemon.kill();
        ensure!(pull.await?.is_err(), "a killed daemon answers");
        host.registry.heal();
        host.start_daemon().await?;
        Ok(())
    });
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
