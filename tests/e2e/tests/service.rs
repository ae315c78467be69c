//! The daemon as a service: what its manager hears and hands over, where supervisors live, who may serve what.

use std::{
    fs,
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixListener},
    },
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use cri::client::{Client, Endpoint};
use e2e::{ContainerSettings, Cri, Host, PodSettings, scenario};
use testkit::{
    daemon::binary,
    sandbox::{Sandbox, poll},
};

const SOON: Duration = Duration::from_secs(90);

/// A daemon with places of its own, in the host's sandbox; killed when dropped, like everything there.
struct Another {
    nsenter: Child,
    log: PathBuf,
}

impl Another {
    /// `launch` is shell: variables before, redirections after.
    fn start(
        host: &Host,
        launch: [&str; 2],
        flags: &[String],
        stdin: Stdio,
    ) -> anyhow::Result<Self> {
        let directory = host.sandbox.directory();
        let log = directory.join("another.log");
        let file = fs::File::create(&log)?;
        let script = format!(
            "{} exec {} --config={} {} {}",
            launch[0],
            binary("longshored")?.display(),
            directory.join("config.toml").display(),
            flags.join(" "),
            launch[1],
        );
        let nsenter = host
            .sandbox
            .command("bash")
            .args(["-c", &script])
            .stdin(stdin)
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        Ok(Self { nsenter, log })
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn client(&mut self, socket: &Path) -> anyhow::Result<Client> {
        let end = tokio::time::Instant::now() + SOON;
        loop {
            match Client::connect(Endpoint::of_socket(socket), Duration::from_secs(5)).await {
                Ok(client) => return Ok(client),
                Err(error) => {
                    let ended = self.nsenter.try_wait()?;
                    let over = ended.is_some() || tokio::time::Instant::now() > end;
                    ensure!(!over, "{error}: {ended:?}: {}", self.log());
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends by itself or after SIGTERM; whether it was content.
    fn ended(&mut self) -> anyhow::Result<bool> {
        let status = poll(SOON, || self.nsenter.try_wait().ok().flatten());
        Ok(status.context("it does not end")?.success())
    }
}

impl Drop for Another {
    fn drop(&mut self) {
        // A process of the sandbox; it ends with it at the latest.
        let _gone = self.nsenter.kill();
        let _gone = self.nsenter.wait();
    }
}

fn flags(directory: &Path, state: &Path) -> Vec<String> {
    vec![
        format!("--root={}", directory.join("lib").display()),
        format!("--state={}", state.display()),
    ]
}

fn daemons(sandbox: &Sandbox) -> Vec<u32> {
    let all = sandbox.processes().into_iter();
    all.filter(|process| process.name == "longshored")
        .map(|process| process.pid)
        .collect()
}

#[test]
fn a_second_daemon_on_the_same_places_refuses_to_start() {
    scenario(async |host| {
        let directory = host.sandbox.directory().to_owned();
        let elsewhere = directory.join("elsewhere");
        let pid = daemons(&host.sandbox)[0];
        let state = Path::new("/run/longshore");
        let other_root = format!("--root={}", elsewhere.join("lib").display());
        for (flags, said) in [
            (
                flags(&directory, state),
                format!("another longshored (process {pid}) serves /run/longshore"),
            ),
            (
                vec![other_root.clone(), "--state=/run/longshore".to_owned()],
                format!("another longshored (process {pid}) serves /run/longshore"),
            ),
            (
                flags(&directory, &elsewhere),
                format!(
                    "another longshored (process {pid}) serves {}",
                    directory.join("lib").display()
                ),
            ),
            (
                vec![
                    other_root.clone(),
                    format!("--state={}", elsewhere.display()),
                    "--address=/run/longshore/longshore.sock".to_owned(),
                ],
                "somebody serves /run/longshore/longshore.sock already".to_owned(),
            ),
            (
                vec![
                    other_root,
                    format!("--state={}", elsewhere.join("lib").display()),
                ],
                format!(
                    "root and state are one directory, {}",
                    elsewhere.join("lib").display()
                ),
            ),
        ] {
            let mut second = Another::start(host, ["", ""], &flags, Stdio::null())?;
            assert!(!second.ended()?);
            assert!(second.log().contains(&said), "{said}: {}", second.log());
            // The first one is none the worse.
            host.cri.version().await?;
        }
        Ok(())
    });
}

#[test]
fn a_state_path_may_be_longer_than_a_socket_address() {
    scenario(async |host| {
        host.daemon.kill();
        let directory = host.sandbox.directory().to_owned();
        let state = directory.join("x".repeat(90)).join("y".repeat(90));
        let long = flags(&directory, &state);
        let socket = state.join("longshore.sock");
        let start = |host: &Host| Another::start(host, ["", ""], &long, Stdio::null());
        let mut daemon = start(host)?;
        host.cri = Cri::new(daemon.client(&socket).await?);
        let pod = PodSettings::new("deep");
        let id = host.run_pod(&pod).await?;
        let container = host
            .run(&id, &pod, &ContainerSettings::sleeper("a"))
            .await?;

        // The next daemon finds supervisor and socket there, though this one was killed.
        host.sandbox.kill("KILL", &daemons(&host.sandbox))?;
        daemon.ended()?;
        let mut daemon = start(host)?;
        host.cri = Cri::new(daemon.client(&socket).await?);
        assert_eq!(host.cri.sh(&container, "echo there").await?, "there\n");

        // The operator's command takes such a path too.
        let command = binary("longshore")?;
        let endpoint = format!("unix://{}", socket.display());
        let listed = host
            .sandbox
            .sh(&format!("{} -r {endpoint} pods -q", command.display()))?;
        assert!(listed.contains(&id[..13]), "{listed}");

        host.cri.stop_pod(&id).await?;
        host.cri.remove_pod(&id).await?;
        host.sandbox.kill("TERM", &daemons(&host.sandbox))?;
        assert!(daemon.ended()?, "{}", daemon.log());
        assert!(!socket.exists());
        host.start_daemon().await
    });
}

#[test]
fn the_service_manager_hears_of_everything() {
    scenario(async |host| {
        host.daemon.kill();
        let directory = host.sandbox.directory().to_owned();
        let heard = directory.join("notify");
        let manager = UnixDatagram::bind(&heard)?;
        manager.set_read_timeout(Some(SOON))?;
        let next = |wanted: &str| -> anyhow::Result<String> {
            let mut buffer = [0; 4096];
            loop {
                let count = manager
                    .recv(&mut buffer)
                    .with_context(|| format!("hear {wanted}"))?;
                let message = String::from_utf8_lossy(&buffer[..count]).into_owned();
                if message.split('\n').any(|line| line.starts_with(wanted)) {
                    return Ok(message);
                }
            }
        };
        let launch = format!("NOTIFY_SOCKET={} WATCHDOG_USEC=200000", heard.display());
        let state = directory.join("state");
        let flags = flags(&directory, &state);
        let mut daemon = Another::start(host, [&launch, ""], &flags, Stdio::null())?;
        next("STATUS=taking over")?;
        let ready = next("READY=1")?;
        let socket = state.join("longshore.sock");
        assert!(ready.contains(&format!("STATUS=serving on {}", socket.display())));
        // Whoever is told so can connect.
        Client::connect(Endpoint::of_socket(&socket), SOON).await?;
        next("WATCHDOG=1")?;
        next("WATCHDOG=1")?;

        host.sandbox.kill("HUP", &daemons(&host.sandbox))?;
        let reloading = next("RELOADING=1")?;
        let since_boot = reloading.split("MONOTONIC_USEC=").nth(1).unwrap();
        assert!(since_boot.trim().parse::<u64>()? > 0);
        next("READY=1")?;

        host.sandbox.kill("TERM", &daemons(&host.sandbox))?;
        next("STOPPING=1")?;
        assert!(daemon.ended()?, "{}", daemon.log());
        host.start_daemon().await
    });
}

#[test]
fn a_socket_that_is_handed_over_is_served_and_left() {
    scenario(async |host| {
        host.daemon.kill();
        let directory = host.sandbox.directory().to_owned();
        let socket = directory.join("handed-over.sock");
        let listener = OwnedFd::from(UnixListener::bind(&socket)?);
        // A client that is early is served once the daemon is there.
        let early = std::os::unix::net::UnixStream::connect(&socket)?;
        let mut daemon = Another::start(
            host,
            ["LISTEN_PID=$$ LISTEN_FDS=1", "3<&0 </dev/null"],
            &flags(&directory, &directory.join("state")),
            listener.into(),
        )?;
        let client = daemon.client(&socket).await?;
        let version = Cri::new(client).version().await?;
        assert_eq!(version.runtime_name, "longshore");
        drop(early);
        host.sandbox.kill("TERM", &daemons(&host.sandbox))?;
        assert!(daemon.ended()?, "{}", daemon.log());
        assert!(socket.exists());
        host.start_daemon().await
    });
}

/// The cgroup of a process in each hierarchy.
fn cgroups(host: &Host, pid: u32) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(host.sandbox.view(format!("/proc/{pid}/cgroup")))?;
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    Ok(paths.map(str::to_owned).collect())
}

#[test]
fn supervisors_live_in_a_cgroup_of_their_own() {
    scenario(async |host| {
        let home = format!("{}/supervisors", host.sandbox.cgroup());
        for round in ["first", "second"] {
            let pod = PodSettings::new(round);
            let id = host.run_pod(&pod).await?;
            let container = host
                .run(&id, &pod, &ContainerSettings::sleeper("a"))
                .await?;
            let supervisors = host.supervisors();
            assert_eq!(supervisors.len(), 1);
            let all = host.sandbox.processes();
            let own = all.iter().filter(|process| {
                let ours = process.name.starts_with("longshore-");
                ours && [process.pid, process.parent].contains(&supervisors[0].pid)
            });
            let mut count = 0;
            for process in own {
                // Its log process too; the pod's init and containers are in the pod's.
                let cgroups = cgroups(host, process.pid)?;
                assert!(
                    cgroups.iter().all(|path| *path == home),
                    "{process:?}: {cgroups:?}"
                );
                count += 1;
            }
            assert!(count >= 1);
            let inside = host.cri.sh(&container, "cat /proc/self/cgroup").await?;
            assert!(!inside.contains("supervisors"), "{inside}");
            host.cri.stop_pod(&id).await?;
            host.cri.remove_pod(&id).await?;
            // Somebody tidies up between the rounds, once the supervisor has ended.
            let tidy = format!("find /sys/fs/cgroup -path '*{home}' -type d -delete");
            poll(SOON, || host.sandbox.sh(&tidy).ok()).context("remove the empty cgroup")?;
        }
        // Back for the comparison of before and after.
        host.restart_daemon().await
    });
}

#[test]
fn nobody_inherits_the_daemons_oom_score() {
    scenario(async |host| {
        let pid = host.daemon.pid().context("the daemon runs")?;
        let score = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
        // Higher, because lower takes a capability; the way down is the same.
        fs::write(score, "400")?;
        let pod = PodSettings::new("scores");
        let id = host.run_pod(&pod).await?;
        for (name, asked) in [("plain", 0), ("asked", 321)] {
            let container = ContainerSettings::sleeper(name).edited(move |config| {
                let linux = config.linux.get_or_insert_default();
                linux.resources.get_or_insert_default().oom_score_adj = asked;
            });
            let container = host.run(&id, &pod, &container).await?;
            let exec = host.cri.sh(
                &container,
                "cat /proc/self/oom_score_adj /proc/1/oom_score_adj",
            );
            assert_eq!(exec.await?, format!("{asked}\n{asked}\n"));
        }
        for supervisor in host.supervisors() {
            let path = host
                .sandbox
                .view(format!("/proc/{}/oom_score_adj", supervisor.pid));
            let score: i32 = fs::read_to_string(path)?.trim().parse()?;
            // −998 where that is permitted.
            assert!(score <= 0, "{score}");
        }
        Ok(())
    });
}
