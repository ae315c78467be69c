//! Disks without room: what frees some still works, what needs some says so, and everything else goes on.

use cri::v1::ContainerState;
use e2e::{ContainerSettings, Host, PodSettings, scenario};
use testkit::image::{self, Layer};
use tonic::{Code, Status};

/// What a disk can run out of.
#[derive(Debug, Clone, Copy)]
enum Full {
    Bytes,
    Inodes,
}

impl Full {
    /// Leaves no room below `$1`.
    fn fill(self, host: &Host, directory: &str) -> anyhow::Result<()> {
        let script = match self {
            // Smaller and smaller, to the last byte.
            Self::Bytes => {
                "for size in 1M 64k 4k 512; do dd if=/dev/zero bs=$size of=filler/$size 2>/dev/null || true; done"
            }
            Self::Inodes => {
                "i=0; while : 2>/dev/null >filler/$i; do i=$((i+1)); done 2>/dev/null || true"
            }
        };
        let prepare = format!("cd {directory}; mkdir -p filler; {script}; sync -f .");
        host.sandbox.sh(&prepare).map(drop)
    }

    fn empty(host: &Host, directory: &str) -> anyhow::Result<()> {
        host.sandbox
            .sh(&format!("rm -r {directory}/filler"))
            .map(drop)
    }
}

/// A host whose `--root` is an ext4 of its own, without blocks that are kept for root.
async fn on_small_disk(host: &mut Host) -> anyhow::Result<String> {
    host.daemon.kill();
    let directory = host.sandbox.directory().display().to_string();
    let root = format!("{directory}/lib");
    host.sandbox.sh(&format!(
        "rm -r {root}; mkdir {root}; truncate -s 96M {directory}/disk; \
         mkfs.ext4 -q -m 0 -N 1024 {directory}/disk; mount -o loop {directory}/disk {root}"
    ))?;
    host.start_daemon().await?;
    host.cri.pull(&host.image).await?;
    host.warm_up().await?;
    Ok(root)
}

fn exhausted<T: std::fmt::Debug>(answer: Result<T, Status>, what: &str, root: &str) {
    let refusal = answer.expect_err(what);
    assert_eq!(refusal.code(), Code::ResourceExhausted, "{what}: {refusal}");
    assert!(refusal.message().contains(root), "{what}: {refusal}");
}

fn image(host: &Host, name: &str) -> anyhow::Result<String> {
    let layer = Layer::new().file(name, 0o644, name.repeat(1000));
    let built = image::busybox()?.layer(layer).build();
    Ok(host.registry.push(name, "1", &built))
}

fn deleting_needs_no_room(full: Full) {
    scenario(async |host| {
        let root = Box::pin(on_small_disk(host)).await?;
        let there = Box::pin(before(host)).await?;
        full.fill(host, &root)?;
        Box::pin(refuses(host, &root, &there)).await?;
        Box::pin(goes(host, &root, &there, full)).await?;
        Full::empty(host, &root)?;
        host.cri.pull(&there.never_pulled).await?;
        Ok(())
    });
}

/// What there is when the disk is full.
struct There {
    first: String,
    second: String,
    never_pulled: String,
    pod: PodSettings,
    pod_id: String,
    other_id: String,
    running: String,
    ended: String,
    created: String,
}

async fn before(host: &Host) -> anyhow::Result<There> {
    let (first, second) = (image(host, "first")?, image(host, "second")?);
    host.cri.pull(&first).await?;
    host.cri.pull(&second).await?;
    let pod = PodSettings::new("full");
    let pod_id = host.run_pod(&pod).await?;
    let other_id = host.run_pod(&PodSettings::new("other")).await?;
    let running = ContainerSettings::sleeper("running");
    let running = host.run(&pod_id, &pod, &running).await?;
    let ended = ContainerSettings::new("ended", ["true"]).image(&first);
    let ended = host.run(&pod_id, &pod, &ended).await?;
    host.until_exited(&ended).await?;
    let created = ContainerSettings::sleeper("created");
    let created = host.create(&pod_id, &pod, &created).await?;
    Ok(There {
        first,
        second,
        never_pulled: image(host, "third")?,
        pod,
        pod_id,
        other_id,
        running,
        ended,
        created,
    })
}

/// What needs room says so; the rest goes on, in this daemon and in the next.
async fn refuses(host: &mut Host, root: &str, there: &There) -> anyhow::Result<()> {
    exhausted(host.cri.pull(&there.never_pulled).await, "a pull", root);
    let another = ContainerSettings::sleeper("another");
    let another = host.create(&there.pod_id, &there.pod, &another).await;
    exhausted(another, "a container", root);
    let config = host.pod_config(&PodSettings::new("late"));
    exhausted(host.cri.run_pod(config).await, "a pod", root);

    host.restart_daemon().await?;
    assert_eq!(host.cri.pods(None).await?.len(), 2);
    assert_eq!(host.cri.containers(None).await?.len(), 3);
    assert_eq!(host.cri.images().await?.len(), 3);
    host.cri.start(&there.created).await?;
    assert_eq!(host.cri.sh(&there.running, "echo on").await?, "on\n");
    Ok(())
}

/// Everything goes, though the room that it leaves is taken at once.
async fn goes(host: &mut Host, root: &str, there: &There, full: Full) -> anyhow::Result<()> {
    host.cri.stop(&there.running, 1).await?;
    let status = host.cri.container_status(&there.running).await?;
    assert_eq!(status.state(), ContainerState::ContainerExited);
    host.cri.remove(&there.running).await?;
    full.fill(host, root)?;
    host.cri.remove_image(&there.first).await?;
    full.fill(host, root)?;
    host.cri.remove(&there.ended).await?;
    full.fill(host, root)?;
    host.cri.stop_pod(&there.pod_id).await?;
    host.cri.remove_pod(&there.pod_id).await?;
    full.fill(host, root)?;
    host.cri.remove_image(&there.second).await?;
    full.fill(host, root)?;
    host.restart_daemon().await?;
    host.cri.remove_pod(&there.other_id).await?;
    assert_eq!(host.cri.images().await?.len(), 1);
    assert!(host.cri.pods(None).await?.is_empty());
    Ok(())
}

#[test]
fn deleting_needs_no_bytes() {
    deleting_needs_no_room(Full::Bytes);
}

#[test]
fn deleting_needs_no_inodes() {
    deleting_needs_no_room(Full::Inodes);
}

#[test]
fn a_container_may_fill_the_disk() {
    scenario(async |host| {
        Box::pin(on_small_disk(host)).await?;
        let pod = PodSettings::new("greedy");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh(
            "greedy",
            "dd if=/dev/zero of=/all bs=64k; echo full; while :; do sleep 1 & wait $!; done",
        );
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "full").await?;
        assert_eq!(host.cri.sh(&id, "echo on").await?, "on\n");
        host.restart_daemon().await?;
        host.cri.stop(&id, 0).await?;
        host.cri.remove(&id).await?;
        // The room is free again soon, not at once.
        let next = ContainerSettings::sh(
            "next",
            "dd if=/dev/zero of=/some bs=64k count=16 && echo fits",
        );
        let mut tries = 0;
        loop {
            let settings = next.clone().attempt(tries);
            let output = match host.run_to_end(&pod_id, &pod, &settings).await {
                Ok((_, output)) => output,
                Err(error) => format!("{error:#}"),
            };
            if output.contains("fits") {
                return Ok(());
            }
            tries += 1;
            anyhow::ensure!(tries < 50, "{output}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
}

#[test]
fn a_full_disk_of_logs_stops_no_container() {
    scenario(async |host| {
        host.sandbox
            .sh("mkdir /run/logs; mount -t tmpfs -o size=64k logs /run/logs")?;
        let pod = PodSettings::edited("chatty", |pod| pod.log_directory = "/run/logs".to_owned());
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh(
            "chatty",
            "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 5",
        );
        let id = host.run(&pod_id, &pod, &settings).await?;
        let status = host.until_exited(&id).await?;
        assert_eq!(status.exit_code, 5, "{status:?}");
        assert!(
            status.message.contains("bytes of its log were not written"),
            "{status:?}"
        );
        // With room again, a new container's log is whole.
        host.cri.remove(&id).await?;
        host.sandbox.sh("rm /run/logs/*")?;
        let settings = ContainerSettings::sh("quiet", "echo heard");
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.until_exited(&id).await?;
        let log = std::fs::read_to_string(host.sandbox.view("/run/logs/quiet_0.log"))?;
        assert!(log.ends_with("stdout F heard\n"), "{log}");
        host.cri.remove_pod(&pod_id).await?;
        host.sandbox.sh("umount /run/logs; rmdir /run/logs")?;
        Ok(())
    });
}

#[test]
fn a_full_state_directory_is_recovered_from() {
    for full in [Full::Bytes, Full::Inodes] {
        scenario(async |host| {
            let pod = PodSettings::new("full");
            let pod_id = host.run_pod(&pod).await?;
            let id = host
                .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
                .await?;
            let ended = host
                .run(&pod_id, &pod, &ContainerSettings::new("ended", ["true"]))
                .await?;
            host.until_exited(&ended).await?;
            // As small as what is in it.
            host.sandbox.sh(
                "used=$(df -k --output=used /run | tail -n 1); inodes=$(df --output=iused /run | tail -n 1); \
                 mount -o remount,size=$((used + 16))k,nr_inodes=$((inodes + 8)) /run",
            )?;
            full.fill(host, "/run")?;
            host.restart_daemon().await?;
            exhausted(
                host.create(&pod_id, &pod, &ContainerSettings::sleeper("another"))
                    .await,
                "a container",
                "/run/longshore",
            );
            assert_eq!(host.cri.sh(&id, "echo on").await?, "on\n");
            host.cri.remove(&ended).await?;
            full.fill(host, "/run")?;
            host.cri.stop(&id, 0).await?;
            host.restart_daemon().await?;
            host.cri.remove_pod(&pod_id).await?;
            Full::empty(host, "/run")?;
            host.sandbox
                .sh("mount -o remount,size=50%,nr_inodes=0 /run")
                .map(drop)
        });
    }
}
