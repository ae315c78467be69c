//! `exec`: a further process in a container, confined as the specification says or as a file of its own does.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, bail, ensure};
use cgroup::Cgroup;
use oci_runtime::{ChildStdio, ExecPlan, Host, Launch, Placement, Progress, Standalone};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process, Spec, User};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};

use crate::arguments::Exec;
use crate::foreground::Foreground;
use crate::launch::write_pid;
use crate::log::Log;
use crate::record::{Record, Status};
use crate::store::Store;
use crate::{bundle, console, descriptors};

/// Runs a program in a container; unless it is detached, ends as that does.
pub(crate) fn exec(store: &Store, given: &Exec, log: &mut Log) -> anyhow::Result<u8> {
    let preserved = descriptors::preserved(given.preserve_fds)?;
    let place = store.find(&given.id)?;
    let record = place.made()?;
    match record.status(&place) {
        Status::Created | Status::Running => {}
        Status::Paused if given.ignore_paused => {}
        Status::Paused => bail!(
            "cannot exec in a paused container: resume {}, or use --ignore-paused",
            given.id
        ),
        status @ (Status::Creating | Status::Stopped) => bail!(
            "container {} is not running: it is {}",
            given.id,
            status.name()
        ),
    }
    let spec = place.spec()?;
    let process = process(&spec, given)?;
    let terminal = process.terminal() == Some(true);
    console::check(given.console_socket.as_deref(), terminal, given.detach)?;
    let linux = spec.linux().as_ref();
    let plan = oci_plan::spec::process(&process, linux, bundle::seccomp(linux)?)?;
    let foreground = match given.detach {
        true => None,
        false => Some(Foreground::begin()?),
    };
    let host = Host::open()?;
    let init = record.init.and_then(crate::record::Init::open);
    let init = init.context("the container has ended")?;
    let cgroup = record.cgroup()?;
    let (tasks, unified) = placement(&cgroup, &record, given)?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let launch = Launch::standalone_exec(
        &host,
        ExecPlan {
            process: &plan,
            container: init.as_fd(),
        },
        Placement {
            tasks: &tasks,
            unified: unified.as_ref().map(OwnedFd::as_fd),
        },
        ChildStdio {
            stdin: Some(stdin.as_fd()),
            stdout: Some(stdout.as_fd()),
            stderr: Some(stderr.as_fd()),
        },
        Standalone {
            preserved,
            ..Standalone::NONE
        },
    )?;
    log.debug("its process is cloned");
    let (launch, mut console) = started(launch)?;
    log.debug(&format!("process {} runs its program", launch.pid()));
    if let Some(path) = &given.pid_file {
        write_pid(path, launch.pid())?;
    }
    if let (Some(master), Some(socket)) = (&console, &given.console_socket) {
        console::send(master, socket)?;
    }
    let pidfd = launch.into_pidfd();
    match foreground {
        Some(foreground) => foreground.stay(&pidfd, console.take()),
        None => Ok(0),
    }
}

fn started(mut launch: Launch) -> anyhow::Result<(Launch, Option<OwnedFd>)> {
    loop {
        match launch.advance()? {
            Progress::Started { console } => return Ok((launch, console)),
            Progress::Pending
            | Progress::Listening(_)
            | Progress::Paused
            | Progress::Created { .. } => {
                let handshake = launch.handshake();
                let mut said = [PollFd::new(&handshake, PollFlags::IN)];
                rustix::io::retry_on_intr(|| rustix::event::poll(&mut said, None))?;
            }
        }
    }
}

/// The container's cgroup, or the one below it that was named. Where v1 limits and v2 is not in sight the caller's v2 one stays.
fn placement(
    cgroup: &Cgroup,
    record: &Record,
    given: &Exec,
) -> anyhow::Result<(Vec<OwnedFd>, Option<OwnedFd>)> {
    let Some(below) = &given.cgroup else {
        return Ok((cgroup.attach_fds()?, cgroup.unified_dir()?));
    };
    let below = below.trim_matches('/');
    ensure!(
        !below.is_empty() && !below.split('/').any(|part| ["", ".", ".."].contains(&part)),
        "--cgroup {below:?}: name one below the container's"
    );
    let tasks = cgroup.attach_fds()?;
    let Some(unified) = cgroup.unified_dir()? else {
        return Ok((tasks, None));
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(&unified, below, flags, Mode::empty())
        .with_context(|| format!("open cgroup {}/{below}", record.cgroup))?;
    Ok((tasks, Some(directory)))
}

/// As `--process` has it; else the container's own, changed by the other options.
fn process(spec: &Spec, given: &Exec) -> anyhow::Result<Process> {
    if let Some(path) = &given.process {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let mut process: Process =
            process_of(&text).with_context(|| format!("understand {}", path.display()))?;
        without_label(&mut process);
        return Ok(process);
    }
    ensure!(!given.args.is_empty(), "no program is named");
    let mut process = spec.process().clone().context("process is missing")?;
    process
        .set_args(Some(given.args.clone()))
        .set_terminal(Some(given.tty))
        .set_console_size(None);
    if let Some(cwd) = &given.cwd {
        process.set_cwd(cwd.clone());
    }
    let env = process.env_mut().get_or_insert_default();
    for entry in &given.env {
        let name = entry.split('=').next().unwrap_or_default();
        env.retain(|old| old.split('=').next() != Some(name));
        env.push(entry.clone());
    }
    if let Some(user) = &given.user {
        process.set_user(parse_user(user)?);
    }
    if !given.additional_gids.is_empty() {
        let groups = Some(given.additional_gids.clone());
        process.user_mut().set_additional_gids(groups);
    }
    if given.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = &given.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &given.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    for name in &given.cap {
        let capability: Capability = name
            .parse()
            .ok()
            .with_context(|| format!("--cap {name:?} is no capability"))?;
        add(&mut process, capability);
    }
    Ok(process)
}

/// One that names no user is root's, as runc has it.
fn process_of(text: &[u8]) -> serde_json::Result<Process> {
    let mut given: serde_json::Value = serde_json::from_slice(text)?;
    if let Some(fields) = given.as_object_mut() {
        let root = || serde_json::json!({ "uid": 0, "gid": 0 });
        fields.entry("user").or_insert_with(root);
    }
    serde_json::from_value(given)
}

fn without_label(process: &mut Process) {
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        process.set_selinux_label(None);
    }
}

/// `UID[:GID]`; names are the image's affair.
fn parse_user(text: &str) -> anyhow::Result<User> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
    let number = |part: &str| {
        part.parse::<u32>()
            .with_context(|| format!("--user {text:?}: use UID or UID:GID"))
    };
    let mut user = User::default();
    user.set_uid(number(uid)?);
    user.set_gid(number(gid)?);
    Ok(user)
}

fn add(process: &mut Process, capability: Capability) {
    let mut sets = process.capabilities().clone().unwrap_or_else(|| {
        let mut none = LinuxCapabilities::default();
        let empty = || Some(Capabilities::new());
        none.set_bounding(empty())
            .set_effective(empty())
            .set_inheritable(empty())
            .set_permitted(empty())
            .set_ambient(empty());
        none
    });
    let with = |set: &Option<Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.insert(capability);
        Some(set)
    };
    let (bounding, effective) = (with(sets.bounding()), with(sets.effective()));
    let permitted = with(sets.permitted());
    sets.set_bounding(bounding)
        .set_effective(effective)
        .set_permitted(permitted);
    process.set_capabilities(Some(sets));
}
