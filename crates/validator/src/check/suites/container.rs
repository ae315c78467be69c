use std::collections::BTreeMap;

use cri::v1::*;
use tonic::Code;

use crate::check::{
    case::{Case, Ended, Verdict, case, ensure, ensure_eq, skip},
    scene::{READY, Scene, kept, resources, spec},
};

pub(super) const CASES: &[Case] = &[
    case!(
        "container",
        "it is created, runs, and ends, each with its time",
        life
    ),
    case!("container", "what it was asked for with is kept", keeps),
    case!(
        "container",
        "lists are filtered by id, pod, state and labels",
        filters
    ),
    case!("container", "its exit code is told", exit_code),
    case!(
        "container",
        "one that is killed has 128 and the signal",
        killed
    ),
    case!(
        "container",
        "one beyond its memory is told of as OOMKilled",
        oom
    ),
    case!(
        "container",
        "the image's command is run where none is given",
        image_command
    ),
    case!(
        "container",
        "a command replaces the image's entrypoint, arguments its command",
        entrypoint
    ),
    case!(
        "container",
        "the environment is the image's and the request's, whose values win",
        environment
    ),
    case!(
        "container",
        "the working directory is the image's or the request's",
        working_directory
    ),
    case!(
        "container",
        "a program that is not there is an error or an exit, never a running container",
        no_program
    ),
    case!(
        "container",
        "one that was created can be removed",
        removes_created
    ),
    case!("container", "one that runs can be removed", removes_running),
    case!(
        "container",
        "one that has ended can be removed, and its pod goes on",
        removes_exited
    ),
    case!("container", "it starts once", starts_once),
    case!(
        "container",
        "an image that is not here is refused",
        unknown_image
    ),
    case!(
        "container",
        "a pod that is not there is refused",
        unknown_pod
    ),
    case!("container", "what nobody has is not found", unknown),
    case!(
        "container",
        "a command in it has its output, errors and code told",
        exec
    ),
    case!(
        "container",
        "a command in it that takes too long is ended",
        exec_timeout
    ),
    case!("container", "a command's megabytes come whole", exec_much),
    case!(
        "container",
        "a command in one that does not run is refused",
        exec_elsewhere
    ),
    case!(
        "container",
        "two of a pod share its network",
        shares_network
    ),
    case!(
        "container",
        "a device is there with its permissions",
        device
    ),
];

async fn life(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let config = scene.sleeper(&pod, "one");
    let id = scene.create(&pod, config.clone()).await?;
    let created = scene.status(&id).await?;
    ensure_eq!(
        created.state(),
        ContainerState::ContainerCreated,
        "the state after CreateContainer"
    );
    ensure!(
        created.created_at > 1_500_000_000_000_000_000,
        "created_at is no time in nanoseconds: {}",
        created.created_at
    );
    ensure_eq!(
        (created.started_at, created.finished_at),
        (0, 0),
        "started_at and finished_at of what has not begun"
    );
    scene.start(&id).await?;
    let running = scene.status(&id).await?;
    ensure_eq!(
        running.state(),
        ContainerState::ContainerRunning,
        "the state after StartContainer"
    );
    ensure!(
        running.started_at >= created.created_at,
        "it starts before it is created"
    );
    ensure_eq!(running.finished_at, 0, "finished_at of what runs");
    let listed = scene.own_containers().await?;
    ensure_eq!(listed.len(), 1, "containers of this case");
    ensure_eq!(
        listed[0].state(),
        ContainerState::ContainerRunning,
        "the listed state"
    );
    ensure_eq!(listed[0].pod_sandbox_id, pod.id, "the listed pod");
    scene.until_logged(&pod, &config, READY).await?;
    scene.stop(&id, 30).await?;
    let ended = scene.status(&id).await?;
    ensure_eq!(
        ended.state(),
        ContainerState::ContainerExited,
        "the state after StopContainer"
    );
    ensure!(
        ended.finished_at >= ended.started_at,
        "it ends before it starts"
    );
    ensure_eq!(
        ended.started_at,
        running.started_at,
        "started_at at the end"
    );
    ensure_eq!(ended.exit_code, 0, "the exit code of one that obeys");
    ensure_eq!(ended.reason, "Completed", "the reason");
    Ok(())
}

async fn keeps(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let mut config = scene.sleeper(&pod, "one");
    config.metadata.get_or_insert_default().attempt = 3;
    config.labels.insert("a.b/c".to_owned(), "d".to_owned());
    config.annotations = BTreeMap::from([("note".to_owned(), "two\nlines".to_owned())]);
    let id = scene.create(&pod, config.clone()).await?;
    let status = scene.status(&id).await?;
    ensure_eq!(status.id, id, "the status's id");
    let given = (&config.metadata, &config.labels, &config.annotations);
    let found = (&status.metadata, &status.labels, &status.annotations);
    kept("the status's", found, given)?;
    let path = scene.log_path(&pod, &config).display().to_string();
    ensure_eq!(status.log_path, path, "the status's log_path");
    let listed = scene.own_containers().await?;
    let [listed] = &listed[..] else {
        return Err(Ended::Failed(format!("not one container: {listed:?}")));
    };
    let found = (&listed.metadata, &listed.labels, &listed.annotations);
    kept("the listed", found, given)
}

async fn filters(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod(scene.host_pod("first")).await?;
    let other = scene.pod(scene.host_pod("second")).await?;
    let running = scene.run(&pod, scene.sleeper(&pod, "running")).await?;
    let mut created = scene.sleeper(&pod, "created");
    created
        .labels
        .insert("which".to_owned(), "created".to_owned());
    let created = scene.create(&pod, created).await?;
    let elsewhere = scene
        .create(&other, scene.sleeper(&other, "elsewhere"))
        .await?;
    let ids = async |filter: ContainerFilter| -> Verdict<Vec<String>> {
        let found = scene.containers(filter).await?;
        let mut ids: Vec<String> = found.into_iter().map(|it| it.id).collect();
        ids.sort();
        Ok(ids)
    };
    let by_id = ContainerFilter {
        id: created.clone(),
        ..Default::default()
    };
    ensure_eq!(ids(by_id).await?, [created.as_str()], "containers by id");
    let by_pod = ContainerFilter {
        pod_sandbox_id: other.id.clone(),
        ..Default::default()
    };
    ensure_eq!(
        ids(by_pod).await?,
        [elsewhere.as_str()],
        "containers by pod"
    );
    let state = Some(ContainerStateValue {
        state: ContainerState::ContainerRunning.into(),
    });
    let by_state = ContainerFilter {
        state,
        label_selector: scene.labels(),
        ..Default::default()
    };
    ensure_eq!(
        ids(by_state).await?,
        [running.as_str()],
        "running containers of this case"
    );
    let mut labels = scene.labels();
    labels.insert("which".to_owned(), "created".to_owned());
    let by_label = ContainerFilter {
        label_selector: labels,
        ..Default::default()
    };
    ensure_eq!(ids(by_label).await?, [created], "containers by two labels");
    Ok(())
}

async fn exit_code(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let id = scene
        .run(&pod, scene.script(&pod, "one", "exit 42"))
        .await?;
    let status = scene.until_exited(&id).await?;
    ensure_eq!(status.exit_code, 42, "the exit code");
    ensure_eq!(status.reason, "Error", "the reason");
    Ok(())
}

async fn killed(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let config = scene.script(
        &pod,
        "one",
        "trap '' TERM; echo ready; while :; do sleep 1; done",
    );
    let id = scene.run(&pod, config.clone()).await?;
    scene.until_logged(&pod, &config, "ready").await?;
    scene.stop(&id, 0).await?;
    let status = scene.until_exited(&id).await?;
    ensure_eq!(status.exit_code, 137, "the exit code of SIGKILL");
    Ok(())
}

async fn oom(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let mut config = scene.script(
        &pod,
        "one",
        "exec dd if=/dev/zero of=/dev/null bs=200M count=1",
    );
    let limits = resources(&mut config);
    limits.memory_limit_in_bytes = 24 << 20;
    limits.memory_swap_limit_in_bytes = 24 << 20;
    let id = scene.run(&pod, config).await?;
    let status = scene.until_exited(&id).await?;
    ensure_eq!(status.exit_code, 137, "the exit code");
    ensure_eq!(status.reason, "OOMKilled", "the reason");
    Ok(())
}

async fn image_command(scene: &Scene<'_>) -> Verdict {
    let image = scene
        .recipe("own")
        .command(["echo", "by the image"])
        .build();
    let image = scene.push("own", "1", &image);
    scene.pull(&image).await?;
    let pod = scene.any_pod().await?;
    let mut config = scene.container(&pod, "one", &[]);
    config.image = Some(spec(&image));
    ensure_eq!(
        scene.written_by(&pod, config).await?,
        "by the image\n",
        "the output"
    );
    Ok(())
}

async fn entrypoint(scene: &Scene<'_>) -> Verdict {
    let image = scene
        .recipe("own")
        .entrypoint(["echo", "entry"])
        .command(["command"]);
    let image = scene.push("own", "1", &image.build());
    scene.pull(&image).await?;
    let pod = scene.any_pod().await?;
    for (name, command, arguments, wanted) in [
        ("neither", &[][..], &[][..], "entry command\n"),
        ("arguments", &[], &["own"], "entry own\n"),
        ("command", &["echo", "mine"], &[], "mine\n"),
        ("both", &["echo", "mine"], &["too"], "mine too\n"),
    ] {
        let mut config = scene.container(&pod, name, command);
        config.args = arguments.iter().map(|it| (*it).to_owned()).collect();
        config.image = Some(spec(&image));
        ensure_eq!(
            scene.written_by(&pod, config).await?,
            wanted,
            "the output with {name} given"
        );
    }
    Ok(())
}

async fn environment(scene: &Scene<'_>) -> Verdict {
    let image = scene
        .recipe("own")
        .env(["PATH=/bin", "KEPT=image", "BOTH=image"])
        .build();
    let image = scene.push("own", "1", &image);
    scene.pull(&image).await?;
    let pod = scene.any_pod().await?;
    let mut config = scene.script(&pod, "one", "echo \"$KEPT,$BOTH,$OWN\"");
    config.image = Some(spec(&image));
    for (key, value) in [("BOTH", "request"), ("OWN", "a = b")] {
        config.envs.push(KeyValue {
            key: key.to_owned(),
            value: value.into(),
        });
    }
    ensure_eq!(
        scene.written_by(&pod, config).await?,
        "image,request,a = b\n",
        "the variables"
    );
    Ok(())
}

async fn working_directory(scene: &Scene<'_>) -> Verdict {
    let image = scene.push(
        "own",
        "1",
        &scene.recipe("own").working_dir("/var/www").build(),
    );
    scene.pull(&image).await?;
    let pod = scene.any_pod().await?;
    let mut config = scene.container(&pod, "image", &["pwd"]);
    config.image = Some(spec(&image));
    ensure_eq!(
        scene.written_by(&pod, config.clone()).await?,
        "/var/www\n",
        "the image's"
    );
    config.metadata.get_or_insert_default().name = "request".to_owned();
    config.log_path = "request.log".to_owned();
    config.working_dir = "/tmp".to_owned();
    ensure_eq!(
        scene.written_by(&pod, config).await?,
        "/tmp\n",
        "the request's"
    );
    Ok(())
}

async fn no_program(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let config = scene.container(&pod, "one", &["/no/such/program"]);
    let Ok(id) = scene.try_create(&pod, config).await else {
        return Ok(());
    };
    if scene.start(&id).await.is_ok() {
        let status = scene.until_exited(&id).await?;
        ensure!(status.exit_code != 0, "it ends with 0");
        return Ok(());
    }
    let status = scene.status(&id).await?;
    let running = status.state() == ContainerState::ContainerRunning;
    ensure!(!running, "it is running");
    Ok(())
}

async fn removed(scene: &Scene<'_>, id: &str) -> Verdict {
    scene.remove(id).await?;
    ensure!(
        scene.own_containers().await?.is_empty(),
        "it is still listed"
    );
    let request = ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    let answer = scene.calls().container_status(request).await;
    ensure_eq!(
        answer.map_err(|it| it.code()).err(),
        Some(Code::NotFound),
        "ContainerStatus afterwards"
    );
    Ok(())
}

async fn removes_created(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let id = scene.create(&pod, scene.sleeper(&pod, "one")).await?;
    removed(scene, &id).await
}

async fn removes_running(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    removed(scene, &id).await
}

async fn removes_exited(scene: &Scene<'_>) -> Verdict {
    let (pod, id) = scene.any_container().await?;
    scene.stop(&id, 30).await?;
    removed(scene, &id).await?;
    let status = scene.pod_status(&pod.id).await?;
    ensure_eq!(
        status.state(),
        PodSandboxState::SandboxReady,
        "the pod's state"
    );
    let again = scene.run(&pod, scene.sleeper(&pod, "sleeper")).await?;
    ensure!(
        again != id,
        "the name's next container has the id of the last"
    );
    Ok(())
}

async fn starts_once(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    scene.stop(&id, 30).await?;
    let again = scene.start(&id).await;
    ensure!(again.is_err(), "a container that has ended is started");
    let status = scene.status(&id).await?;
    ensure_eq!(status.state(), ContainerState::ContainerExited, "the state");
    Ok(())
}

async fn unknown_image(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let mut config = scene.sleeper(&pod, "one");
    config.image = Some(spec("registry.invalid/nobody/nothing:1"));
    let answer = scene.try_create(&pod, config).await;
    ensure!(
        answer.is_err(),
        "a container is created of an image that is not here"
    );
    ensure!(
        scene.own_containers().await?.is_empty(),
        "the refused container is listed"
    );
    Ok(())
}

async fn unknown_pod(scene: &Scene<'_>) -> Verdict {
    let mut pod = scene.any_pod().await?;
    let config = scene.sleeper(&pod, "one");
    pod.id = "nobody".to_owned();
    let answer = scene.try_create(&pod, config).await;
    ensure!(
        answer.is_err(),
        "a container is created in a pod that is not there"
    );
    Ok(())
}

async fn unknown(scene: &Scene<'_>) -> Verdict {
    let request = ContainerStatusRequest {
        container_id: "nobody".to_owned(),
        verbose: false,
    };
    let answer = scene.calls().container_status(request).await;
    ensure_eq!(
        answer.map_err(|it| it.code()).err(),
        Some(Code::NotFound),
        "ContainerStatus"
    );
    let answer = scene.exec("nobody", &["true"], 10).await;
    ensure!(
        answer.is_err(),
        "a command runs in a container that is not there"
    );
    Ok(())
}

async fn exec(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let reply = scene
        .exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 7"], 30)
        .await?;
    ensure_eq!(String::from_utf8_lossy(&reply.stdout), "out\n", "stdout");
    ensure_eq!(String::from_utf8_lossy(&reply.stderr), "err\n", "stderr");
    ensure_eq!(reply.exit_code, 7, "the exit code");
    let reply = scene.exec(&id, &["echo", "a  b", "$HOME"], 30).await?;
    ensure_eq!(
        String::from_utf8_lossy(&reply.stdout),
        "a  b $HOME\n",
        "stdout of a command without a shell"
    );
    Ok(())
}

async fn exec_timeout(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let answer = scene.exec(&id, &["sleep", "1234"], 1).await;
    ensure!(answer.is_err(), "it is over: {answer:?}");
    let left = async || {
        let all = scene.sh(&id, "ps -o args").await?;
        Ok((!all.contains("sleep 1234")).then_some(()))
    };
    scene.until("the end of the command", left).await
}

async fn exec_much(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let reply = scene
        .exec(
            &id,
            &[
                "sh",
                "-c",
                "dd if=/dev/zero bs=1M count=2 2>/dev/null | tr '\\0' x",
            ],
            60,
        )
        .await?;
    ensure_eq!(reply.stdout.len(), 2 << 20, "bytes of stdout");
    ensure!(
        reply.stdout.iter().all(|byte| *byte == b'x'),
        "they are others"
    );
    Ok(())
}

async fn exec_elsewhere(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let id = scene.create(&pod, scene.sleeper(&pod, "one")).await?;
    let answer = scene.exec(&id, &["true"], 10).await;
    ensure!(
        answer.is_err(),
        "a command runs in a container that does not"
    );
    Ok(())
}

async fn shares_network(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod(scene.network_pod("pod")).await?;
    let server = scene.script(
        &pod,
        "server",
        "mkdir -p /tmp/w; echo shared >/tmp/w/it; exec httpd -f -p 127.0.0.1:8080 -h /tmp/w",
    );
    scene.run(&pod, server).await?;
    let client = scene.script(
        &pod,
        "client",
        "until wget -q -O - http://127.0.0.1:8080/it; do sleep 0.1; done 2>/dev/null",
    );
    ensure_eq!(
        scene.written_by(&pod, client).await?,
        "shared\n",
        "what the other container serves"
    );
    Ok(())
}

/// Not one of those that every container may use.
const DEVICE: &str = "/dev/fuse";

async fn device(scene: &Scene<'_>) -> Verdict {
    if !std::path::Path::new(DEVICE).exists() {
        skip!("this node has no {DEVICE}");
    }
    let pod = scene.any_pod().await?;
    let script = "(exec 3</dev/mine) && echo read; (exec 3>>/dev/mine) 2>/dev/null || echo refused";
    let mut config = scene.script(&pod, "one", script);
    config.devices = vec![Device {
        container_path: "/dev/mine".to_owned(),
        host_path: DEVICE.to_owned(),
        permissions: "r".to_owned(),
    }];
    let output = scene.written_by(&pod, config).await?;
    ensure_eq!(output, "read\nrefused\n", "what opening it gives");
    Ok(())
}
