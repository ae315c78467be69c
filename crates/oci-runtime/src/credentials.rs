//! From the container's root to the process that the plan describes. The last part of every child's life, and the same for an init and an exec.

use std::convert::Infallible;
use std::os::fd::{AsRawFd, BorrowedFd};

use oci_plan::{Capabilities, Habits, Process, User};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use crate::error::{Context, Error, Stage};
use crate::handshake::{self, Order};
use crate::host::Host;
use crate::listener;
use crate::program::Program;

/// The five sets, within the caller's own bounding set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl Sets {
    /// Refuses what `capset(2)` and `prctl(2)` would refuse, by the name of the field.
    pub(crate) fn within(host: &Host, wanted: Capabilities) -> Result<Self, Error> {
        let within = |set: u64| set & host.bounding() & host.permitted();
        let sets = Self {
            bounding: within(wanted.bounding),
            effective: within(wanted.effective),
            permitted: within(wanted.permitted),
            inheritable: within(wanted.inheritable),
            ambient: within(wanted.ambient),
        };
        if sets.effective & !sets.permitted != 0 {
            let reason = "has capabilities that are not in `permitted`";
            return Err(Error::refused("process.capabilities.effective", reason));
        }
        if sets.ambient & !(sets.permitted & sets.inheritable) != 0 {
            let reason = "has capabilities that are not in both `permitted` and `inheritable`";
            return Err(Error::refused("process.capabilities.ambient", reason));
        }
        Ok(sets)
    }
}

/// Takes the process's identity and runs its program. Returns only a failure.
pub(crate) fn run(
    host: &Host,
    process: &Process,
    sets: Sets,
    program: &mut Program,
    socket: BorrowedFd<'_>,
) -> Result<Infallible, Error> {
    program.complete_env(process.user.uid);
    take_habits(&process.habits)?;
    drop_bounding(host, sets.bounding)?;
    become_user(&process.user)?;
    rustix::process::chdir(&process.cwd).at(Stage::WorkingDirectory, &process.cwd)?;
    refuse_unreachable(&process.cwd)?;
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).at(Stage::Credentials, "no_new_privs")?;
    }
    let filter = process.seccomp.as_ref();
    if let (Some(filter), false) = (filter, process.no_new_privileges) {
        // Needs CAP_SYS_ADMIN, which a change to another user has just taken out of effect.
        regain()?;
        let index = program.look_up(process)?;
        handshake::say_going(socket).at(Stage::Handshake, "its program")?;
        load(filter, socket)?;
        set_capabilities(sets)?;
        return Err(program.execute(index));
    }
    set_capabilities(sets)?;
    let index = program.look_up(process)?;
    handshake::say_going(socket).at(Stage::Handshake, "its program")?;
    if let Some(filter) = filter {
        load(filter, socket)?;
    }
    Err(program.execute(index))
}

/// As early as the process is where it belongs: the kernel looks at the cgroup's own nodes.
pub(crate) fn take_memory_policy(habits: &Habits) -> Result<(), Error> {
    match &habits.memory_policy {
        Some(policy) => sys::set_memory_policy(policy.mode, &policy.nodes)
            .at(Stage::Credentials, "the memory policy"),
        None => Ok(()),
    }
}

/// While the rights for it are there.
fn take_habits(habits: &Habits) -> Result<(), Error> {
    if let Some(scheduling) = habits.scheduling {
        sys::set_scheduling(0, scheduling).at(Stage::Credentials, "the scheduling")?;
    }
    if let Some((class, level)) = habits.io_priority {
        sys::set_io_priority(0, class, level).at(Stage::Credentials, "the I/O priority")?;
    }
    match habits.personality {
        Some(persona) => sys::set_personality(persona).at(Stage::Credentials, "the personality"),
        None => Ok(()),
    }
}

fn drop_bounding(host: &Host, keep: u64) -> Result<(), Error> {
    // All that the kernel knows: a user namespace starts with a full set, whatever the caller's.
    for number in 0..=host.last_capability() {
        if keep & (1 << number) == 0 {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            rustix::thread::remove_capability_from_bounding_set(capability)
                .at(Stage::Credentials, "the bounding set of capabilities")?;
        }
    }
    Ok(())
}

fn become_user(user: &User) -> Result<(), Error> {
    rustix::process::umask(Mode::from_bits_truncate(user.umask.unwrap_or(0o022)));
    rustix::thread::set_keep_capabilities(true).at(Stage::Credentials, "keep_caps")?;
    let groups: Vec<Gid> = user
        .additional_gids
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    rustix::thread::set_thread_groups(&groups).at(Stage::Credentials, "the additional groups")?;
    let gid = Gid::from_raw(user.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .at(Stage::Credentials, format_args!("gid {}", user.gid))?;
    let uid = Uid::from_raw(user.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .at(Stage::Credentials, format_args!("uid {}", user.uid))
}

/// A directory that no path from the container's root leads to would be a way out of it (CVE-2024-21626). The kernel says so by not beginning
/// its path with a slash.
fn refuse_unreachable(cwd: &str) -> Result<(), Error> {
    match rustix::process::getcwd(Vec::new()) {
        Ok(path) if path.to_bytes().first() == Some(&b'/') => Ok(()),
        Ok(_) | Err(Errno::NOENT) => Err(Errno::XDEV).at(
            Stage::WorkingDirectory,
            format_args!("{cwd} (it is outside of the container)"),
        ),
        Err(error) => Err(error).at(Stage::WorkingDirectory, cwd),
    }
}

fn regain() -> Result<(), Error> {
    let mut now =
        rustix::thread::capabilities(None).at(Stage::Credentials, "effective capabilities")?;
    now.effective = now.permitted;
    rustix::thread::set_capabilities(None, now).at(Stage::Credentials, "effective capabilities")
}

fn set_capabilities(sets: Sets) -> Result<(), Error> {
    let set = CapabilitySet::from_bits_retain;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: set(sets.effective),
            permitted: set(sets.permitted),
            inheritable: set(sets.inheritable),
        },
    )
    .at(Stage::Credentials, "capabilities")?;
    rustix::thread::clear_ambient_capability_set()
        .at(Stage::Credentials, "ambient capabilities")?;
    for number in (0..64).filter(|number| sets.ambient & (1 << number) != 0) {
        rustix::thread::configure_capability_in_ambient_set(set(1 << number), true)
            .at(Stage::Credentials, "ambient capabilities")?;
    }
    Ok(())
}

fn load(filter: &oci_plan::Seccomp, socket: BorrowedFd<'_>) -> Result<(), Error> {
    let instructions = filter.program.len() / 8;
    let subject = format_args!("of {instructions} instructions");
    if filter.flags & listener::TELL == 0 {
        return sys::load_filter(&filter.program, filter.flags).at(Stage::Seccomp, subject);
    }
    let watched = listener::watched(&filter.program);
    let descriptor =
        sys::load_filter_listening(&watched, filter.flags).at(Stage::Seccomp, subject)?;
    handshake::say_listening(socket, descriptor.as_raw_fd())
        .and_then(|()| handshake::obey_filtered(socket, Order::Listening))
        .at(Stage::Handshake, "its listener")?;
    // It closes with the next program, and close(2) may be a call that is denied.
    std::mem::forget(descriptor);
    Ok(())
}
