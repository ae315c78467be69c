//! Clones a process into its namespaces.
//!
//! Only a clone gets into another PID namespace. For an existing one the caller enters it *for its children*, clones, and returns; a new one
//! is a flag of the clone, but must belong to the right user namespace: where that is an existing one, a clone in between enters it
//! and makes the real child, as its sibling.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_plan::IdMappings;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Signal, WaitId, WaitIdOptions};
use rustix::thread::ThreadNameSpaceType;
use sys::{Clone, CloneFlags};

use crate::error::{Context, Error, Stage};
use crate::handshake::{self, Order, Word};
use crate::host::Host;
use crate::namespaces::{Entries, Entry, join};
use crate::user_namespace;

/// A child in the eyes of its parent.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) handshake: OwnedFd,
}

/// The parent's end of the handshake, which a child closes: it would never see that its parent has gone.
struct Parents(Cell<Option<OwnedFd>>);

/// What a child does, in order. Each may run in a process of its own.
pub(crate) struct Story<'a> {
    /// With the caller's own rights, before any user namespace is entered.
    pub(crate) early: &'a dyn Fn() -> Result<(), Error>,
    /// In all namespaces but the cgroup namespace. Returns only once it has reported a failure.
    pub(crate) late: &'a dyn Fn(BorrowedFd<'_>),
}

/// Clones a child into new and existing namespaces and lets it tell its story.
pub(crate) fn spawn(
    host: &Host,
    entries: &Entries<'_>,
    mappings: Option<&IdMappings>,
    unified: Option<BorrowedFd<'_>>,
    story: &Story<'_>,
) -> Result<Spawned, Error> {
    let (ours, theirs) = handshake::pair().at(Stage::Prepare, "a handshake")?;
    let theirs_fd = theirs.as_fd();
    let ours = Parents(Cell::new(Some(ours)));
    let spawned = match (entries.user, entries.pid) {
        (Entry::Keep, _) => {
            let child = || {
                (story.early)()?;
                entries.join()
            };
            clone(
                host,
                entries,
                entries.new_flags(),
                unified,
                (&ours, theirs_fd),
                &child,
                story,
            )
        }
        (Entry::New, _) => {
            let child = || {
                handshake::obey(theirs_fd, Order::Mapped).at(Stage::Handshake, "its mappings")?;
                // Rights over the id 0 outside end with this.
                (story.early)()?;
                user_namespace::become_root()
            };
            let flags = entries.new_flags().with(CloneFlags::NEWUSER);
            clone(
                host,
                entries,
                flags,
                unified,
                (&ours, theirs_fd),
                &child,
                story,
            )
        }
        (Entry::Join(user), Entry::New) => {
            let between = || {
                (story.early)()?;
                enter_user_namespace(user)
            };
            clone_sibling((&ours, theirs_fd), entries, unified, &between, story)
        }
        (Entry::Join(user), Entry::Keep | Entry::Join(_)) => {
            let child = || {
                (story.early)()?;
                enter_user_namespace(user)?;
                sys::unshare(entries.new_flags()).at(Stage::MakeNamespace, "mount")?;
                entries.join()
            };
            clone(
                host,
                entries,
                CloneFlags::empty(),
                unified,
                (&ours, theirs_fd),
                &child,
                story,
            )
        }
    };
    let (pid, pidfd) = spawned?;
    drop(theirs);
    let spawned = Spawned {
        pid,
        pidfd,
        handshake: ours.0.take().expect("only a child has taken it"),
    };
    if let (Entry::New, Some(mappings)) = (entries.user, mappings) {
        let told = user_namespace::write_mappings(host, pid, mappings).and_then(|()| {
            handshake::order(spawned.handshake.as_fd(), Order::Mapped)
                .at(Stage::Handshake, "its mappings")
        });
        if let Err(error) = told {
            let _ = rustix::process::pidfd_send_signal(&spawned.pidfd, Signal::KILL);
            return Err(error);
        }
    }
    Ok(spawned)
}

fn enter_user_namespace(user: BorrowedFd<'_>) -> Result<(), Error> {
    join(user, ThreadNameSpaceType::USER, "user")?;
    user_namespace::become_root()
}

/// A child of the caller, in the PID namespace of `entries`.
fn clone(
    host: &Host,
    entries: &Entries<'_>,
    flags: CloneFlags,
    unified: Option<BorrowedFd<'_>>,
    socket: (&Parents, BorrowedFd<'_>),
    enter: &dyn Fn() -> Result<(), Error>,
    story: &Story<'_>,
) -> Result<(i32, OwnedFd), Error> {
    if let Entry::Join(pid) = entries.pid {
        join(pid, ThreadNameSpaceType::PROCESS_ID, "pid")?;
    }
    let cloned = sys::clone_process(flags, unified);
    if let Ok(Clone::Child) = cloned {
        tell(socket, enter, story);
    }
    let returned = match entries.pid {
        Entry::Join(_) => join(
            host.own_pid_namespace(),
            ThreadNameSpaceType::PROCESS_ID,
            "pid of the supervisor",
        ),
        Entry::Keep | Entry::New => Ok(()),
    };
    match cloned.at(Stage::Clone, "in its namespaces")? {
        Clone::Parent { pid, pidfd } => match returned {
            Ok(()) => Ok((pid, pidfd)),
            Err(error) => {
                let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
                Err(error)
            }
        },
        Clone::Child => sys::exit_process(1),
    }
}

/// A sibling of a process that has entered a user namespace and goes away.
fn clone_sibling(
    socket: (&Parents, BorrowedFd<'_>),
    entries: &Entries<'_>,
    unified: Option<BorrowedFd<'_>>,
    between: &dyn Fn() -> Result<(), Error>,
    story: &Story<'_>,
) -> Result<(i32, OwnedFd), Error> {
    // A line of its own: the sibling may speak on the handshake before this is read.
    let (heard, line) = handshake::pair().at(Stage::Prepare, "a handshake")?;
    let cloned = sys::clone_process(CloneFlags::empty(), unified)
        .at(Stage::Clone, "that enters its user namespace")?;
    let pidfd = match cloned {
        Clone::Parent { pidfd, .. } => pidfd,
        Clone::Child => {
            sys::exit_at_panic();
            let made = between().and_then(|()| {
                let flags = entries.new_flags().with(CloneFlags::PARENT);
                sys::clone_process(flags, None).at(Stage::Clone, "in its namespaces")
            });
            let said = match made {
                Ok(Clone::Child) => tell(socket, &|| entries.join(), story),
                Ok(Clone::Parent { pid, pidfd }) => {
                    handshake::say_clone(line.as_fd(), pid, pidfd.as_fd())
                        .at(Stage::Handshake, "its process id")
                }
                Err(error) => Err(error),
            };
            if let Err(error) = said {
                handshake::say_failed(line.as_fd(), &error);
            }
            sys::exit_process(0)
        }
    };
    drop(line);
    // A few microseconds, unless it was born into a frozen cgroup or a machine without memory.
    let in_time = wait_for(heard.as_fd(), PollFlags::IN);
    if !in_time {
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    }
    let heard = handshake::listen(heard.as_fd());
    wait_for(pidfd.as_fd(), PollFlags::IN);
    // One that cannot end yet is left to the caller, who reaps all children.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options);
    match heard? {
        Word::Clone { pid, pidfd } => Ok((pid, pidfd)),
        Word::Failed(error) => Err(error),
        Word::Console(_)
        | Word::Paused
        | Word::Created
        | Word::Going
        | Word::Listening(_)
        | Word::Nothing
        | Word::End => Err(Error::Died {
            during: "enter its user namespace",
            status: match in_time {
                true => "without a word".to_owned(),
                false => "it took too long".to_owned(),
            },
        }),
    }
}

/// Whether it happened before the caller's patience ended.
fn wait_for(descriptor: BorrowedFd<'_>, event: PollFlags) -> bool {
    let patience = Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    let mut wanted = [PollFd::new(&descriptor, event)];
    let polled = rustix::io::retry_on_intr(|| rustix::event::poll(&mut wanted, Some(&patience)));
    polled.is_ok_and(|count| count > 0)
}

/// The child's whole life before its program.
fn tell(
    (parents, socket): (&Parents, BorrowedFd<'_>),
    enter: &dyn Fn() -> Result<(), Error>,
    story: &Story<'_>,
) -> ! {
    sys::exit_at_panic();
    drop(parents.0.take());
    match enter() {
        Ok(()) => (story.late)(socket),
        Err(error) => handshake::say_failed(socket, &error),
    }
    sys::exit_process(1)
}
