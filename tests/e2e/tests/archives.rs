//! Images that come from archives and go into them, and into registries, as the operator does it.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use cri::{
    client::{Client, Endpoint},
    v1::{ImageFsInfoRequest, ListPodSandboxRequest},
};
use e2e::{ContainerSettings, Host, PodSettings, scenario, scenario_with};
use testkit::{
    daemon::binary,
    image::{self, Layer},
    sandbox::poll,
};
use tonic::Code;

/// What a line of shell writes, in which `longshore` is ours; it must be content.
pub(super) fn sh(host: &Host, line: &str) -> anyhow::Result<String> {
    let (content, said) = tried(host, line)?;
    ensure!(content, "{line}: {said}");
    Ok(said)
}

/// The same, content or not.
pub(super) fn tried(host: &Host, line: &str) -> anyhow::Result<(bool, String)> {
    let directory = binary("longshore")?;
    let directory = directory.parent().context("a program has a directory")?;
    let script = format!(
        "PATH={}:$PATH; cd {}; {line}",
        directory.display(),
        host.sandbox.directory().display()
    );
    let output = host
        .sandbox
        .command("bash")
        .args(["-ec", &script])
        .output()?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), said))
}

#[test]
fn a_saved_image_comes_back_as_an_archive_a_directory_or_a_stream() {
    scenario(async |host| {
        let own = Layer::new().file("own", 0o644, "own");
        let built = image::busybox()?.layer(own).build();
        let reference = host.registry.push("saved", "1", &built);
        let id = host.cri.pull(&reference).await?;
        sh(host, &format!("longshore save -o image.tar {reference}"))?;
        sh(
            host,
            "mkdir layout; tar -xf image.tar -C layout; gzip -k image.tar",
        )?;
        host.cri.remove_image(&reference).await?;
        // From here on no registry knows it.
        host.registry.remove_blob("saved", built.digest());
        for (line, name) in [
            ("longshore load -i image.tar", &*reference),
            (
                "longshore load --input image.tar.gz --name r.example/other:2",
                "r.example/other:2",
            ),
            ("longshore load < image.tar", &reference),
            ("longshore load -i layout", &reference),
        ] {
            let said = sh(host, line)?;
            ensure!(
                said.contains(built.id()) && said.contains(name),
                "{line}: {said}"
            );
            let pod = PodSettings::new("loaded");
            let pod_id = host.run_pod(&pod).await?;
            let settings = ContainerSettings::sleeper("main").image(name);
            let container = host.run(&pod_id, &pod, &settings).await?;
            assert_eq!(host.cri.sh(&container, "echo here").await?, "here\n");
            if line.ends_with("layout") {
                repairs_without_a_registry(host)?;
            }
            host.remove_all_pods().await?;
            host.cri.remove_image(built.id()).await?;
        }
        ensure!(id.contains("sha256"), "{id}");
        // Bad ones are refused with the reason, and leave nothing.
        for (line, says) in [
            ("longshore load -i no-such-file", "no-such-file"),
            ("echo no archive | longshore load", "archive"),
            ("head -c 20000 image.tar | longshore load", "archive"),
            ("longshore import image.tar.gz --change 'RUN x'", "RUN x"),
            ("longshore save nobody/nothing:1 > saved", "nobody/nothing"),
        ] {
            let (content, said) = tried(host, line)?;
            ensure!(!content && said.contains(says), "{line}: {said}");
        }
        let lib = host.sandbox.directory().join("lib");
        for directory in ["ingest", "blobs"] {
            let empty = || (fs::read_dir(lib.join(directory)).ok()?.count() == 0).then_some(());
            poll(Duration::from_secs(60), empty)
                .with_context(|| format!("{directory} is not empty"))?;
        }
        Ok(())
    });
}

/// What came from an archive is mended from what was kept of that.
fn repairs_without_a_registry(host: &Host) -> anyhow::Result<()> {
    let said = sh(host, "longshore du --explain")?;
    ensure!(said.contains("compressed"), "{said}");
    sh(
        host,
        "for file in lib/layers/*/etc/passwd; do echo vandal > $file; done",
    )?;
    let said = sh(host, "longshore fsck --repair")?;
    ensure!(said.contains("repaired from what was kept of it"), "{said}");
    Ok(())
}

#[test]
fn an_imported_root_file_system_runs_and_is_pushed_to_a_registry_of_others() {
    scenario(async |host| {
        let root = image::busybox_layer()?.tar();
        fs::write(host.sandbox.directory().join("root.tar"), root)?;
        let said = sh(
            host,
            r#"longshore import root.tar team/made:1 --change 'CMD ["sleep", "1000"]' -c 'ENV A=b'"#,
        )?;
        let id = said.trim();
        let pod = PodSettings::new("imported");
        let pod_id = host.run_pod(&pod).await?;
        let mut settings = ContainerSettings::sleeper("main").image("team/made:1");
        settings = settings.edited(|config| {
            config.command.clear();
            config.args.clear();
        });
        let container = host.run(&pod_id, &pod, &settings).await?;
        assert_eq!(host.cri.sh(&container, "echo $A").await?, "b\n");
        host.remove_all_pods().await?;

        // "me" with the password "pw", by bcrypt.
        let hash = "me:$2b$05$UWo1.0f7fvKgwVabFh1YgeWXKqQ8TfSGsFQgCDXLDrAKinwpRH7HG";
        fs::write(host.sandbox.directory().join("htpasswd"), hash)?;
        let pid = sh(
            host,
            "here=$PWD; cat > registry.yml <<END
version: 0.1
storage: {filesystem: {rootdirectory: $here/registry}}
http: {addr: '127.0.0.1:5001'}
auth: {htpasswd: {realm: here, path: $here/htpasswd}}
END
            docker-registry serve registry.yml > registry.log 2>&1 & echo $!
            for _ in $(seq 600); do grep -q 'listening on' registry.log && exit 0; sleep 0.1; done; exit 1",
        )?;
        let target = "127.0.0.1:5001/team/made:1";
        let (content, said) = tried(host, &format!("longshore push team/made:1 {target}"))?;
        ensure!(!content && said.contains("127.0.0.1:5001"), "{said}");
        let (content, said) = tried(
            host,
            &format!("longshore push --creds me:s3cret team/made:1 {target}"),
        )?;
        ensure!(!content && !said.contains("s3cret"), "{said}");
        let said = sh(
            host,
            &format!("longshore push --creds me:pw team/made:1 {target}"),
        )?;
        ensure!(said.contains("1 layers sent"), "{said}");
        host.cri.remove_image("team/made:1").await?;
        sh(host, &format!("longshore pull --creds me:pw {target}"))?;
        let images = host.cri.images().await?;
        ensure!(images.iter().any(|image| image.id == id), "{images:?}");
        let config = sh(
            host,
            &format!(
                "skopeo inspect --tls-verify=false --creds me:pw --raw --config docker://{target}"
            ),
        )?;
        assert_eq!(image::sha256(config.as_bytes()), id);
        ensure!(
            !host.daemon.log().contains("s3cret"),
            "the daemon's log has a secret"
        );
        host.sandbox.kill("KILL", &[pid.trim().parse()?])
    });
}

#[test]
fn images_are_served_on_an_endpoint_of_their_own() {
    let address = "/run/longshore/images.sock";
    let settings = format!("[images]\naddress = {address:?}\nkeep_blobs = true\n");
    scenario_with(&settings, async |host| {
        let reference =
            host.registry
                .push("beside", "1", &image::busybox()?.label("a", "b").build());
        let flags = format!("--image-endpoint unix://{address}");
        sh(host, &format!("longshore {flags} pull {reference}"))?;
        let said = sh(host, &format!("longshore {flags} images"))?;
        ensure!(said.contains("127.0.0.1:5000/beside"), "{said}");
        // With its compressed layer kept, nobody is asked when it is saved.
        host.registry.clear_requests();
        sh(
            host,
            &format!("longshore {flags} save {reference} | tar -t"),
        )?;
        assert_eq!(host.registry.requests(), []);

        let endpoint = Endpoint::of_socket(host.sandbox.view(address));
        let client = Client::connect(endpoint, Duration::from_secs(30)).await?;
        client
            .image_service()
            .image_fs_info(ImageFsInfoRequest {})
            .await?;
        let mut pods = client.runtime_service();
        let refused = pods.list_pod_sandbox(ListPodSandboxRequest::default());
        assert_eq!(refused.await.unwrap_err().code(), Code::Unimplemented);

        // It goes with the daemon, and is there with the next one, also over what a killed one has left.
        host.restart_daemon().await?;
        sh(host, &format!("longshore {flags} images"))?;
        host.daemon.terminate()?;
        ensure!(
            !host.sandbox.view(address).exists(),
            "the socket is left behind"
        );
        host.start_daemon().await?;
        sh(host, &format!("longshore {flags} rmi {reference}"))?;
        Ok(())
    });
}
