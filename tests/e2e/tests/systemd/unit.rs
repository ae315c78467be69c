//! The packaged units, on the machine itself.

use std::{
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use cri::client::{Client, Endpoint};
use e2e::{ContainerSettings, Cri, PodSettings};
use testkit::{daemon::binary, image, registry::Registry, sandbox::poll};

const SERVICE: &str = include_str!("../../../../packaging/systemd/longshore.service");
const SOCKET: &str = include_str!("../../../../packaging/systemd/longshore.socket");

const UNITS: [&str; 2] = ["longshore.socket", "longshore.service"];
const ADDRESS: &str = "/run/longshore/longshore.sock";
const SUPERVISORS: &str = "0::/system.slice/longshore-supervisors.scope\n";
const SOON: Duration = Duration::from_secs(120);

/// Where a package puts things; gone again when dropped.
struct Installed {
    files: Vec<PathBuf>,
    /// What the daemon makes.
    directories: [&'static str; 3],
}

impl Installed {
    fn new() -> anyhow::Result<Self> {
        let mut installed = Self {
            files: Vec::new(),
            directories: ["/etc/longshore", "/var/lib/longshore", "/run/longshore"],
        };
        for directory in installed.directories {
            ensure!(!Path::new(directory).exists(), "{directory} is somebody's");
        }
        fs::create_dir("/etc/longshore")?;
        let configuration = "cgroup_driver = \"systemd\"\n[cni]\nrequired = false\n";
        installed.put("/etc/longshore/config.toml", configuration.as_bytes())?;
        installed.put("/etc/systemd/system/longshore.service", SERVICE.as_bytes())?;
        installed.put("/etc/systemd/system/longshore.socket", SOCKET.as_bytes())?;
        for name in ["longshored", "longshore-pod"] {
            let path = format!("/usr/bin/{name}");
            installed.put(&path, b"")?;
            fs::copy(binary(name)?, &path).with_context(|| format!("install {path}"))?;
        }
        systemctl(&["daemon-reload"])?;
        Ok(installed)
    }

    fn put(&mut self, path: &str, text: &[u8]) -> anyhow::Result<()> {
        let file = fs::File::create_new(path).with_context(|| format!("install {path}"))?;
        self.files.push(path.into());
        io::copy(&mut &*text, &mut &file)?;
        Ok(())
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        // The test has failed already if any of this does.
        let _ = systemctl(&["stop", UNITS[0], UNITS[1]]);
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
        for directory in self.directories {
            let _ = fs::remove_dir_all(directory);
        }
        let _ = systemctl(&["daemon-reload"]);
    }
}

/// Bounded; an error if it fails.
fn systemctl(arguments: &[&str]) -> anyhow::Result<String> {
    run("systemctl", arguments)
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("timeout")
        .args(["120", program])
        .args(arguments)
        .output()
        .with_context(|| format!("run {program}"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}: {said}",
        output.status
    );
    Ok(said)
}

fn property(name: &str) -> anyhow::Result<String> {
    systemctl(&["show", "--value", "--property", name, UNITS[1]])
}

fn until(name: &str, wanted: impl Fn(&str) -> bool) -> anyhow::Result<String> {
    let look = || property(name).ok().filter(|value| wanted(value));
    poll(SOON, look).with_context(|| {
        let now = property(name).unwrap_or_default();
        let log = run(
            "journalctl",
            &["--no-pager", "--lines=40", "--unit", UNITS[1]],
        );
        format!("{name} is {now:?}\n{}", log.unwrap_or_default())
    })
}

async fn connect() -> anyhow::Result<Cri> {
    let endpoint = Endpoint::of_socket(Path::new(ADDRESS));
    Ok(Cri::new(Client::connect(endpoint, SOON).await?))
}

/// The container's process, as the machine counts.
async fn pid_of(cri: &Cri, id: &str) -> anyhow::Result<u64> {
    let info = cri.container_status_with(id, true).await?.info;
    let info: serde_json::Value = serde_json::from_str(&info["info"])?;
    info["pid"].as_u64().context("its pid")
}

/// The fourth field of `/proc/PID/stat`, behind a name in parentheses.
fn parent(pid: u64) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("its name")?;
    let parent = rest.split_whitespace().nth(1).context("its parent")?;
    Ok(parent.parse()?)
}

#[test]
#[ignore = "wants systemd: cargo xtask vm --systemd"]
fn the_packaged_units_serve_pods_that_outlive_the_daemon() {
    let _alone = super::alone();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let Err(error) = runtime.block_on(story()) {
        panic!("{error:#}");
    }
}

async fn story() -> anyhow::Result<()> {
    let installed = Installed::new()?;
    let units = UNITS.map(|unit| format!("/etc/systemd/system/{unit}"));
    assert_eq!(
        run("systemd-analyze", &["verify", &units[0], &units[1]])?,
        ""
    );

    // Who calls first starts the daemon.
    systemctl(&["start", UNITS[0]])?;
    assert_eq!(property("ActiveState")?, "inactive");
    let cri = connect().await?;
    assert_eq!(cri.version().await?.runtime_name, "longshore");
    until("ActiveState", |state| state == "active")?;
    assert_eq!(property("StatusText")?, format!("serving on {ADDRESS}"));
    assert_eq!(property("Delegate")?, "yes");
    assert_eq!(property("KillMode")?, "process");
    let first = property("MainPID")?;
    let score = fs::read_to_string(format!("/proc/{first}/oom_score_adj"))?;
    assert_eq!(score.trim(), "-999");

    let registry = Registry::serve(TcpListener::bind("127.0.0.1:0")?)?;
    let busybox = image::busybox()?.build();
    let image = cri
        .pull(&registry.push("library/busybox", "latest", &busybox))
        .await?;
    let logs = Path::new("/run/longshore/logs");
    fs::create_dir(logs)?;
    let pod = PodSettings::new("served").config(logs);
    let pod_id = cri.run_pod(pod.clone()).await?;
    let sleeper = ContainerSettings::sleeper("main").config(&image);
    let id = cri.create(&pod_id, sleeper, pod).await?;
    cri.start(&id).await?;
    let pid = pid_of(&cri, &id).await?;
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    ensure!(!cgroup.contains(UNITS[1]), "{cgroup}");
    // Nothing of the pod is in the daemon's cgroup.
    let supervisor = parent(pid)?;
    let nest = || fs::read_to_string(format!("/proc/{supervisor}/cgroup"));
    assert_eq!(nest()?, SUPERVISORS);

    // Each of the next daemons is ready by the time systemctl says so, and has the pod.
    systemctl(&["restart", UNITS[1]])?;
    let second = property("MainPID")?;
    assert_ne!(second, first);
    let cri = connect().await?;
    assert_eq!(pid_of(&cri, &id).await?, pid);
    assert_eq!(cri.sh(&id, "echo there").await?, "there\n");

    run("kill", &["-s", "KILL", &second])?;
    let third = until("MainPID", |pid| pid != "0" && pid != second)?;
    until("ActiveState", |state| state == "active")?;
    assert_eq!(property("NRestarts")?, "1");
    let cri = connect().await?;
    assert_eq!(pid_of(&cri, &id).await?, pid);

    systemctl(&["reload", UNITS[1]])?;
    assert_eq!(property("MainPID")?, third);
    assert_eq!(property("ActiveState")?, "active");

    systemctl(&["stop", UNITS[0], UNITS[1]])?;
    assert_eq!(property("Result")?, "success");
    assert_eq!(nest()?, SUPERVISORS);
    let own = Path::new("/sys/fs/cgroup/system.slice").join(UNITS[1]);
    ensure!(!own.exists(), "something is left in {}", own.display());
    ensure!(Path::new(&format!("/proc/{pid}")).exists());
    // Without the socket unit it makes its own.
    systemctl(&["start", UNITS[1]])?;
    let cri = connect().await?;
    assert_eq!(cri.sh(&id, "echo there").await?, "there\n");
    cri.stop_pod(&pod_id).await?;
    cri.remove_pod(&pod_id).await?;
    ensure!(!Path::new(&format!("/proc/{pid}")).exists());
    systemctl(&["stop", UNITS[1]])?;
    drop(installed);
    Ok(())
}
