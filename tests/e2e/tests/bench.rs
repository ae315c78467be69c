//! `longshore bench` against the daemon: that it measures what it says, and leaves nothing. How long things take is nobody's assertion.

use std::process::Output;

use anyhow::Context;
use e2e::{Host, scenario, scenario_with};
use serde_json::Value;
use testkit::daemon::{binary, program};

#[test]
fn bench_pods_reports_every_call_and_leaves_nothing() {
    scenario(async |host| {
        let image = host.image.clone();
        let output = bench(
            host,
            &[
                "--image",
                &image,
                "--rounds",
                "2",
                "--crowd",
                "3",
                "--concurrency",
                "2",
                "--list-containers",
                "4",
                "-o",
                "json",
            ],
        )?;
        anyhow::ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let report: Value = serde_json::from_slice(&output.stdout).context("read the report")?;
        let subject = &report["subjects"][0];
        assert_eq!(subject["name"], "longshore");
        for network in ["host", "pod"] {
            let networks = subject["networks"].as_array().unwrap();
            let calls = networks.iter().find(|n| n["network"] == network).unwrap();
            let calls = calls["calls"].as_array().unwrap();
            for (call, count) in [
                ("RunPodSandbox", 2),
                ("ExecSync true", 6),
                ("pod ready", 2),
                ("RemovePodSandbox", 2),
            ] {
                let call = calls.iter().find(|c| c["name"] == call).unwrap();
                assert_eq!(call["count"], count);
                assert!(call["p50"].as_f64().unwrap() > 0.0);
            }
        }
        let floor = &report["floor"]["container"];
        assert!(floor["min"].as_f64().unwrap() > 0.0, "{report}");
        let crowd = &subject["crowd"];
        assert!(crowd["daemon_idle"]["private"].as_u64().unwrap() > 0);
        let added = crowd["added"].as_array().unwrap();
        let supervisors = added
            .iter()
            .find(|class| class["name"] == "longshore-pod")
            .unwrap();
        assert_eq!(supervisors["count"], 3);
        let named = |name: &str| added.iter().any(|class| class["name"] == name);
        assert!(
            !named("sh") && !named("sleep"),
            "the workload is not the runtime's cost: {added:?}"
        );
        assert_eq!(subject["lists"]["containers"], 4);
        assert!(host.cri.pods(None).await?.is_empty());
        Ok(())
    });
}

#[test]
fn bench_stream_reports_both_transports() {
    scenario(async |host| {
        let image = host.image.clone();
        let output = run(
            host,
            &[
                "stream",
                "--image",
                &image,
                "--round-trips",
                "5",
                "--bytes",
                "3000000",
                "--execs",
                "3",
                "--connections",
                "4",
                "--idle",
                "4",
                "--settle",
                "0",
                "-o",
                "json",
            ],
        )?;
        anyhow::ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let report: Value = serde_json::from_slice(&output.stdout).context("read the report")?;
        let reference = &report["reference"];
        assert_eq!(reference["pipe_round_trip"]["count"], 5);
        assert!(reference["tcp_bytes_per_second"].as_f64().unwrap() > 0.0);
        let subjects = report["subjects"].as_array().unwrap();
        let transports: Vec<_> = subjects.iter().map(|s| &s["transport"]).collect();
        assert_eq!(transports, ["spdy", "websocket"]);
        for subject in subjects {
            assert_eq!(subject["round_trip"]["count"], 5);
            for figure in [
                "out_bytes_per_second",
                "in_bytes_per_second",
                "execs_ms",
                "connections_ms",
            ] {
                assert!(
                    subject[figure].as_f64().unwrap() > 0.0,
                    "{figure}: {report}"
                );
            }
            for figure in ["bytes_per_idle_exec", "bytes_per_idle_connection"] {
                assert!(subject[figure].is_u64(), "{figure}: {report}");
            }
        }
        assert!(host.cri.pods(None).await?.is_empty());
        Ok(())
    });
}

#[test]
fn bench_images_reports_every_image_and_leaves_nothing() {
    scenario(async |host| {
        let before = host.cri.images().await?.len();
        let directory = host.sandbox.directory().to_string_lossy().into_owned();
        let arguments = [
            "images",
            "--rounds",
            "1",
            "--scale",
            "2",
            "--images",
            "five,shared",
            "--directory",
            &directory,
            "-o",
            "json",
        ];
        let output = run(host, &arguments)?;
        anyhow::ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let report: Value = serde_json::from_slice(&output.stdout).context("read the report")?;
        for (index, (name, images)) in [("five", 1), ("shared", 10)].into_iter().enumerate() {
            let image = &report["images"][index];
            assert_eq!(
                (&image["name"], &image["count"]),
                (&name.into(), &images.into())
            );
            assert!(image["compressed_bytes"].as_u64() < image["unpacked_bytes"].as_u64());
            for stage in ["fetch", "hash_and_inflate", "untar"] {
                assert!(
                    image["limit"][stage]["wall_ms"].as_f64().unwrap() > 0.0,
                    "{report}"
                );
            }
            let run = &report["subjects"][0]["images"][index];
            assert_eq!(run["cold"]["count"], 1);
            assert_eq!(run["warm"]["count"], 5);
            assert_eq!(run["remove"]["count"], images);
            assert!(run["share_of_limit"].as_f64().unwrap() > 0.0, "{report}");
        }
        assert_eq!(host.cri.images().await?.len(), before);
        let left = std::fs::read_dir(host.sandbox.directory())?.filter_map(Result::ok);
        let mut left = left.map(|entry| entry.file_name().to_string_lossy().into_owned());
        assert!(left.all(|name| !name.starts_with("longshore-bench-")));
        Ok(())
    });
}

#[test]
fn bench_handlers_measures_each_through_the_runtime_and_alone() {
    let crun = program("crun").expect("crun is installed: run cargo xtask install-deps");
    let oci = program("longshore-oci").expect("longshore-oci is built");
    let settings = format!("runtimes.crun = {{ path = {crun:?} }}");
    scenario_with(&settings, async |host| {
        let image = host.image.clone();
        let directory = host.sandbox.directory().to_string_lossy().into_owned();
        let commands = [
            format!("crun={}", crun.display()),
            format!("longshore-oci={}", oci.display()),
        ];
        let output = run(
            host,
            &[
                "handlers",
                "--image",
                &image,
                "--rounds",
                "2",
                "--command",
                &commands[0],
                "--command",
                &commands[1],
                "--mounts",
                "5",
                "--directory",
                &directory,
                "-o",
                "json",
            ],
        )?;
        anyhow::ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let report: Value = serde_json::from_slice(&output.stdout).context("read the report")?;
        for (index, name) in ["native", "crun"].into_iter().enumerate() {
            let handler = &report["handlers"][index];
            assert_eq!(handler["name"], name);
            let calls = handler["calls"].as_array().unwrap();
            let exec = calls.iter().find(|c| c["name"] == "ExecSync true").unwrap();
            assert_eq!(exec["count"], 6);
            let added = handler["added"].as_array().unwrap();
            let supervisor = |class: &Value| class["name"] == "longshore-pod";
            assert!(added.iter().any(supervisor), "{added:?}");
            assert!(handler["cpu_ms"].is_f64());
        }
        for (index, mounts) in [0, 5].into_iter().enumerate() {
            let compared = &report["commands"][index];
            assert_eq!(compared["mounts"], mounts);
            for (index, name) in ["crun", "longshore-oci"].into_iter().enumerate() {
                let command = &compared["commands"][index];
                assert_eq!(
                    (&command["name"], &command["run"]["count"]),
                    (&name.into(), &2.into())
                );
                assert!(command["cpu_ms"].as_f64().unwrap() > 0.0, "{report}");
            }
        }
        assert!(host.cri.pods(None).await?.is_empty());
        Ok(())
    });
}

#[test]
fn bench_that_cannot_run_says_why_in_one_line() {
    scenario(async |host| {
        let missing = format!("{}-of-nobody", host.image);
        for (arguments, said) in [
            (["--image", missing.as_str()], "PullImage"),
            (
                ["--against", "other=/nonexistent/other.sock"],
                "no such file",
            ),
            (["--directory", "/nonexistent/dir"], "/nonexistent/dir"),
        ] {
            let output = bench(host, &arguments)?;
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{error}");
            assert!(
                error.contains(said) && error.lines().count() == 1,
                "{error}"
            );
        }
        assert!(host.cri.pods(None).await?.is_empty());
        Ok(())
    });
}

fn bench(host: &Host, arguments: &[&str]) -> anyhow::Result<Output> {
    let pods: Vec<&str> = std::iter::once("pods")
        .chain(arguments.iter().copied())
        .collect();
    run(host, &pods)
}

fn run(host: &Host, arguments: &[&str]) -> anyhow::Result<Output> {
    // Inside, the daemon's socket is where it is by default.
    let mut command = host.sandbox.command(binary("longshore")?);
    command.arg("bench").args(arguments);
    command.output().context("run longshore bench")
}
