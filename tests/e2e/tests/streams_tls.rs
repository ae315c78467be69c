//! Streams over TLS, by commands of ours and by a client that is not, and a certificate that is renewed while the daemon runs.

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use e2e::{ContainerSettings, Host, scenario_with};
use testkit::{daemon::binary, sandbox::poll};

use crate::{
    streams::{OUTPUT, echo, sleeper},
    streams_commands::{Command, LOOPBACKS, SOCKET, TRANSPORTS, echoes, forwarding},
};

/// An authority and a certificate of its for this machine: `NAME-ca.pem`, `NAME.pem` and `NAME.key`.
fn issue(directory: &Path, name: &str) -> anyhow::Result<()> {
    let script = format!(
        "new='openssl req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:P-256'\n\
         $new -keyout {name}-ca.key -out {name}-ca.pem -subj /CN={name}-authority\n\
         $new -keyout {name}.key -out {name}.pem -subj /CN={name} -CA {name}-ca.pem -CAkey {name}-ca.key \
         -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
    );
    let output = std::process::Command::new("sh")
        .args(["-ec", &script])
        .current_dir(directory)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    Ok(())
}

/// As a renewal does: the certificate first, each at once.
fn put(directory: &Path, name: &str) -> anyhow::Result<()> {
    for ending in ["pem", "key"] {
        let new = directory.join(format!("new.{ending}"));
        fs::copy(directory.join(format!("{name}.{ending}")), &new)?;
        fs::rename(new, directory.join(format!("served.{ending}")))?;
    }
    Ok(())
}

/// Whether `cat` says back what it is told, to a client that trusts this authority alone.
fn trusts(host: &Host, id: &str, transport: &str, authority: &Path) -> anyhow::Result<bool> {
    let mut command = host.sandbox.command(binary("longshore")?);
    command.args(["-r", SOCKET, "exec", "-i", "--transport", transport]);
    let mut child = command
        .arg("--tls-ca")
        .arg(authority)
        .args([id, "sh", "-c", "cat; exit 9"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut keys = child.stdin.take().context("a pipe")?;
    // One that is refused may be gone already.
    let _taken = std::io::Write::write_all(&mut keys, b"typed");
    drop(keys);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(9) => ensure!(output.stdout == b"typed", "{output:?}"),
        _ => ensure!(
            said.contains("certificate") && output.stdout.is_empty(),
            "{output:?}"
        ),
    }
    Ok(output.status.code() == Some(9))
}

#[test]
fn streams_over_tls_and_a_certificate_that_is_renewed() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    for name in ["first", "second"] {
        issue(directory.path(), name).expect("a certificate");
    }
    put(directory.path(), "first").expect("a certificate in its place");
    let settings = format!(
        "[streaming]\ntls_cert = {:?}\ntls_key = {:?}",
        at("served.pem"),
        at("served.key")
    );
    let (first, second) = (at("first-ca.pem"), at("second-ca.pem"));
    let first_words = first.to_str().expect("a path that is text").to_owned();
    scenario_with(&settings, async |host| {
        let (pod_id, id) = sleeper(host, "tls").await?;
        for transport in TRANSPORTS {
            ensure!(trusts(host, &id, transport, &first)?);
            ensure!(!trusts(host, &id, transport, &second)?);
        }
        let url = host.cri.exec_url(&id, &["echo", "hello"], OUTPUT).await?;
        ensure!(url.starts_with("https://127.0.0.1:"), "{url}");
        python(host, &url, &first_words)?;

        let flags = |transport| ["--transport", transport, "--tls-ca", &first_words];
        let pod = e2e::PodSettings::new("tls-attach");
        let attached = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh("main", "while read word; do echo \"<$word>\"; done")
            .edited(|config| config.stdin = true);
        let shell = host.run(&attached, &pod, &settings).await?;
        let _echo = echo(host, &pod_id, "127.0.0.1:8001")?;
        for transport in TRANSPORTS {
            let words = [&["attach", "-i"][..], &flags(transport), &[&shell]].concat();
            let name = format!("attach-{transport}");
            let mut attach = Command::start(host, &name, &words, Stdio::piped())?;
            attach.types("typed\n")?;
            attach.says("<typed>\n")?;
            attach.leaves()?;
            let words = [
                &["port-forward"][..],
                &flags(transport),
                &[&pod_id, ":8001"],
            ]
            .concat();
            let name = format!("forward-{transport}");
            let mut forward = Command::start(host, &name, &words, Stdio::null())?;
            let locals = forwarding(&forward, &[8001])?;
            echoes(host, LOOPBACKS[0], locals[0])?;
            forward.signal(host, "INT")?;
            ensure!(forward.ends()?.success());
        }

        put(directory.path(), "second")?;
        let renewed = poll(Duration::from_secs(30), || {
            matches!(trusts(host, &id, "spdy", &second), Ok(true)).then_some(())
        });
        renewed.context("the renewed certificate is not served")?;
        ensure!(!trusts(host, &id, "websocket", &first)?);
        Ok(())
    });
}

/// Debian's python3-websocket, which `cargo xtask install-deps` installs.
fn python(host: &Host, url: &str, authority: &str) -> anyhow::Result<()> {
    const SCRIPT: &str = r#"
import sys, websocket
url = sys.argv[1].replace("https", "wss", 1)
socket = websocket.create_connection(
    url, subprotocols=["v5.channel.k8s.io"], timeout=60, sslopt={"ca_certs": sys.argv[2]})
said = b""
while True:
    opcode, data = socket.recv_data()
    if opcode == websocket.ABNF.OPCODE_CLOSE:
        break
    if data[:1] == b"\x01":
        said += data[1:]
assert said == b"hello\n", said
"#;
    let mut command = host.sandbox.command("/usr/bin/python3");
    let output = command.args(["-c", SCRIPT, url, authority]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    Ok(())
}
