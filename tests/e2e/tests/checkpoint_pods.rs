//! CheckpointPod and RestorePod: one cut through several containers, and a pod from it. As in [`crate::checkpoint`], what CRIU does is
//! shown with CRIU where it works on the kernel, and what the daemon does around it with programs in its place.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use cri::v1::{ContainerConfig, ContainerState, RestorePodRequest};
use e2e::{ContainerSettings, Host, PodSettings, scenario_with};
use tonic::Code;

use crate::checkpoint::{COUNTER, Criu, Fake, unlabelled};

/// Whether each cgroup beside the container's, and its own, is frozen: on v1 and v2.
const LOOK: &str =
    "for one in $freezer/../*/; do cat $one/freezer.state $one/cgroup.freeze 2>/dev/null; done";

/// What CRIU would have written, as far as the daemon looks at it.
const IMAGES: &str = "touch $work/checkpoint/inventory.img $work/checkpoint/pstree.img";

const HANG: &str = "touch $work/begun; exec sleep 1000";

/// A pod with two counters, and an empty directory for its checkpoint.
struct Pair {
    pod: PodSettings,
    pod_id: String,
    counters: [ContainerSettings; 2],
    ids: [String; 2],
    directory: PathBuf,
}

fn counters() -> [ContainerSettings; 2] {
    ["left", "right"].map(|name| ContainerSettings::sh(name, COUNTER).edited(unlabelled))
}

pub(crate) fn last(host: &Host, pod: &PodSettings, counter: &ContainerSettings) -> u32 {
    let output = host.output(pod, counter).unwrap_or_default();
    let lines = output.lines();
    let counts = lines.filter_map(|line| line.strip_prefix("count ")?.parse().ok());
    counts.max().unwrap_or(0)
}

/// Waits for something that comes to be by itself.
async fn until(what: &str, is_so: impl Fn() -> bool) -> anyhow::Result<()> {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(100), wait)
        .await
        .with_context(|| what.to_owned())
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

impl Pair {
    async fn start(host: &Host, name: &str) -> anyhow::Result<Self> {
        let pod = PodSettings::new(name);
        let pod_id = host.run_pod(&pod).await?;
        let counters = counters();
        let mut ids = Vec::new();
        for counter in &counters {
            ids.push(host.run(&pod_id, &pod, counter).await?);
        }
        for counter in &counters {
            host.until_logged(&pod, counter, "count 2\n").await?;
        }
        let directory = host.sandbox.directory().join("pods");
        fs::create_dir(&directory)?;
        let Ok(ids) = ids.try_into() else {
            unreachable!("two are two")
        };
        Ok(Self {
            pod,
            pod_id,
            counters,
            ids,
            directory,
        })
    }

    async fn checkpoint(&self, host: &Host) -> Result<(), tonic::Status> {
        let ids = self.ids.each_ref().map(String::as_str);
        host.cri
            .checkpoint_pod(&self.pod_id, &self.directory, &ids)
            .await
    }

    /// Begins one in the background, and waits until the first dump is under way.
    async fn begin(
        &self,
        host: &Host,
    ) -> anyhow::Result<tokio::task::JoinHandle<Result<(), tonic::Status>>> {
        let (client, pod, directory) = (
            host.cri.clone(),
            self.pod_id.clone(),
            self.directory.clone(),
        );
        let ids = self.ids.clone();
        let asked = tokio::spawn(async move {
            let ids = ids.each_ref().map(String::as_str);
            client.checkpoint_pod(&pod, &directory, &ids).await
        });
        let begun = self.part(0).join("begun");
        until("no dump begins", || begun.exists()).await?;
        Ok(asked)
    }

    fn part(&self, which: usize) -> PathBuf {
        self.directory.join("containers").join(&self.ids[which])
    }

    /// Both count on from now.
    async fn goes_on(&self, host: &Host) -> anyhow::Result<()> {
        for counter in &self.counters {
            let next = format!("count {}\n", last(host, &self.pod, counter) + 3);
            host.until_logged(&self.pod, counter, &next)
                .await
                .context("a container does not go on")?;
        }
        Ok(())
    }

    /// Nothing of it is in the client's directory, which is, nor in the daemon's.
    async fn left_nothing(&self, host: &Host) -> anyhow::Result<()> {
        let work = host.sandbox.directory().join("lib/checkpoints");
        until("the client's directory is not empty", || {
            is_empty(&self.directory)
        })
        .await?;
        until("the daemon keeps notes", || is_empty(&work)).await?;
        fs::remove_dir(&self.directory)?;
        Ok(())
    }
}

/// The configurations of a restore.
fn configs(host: &Host, counters: &[ContainerSettings]) -> Vec<ContainerConfig> {
    let all = counters.iter();
    all.map(|counter| counter.config(&host.image)).collect()
}

#[test]
fn all_stand_still_before_the_first_is_written_down() {
    let fake = Fake::new("exit 0", &format!("{LOOK} >$work/seen; {IMAGES}"));
    scenario_with(&fake.setting(), async |host| {
        let pair = Pair::start(host, "cut").await?;
        pair.checkpoint(host).await?;
        pair.goes_on(host).await?;
        for which in 0..2 {
            let seen = fs::read_to_string(pair.part(which).join("seen"))?;
            let frozen = seen.lines().filter(|line| ["FROZEN", "1"].contains(line));
            assert_eq!(frozen.count(), 2, "{seen}");
            for name in ["config.dump", "spec.dump", "rootfs-diff.tar", "checkpoint"] {
                assert!(pair.part(which).join(name).exists(), "{name}");
            }
        }
        let mode = |path: &Path| fs::metadata(path).map(|found| found.permissions().mode() & 0o777);
        assert_eq!(mode(&pair.directory.join("pod.json"))?, 0o600);
        assert_eq!(mode(&pair.directory.join("containers"))?, 0o700);
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(pair.directory.join("pod.json"))?)?;
        assert_eq!(manifest["pod"], *pair.pod_id);
        assert_eq!(manifest["containers"][1]["name"], "right");
        let mut names: Vec<_> = fs::read_dir(&pair.directory)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<_, _>>()?;
        names.sort();
        assert_eq!(names, ["containers", "pod.json"]);

        // A directory that holds something is left alone.
        let refused = pair.checkpoint(host).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(pair.directory.join("pod.json").exists());
        // One of the two alone.
        fs::remove_dir_all(&pair.directory)?;
        fs::create_dir(&pair.directory)?;
        host.cri
            .checkpoint_pod(&pair.pod_id, &pair.directory, &[&pair.ids[1]])
            .await?;
        let seen = fs::read_to_string(pair.part(1).join("seen"))?;
        let frozen = seen.lines().filter(|line| ["FROZEN", "1"].contains(line));
        assert_eq!(frozen.count(), 1, "{seen}");
        assert!(!pair.part(0).exists());
        fs::remove_dir_all(&pair.directory)?;
        fs::create_dir(&pair.directory)?;
        pair.left_nothing(host).await
    });
}

#[test]
fn what_cannot_be_one_checkpoint_is_refused() {
    let fake = Fake::new("exit 0", IMAGES);
    scenario_with(&fake.setting(), async |host| {
        let pair = Pair::start(host, "refused").await?;
        let other = PodSettings::new("other");
        let other_id = host.run_pod(&other).await?;
        let elsewhere = host
            .run(&other_id, &other, &ContainerSettings::sleeper("elsewhere"))
            .await?;
        let created = host
            .create(&pair.pod_id, &pair.pod, &ContainerSettings::sleeper("new"))
            .await?;
        let (pod, [left, right]) = (pair.pod_id.as_str(), pair.ids.each_ref());
        let here = pair.directory.as_path();
        let file = here.with_file_name("a-file");
        fs::write(&file, "")?;
        let absent = here.join("absent");
        use Code::{FailedPrecondition, InvalidArgument, NotFound};
        let cases: &[(&str, &Path, &[&str], Code, &str)] = &[
            ("fade", here, &[left], NotFound, "fade"),
            (pod, here, &[], InvalidArgument, "container_ids"),
            (pod, here, &[left, left], InvalidArgument, "twice"),
            (pod, here, &[left, "fade"], NotFound, "fade"),
            (
                pod,
                here,
                &[left, &elsewhere],
                InvalidArgument,
                "not in pod",
            ),
            (pod, here, &[right, &created], FailedPrecondition, "created"),
            (
                pod,
                Path::new("pods"),
                &[left],
                InvalidArgument,
                "output_path",
            ),
            (pod, &absent, &[left], InvalidArgument, "absent"),
            (pod, &file, &[left], InvalidArgument, "a-file"),
        ];
        for (pod, directory, ids, code, words) in cases {
            let answer = host.cri.checkpoint_pod(pod, directory, ids).await;
            let refused = answer.expect_err(words);
            assert_eq!(refused.code(), *code, "{words}: {refused}");
            assert!(refused.message().contains(words), "{words}: {refused}");
        }
        let request = cri::v1::CheckpointPodRequest {
            pod_sandbox_id: pod.to_owned(),
            output_path: here.display().to_string(),
            container_ids: vec![left.clone()],
            options: [("leaveRunning".to_owned(), "false".to_owned())].into(),
        };
        let mut rpc = host.cri.client.runtime_service();
        let refused = rpc.checkpoint_pod(request).await.unwrap_err();
        assert_eq!(refused.code(), InvalidArgument, "{refused}");
        assert!(refused.message().contains("leaveRunning"), "{refused}");
        fs::remove_file(file)?;
        pair.goes_on(host).await?;
        pair.left_nothing(host).await
    });
}

#[test]
fn a_pod_goes_on_though_its_checkpoint_fails() {
    let second = "[ -e $work/../one ] && exit 1; touch $work/../one; exit 0";
    let fake = Fake::new("exit 0", second);
    scenario_with(&fake.setting(), async |host| {
        let pair = Pair::start(host, "fails").await?;
        let refused = pair.checkpoint(host).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(is_empty(&pair.directory));
        pair.goes_on(host).await?;
        pair.left_nothing(host).await
    });
}

#[test]
fn a_pod_goes_on_though_nobody_waits() {
    let fake = Fake::new("exit 0", HANG);
    scenario_with(&fake.setting(), async |host| {
        let pair = Pair::start(host, "lonely").await?;
        pair.begin(host).await?.abort();
        pair.goes_on(host).await?;
        until("something is left", || is_empty(&pair.directory)).await?;

        // The deadline of the call is the checkpoint's, with time to clear up before it.
        let mut request = tonic::Request::new(cri::v1::CheckpointPodRequest {
            pod_sandbox_id: pair.pod_id.clone(),
            output_path: pair.directory.display().to_string(),
            container_ids: pair.ids.to_vec(),
            ..Default::default()
        });
        request.set_timeout(Duration::from_secs(10));
        let mut rpc = host.cri.client.runtime_service();
        let late = rpc.checkpoint_pod(request).await.unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
        assert!(late.message().contains("within 8 s"), "{late}");
        assert!(is_empty(&pair.directory));
        pair.goes_on(host).await?;
        pair.left_nothing(host).await
    });
}

#[test]
fn a_pod_goes_on_though_the_daemon_dies() {
    let fake = Fake::new("exit 0", "touch $work/begun; exec sleep 3");
    scenario_with(&fake.setting(), async |host| {
        let pair = Pair::start(host, "orphaned").await?;
        let asked = pair.begin(host).await?;
        host.restart_daemon().await?;
        assert!(asked.await?.is_err());
        pair.goes_on(host).await?;
        pair.left_nothing(host).await
    });
}

#[test]
fn a_pod_that_cannot_be_restored_leaves_nothing() {
    let fails = "echo '(00.1) Error (criu/tty.c:1): no such thing' >$work/restore.log; exit 1";
    let restore = format!("if [ $verb = restore ]; then {fails}; fi; {IMAGES}");
    let fake = Fake::new("exit 0", &restore);
    scenario_with(&fake.setting(), async |host| {
        let pair = Pair::start(host, "first").await?;
        pair.checkpoint(host).await?;
        let pod = PodSettings::new("second");
        let both = configs(host, &pair.counters);
        let here = pair.directory.as_path();
        let mut named = both.clone();
        named[1].metadata.get_or_insert_default().name = "third".to_owned();
        let mut twice = both.clone();
        twice[1] = twice[0].clone();
        let mut missing = both.clone();
        missing[0].image.get_or_insert_default().image = "sha256:".to_owned() + &"0".repeat(64);
        use Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
        let elsewhere = host.sandbox.directory();
        let cases: &[(&Path, &[ContainerConfig], Code, &str)] = &[
            (Path::new("pods"), &both, InvalidArgument, "checkpoint_path"),
            (&here.join("absent"), &both, InvalidArgument, "absent"),
            (elsewhere, &both, InvalidArgument, "pod.json"),
            (here, &both[..1], InvalidArgument, "right"),
            (here, &named, InvalidArgument, "third"),
            (here, &twice, InvalidArgument, "two containers"),
            (here, &missing, NotFound, "pull it first"),
            (here, &both, FailedPrecondition, "no such thing"),
        ];
        for (directory, containers, code, words) in cases {
            let config = host.pod_config(&pod);
            let answer = host.cri.restore_pod(directory, config, containers.to_vec());
            let refused = answer.await.expect_err(words);
            assert_eq!(refused.code(), *code, "{words}: {refused}");
            assert!(refused.message().contains(words), "{words}: {refused}");
            let pods = host.cri.pods(None).await?;
            assert_eq!(pods.len(), 1, "{words}: {pods:?}");
            assert_eq!(host.cri.containers(None).await?.len(), 2, "{words}");
        }
        let exists = host.pod_config(&pair.pod);
        let refused = host.cri.restore_pod(here, exists, both.clone()).await;
        assert_eq!(refused.unwrap_err().code(), AlreadyExists);
        let mut rpc = host.cri.client.runtime_service();
        let request = RestorePodRequest {
            checkpoint_path: here.display().to_string(),
            config: Some(host.pod_config(&pod)),
            container_configs: both,
            ..Default::default()
        };
        let unknown = RestorePodRequest {
            runtime_handler: "unheard-of".to_owned(),
            ..request.clone()
        };
        let optional = RestorePodRequest {
            options: [("ghost".to_owned(), String::new())].into(),
            ..request
        };
        for (request, words) in [(unknown, "unheard-of"), (optional, "ghost")] {
            let refused = rpc.restore_pod(request).await.unwrap_err();
            assert_eq!(refused.code(), InvalidArgument, "{refused}");
            assert!(refused.message().contains(words), "{refused}");
        }
        pair.goes_on(host).await?;
        fs::remove_dir_all(here)?;
        fs::create_dir(here)?;
        pair.left_nothing(host).await
    });
}

#[test]
fn half_a_pod_does_not_outlive_the_daemon() {
    let fake = Fake::new(
        "exit 0",
        &format!("if [ $verb = restore ]; then {HANG}; fi; {IMAGES}"),
    );
    scenario_with(&fake.setting(), async |host| {
        let pair = Pair::start(host, "whole").await?;
        pair.checkpoint(host).await?;
        let half = PodSettings::new("half");
        let (client, directory) = (host.cri.clone(), pair.directory.clone());
        let (config, both) = (host.pod_config(&half), configs(host, &pair.counters));
        let asked = tokio::spawn(async move { client.restore_pod(&directory, config, both).await });
        let work = host.sandbox.directory().join("lib/checkpoints");
        let begun = || {
            let mut entries = fs::read_dir(&work).into_iter().flatten().flatten();
            entries.any(|entry| entry.path().join("begun").exists())
        };
        until("no restore begins", begun).await?;
        host.restart_daemon().await?;
        assert!(asked.await?.is_err());
        let end = tokio::time::Instant::now() + Duration::from_secs(100);
        while host.cri.pods(None).await?.len() != 1 {
            ensure!(tokio::time::Instant::now() < end, "half a pod is there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        pair.goes_on(host).await?;
        fs::remove_dir_all(&pair.directory)?;
        fs::create_dir(&pair.directory)?;
        pair.left_nothing(host).await
    });
}

/// CRIU itself lets go of the processes that it writes down, and the cgroup is frozen again after it; two pods of it then.
#[test]
fn with_criu_a_pod_goes_on_in_another_one() {
    let criu = Criu::find().unwrap();
    // As what looks after the real one.
    let wrapper = match &criu {
        Criu::Works(path) => {
            Fake::wrapping(path, &format!("[ $verb = dump ] && {LOOK} >$work/seen"))
        }
        Criu::Refuses(_) => Fake::new("exit 1", ""),
    };
    scenario_with(&wrapper.setting(), async |host| {
        let pair = Pair::start(host, "first").await?;
        let made = pair.checkpoint(host).await;
        let Criu::Works(_) = &criu else {
            assert_eq!(made.unwrap_err().code(), Code::FailedPrecondition);
            pair.goes_on(host).await?;
            return pair.left_nothing(host).await;
        };
        made?;
        for which in 0..2 {
            let seen = fs::read_to_string(pair.part(which).join("seen"))?;
            let frozen = seen.lines().filter(|line| ["FROZEN", "1"].contains(line));
            assert_eq!(frozen.count(), 2, "{seen}");
        }
        pair.goes_on(host).await?;
        let before = pair
            .counters
            .each_ref()
            .map(|one| last(host, &pair.pod, one));
        host.cri.stop_pod(&pair.pod_id).await?;

        let pod = PodSettings::new("second");
        let (config, both) = (host.pod_config(&pod), configs(host, &pair.counters));
        let request = || {
            host.cri
                .restore_pod(&pair.directory, config.clone(), both.clone())
        };
        let made = request().await?;
        let names: Vec<&str> = made
            .restored_containers
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        assert_eq!(names, ["left", "right"]);
        // Asking again changes nothing.
        assert_eq!(request().await?, made);
        for one in &made.restored_containers {
            let status = host.cri.container_status(&one.container_id).await?;
            assert_eq!(status.state(), ContainerState::ContainerCreated);
        }
        for (index, one) in made.restored_containers.iter().enumerate() {
            let counter = &pair.counters[index];
            assert_eq!(host.output(&pod, counter)?, "");
            host.cri.start(&one.container_id).await?;
            host.until_logged(&pod, counter, &format!("count {}\n", before[index] + 2))
                .await?;
            let output = host.output(&pod, counter)?;
            let first = output.lines().find_map(|line| line.strip_prefix("count "));
            let first: u32 = first.context("it has not counted")?.parse()?;
            assert!(first > 1 && first <= before[index], "{first} {before:?}");
            let seen = host.cri.exec(&one.container_id, &["hostname"], 10).await?;
            assert_eq!(seen.stdout, b"second\n");
        }
        host.cri.stop_pod(&made.pod_sandbox_id).await?;
        host.cri.remove_pod(&made.pod_sandbox_id).await?;
        fs::remove_file(host.sandbox.view("/run/criu.kdat"))?;
        fs::remove_dir_all(&pair.directory)?;
        fs::create_dir(&pair.directory)?;
        pair.left_nothing(host).await
    });
}
