//! `longshore diff` and `longshore cp`: what a container has written, and files out of it and into it.

use std::time::Duration;

use anyhow::ensure;
use cri::v1::{Mount, NamespaceMode};
use e2e::{ContainerSettings, Host, PodSettings, scenario};
use testkit::{file_server::FileServer, sandbox::poll};

use crate::archives::{sh, tried};
use crate::isolation::run_mapped;

/// What the container of a test does to its image, and what `longshore diff` says of it.
const WRITES: &str = "echo x > /new; echo x >> /etc/passwd; rm -f /bin/zcat; mkdir -p /srv/a/b; \
    chmod 700 /home; rm -rf /var/www; ln -s /nowhere /tmp/link; touch /usr/bin/t; rm /usr/bin/t; \
    rm -rf /root; mkdir /root; echo x > /root/x; touch \"/tmp/two\nlines\"";

const CHANGES: &str = "C /bin\nD /bin/zcat\nC /etc\nC /etc/passwd\nC /home\nA /new\nC /root\nA /root/x\n\
    A /srv\nA /srv/a\nA /srv/a/b\nC /tmp\nA /tmp/link\nA /tmp/two\\nlines\nC /var\nD /var/www\n";

#[test]
fn what_a_container_has_changed_is_told() {
    scenario(async |host| {
        let pod = PodSettings::new("diff");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh("writer", &format!("{WRITES}; echo done; sleep 1000"));
        let settings = settings.edited(|config| {
            // A directory is made for it, in the writable layer.
            config.mounts = vec![Mount {
                host_path: "/run".to_owned(),
                container_path: "/opt/made/here".to_owned(),
                ..Mount::default()
            }];
        });
        let idle = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("idle"))
            .await?;
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "done").await?;
        // By name, by the beginning of the id; of one that has written nothing.
        ensure!(sh(host, "longshore diff writer")? == CHANGES);
        ensure!(sh(host, &format!("longshore diff {}", &idle[..12]))?.is_empty());
        ensure!(sh(host, "longshore diff -q writer | head -2")? == "/bin\n/bin/zcat\n");
        let json: serde_json::Value =
            serde_json::from_str(&sh(host, "longshore diff -o json writer")?)?;
        let change = &json["changes"][1];
        ensure!(
            change["kind"] == "deleted" && change["path"] == "/bin/zcat",
            "{json}"
        );
        // One that has ended has still changed it.
        host.cri.stop(&id, 0).await?;
        ensure!(sh(host, "longshore diff writer")? == CHANGES);
        let (done, said) = tried(host, "longshore diff nobody")?;
        ensure!(!done && said.contains("NOT_FOUND"), "{said}");
        host.remove_all_pods().await
    });
}

/// Copies in both directions, of a container that runs and of one that has ended: nothing in it is asked for help.
async fn copies(host: &Host, running: bool) -> anyhow::Result<()> {
    let line = |line: &str| sh(host, line);
    // Out: a file, a directory, its contents, an archive.
    line("rm -rf out; mkdir out; longshore cp main:/data/file out/")?;
    ensure!(line("cat out/file")? == "file\n");
    line("longshore cp main:data/file out/renamed; cmp out/file out/renamed")?;
    line("longshore cp main:/data out/; test -f out/data/deep/er")?;
    line("longshore cp main:/data out/new; test -f out/new/deep/er")?;
    line("longshore cp main:/data/. out/flat; test -f out/flat/deep/er")?;
    ensure!(line("longshore cp main:/data/deep - | tar -t")? == "deep\ndeep/er\n");
    // A link as such, and what it leads to.
    ensure!(line("longshore cp main:/data/link out/; readlink out/link")? == "file\n");
    ensure!(line("longshore cp -L main:/data/link out/followed; cat out/followed")? == "file\n");
    ensure!(line("stat -c %a out/data/setuid")? == "755\n");
    ensure!(
        line("longshore cp -a main:/data/setuid out/kept; stat -c '%a %u' out/kept")?
            == "4755 33\n"
    );
    // In: the same.
    line("mkdir -p in/sub; echo in > in/sub/f; chown 33:33 in/sub/f; chmod 4755 in/sub/f")?;
    line(
        "longshore cp in/sub/f main:/tmp/; longshore cp main:/tmp/f - | tar -xO | cmp - in/sub/f",
    )?;
    line("longshore cp in main:/tmp; longshore cp in/. main:/made; longshore cp -a in main:/kept")?;
    line("tar -c -C in sub | longshore cp - main:/made")?;
    let listed = line("longshore cp main:/made - | tar -tv --numeric-owner | grep f$")?;
    ensure!(listed.starts_with("-rwxr-xr-x 0/0"), "{listed}");
    let listed = line("longshore cp main:/kept - | tar -tv --numeric-owner | grep f$")?;
    ensure!(listed.starts_with("-rwsr-xr-x 33/33"), "{listed}");
    // What cannot be is one line, and its reason.
    for (wrong, says) in [
        ("longshore cp main:/none out/", "NOT_FOUND"),
        (
            "longshore cp main:/data/file out/none/below",
            "No such file",
        ),
        ("longshore cp none main:/tmp", "No such file"),
        ("longshore cp in main:/data/file", "no directory"),
        ("longshore cp in main:/none/below", "NOT_FOUND"),
        ("longshore cp - main:/none < /dev/null", "NOT_FOUND"),
        (
            "echo nonsense | longshore cp - main:/tmp",
            "INVALID_ARGUMENT",
        ),
        ("longshore cp in out", "must be CONTAINER-ID:PATH"),
        ("longshore cp main:/data main:/other", "through a pipe"),
        ("longshore cp nobody:/data out", "NOT_FOUND"),
        ("longshore cp main:/proc/self/root/data out/", "NOT_FOUND"),
    ] {
        let (done, said) = tried(host, wrong)?;
        let one_line = said.lines().count() == 1 && said.starts_with("longshore: ");
        let magic = wrong.contains("/proc/") && running;
        ensure!(
            !done && one_line && (magic || said.contains(says)),
            "{wrong}: {said}"
        );
    }
    line("rm -rf out in").map(drop)
}

#[test]
fn files_are_copied_out_of_a_container_and_into_it() {
    scenario(async |host| {
        let pod = PodSettings::new("cp");
        let pod_id = host.run_pod(&pod).await?;
        let prepare = "mkdir -p /data/deep; echo file > /data/file; echo er > /data/deep/er; \
            ln -s file /data/link; cp /data/file /data/setuid; chown 33:33 /data/setuid; \
            chmod 4755 /data/setuid; echo done; sleep 1000";
        let volume = host.sandbox.directory().join("volume");
        std::fs::create_dir(&volume)?;
        std::fs::write(volume.join("row"), "row\n")?;
        let settings = ContainerSettings::sh("main", prepare).edited(move |config| {
            config.mounts = vec![Mount {
                host_path: volume.display().to_string(),
                container_path: "/volume".to_owned(),
                ..Mount::default()
            }];
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "done").await?;
        copies(host, true).await?;
        // What is mounted is there while it runs.
        ensure!(sh(host, "longshore cp main:/volume/row - | tar -xO")? == "row\n");
        sh(
            host,
            "echo two > two; longshore cp two main:/volume/two; cmp two volume/two",
        )?;
        let sees = host
            .cri
            .sh(&id, "cat /volume/two /tmp/f; rm -rf /tmp/* /made /kept")
            .await?;
        ensure!(sees == "two\nin\n", "{sees}");
        host.cri.stop(&id, 0).await?;
        copies(host, false).await?;
        let (done, _) = tried(host, "longshore cp main:/volume/row -")?;
        ensure!(!done, "a volume of a container that has ended");
        // Several at a time share one mount of it.
        sh(
            host,
            "for i in 1 2 3 4; do longshore cp main:/bin - > bin.$i & done; wait; cmp bin.1 bin.4",
        )?;
        host.remove_all_pods().await
    });
}

#[test]
fn a_container_leads_no_copy_out_of_itself() {
    scenario(async |host| {
        let pod = PodSettings::new("hostile");
        let pod_id = host.run_pod(&pod).await?;
        let secret = host.sandbox.directory().join("secret");
        std::fs::write(&secret, "host")?;
        let prepare = format!(
            "mkdir /t; cd /t; ln -s {0} abs; ln -s ../../../../..{0} up; ln -s /proc/1/root{0} magic; \
            ln -s ../../../../etc etc; ln -s loop loop; mkfifo pipe; touch \"$(printf 'a\\nb')\"; \
            mknod dev c 1 3; i=0; while [ $i -lt 450 ]; do mkdir d; cd d; i=$((i+1)); done; \
            echo done; sleep 1000",
            secret.display()
        );
        let settings = ContainerSettings::sh("main", &prepare);
        host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "done").await?;
        sh(host, "mkdir out; echo mine > mine")?;
        let through = format!("etc/../../../../..{}", secret.display());
        for path in ["abs", "up", "magic", &through, "loop", "loop/x"] {
            let (done, said) = tried(host, &format!("longshore cp -L main:/t/{path} out/"))?;
            ensure!(!done && said.lines().count() == 1, "{path}: {said}");
        }
        // Into a path behind links: the container's own /etc.
        sh(
            host,
            "longshore cp mine main:/t/etc/mine; test ! -e /etc/mine",
        )?;
        ensure!(sh(host, "longshore cp main:/etc/mine - | tar -xO")? == "mine\n");
        let (done, said) = tried(host, "longshore cp mine main:/t/magic/mine")?;
        ensure!(!done && said.lines().count() == 1, "{said}");
        // More than a tree of files has.
        let (done, said) = tried(host, "longshore cp main:/t out/")?;
        ensure!(
            !done && said.contains("directories in each other"),
            "{said}"
        );
        let (done, said) = tried(host, "longshore diff main")?;
        ensure!(
            !done
                && said
                    .lines()
                    .last()
                    .is_some_and(|line| line.starts_with("longshore: ")),
            "{said}"
        );
        sh(host, "rm -rf out; mkdir out")?;
        // A device becomes none of the node's, a pipe is nobody to wait for, and any name is a name.
        for name in ["dev", "pipe"] {
            let (done, said) = tried(host, &format!("longshore cp main:/t/{name} out/"))?;
            ensure!(
                done && said.contains("left out") == (name == "dev"),
                "{name}: {said}"
            );
        }
        sh(
            host,
            "longshore cp \"main:/t/$(printf 'a\\nb')\" out/; test -p out/pipe; test ! -e out/dev",
        )?;
        host.remove_all_pods().await
    });
}

#[test]
fn owners_are_as_the_container_sees_them() {
    scenario(async |host| {
        let id = run_mapped(host, "mapped", 300_000, NamespaceMode::Pod).await?;
        host.cri
            .sh(&id, "echo x > /f; chown 33:44 /f; echo x >> /etc/passwd")
            .await?;
        let listed = sh(host, "longshore cp main:/f - | tar -tv --numeric-owner")?;
        ensure!(listed.contains(" 33/44 "), "{listed}");
        sh(
            host,
            "echo x > g; chown 55:66 g; longshore cp g main:/plain; longshore cp -a g main:/kept",
        )?;
        let seen = host.cri.sh(&id, "stat -c '%n %u %g' /plain /kept").await?;
        ensure!(seen == "/plain 0 0\n/kept 55 66\n", "{seen}");
        ensure!(
            sh(host, "longshore diff main")? == "C /etc\nC /etc/passwd\nA /f\nA /kept\nA /plain\n"
        );
        // The namespace lives as long as the pod.
        host.cri.stop(&id, 0).await?;
        let listed = sh(host, "longshore cp main:/f - | tar -tv --numeric-owner")?;
        ensure!(listed.contains(" 33/44 "), "{listed}");
        host.remove_all_pods().await
    });
}

/// The daemon answers meanwhile, and whoever gives up takes the copy along.
#[test]
fn a_hung_volume_hangs_nobody_but_its_copy() {
    const FAR: &str = "/run/far";
    scenario(async |host| {
        host.sandbox.sh(&format!("mkdir {FAR}"))?;
        let server = FileServer::mount(&host.sandbox, FAR, &[("volume/data", "rows\n")])?;
        let pod = PodSettings::new("hung-copy");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sleeper("main").edited(|config| {
            config.mounts = vec![Mount {
                host_path: format!("{FAR}/volume"),
                container_path: "/far".to_owned(),
                ..Mount::default()
            }];
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        ensure!(sh(host, "longshore cp main:/far/data - | tar -xO")? == "rows\n");
        server.hang();
        let copying = || {
            let processes = host.sandbox.processes();
            let mut names = processes.iter().filter_map(|process| process.args.first());
            names.any(|name| name == "longshore-copy")
        };
        let guard = Duration::from_secs(60);
        let client = "longshore cp main:/far/more - > /dev/null 2>&1 & echo $!";
        let client = sh(host, client)?.trim().to_owned();
        ensure!(
            poll(guard, || copying().then_some(())).is_some(),
            "nobody copies"
        );
        ensure!(sh(host, "longshore cp main:/etc/passwd - | tar -t")? == "passwd\n");
        sh(host, &format!("kill {client}"))?;
        ensure!(
            poll(guard, || (!copying()).then_some(())).is_some(),
            "somebody still copies"
        );
        drop(server);
        host.cri.stop(&id, 0).await?;
        host.remove_all_pods().await?;
        host.sandbox
            .sh(&format!("umount -l {FAR}; rmdir {FAR}"))
            .map(drop)
    });
}
