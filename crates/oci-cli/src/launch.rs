//! Making a container, as `create` and `run` both do.
//!
//! ```text
//!  directory ─▶ record ─▶ cgroup ─▶ init ─▶ (hooks) ─▶ created
//! ```
//!
//! Each step has its trace in the record before it is taken, so that `delete --force` finds what a command that was killed has left; what fails
//! here is undone here.

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use cgroup::Cgroup;
use oci_runtime::{ChildStdio, Host, Launch, Pause, Placement, PodHandles, Progress, Standalone};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{WaitId, WaitIdOptions};

use crate::arguments::Create;
use crate::bundle::{Bundle, Prepared};
use crate::descriptors;
use crate::hooks::{self, Stage};
use crate::log::{self, Log};
use crate::record::{Init, Record, Status};
use crate::state::{State, annotations};
use crate::store::{GATE, Held, Place, Store};

/// How long the processes of a container may take to go once they are killed.
const END: Duration = Duration::from_secs(5);

/// How long init may say nothing before it is looked whether it can.
const BETWEEN_LOOKS: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// A container whose init waits at its gate.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) place: Place,
    pub(crate) record: Record,
    pub(crate) bundle: Bundle,
    pub(crate) held: Held,
    pub(crate) init: OwnedFd,
    pub(crate) console: Option<OwnedFd>,
}

/// Makes the container of a bundle. Nothing of it stays where that fails.
pub(crate) fn make(
    store: &Store,
    given: &Create,
    bundle: Bundle,
    log: &mut Log,
) -> anyhow::Result<Made> {
    let preserved = descriptors::preserved(given.preserve_fds)?;
    let (place, held) = store.make(&given.id)?;
    match make_in(&place, given, &bundle, preserved, log) {
        Ok((record, init, console)) => Ok(Made {
            place,
            record,
            bundle,
            held,
            init,
            console,
        }),
        Err(error) => {
            // The first error is the one to tell.
            let _ = place.remove();
            Err(error)
        }
    }
}

fn make_in(
    place: &Place,
    given: &Create,
    bundle: &Bundle,
    preserved: u32,
    log: &mut Log,
) -> anyhow::Result<(Record, OwnedFd, Option<OwnedFd>)> {
    let host = Host::open()?;
    let mut prepared = bundle.prepare(&given.id)?;
    if descriptors::listening() > 0 {
        let env = &mut prepared.plan.process.env;
        env.push(format!("LISTEN_FDS={}", descriptors::listening()));
        env.push("LISTEN_PID=1".to_owned());
    }
    let mut record = Record {
        version: bundle.spec.version().clone(),
        bundle: bundle.path.clone(),
        rootfs: bundle.rootfs.clone(),
        created: log::rfc3339(SystemTime::now()),
        cgroup: prepared.plan.cgroup.clone(),
        annotations: annotations(&bundle.spec),
        own_pid_namespace: prepared.plan.namespaces.pid == oci_plan::NamespaceSource::New,
        init: None,
    };
    place.keep_spec(&bundle.spec)?;
    place.keep(&record)?;
    log.debug(&format!("making cgroup {}", prepared.plan.cgroup));
    let cgroup = make_cgroup(&host, &prepared, log)?;
    log.debug("cloning its init");
    let made = launch(
        &host,
        place,
        given,
        bundle,
        &prepared,
        &cgroup,
        preserved,
        &mut record,
    );
    if made.is_err() {
        // As above.
        let _ = cgroup.kill_all();
        let _ = cgroup.wait_empty(END);
        let _ = cgroup.remove();
    }
    let (init, console) = made?;
    if let Some(init) = record.init {
        log.debug(&format!("process {} waits for its start", init.pid));
    }
    Ok((record, init, console))
}

/// One that is there already is limited all the same, and whoever made it removes it.
fn make_cgroup(host: &Host, prepared: &Prepared, log: &mut Log) -> anyhow::Result<Cgroup> {
    let (path, resources) = (&prepared.plan.cgroup, &prepared.plan.resources);
    let existed = host.hierarchies().exists(path)?;
    let cgroup = host.hierarchies().ensure(path, resources)?;
    if existed {
        if cgroup.is_frozen()? {
            // Where it was not in every hierarchy.
            let _ = cgroup.remove();
            bail!("{}", frozen(path));
        }
        let others = cgroup.processes(true)?.len();
        if others > 0 {
            log.warn(&format!(
                "container's cgroup is not empty: {others} process(es) in {path}, which will be limited, and killed, with it"
            ));
        }
        cgroup.update(resources)?;
    }
    Ok(cgroup)
}

/// Nobody gets anywhere there: its maker would wait for init for as long as it is so. The first words are runc's.
fn frozen(path: &str) -> String {
    format!("container's cgroup unexpectedly frozen: thaw {path}, or what it is below")
}

#[expect(clippy::too_many_arguments, reason = "each is another owner's")]
fn launch(
    host: &Host,
    place: &Place,
    given: &Create,
    bundle: &Bundle,
    prepared: &Prepared,
    cgroup: &Cgroup,
    preserved: u32,
    record: &mut Record,
) -> anyhow::Result<(OwnedFd, Option<OwnedFd>)> {
    let gate = listen(place)?;
    let (tasks, unified) = (cgroup.attach_fds()?, cgroup.unified_dir()?);
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let here = hooks::of(&bundle.spec, Stage::CreateRuntime);
    let inside = hooks::of(&bundle.spec, Stage::CreateContainer);
    let at = bundle
        .rootfs
        .to_str()
        .context("the root's path is not UTF-8")?;
    let pause = (!here.is_empty() || !inside.is_empty()).then_some(Pause { host: None, at });
    let mut launch = Launch::standalone(
        host,
        &prepared.plan,
        &prepared.descriptors,
        &PodHandles::default(),
        &|_| None,
        Placement {
            tasks: &tasks,
            unified: unified.as_ref().map(OwnedFd::as_fd),
        },
        ChildStdio {
            stdin: Some(stdin.as_fd()),
            stdout: Some(stdout.as_fd()),
            stderr: Some(stderr.as_fd()),
        },
        pause,
        Standalone {
            gate: Some(gate.as_fd()),
            preserved,
            no_pivot: given.no_pivot,
            keep_keyring: given.no_new_keyring,
        },
    )?;
    let made = see_through(&mut launch, cgroup, |launch| {
        record.init = Some(Init::of(launch.pid())?);
        let state = State::at(place, record, Status::Creating).json();
        hooks::run(&here, Stage::CreateRuntime, &state)?;
        hooks::run_inside(
            &inside,
            Stage::CreateContainer,
            &state,
            host,
            launch.pidfd(),
            &bundle.spec,
        )
    })
    .and_then(|console| {
        record.init = Some(Init::of(launch.pid())?);
        place.keep(record)?;
        if let Some(path) = &given.pid_file {
            write_pid(path, launch.pid())?;
        }
        Ok(console)
    });
    match made {
        Ok(console) => Ok((launch.leave(), console)),
        Err(error) => {
            let pidfd = launch.into_pidfd();
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            Err(error)
        }
    }
}

/// Until it is created, or stands still in its cgroup. `paused` is called where init waits before its root.
fn see_through(
    launch: &mut Launch,
    cgroup: &Cgroup,
    mut paused: impl FnMut(&Launch) -> anyhow::Result<()>,
) -> anyhow::Result<Option<OwnedFd>> {
    loop {
        match launch.advance()? {
            Progress::Created { console } => return Ok(console),
            Progress::Paused => {
                paused(launch)?;
                launch.resume()?;
            }
            Progress::Pending | Progress::Listening(_) | Progress::Started { .. } => {
                let handshake = launch.handshake();
                let mut said = [PollFd::new(&handshake, PollFlags::IN)];
                let ready = rustix::io::retry_on_intr(|| {
                    rustix::event::poll(&mut said, Some(&BETWEEN_LOOKS))
                })?;
                if ready == 0 && cgroup.is_frozen()? {
                    bail!("{}", frozen(cgroup.path()));
                }
            }
        }
    }
}

/// By way of a descriptor: the path may be longer than a socket's address.
fn listen(place: &Place) -> anyhow::Result<OwnedFd> {
    let directory = place.open()?;
    let gate = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::bind(&gate, &address(&directory)?).context("make the gate")?;
    rustix::net::listen(&gate, 1)?;
    Ok(gate)
}

/// A connection to the gate of a container.
pub(crate) fn come_to_gate(place: &Place) -> anyhow::Result<OwnedFd> {
    let directory = place.open()?;
    let connection = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&connection, &address(&directory)?).context("come to the gate")?;
    Ok(connection)
}

fn address(directory: &OwnedFd) -> anyhow::Result<SocketAddrUnix> {
    let path = format!("/proc/self/fd/{}/{GATE}", directory.as_raw_fd());
    Ok(SocketAddrUnix::new(path)?)
}

/// Whole or not at all: somebody may wait for it.
pub(crate) fn write_pid(path: &Path, pid: i32) -> anyhow::Result<()> {
    let describe = || format!("write --pid-file {}", path.display());
    let name = path.file_name().with_context(describe)?;
    let new = path.with_file_name(format!(".{}", name.to_string_lossy()));
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o644)
        .open(&new)
        .with_context(describe)?;
    file.write_all(pid.to_string().as_bytes())
        .and_then(|()| fs::rename(&new, path))
        .with_context(describe)
}
