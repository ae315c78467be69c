//! `longshore bench` against the daemon: that it measures what it says, and leaves nothing. How long things take is nobody's assertion.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::Context;
use e2e::{Host, scenario, scenario_with};
use serde_json::Value;
use testkit::daemon::{SOCKET, binary, program};

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
        let report: Value = serde_json::from_str(&succeeded(output)?).context("read the report")?;
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
                "--turns",
                "2",
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
        let report: Value = serde_json::from_str(&succeeded(output)?).context("read the report")?;
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
                "out_share_of_tcp",
                "in_share_of_tcp",
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
        let report: Value = serde_json::from_str(&succeeded(output)?).context("read the report")?;
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
        assert_eq!(left_behind(host)?, [""; 0]);
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
        let report: Value = serde_json::from_str(&succeeded(output)?).context("read the report")?;
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
        let file = format!("{directory}/run.json");
        let arguments = [
            "run",
            "--suite=handlers",
            "--network=host",
            "--repeats=2",
            &format!("--image={image}"),
            &format!("--directory={directory}"),
            &format!("--output={file}"),
        ];
        succeeded(run(host, &arguments)?)?;
        let record: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        let all = record["series"].as_array().context("read the series")?;
        for handler in ["native", "crun"] {
            let created = all.iter().find(|it| {
                it["suite"] == "handlers"
                    && it["operation"] == "CreatePod"
                    && it["variant"] == handler
            });
            let samples = created.map(|it| &it["samples"]);
            let count = samples.and_then(Value::as_array).map(Vec::len);
            assert_eq!(count, Some(2), "{handler}: {record}");
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

/// The daemon in turn with itself: every suite, the file, and what is made of it.
#[test]
fn bench_run_measures_endpoints_in_turn_and_bench_report_shows_them() {
    scenario(async |host| {
        let directory = host.sandbox.directory().display().to_string();
        let (file, page) = (
            format!("{directory}/run.json"),
            format!("{directory}/run.html"),
        );
        let endpoints = ["one", "two"].map(|name| format!("--endpoint={name}={SOCKET}"));
        let arguments = [
            "run",
            &endpoints[0],
            &endpoints[1],
            &format!("--image={}", host.image),
            &format!("--output={file}"),
            &format!("--image-directory={directory}"),
            &format!("--directory={directory}"),
            "--repeats=2",
            "--warmup=1",
            "--network=host",
            "--pods=1,3",
            "--concurrency=1,2",
            "--stream-bytes=1000000",
            "--images=five",
            "--image-scale=2",
            "--settle=0s",
            "--seed=4",
        ];
        let output = succeeded(run(host, &arguments)?)?;
        assert!(output.contains("CreatePod, ms, one"), "{output}");
        let record: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        assert_eq!(
            (&record["version"], &record["complete"]),
            (&1.into(), &true.into())
        );
        assert_eq!(
            record["notes"].as_array().map(Vec::len),
            Some(0),
            "{record}"
        );
        let all = record["series"].as_array().context("read the series")?;
        for name in ["one", "two"] {
            for (suite, experiment, operation, series, samples) in [
                ("pods", "PodLifecycle", "CreatePod", 1, 2),
                ("pods", "ContainerOps", "StatusContainer", 1, 2),
                ("pods", "Others", "processor time of a pod's life", 1, 1),
                ("scale", "PodLifecycle", "RemovePod", 2, 2),
                ("scale", "Others", "ListContainerStats", 2, 2),
                ("concurrency", "Others", "pod ready", 2, 24),
                ("concurrency", "Others", "pods ready", 2, 3),
                ("stream", "Exec", "out of the container", 2, 3),
                (
                    "stream",
                    "PortForward",
                    "memory of an idle connection",
                    2,
                    1,
                ),
                ("images", "ImageLifecycle", "PullImage", 1, 2),
                ("images", "ImageListing", "ListImages", 1, 10),
            ] {
                let these: Vec<&Value> = all
                    .iter()
                    .filter(|it| it["endpoint"] == name && it["suite"] == suite)
                    .filter(|it| it["experiment"] == experiment && it["operation"] == operation)
                    .collect();
                assert_eq!(these.len(), series, "{name}: {suite}: {operation}");
                for it in these {
                    assert_eq!(
                        it["samples"].as_array().map(Vec::len),
                        Some(samples),
                        "{it}"
                    );
                }
            }
        }
        let floors = all.iter().filter(|it| it["endpoint"].is_null());
        assert_eq!(
            floors.count(),
            9,
            "the floor, pipes and TCP, the limit of an image"
        );
        let memory = record["memory"].as_array().context("read the memory")?;
        assert_eq!(memory.len(), 4);
        for (class, least) in [("daemon", 1), ("supervisor", 3), ("workload", 3)] {
            let rows = memory[3]["classes"]
                .as_array()
                .context("read the classes")?;
            let row = rows
                .iter()
                .find(|row| row["class"] == class)
                .context("find a class")?;
            assert!(row["count"].as_u64() >= Some(least), "{row}");
            assert!(row["memory"]["proportional"].as_u64() > Some(0), "{row}");
        }
        let shown = succeeded(run(host, &["report", &file, &file])?)?;
        assert!(shown.contains("two (run.json)"), "{shown}");
        succeeded(run(host, &["report", &file, "--html", &page])?)?;
        let page = std::fs::read_to_string(&page)?;
        assert!(page.contains("<svg") && page.contains("CreatePod, two: median"));
        assert!(host.cri.pods(None).await?.is_empty());
        assert_eq!(left_behind(host)?, [""; 0]);
        Ok(())
    });
}

/// Who interrupts a run keeps the parts that had ended, and finds no pod.
#[test]
fn bench_run_that_is_interrupted_removes_its_pods() {
    scenario(async |host| {
        let file = host.sandbox.directory().join("run.json");
        let mut command = host.sandbox.command("sh");
        // The shell becomes the command, under a pid that it has told.
        let script = format!(
            "echo $$ >{0}.pid; exec {1} bench run --image={2} --output={0} --directory={3} --suite=pods,scale \
             --network=host --repeats=1 --warmup=0 --pods=1,60,60,60,60,60,60,60,60 --settle=0s",
            file.display(),
            binary("longshore")?.display(),
            host.image,
            host.sandbox.directory().display(),
        );
        let command = command.args(["-c", &script]);
        let running = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        while host.cri.pods(None).await?.len() <= 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        host.sandbox
            .sh(&format!("kill -INT $(cat {}.pid)", file.display()))?;
        let output = running.wait_with_output()?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.contains("interrupted: the rest is missing"),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
        let record: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        assert_eq!(record["complete"], false);
        let all = record["series"].as_array().context("read the series")?;
        assert!(
            all.iter().any(|it| it["operation"] == "CreatePod"),
            "{record}"
        );
        assert!(host.cri.pods(None).await?.is_empty());
        assert_eq!(left_behind(host)?, [""; 0]);
        Ok(())
    });
}

#[test]
fn bench_run_and_report_say_what_is_wrong_in_one_line() {
    scenario(async |host| {
        let directory = host.sandbox.directory().display().to_string();
        let file = |name: &str, text: &str| -> anyhow::Result<String> {
            let path = format!("{directory}/{name}");
            std::fs::write(&path, text)?;
            Ok(path)
        };
        let cut = file("cut.json", "{\"format\": \"longshore-bench\", \"version\"")?;
        let newer = file(
            "newer.json",
            "{\"format\": \"longshore-bench\", \"version\": 9}",
        )?;
        let image = format!("--image={}-of-nobody", host.image);
        for (arguments, said) in [
            (
                vec!["run", "--endpoint=/nonexistent/x.sock"],
                "no such file",
            ),
            (
                vec!["run", "--output=/nonexistent/x.json"],
                "/nonexistent/x.json",
            ),
            (vec!["run", "--directory=/nonexistent"], "/nonexistent"),
            (vec!["run", "--suite=stream", &image], "PullImage"),
            (
                vec!["report", "/nonexistent.json"],
                "read /nonexistent.json",
            ),
            (vec!["report", &cut], "not the result of a `bench run`"),
            (vec!["report", &newer], "version 9 of the format"),
        ] {
            let output = run(host, &arguments)?;
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
            assert!(error.contains(said), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        assert!(host.cri.pods(None).await?.is_empty());
        Ok(())
    });
}

/// What it wrote to standard output.
fn succeeded(output: Output) -> anyhow::Result<String> {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "{error}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Directories of benchmarks.
fn left_behind(host: &Host) -> anyhow::Result<Vec<String>> {
    let all = std::fs::read_dir(host.sandbox.directory())?.filter_map(Result::ok);
    let names = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names
        .filter(|name| name.starts_with("longshore-bench-"))
        .collect())
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
