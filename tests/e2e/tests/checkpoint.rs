//! Checkpoints. What CRIU does is shown with CRIU where it works on the kernel: `$LONGSHORE_TEST_CRIU` names one that must, as in the virtual
//! machines. Elsewhere its own verdict on the kernel is what the daemon is to answer with. What the daemon does around it is shown with
//! programs in CRIU's place that fail, hang and lie.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use cri::v1::{
    ContainerConfig, ContainerState, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    SecurityProfile, security_profile::ProfileType,
};
use e2e::{ContainerSettings, Host, PodSettings, scenario_with};
use tempfile::TempDir;
use tonic::Code;

/// Counts, in its memory and in a file of its own.
pub(crate) const COUNTER: &str =
    "i=0; while :; do i=$((i+1)); echo count $i; echo $i >/tmp/count; sleep 0.2; done";

/// CRIU that works here, or the reason that the daemon has to give.
pub(crate) enum Criu {
    Works(PathBuf),
    Refuses(String),
}

impl Criu {
    pub(crate) fn find() -> anyhow::Result<Self> {
        if let Some(path) = std::env::var_os("LONGSHORE_TEST_CRIU") {
            return Ok(Self::Works(path.into()));
        }
        let path = PathBuf::from("/usr/sbin/criu");
        let check = Command::new(&path)
            .arg("check")
            .output()
            .context("run criu check: is the package installed?")?;
        if check.status.success() {
            return Ok(Self::Works(path));
        }
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        let error = said.lines().find(|line| line.contains("Error ("));
        let error = error.with_context(|| format!("criu check gives no reason: {said}"))?;
        Ok(Self::Refuses(error.to_owned()))
    }

    pub(crate) fn setting(&self) -> String {
        match self {
            Self::Works(path) => format!("criu = {path:?}\n"),
            Self::Refuses(_) => String::new(),
        }
    }
}

/// A program in CRIU's place. `dump` is what it does with a dump or, by `$verb`, a restore; `$work` is its directory, `$freezer` that of the
/// container's freezer.
pub(crate) struct Fake {
    _directory: TempDir,
    path: PathBuf,
}

impl Fake {
    pub(crate) fn new(check: &str, dump: &str) -> Self {
        let knows =
            format!("case $1 in\n--version) echo 'Version: 4.1'; exit 0;;\ncheck) {check};;\nesac");
        Self::script(&knows, dump)
    }

    /// The real one, and `then` after it has succeeded.
    pub(crate) fn wrapping(criu: &Path, then: &str) -> Self {
        let criu = criu.display();
        Self::script(
            &format!("{criu} \"$@\" || exit 1"),
            &format!("{then}; exit 0"),
        )
    }

    fn script(first: &str, last: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("criu");
        let script = format!(
            "#!/bin/sh\n{first}\nverb=$1\nwhile [ $# -gt 0 ]; do\n\
             case $1 in --work-dir) work=$2;; --freeze-cgroup) freezer=$2;; esac; shift\ndone\n{last}\n"
        );
        fs::write(&path, script).expect("a script");
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&path, mode).expect("a program");
        Self {
            _directory: directory,
            path,
        }
    }

    pub(crate) fn setting(&self) -> String {
        format!("criu = {:?}\n", self.path)
    }
}

/// Without the label that a node with AppArmor gives: a container that is to have one cannot be restored.
pub(crate) fn unlabelled(config: &mut ContainerConfig) {
    let linux = config.linux.get_or_insert_default();
    let security = linux.security_context.get_or_insert_default();
    security.apparmor = Some(SecurityProfile {
        profile_type: ProfileType::Unconfined.into(),
        ..Default::default()
    });
}

/// A running counter, and where its checkpoints go.
struct Counting {
    pod: PodSettings,
    pod_id: String,
    settings: ContainerSettings,
    id: String,
    archives: PathBuf,
}

impl Counting {
    async fn start(host: &Host, name: &str) -> anyhow::Result<Self> {
        let pod = PodSettings::new(name);
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh("counter", COUNTER).edited(unlabelled);
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "count 2\n").await?;
        let archives = host.sandbox.directory().join("archives");
        fs::create_dir(&archives)?;
        Ok(Self {
            pod,
            pod_id,
            settings,
            id,
            archives,
        })
    }

    fn last(&self, host: &Host) -> u32 {
        let output = host.output(&self.pod, &self.settings).unwrap_or_default();
        let counts = output
            .lines()
            .filter_map(|line| line.strip_prefix("count "));
        counts
            .filter_map(|count| count.parse().ok())
            .max()
            .unwrap_or(0)
    }

    /// Counts on from now.
    async fn goes_on(&self, host: &Host) -> anyhow::Result<()> {
        let next = format!("count {}\n", self.last(host) + 3);
        host.until_logged(&self.pod, &self.settings, &next)
            .await
            .context("the container does not go on")?;
        let status = host.cri.container_status(&self.id).await?;
        ensure!(status.state() == ContainerState::ContainerRunning);
        Ok(())
    }

    /// A checkpoint of it is not to be had now, and the answer says `why`.
    async fn is_refused(&self, host: &Host, why: &str) {
        let place = self.archives.join("c.tar");
        let answer = host.cri.checkpoint(&self.id, &place, 0).await;
        let refused = answer.expect_err("it is checkpointed");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains(why), "{why}: {refused}");
    }

    /// Waits until a fake has begun to dump it.
    async fn until_begun(&self, host: &Host) -> anyhow::Result<()> {
        let work = host.sandbox.directory().join("lib/checkpoints");
        let begun = work.join(&self.id).join("begun");
        let wait = async {
            while !begun.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .context("no dump begins")
    }

    /// As [`Self::left_nothing`], beside the archives that were asked for.
    fn left_nothing_but(&self, host: &Host, archives: usize) -> anyhow::Result<()> {
        ensure!(fs::read_dir(&self.archives)?.count() == archives);
        fs::remove_dir_all(&self.archives)?;
        self.left_nothing(host)
    }

    /// No archive, and nothing that was to become one, or lay in the daemon's directory meanwhile.
    fn left_nothing(&self, host: &Host) -> anyhow::Result<()> {
        let work = host.sandbox.directory().join("lib/checkpoints");
        for directory in [&self.archives, &work] {
            let names: Vec<_> = match fs::read_dir(directory) {
                Ok(entries) => entries.flatten().map(|entry| entry.file_name()).collect(),
                Err(_never_made) => Vec::new(),
            };
            ensure!(names.is_empty(), "{} holds {names:?}", directory.display());
        }
        Ok(())
    }
}

#[test]
fn without_a_criu_that_works_it_says_what_is_missing() {
    let absent = Path::new("/nonexistent/criu");
    scenario_with(&format!("criu = {absent:?}\n"), async |host| {
        let counting = Counting::start(host, "absent").await?;
        counting.is_refused(host, "/nonexistent/criu").await;
        counting.left_nothing(host)
    });
    let verdict = "echo 'Error (criu/kerndat.c:1): the kernel lacks everything' >&2; exit 1";
    let fake = Fake::new(verdict, "exit 1");
    scenario_with(&fake.setting(), async |host| {
        let counting = Counting::start(host, "unfit").await?;
        counting
            .is_refused(host, "the kernel lacks everything")
            .await;
        counting.goes_on(host).await?;
        counting.left_nothing(host)
    });
}

#[test]
fn what_cannot_be_checkpointed_is_refused() {
    let fake = Fake::new("exit 0", "exit 1");
    scenario_with(&fake.setting(), async |host| {
        let counting = Counting::start(host, "refused").await?;
        let (pod, pod_id) = (&counting.pod, &counting.pod_id);
        let place = counting.archives.join("c.tar");
        for (location, timeout) in [
            ("", 0),
            ("c.tar", 0),
            ("/tmp/../c.tar", 0),
            ("/nonexistent/directory/c.tar", 0),
            ("/", 0),
            (counting.archives.to_str().unwrap(), 0),
            (place.to_str().unwrap(), -1),
        ] {
            let refused = host
                .cri
                .checkpoint(&counting.id, Path::new(location), timeout)
                .await
                .unwrap_err();
            assert_eq!(
                refused.code(),
                Code::InvalidArgument,
                "{location} {timeout}: {refused}"
            );
        }
        let missing = host.cri.checkpoint("fade", &place, 0).await.unwrap_err();
        assert_eq!(missing.code(), Code::NotFound, "{missing}");

        let created = host
            .create(pod_id, pod, &ContainerSettings::sleeper("created"))
            .await?;
        let exited = ContainerSettings::sh("exited", "true");
        let exited = host.run(pod_id, pod, &exited).await?;
        host.until_exited(&exited).await?;
        let terminal = ContainerSettings::sleeper("terminal").edited(|config| config.tty = true);
        let terminal = host.run(pod_id, pod, &terminal).await?;
        let sharing = PodSettings::edited("sharing", |config| {
            let linux = config.linux.get_or_insert_default();
            linux.security_context = Some(LinuxSandboxSecurityContext::default());
        });
        let sharing_id = host.run_pod(&sharing).await?;
        let shared = ContainerSettings::sleeper("shared").edited(|config| {
            let linux = config.linux.get_or_insert_default();
            let security = linux.security_context.get_or_insert_default();
            security.namespace_options = Some(NamespaceOption {
                pid: NamespaceMode::Pod.into(),
                ..Default::default()
            });
        });
        let shared = host.run(&sharing_id, &sharing, &shared).await?;
        for (id, why) in [
            (&created, "it is created"),
            (&exited, "it is exited"),
            (&terminal, "terminal"),
            (&shared, "PID namespace"),
        ] {
            let refused = host.cri.checkpoint(id, &place, 0).await.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
            assert!(refused.message().contains(why), "{why}: {refused}");
        }
        counting.goes_on(host).await?;
        counting.left_nothing(host)
    });
}

#[test]
fn a_dump_that_fails_leaves_nothing() {
    let fails =
        "echo '(00.1) Error (criu/files.c:1): something odd is open' >$work/dump.log; exit 1";
    let fake = Fake::new("exit 0", fails);
    scenario_with(&fake.setting(), async |host| {
        let counting = Counting::start(host, "fails").await?;
        counting.is_refused(host, "something odd is open").await;
        counting.goes_on(host).await?;
        counting.left_nothing(host)
    });
}

#[test]
fn a_dump_that_hangs_ends_with_its_time() {
    let fake = Fake::new("exit 0", "touch $work/begun; exec sleep 1000");
    scenario_with(&fake.setting(), async |host| {
        let counting = Counting::start(host, "hangs").await?;
        let place = counting.archives.join("c.tar");
        let late = host
            .cri
            .checkpoint(&counting.id, &place, 1)
            .await
            .unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
        counting.goes_on(host).await?;
        counting.left_nothing(host)?;

        // One at a time; and a container that is held still can be stopped.
        let first = host.cri.clone();
        let (id, at) = (counting.id.clone(), place.clone());
        let first = tokio::spawn(async move { first.checkpoint(&id, &at, 20).await });
        counting.until_begun(host).await?;
        let second = host
            .cri
            .checkpoint(&counting.id, &place, 20)
            .await
            .unwrap_err();
        assert_eq!(second.code(), Code::Aborted, "{second}");
        assert!(second.message().contains("under way"), "{second}");
        host.cri.stop(&counting.id, 0).await?;
        let first = first.await?.unwrap_err();
        assert!(
            matches!(
                first.code(),
                Code::DeadlineExceeded | Code::FailedPrecondition
            ),
            "{first}"
        );
        counting.left_nothing(host)
    });
}

#[test]
fn a_container_goes_on_though_the_daemon_dies() {
    let fake = Fake::new("exit 0", "touch $work/begun; exec sleep 3");
    scenario_with(&fake.setting(), async |host| {
        let counting = Counting::start(host, "orphaned").await?;
        let place = counting.archives.join("c.tar");
        let client = host.cri.clone();
        let (id, at) = (counting.id.clone(), place.clone());
        let asked = tokio::spawn(async move { client.checkpoint(&id, &at, 60).await });
        counting.until_begun(host).await?;
        host.restart_daemon().await?;
        assert!(asked.await?.is_err());
        counting.goes_on(host).await?;
        // The daemon takes away what was to become the archive when it has time for it.
        let wait = async {
            while counting.left_nothing(host).is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(60), wait).await;
        gone.or_else(|_elapsed| counting.left_nothing(host))
    });
}

#[test]
fn with_criu_a_checkpoint_is_what_the_field_reads() {
    let criu = Criu::find().unwrap();
    scenario_with(&criu.setting(), async |host| {
        let counting = Counting::start(host, "dumped").await?;
        let id = &counting.id;
        let changes =
            "echo kept >/kept && ln /kept /linked && mkfifo /pipe && rm /bin/wc && rm -r /var";
        let changed = host.cri.exec(id, &["sh", "-c", changes], 10).await?;
        assert_eq!(changed.exit_code, 0, "{changed:?}");
        let place = counting.archives.join("c.tar");
        fs::write(&place, "something else")?;
        let made = host.cri.checkpoint(id, &place, 0).await;
        if let Criu::Refuses(verdict) = &criu {
            let refused = made.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
            assert!(refused.message().contains(verdict), "{verdict}: {refused}");
            assert_eq!(fs::read_to_string(&place)?, "something else");
            return counting.goes_on(host).await;
        }
        made?;
        counting.goes_on(host).await?;

        let files = members(&place)?;
        for name in [
            "config.dump",
            "spec.dump",
            "status.dump",
            "status",
            "bind.mounts",
            "dump.log",
            "stats-dump",
            "rootfs-diff.tar",
            "deleted.files",
            "checkpoint/inventory.img",
            "checkpoint/pstree.img",
            "checkpoint/pages-1.img",
            "checkpoint/descriptors.json",
        ] {
            assert!(
                files.contains_key(name),
                "{name} is not in {:?}",
                files.keys()
            );
        }
        let json = |name: &str| serde_json::from_slice::<serde_json::Value>(&files[name]);
        let config = json("config.dump")?;
        assert_eq!(config["id"], **id);
        assert_eq!(config["name"], "counter");
        assert_eq!(config["rootfsImageName"], *host.image);
        assert_eq!(config["restored"], false);
        let annotations = &json("spec.dump")?["annotations"];
        assert_eq!(annotations["io.kubernetes.cri.container-name"], "counter");
        assert_eq!(annotations["io.kubernetes.cri.sandbox-name"], "dumped");
        assert_eq!(json("status.dump")?["id"], **id);
        let layer = host.sandbox.directory().join("layer.tar");
        fs::write(&layer, &files["rootfs-diff.tar"])?;
        let layer = members(&layer)?;
        let count: u32 = String::from_utf8(layer["tmp/count"].clone())?
            .trim()
            .parse()?;
        assert!(count > 0);
        assert_eq!(layer["kept"], b"kept\n");
        let deleted: Vec<String> = serde_json::from_slice(&files["deleted.files"])?;
        assert_eq!(deleted, ["/bin/wc", "/var"]);
        assert!(
            layer.contains_key("pipe") && layer.contains_key("linked"),
            "{layer:?}"
        );
        // One archive, and nothing beside it.
        assert_eq!(fs::read_dir(&counting.archives)?.count(), 1);
        let mode = fs::metadata(&place)?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // Another one of the same container, in the place of the first.
        host.cri.checkpoint(id, &place, 0).await?;
        // What CRIU knows of the kernel; it keeps that.
        fs::remove_file(host.sandbox.view("/run/criu.kdat"))?;
        counting.goes_on(host).await
    });
}

/// A container's processes in another pod: what they counted, and what they had written.
#[test]
fn with_criu_a_container_goes_on_in_another_pod() {
    let criu = Criu::find().unwrap();
    scenario_with(&criu.setting(), async |host| {
        let counting = Counting::start(host, "first").await?;
        let changes = "echo kept >/kept && rm /bin/wc && echo shared >/dev/mine";
        let changed = host
            .cri
            .exec(&counting.id, &["sh", "-c", changes], 10)
            .await?;
        assert_eq!(changed.exit_code, 0, "{changed:?}");
        let place = counting.archives.join("c.tar");
        let made = host.cri.checkpoint(&counting.id, &place, 0).await;
        let Criu::Works(_) = &criu else {
            assert_eq!(made.unwrap_err().code(), Code::FailedPrecondition);
            return Ok(());
        };
        made?;
        let before = counting.last(host);
        host.cri.stop_pod(&counting.pod_id).await?;

        let pod = PodSettings::new("second");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh("counter", COUNTER)
            .edited(unlabelled)
            .image(place.to_str().unwrap());
        let id = host.create(&pod_id, &pod, &settings).await?;
        // As every other: it waits to be started, and asking again changes nothing.
        let created = host.cri.container_status(&id).await?;
        assert_eq!(created.state(), ContainerState::ContainerCreated);
        assert_eq!(host.create(&pod_id, &pod, &settings).await?, id);
        assert_eq!(host.output(&pod, &settings)?, "");
        host.cri.start(&id).await?;
        let running = host.cri.container_status(&id).await?;
        assert_eq!(running.state(), ContainerState::ContainerRunning);
        host.until_logged(&pod, &settings, &format!("count {}\n", before + 3))
            .await?;
        let output = host.output(&pod, &settings)?;
        let first = output.lines().find_map(|line| line.strip_prefix("count "));
        let first: u32 = first.context("it has not counted")?.parse()?;
        assert!(first > 1 && first <= before + 1, "{first} after {before}");

        let ip = host.cri.pod_ip(&pod_id).await?;
        let look = "cat /kept /dev/mine; ls /bin/wc; hostname; ip -4 -o address show eth0; \
                    cat /proc/1/status; cat /etc/hostname; ls /proc/acpi | wc -c";
        let seen = host.cri.exec(&id, &["sh", "-c", look], 10).await?;
        let stdout = String::from_utf8_lossy(&seen.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&seen.stderr).into_owned();
        assert!(stdout.starts_with("kept\nshared\nsecond\n"), "{stdout}");
        assert!(stdout.contains(&format!(" {ip}/")), "{stdout}");
        assert!(stderr.contains("/bin/wc: No such file"), "{stderr}");

        host.restart_daemon().await?;
        let next = format!("count {}\n", first + 20);
        host.until_logged(&pod, &settings, &next).await?;
        host.cri.stop(&id, 0).await?;
        let exited = host.cri.container_status(&id).await?;
        assert_eq!(exited.state(), ContainerState::ContainerExited);
        assert_eq!(exited.exit_code, 137);
        fs::remove_file(host.sandbox.view("/run/criu.kdat"))?;
        counting.left_nothing_but(host, 1)
    });
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let fake = Fake::new("exit 0", "exit 1");
    scenario_with(&fake.setting(), async |host| {
        let pod = PodSettings::new("refused");
        let pod_id = host.run_pod(&pod).await?;
        let directory = host.sandbox.directory().join("archives");
        fs::create_dir(&directory)?;
        let described = |image: &str| format!("{{\"rootfsImageName\": {image:?}}}");
        let good = described(&host.image);
        let image_files = [
            ("checkpoint/inventory.img", "i"),
            ("checkpoint/pstree.img", "p"),
        ];
        let archive = |name: &str, members: &[(&str, &str)]| -> anyhow::Result<PathBuf> {
            let path = directory.join(name);
            let content = tempfile::tempdir()?;
            let mut tar = Command::new("tar");
            tar.arg("-cPf").arg(&path).arg("-C").arg(content.path());
            for (index, (name, text)) in members.iter().enumerate() {
                // Under the name that the archive is to have, whatever it is.
                let file = format!("f{index}");
                fs::write(content.path().join(&file), text)?;
                tar.arg(format!("--transform=s|^{file}$|{name}|"));
            }
            for index in 0..members.len() {
                tar.arg(format!("f{index}"));
            }
            ensure!(tar.status()?.success(), "tar makes no {name}");
            Ok(path)
        };
        let whole = |config: &str| {
            let mut members = vec![("config.dump".to_owned(), config.to_owned())];
            members.extend(image_files.map(|(name, text)| (name.to_owned(), text.to_owned())));
            members
        };
        let borrowed = |members: &[(String, String)]| -> Vec<(String, String)> { members.to_vec() };
        let mut cases = Vec::new();
        let mut case =
            |name: &str, members: &[(String, String)], code, words| -> anyhow::Result<()> {
                let members = borrowed(members);
                let members: Vec<(&str, &str)> = members
                    .iter()
                    .map(|(a, b)| (a.as_str(), b.as_str()))
                    .collect();
                cases.push((archive(name, &members)?, code, words));
                Ok(())
            };
        case(
            "empty.tar",
            &[("x".into(), "x".into())],
            Code::InvalidArgument,
            "config.dump",
        )?;
        case(
            "bare.tar",
            &[("config.dump".into(), good.clone())],
            Code::InvalidArgument,
            "inventory.img",
        )?;
        case(
            "json.tar",
            &whole("no json"),
            Code::InvalidArgument,
            "config.dump",
        )?;
        let missing = described("127.0.0.1:5000/library/absent:latest");
        case(
            "image.tar",
            &whole(&missing),
            Code::NotFound,
            "library/absent",
        )?;
        let mut climbs = whole(&good);
        climbs.push(("../climbs".into(), "x".into()));
        case("climbs.tar", &climbs, Code::InvalidArgument, "climbs")?;
        let mut layer = whole(&good);
        layer.push(("rootfs-diff.tar".into(), "no tar".repeat(200)));
        case("layer.tar", &layer, Code::InvalidArgument, "unpack")?;
        case("criu.tar", &whole(&good), Code::InvalidArgument, "mount")?;
        cases.push((
            directory.join("absent.tar"),
            Code::InvalidArgument,
            "absent.tar",
        ));
        cases.push((directory.clone(), Code::InvalidArgument, "no file"));
        let truncated = directory.join("truncated.tar");
        let bytes = fs::read(directory.join("criu.tar"))?;
        fs::write(&truncated, &bytes[..1700])?;
        cases.push((truncated, Code::InvalidArgument, "tar archive"));
        for (path, code, words) in cases {
            let settings = ContainerSettings::sleeper("restored").image(path.to_str().unwrap());
            let refused = host.create(&pod_id, &pod, &settings).await.unwrap_err();
            assert_eq!(refused.code(), code, "{}: {refused}", path.display());
            assert!(refused.message().contains(words), "{words}: {refused}");
        }
        assert!(!directory.join("../climbs").exists());
        assert!(host.cri.containers(None).await?.is_empty());
        fs::remove_dir_all(&directory)?;
        Ok(())
    });
}

/// The members of an archive, by name, with their contents.
pub(crate) fn members(archive: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let directory = tempfile::tempdir()?;
    let unpacked = Command::new("tar")
        .arg("-xf")
        .arg(archive)
        .arg("-C")
        .arg(directory.path())
        .status()?;
    ensure!(
        unpacked.success(),
        "tar does not read {}",
        archive.display()
    );
    let mut found = BTreeMap::new();
    let mut left = vec![directory.path().to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            let kind = path.symlink_metadata()?;
            if kind.is_dir() {
                left.push(path);
                continue;
            }
            let name = path.strip_prefix(directory.path())?.display().to_string();
            let contents = match kind.is_file() {
                true => fs::read(&path)?,
                false => Vec::new(),
            };
            found.insert(name, contents);
        }
    }
    Ok(found)
}
