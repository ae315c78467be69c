use cri::v1::ReopenContainerLogRequest;

use crate::check::{
    case::{Case, Verdict, case, ensure, ensure_eq},
    scene::Scene,
};

pub(super) const CASES: &[Case] = &[
    case!("logs", "each line has its time and its stream", lines),
    case!("logs", "a long line comes in parts, whole", long_line),
    case!("logs", "what has no line's end is there", unfinished),
    case!(
        "logs",
        "a log that was moved is begun again when asked to",
        reopened
    ),
    case!(
        "logs",
        "a log is reopened only while its container runs",
        reopened_dead
    ),
    case!("logs", "a log outlives its container's end", kept),
];

async fn lines(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let config = scene.script(&pod, "one", "echo first; echo second >&2; echo 'a  b'");
    scene.written_by(&pod, config.clone()).await?;
    let log = scene.log(&pod, &config)?;
    let of = |stream: &str| -> Vec<String> {
        let lines = log
            .iter()
            .filter(|line| line.stream == stream && !line.partial);
        lines.map(|line| line.text.clone()).collect()
    };
    ensure_eq!(of("stdout"), ["first", "a  b"], "stdout");
    ensure_eq!(of("stderr"), ["second"], "stderr");
    for line in &log {
        let fraction = line.time.split('.').nth(1).is_some_and(|it| it.len() >= 9);
        ensure!(fraction, "a time without nanoseconds: {}", line.time);
    }
    Ok(())
}

async fn long_line(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let config = scene.script(
        &pod,
        "one",
        "head -c 100000 /dev/zero | tr '\\0' x; echo; echo end",
    );
    let output = scene.written_by(&pod, config.clone()).await?;
    let mut lines = output.lines();
    ensure_eq!(
        lines.next().map(str::len),
        Some(100_000),
        "bytes of the first line"
    );
    ensure_eq!(lines.next(), Some("end"), "the second");
    let log = scene.log(&pod, &config)?;
    ensure!(
        log.iter().any(|line| line.partial),
        "100,000 bytes are one line of the log"
    );
    Ok(())
}

async fn unfinished(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let config = scene.script(&pod, "one", "printf 'no end'");
    let output = scene.written_by(&pod, config).await?;
    ensure_eq!(output.trim_end(), "no end", "the log");
    Ok(())
}

async fn reopened(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let config = scene.script(
        &pod,
        "one",
        "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.02; done",
    );
    let id = scene.run(&pod, config.clone()).await?;
    scene.until_logged(&pod, &config, "line 3\n").await?;
    let path = scene.log_path(&pod, &config);
    let moved = path.with_extension("moved");
    std::fs::rename(&path, &moved)?;
    let request = ReopenContainerLogRequest { container_id: id };
    scene.calls().reopen_container_log(request).await?;
    ensure!(path.exists(), "there is no new file when the call returns");
    scene.until_logged(&pod, &config, "line").await?;
    // Nothing is lost between the two.
    let mut old = config.clone();
    old.log_path = config.log_path.replace(".log", ".moved");
    let last = scene.output(&pod, &old)?.lines().last().map(str::to_owned);
    let number =
        |line: Option<&str>| line.and_then(|it| it.rsplit(' ').next()?.parse::<u64>().ok());
    let new = scene.output(&pod, &config)?;
    ensure_eq!(
        number(new.lines().next()),
        number(last.as_deref()).map(|it| it + 1),
        "the new file's first line"
    );
    Ok(())
}

async fn reopened_dead(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    scene.stop(&id, 30).await?;
    let request = ReopenContainerLogRequest { container_id: id };
    let answer = scene.calls().reopen_container_log(request).await;
    ensure!(
        answer.is_err(),
        "the log of a container that has ended is reopened"
    );
    Ok(())
}

async fn kept(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let config = scene.script(&pod, "one", "echo kept");
    let id = scene.run(&pod, config.clone()).await?;
    scene.until_exited(&id).await?;
    scene.remove(&id).await?;
    ensure_eq!(
        scene.output(&pod, &config)?,
        "kept\n",
        "the log of a removed container"
    );
    Ok(())
}
