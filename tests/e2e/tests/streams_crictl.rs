//! The same by upstream's crictl, where it is: at `LONGSHORE_CRICTL`, or in the path.

use std::{
    io::Write,
    path::PathBuf,
    process::{Output, Stdio},
};

use anyhow::{Context, ensure};
use e2e::{ContainerSettings, Host, PodSettings, scenario};

fn crictl() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("LONGSHORE_CRICTL") {
        return Ok(path.into());
    }
    let path = std::env::var_os("PATH").context("there is no PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join("crictl"))
        .find(|file| file.is_file())
        .context("no crictl: set LONGSHORE_CRICTL to its path")
}

fn run(host: &Host, words: &[&str], input: &str) -> anyhow::Result<Output> {
    let socket = "unix:///run/longshore/longshore.sock";
    let mut command = host.sandbox.command(crictl()?);
    command.args(["-c", "/dev/null", "-r", socket, "-i", socket]);
    command.args(words);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    Ok(child.wait_with_output()?)
}

#[test]
#[ignore = "needs upstream's crictl (LONGSHORE_CRICTL)"]
fn crictl_execs_and_attaches_over_both_transports() {
    scenario(async |host| {
        let pod = PodSettings::new("crictl");
        let pod_id = host.run_pod(&pod).await?;
        let main = ContainerSettings::sleeper("main");
        let id = host.run(&pod_id, &pod, &main).await?;
        for transport in ["spdy", "websocket"] {
            let words = ["exec", "-r", transport, "-i", &id, "cat"];
            let output = run(host, &words, "typed")?;
            ensure!(output.stdout == b"typed", "{transport}: {output:?}");
            ensure!(output.status.success(), "{transport}: {output:?}");
            let words = [
                "exec",
                "-r",
                transport,
                &id,
                "sh",
                "-c",
                "echo x >&2; exit 3",
            ];
            let output = run(host, &words, "")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(said.contains("exit code 3"), "{transport}: {said}");
            ensure!(output.status.code() == Some(1), "{transport}: {said}");

            let name = format!("shell-{transport}");
            let shell = ContainerSettings::new(&name, ["sh"]).edited(|config| {
                config.stdin = true;
                config.stdin_once = true;
            });
            let shell_id = host.run(&pod_id, &pod, &shell).await?;
            let words = ["attach", "-r", transport, "-i", &shell_id];
            let output = run(host, &words, "echo hello\n")?;
            ensure!(output.stdout == b"hello\n", "{transport}: {output:?}");
            host.until_exited(&shell_id).await?;
        }
        Ok(())
    });
}
