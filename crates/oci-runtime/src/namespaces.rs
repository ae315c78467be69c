//! Where each namespace of a container comes from, with plan and pod looked up.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_plan::{ClockOffset, ContainerPlan, NamespaceSource};
use rustix::fs::{Mode, OFlags};
use rustix::thread::ThreadNameSpaceType;
use sys::CloneFlags;

use crate::error::{Context, Error, Stage};
use crate::host::Host;
use crate::pod::PodHandles;
use crate::slots::Slots;

/// What a child does about one namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Entry<'a> {
    /// Stays in the caller's.
    Keep,
    New,
    /// A descriptor of the namespace, or a pidfd of a process in it.
    Join(BorrowedFd<'a>),
}

#[derive(Debug)]
pub(crate) struct Entries<'a> {
    pub(crate) pid: Entry<'a>,
    pub(crate) net: Entry<'a>,
    pub(crate) ipc: Entry<'a>,
    pub(crate) uts: Entry<'a>,
    pub(crate) user: Entry<'a>,
    pub(crate) cgroup: Entry<'a>,
    pub(crate) time: Time<'a>,
    /// An existing mount namespace in place of a new one.
    pub(crate) mount: Option<BorrowedFd<'a>>,
}

/// The time namespace, which no clone makes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Time<'a> {
    Keep,
    New(&'a [ClockOffset]),
    Join(BorrowedFd<'a>),
}

/// Finds the pidfd of another container of the pod.
pub(crate) type Targets<'t, 'a> = &'t dyn Fn(&str) -> Option<BorrowedFd<'a>>;

impl<'a> Entries<'a> {
    pub(crate) fn resolve(
        plan: &'a ContainerPlan,
        slots: Slots<'a>,
        pod: &'a PodHandles,
        targets: Targets<'_, 'a>,
    ) -> Result<Self, Error> {
        let namespaces = &plan.namespaces;
        let entry = |name: &str, source: &NamespaceSource, pinned: Option<&'a OwnedFd>| {
            let field = || format!("namespaces.{name}");
            Ok(match source {
                NamespaceSource::Host => Entry::Keep,
                NamespaceSource::New => Entry::New,
                NamespaceSource::Pod => Entry::Join(
                    pinned
                        .ok_or_else(|| Error::refused(field(), "the pod has none of its own"))?
                        .as_fd(),
                ),
                NamespaceSource::Container(id) => {
                    Entry::Join(targets(id).ok_or_else(|| Error::NoSuchContainer {
                        field: field(),
                        id: id.clone(),
                    })?)
                }
                NamespaceSource::Fd(slot) => Entry::Join(slots.get(*slot, &field())?),
            })
        };
        Ok(Self {
            pid: entry("pid", &namespaces.pid, pod.pid.as_ref())?,
            net: entry("net", &namespaces.net, pod.net.as_ref())?,
            ipc: entry("ipc", &namespaces.ipc, pod.ipc.as_ref())?,
            uts: entry("uts", &namespaces.uts, pod.uts.as_ref())?,
            user: entry("user", &namespaces.user, pod.user.as_ref())?,
            cgroup: entry("cgroup", &namespaces.cgroup, None)?,
            time: match (&plan.alone.time, plan.alone.time_namespace) {
                (_, Some(slot)) => Time::Join(slots.get(slot, "namespaces.time")?),
                (Some(offsets), None) => Time::New(offsets),
                (None, None) => Time::Keep,
            },
            mount: match plan.alone.mount_namespace {
                Some(slot) => Some(slots.get(slot, "namespaces.mount")?),
                None => None,
            },
        })
    }

    /// New ones that `clone3(2)` or `unshare(2)` makes: the mount namespace unless one is given, the cgroup namespace never (its root is the cgroup at that
    /// moment, which is not the right one yet).
    pub(crate) fn new_flags(&self) -> CloneFlags {
        let mut flags = match self.mount {
            Some(_) => CloneFlags::empty(),
            None => CloneFlags::NEWNS,
        };
        for (entry, flag) in [
            (self.net, CloneFlags::NEWNET),
            (self.ipc, CloneFlags::NEWIPC),
            (self.uts, CloneFlags::NEWUTS),
            (self.pid, CloneFlags::NEWPID),
        ] {
            if matches!(entry, Entry::New) {
                flags = flags.with(flag);
            }
        }
        flags
    }

    /// In the child: enters the existing ones, which must be done with rights over them.
    pub(crate) fn join(&self) -> Result<(), Error> {
        for (entry, kind, name) in [
            (self.net, ThreadNameSpaceType::NETWORK, "net"),
            (
                self.ipc,
                ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
                "ipc",
            ),
            (
                self.uts,
                ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
                "uts",
            ),
        ] {
            if let Entry::Join(descriptor) = entry {
                join(descriptor, kind, name)?;
            }
        }
        if let Some(mount) = self.mount {
            join(mount, ThreadNameSpaceType::MOUNT, "mnt")?;
        }
        Ok(())
    }

    /// In the child, with rights over the namespace. A new one is entered by way of its file: `unshare(2)` makes it for children, and its offsets
    /// can be set only while nobody is in it.
    pub(crate) fn enter_time_namespace(&self, host: &Host) -> Result<(), Error> {
        let offsets = match self.time {
            Time::Keep => return Ok(()),
            Time::Join(descriptor) => return join(descriptor, ThreadNameSpaceType::TIME, "time"),
            Time::New(offsets) => offsets,
        };
        sys::unshare(CloneFlags::NEWTIME).at(Stage::MakeNamespace, "time")?;
        let open = |path: &str, flags| {
            rustix::fs::openat(host.proc(), path, flags | OFlags::CLOEXEC, Mode::empty())
        };
        for ClockOffset {
            clock,
            seconds,
            nanoseconds,
        } in offsets
        {
            let line = format!("{clock} {seconds} {nanoseconds}\n");
            open("self/timens_offsets", OFlags::WRONLY)
                .and_then(|file| rustix::io::write(&file, line.as_bytes()))
                .at(Stage::MakeNamespace, format_args!("time ({})", line.trim()))?;
        }
        let new = open("self/ns/time_for_children", OFlags::RDONLY)
            .at(Stage::MakeNamespace, "time (open it)")?;
        join(new.as_fd(), ThreadNameSpaceType::TIME, "time")
    }

    /// In the child, once it is in its cgroups.
    pub(crate) fn enter_cgroup_namespace(&self) -> Result<(), Error> {
        match self.cgroup {
            Entry::Keep => Ok(()),
            Entry::New => sys::unshare(CloneFlags::NEWCGROUP).at(Stage::MakeNamespace, "cgroup"),
            Entry::Join(descriptor) => {
                join(descriptor, ThreadNameSpaceType::CONTROL_GROUP, "cgroup")
            }
        }
    }
}

/// `setns(2)` with a descriptor of a namespace, or a pidfd.
pub(crate) fn join(
    descriptor: BorrowedFd<'_>,
    kind: ThreadNameSpaceType,
    name: &str,
) -> Result<(), Error> {
    rustix::thread::move_into_thread_name_spaces(descriptor, kind).at(Stage::JoinNamespace, name)
}
