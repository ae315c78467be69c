use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_plan::{CONTEXT, IdMappings, SandboxPlan};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions};
use rustix::thread::ThreadNameSpaceType;
use sys::{Clone, CloneFlags};

use crate::error::{Context, Error, Stage};
use crate::handshake::{self, Order, Word};
use crate::host::Host;
use crate::init::start_afresh;
use crate::namespaces::join;
use crate::rootfs::{Filesystem, attach};
use crate::user_namespace::{become_root, open_namespace, outside, write_mappings};
use crate::{pod_init, sysctls};

/// How long the pod's first process may take. It waits for nobody; a machine out of memory may be slow.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// The namespaces that a pod's containers share, pinned by descriptors. `None`: the host's.
#[derive(Debug, Default)]
pub struct PodHandles {
    pub net: Option<OwnedFd>,
    pub ipc: Option<OwnedFd>,
    pub uts: Option<OwnedFd>,
    pub pid: Option<OwnedFd>,
    pub user: Option<OwnedFd>,
    /// Those of `user`.
    pub mappings: Option<IdMappings>,
    /// Root of the pod's `/dev/shm`, a tmpfs that is mounted in the caller's mount namespace.
    pub shm: Option<OwnedFd>,
    /// The init of the pod's PID namespace, a child of the caller, which reaps it.
    pub init: Option<PodInit>,
}

/// The first process of a pod's own PID namespace: it reaps, and does nothing else. Its death kills the namespace; it dies with the caller.
#[derive(Debug)]
pub struct PodInit {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

impl PodHandles {
    /// Makes the namespaces that the plan asks for: hostname, sysctls, user mappings, the init of a shared PID namespace, and the pod's
    /// `/dev/shm`, which is mounted on the directory `shm_mountpoint` of the caller's mount namespace. On failure nothing stays.
    ///
    /// A process that it has to make is waited for, ten seconds at most. The calling thread, which must be the only one, may be in new
    /// namespaces meanwhile.
    pub fn create(
        host: &Host,
        plan: &SandboxPlan,
        shm_mountpoint: BorrowedFd<'_>,
    ) -> Result<Self, Error> {
        let namespaces = plan.namespaces;
        sysctls::check(
            &plan.sysctls,
            namespaces.net,
            namespaces.ipc,
            namespaces.uts,
        )?;
        let mut handles = Self {
            mappings: plan.user.clone(),
            ..Self::default()
        };
        if namespaces.pid || plan.user.is_some() {
            let first = First::make(host, plan)?;
            handles.pin(host, plan, &first.pid.to_string())?;
            if namespaces.pid {
                handles.init = Some(first.keep());
            }
        } else if namespaces.net || namespaces.ipc || namespaces.uts {
            let away = Away::go(host, plan)?;
            set_up(host, plan)?;
            handles.pin(host, plan, CALLER)?;
            away.back()?;
        }
        if let Some(bytes) = plan.shm_bytes {
            let label = plan.shm_label.as_deref();
            match make_shm(bytes, label, plan.user.as_ref(), shm_mountpoint) {
                Ok(shm) => handles.shm = Some(shm),
                Err(error) => {
                    handles.end_init();
                    return Err(error);
                }
            }
        }
        Ok(handles)
    }

    /// Those that the plan asks for, of a process in them.
    fn pin(&mut self, host: &Host, plan: &SandboxPlan, process: &str) -> Result<(), Error> {
        let pinned = |wanted: bool, name| match wanted {
            true => open_namespace(host, process, name).map(Some),
            false => Ok(None),
        };
        self.net = pinned(plan.namespaces.net, "net")?;
        self.ipc = pinned(plan.namespaces.ipc, "ipc")?;
        self.uts = pinned(plan.namespaces.uts, "uts")?;
        self.pid = pinned(plan.namespaces.pid, "pid")?;
        self.user = pinned(plan.user.is_some(), "user")?;
        Ok(())
    }

    fn end_init(&mut self) {
        if let Some(init) = self.init.take() {
            end(&init.pidfd);
        }
    }
}

/// Names the calling thread in `/proc`.
const CALLER: &str = "thread-self";

/// The caller in namespaces of the pod's. It goes into new ones and back where neither a user nor a PID namespace has to be entered, which takes
/// a process of its own: that would cost a third of a millisecond.
struct Away {
    /// The caller's own.
    home: Vec<(OwnedFd, ThreadNameSpaceType, &'static str)>,
}

impl Away {
    fn go(host: &Host, plan: &SandboxPlan) -> Result<Self, Error> {
        let wanted = plan.namespaces;
        let mut flags = CloneFlags::empty();
        let mut home = Vec::new();
        for (wanted, flag, kind, name) in [
            (
                wanted.net,
                CloneFlags::NEWNET,
                ThreadNameSpaceType::NETWORK,
                "net",
            ),
            (
                wanted.ipc,
                CloneFlags::NEWIPC,
                ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
                "ipc",
            ),
            (
                wanted.uts,
                CloneFlags::NEWUTS,
                ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
                "uts",
            ),
        ] {
            if wanted {
                flags = flags.with(flag);
                home.push((open_namespace(host, CALLER, name)?, kind, name));
            }
        }
        sys::unshare(flags).at(Stage::MakeNamespace, "for the pod")?;
        Ok(Self { home })
    }

    /// An error leaves the caller where it must not stay: it is to end.
    fn back(mut self) -> Result<(), Error> {
        self.home
            .drain(..)
            .try_for_each(|(own, kind, name)| join(own.as_fd(), kind, name))
    }
}

impl Drop for Away {
    /// After an error on the way, which is the one to be told.
    fn drop(&mut self) {
        for (own, kind, name) in self.home.drain(..) {
            let _ = join(own.as_fd(), kind, name);
        }
    }
}

/// In the namespaces.
fn set_up(host: &Host, plan: &SandboxPlan) -> Result<(), Error> {
    if plan.namespaces.uts {
        rustix::system::sethostname(plan.hostname.as_bytes())
            .at(Stage::Hostname, &plan.hostname)?;
    }
    sysctls::write(host, &plan.sysctls)
}

/// The process that is born into the namespaces. Ends when dropped.
struct First {
    pid: i32,
    pidfd: Option<OwnedFd>,
    /// It waits for a word on this, or its end, and so stays until its namespaces are pinned.
    handshake: OwnedFd,
}

impl First {
    fn make(host: &Host, plan: &SandboxPlan) -> Result<Self, Error> {
        let namespaces = plan.namespaces;
        let mut flags = CloneFlags::empty();
        for (wanted, flag) in [
            (namespaces.net, CloneFlags::NEWNET),
            (namespaces.ipc, CloneFlags::NEWIPC),
            (namespaces.uts, CloneFlags::NEWUTS),
            (namespaces.pid, CloneFlags::NEWPID.with(CloneFlags::NEWNS)),
            (plan.user.is_some(), CloneFlags::NEWUSER),
        ] {
            if wanted {
                flags = flags.with(flag);
            }
        }
        let (ours, theirs) = handshake::pair().at(Stage::Prepare, "a handshake")?;
        let cloned =
            sys::clone_process(flags, None).at(Stage::Clone, "for the pod's namespaces")?;
        let first = match cloned {
            Clone::Parent { pid, pidfd } => Self {
                pid,
                pidfd: Some(pidfd),
                handshake: ours,
            },
            Clone::Child => {
                sys::exit_at_panic();
                drop(ours);
                if let Err(error) = live(host, plan, theirs.as_fd()) {
                    handshake::say_failed(theirs.as_fd(), &error);
                }
                sys::exit_process(1)
            }
        };
        drop(theirs);
        if let Some(mappings) = &plan.user {
            write_mappings(host, first.pid, mappings)?;
            handshake::order(first.handshake.as_fd(), Order::Mapped)
                .at(Stage::Handshake, "its mappings")?;
        }
        first.wait_until_ready()?;
        Ok(first)
    }

    fn wait_until_ready(&self) -> Result<(), Error> {
        let handshake = self.handshake.as_fd();
        let mut said = [PollFd::new(&handshake, PollFlags::IN)];
        let polled = rustix::io::retry_on_intr(|| rustix::event::poll(&mut said, Some(&PATIENCE)));
        if polled.at(Stage::Handshake, "the pod's namespaces")? == 0 {
            return Err(Errno::TIMEDOUT).at(Stage::Handshake, "the pod's namespaces");
        }
        match handshake::listen(handshake)? {
            Word::Created => Ok(()),
            Word::Failed(error) => Err(error),
            Word::Clone { .. }
            | Word::Console(_)
            | Word::Paused
            | Word::Going
            | Word::Listening(_)
            | Word::End
            | Word::Nothing => Err(Error::Died {
                during: "make the pod's namespaces",
                status: "without a word".to_owned(),
            }),
        }
    }

    fn keep(mut self) -> PodInit {
        PodInit {
            pid: self.pid,
            pidfd: self.pidfd.take().expect("only this takes it, once"),
        }
    }
}

impl Drop for First {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            end(pidfd);
        }
    }
}

/// Kills and reaps one of ours that holds nothing: microseconds, or what its namespaces take to go.
fn end(pidfd: &OwnedFd) {
    let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
}

/// In the child.
fn live(host: &Host, plan: &SandboxPlan, socket: BorrowedFd<'_>) -> Result<(), Error> {
    start_afresh(false)?;
    if plan.user.is_some() {
        handshake::obey(socket, Order::Mapped).at(Stage::Handshake, "its mappings")?;
        become_root()?;
    }
    set_up(host, plan)?;
    if plan.namespaces.pid {
        pod_init::run(host, socket)?;
    } else {
        handshake::say_created(socket).at(Stage::Handshake, "its creation")?;
        // Until its namespaces are pinned.
        let _ = handshake::obey(socket, Order::Start);
    }
    Ok(())
}

fn make_shm(
    bytes: u64,
    label: Option<&str>,
    mappings: Option<&IdMappings>,
    mountpoint: BorrowedFd<'_>,
) -> Result<OwnedFd, Error> {
    let option = |key: &str, value: String| (key.to_owned(), Some(value));
    let mut data = vec![
        option("size", bytes.to_string()),
        option("mode", "1777".to_owned()),
    ];
    data.extend(label.map(|label| option(CONTEXT, label.to_owned())));
    if let Some(mappings) = mappings {
        let root = |maps| {
            outside(maps, 0)
                .ok_or(Errno::INVAL)
                .at(Stage::Mount, "an unmapped root's /dev/shm")
        };
        data.push(option("uid", root(&mappings.uids)?.to_string()));
        data.push(option("gid", root(&mappings.gids)?.to_string()));
    }
    let shm = Filesystem {
        fs_type: "tmpfs",
        source: "shm",
        data: &data,
    }
    .mount(
        MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        "the pod's /dev/shm",
    )?;
    attach(shm.as_fd(), mountpoint).at(Stage::Mount, "the pod's /dev/shm")?;
    Ok(shm)
}
