//! Devices of the node's network that a pod is lent: moved into its namespace with their addresses, and back.
//!
//! As `linux.netDevices` of the OCI runtime specification 1.3 has it, but for the way back: whoever owns the namespace sees to that, and here
//! that is the runtime. Left to the kernel, a device would come back under whatever name it had last, or not at all where it is a virtual one.
//!
//! A device that is lent bears its borrower and its former name as its alias. That is set in the step that moves it, so that nothing
//! but the kernel needs to remember it. All calls block, for as long as the kernel's lock of network configuration is held by others.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::netlink::message::Request;
use crate::netlink::route::{self, Address, Link};
use crate::netlink::{NetlinkError, Socket};

/// The kernel's, less the NUL byte.
const LONGEST_NAME: usize = 15;
const LONGEST_ALIAS: usize = 255;

/// Begins the alias of a device that is lent.
const MARK: &str = "longshore:";

/// How the kernel calls what comes back to a name that is taken.
const SPARE: &str = "dev%d";

/// Why a device cannot be lent, or not be taken back.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("the node has no network device {0}")]
    Missing(String),
    #[error("network device {0} is the node's loopback")]
    Loopback(String),
    #[error("{0:?} is no name of a network device")]
    Name(String),
    #[error("network device {device}: the pod has a {name} already")]
    Taken { device: String, name: String },
    #[error("network device {0}: its alias leaves no room for what it is lent for")]
    Alias(String),
    #[error("open the network namespace {namespace}")]
    Namespace {
        namespace: String,
        #[source]
        source: io::Error,
    },
    #[error("network device {device}: {doing}")]
    Netlink {
        device: String,
        doing: &'static str,
        #[source]
        source: NetlinkError,
    },
    #[error("list the network devices of {whose}")]
    List {
        whose: &'static str,
        #[source]
        source: NetlinkError,
    },
}

/// Moves a device of the caller's network into another namespace as `name`, or as it is called, with its addresses, and sets it up. `name` may be
/// a template: `net%d`. `borrower` is what [`take_back`] is told.
///
/// # Errors
/// The device is where it was, or is the borrower's, for [`take_back`].
pub fn lend(
    netns: &Path,
    device: &str,
    name: Option<&str>,
    borrower: &str,
) -> Result<(), DeviceError> {
    let name = name.filter(|name| !name.is_empty()).unwrap_or(device);
    check_name(name)?;
    let failed = |doing| {
        move |source| DeviceError::Netlink {
            device: device.to_owned(),
            doing,
            source,
        }
    };
    let (mut here, mut there) = (Side::own()?, Side::of(netns)?);
    let link = here.find(|link| link.name == device)?;
    let link = link.ok_or_else(|| DeviceError::Missing(device.to_owned()))?;
    if link.loopback {
        return Err(DeviceError::Loopback(device.to_owned()));
    }
    let theirs = there.links()?;
    if theirs.iter().any(|link| link.name == name) {
        return Err(DeviceError::Taken {
            device: device.to_owned(),
            name: name.to_owned(),
        });
    }
    let state = if link.up { "up" } else { "down" };
    let alias = format!("{MARK}{borrower}:{device}:{state}:{}", link.alias);
    if alias.len() > LONGEST_ALIAS {
        return Err(DeviceError::Alias(device.to_owned()));
    }
    let addresses = route::addresses(&mut here.socket, link.index);
    let addresses = addresses.map_err(failed("read its addresses"))?;
    let mut request = Request::new();
    route::hand_over(&mut request, link.index, there.netns.as_fd(), name, &alias);
    if let Err(error) = here.socket.run(&request) {
        // It may have been moved, and not renamed: the pod has got a device of that name meanwhile.
        if !theirs.iter().any(|link| link.name == device)
            && let Err(error) = there.send_home(&here, &link)
        {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(device, error, "a network device stays in a pod");
        }
        return Err(failed("move it into the pod")(error));
    }
    let moved = there.find(|link| link.alias == alias)?;
    let moved = moved.ok_or_else(|| DeviceError::Missing(device.to_owned()))?;
    let settled = settle(&mut there.socket, moved.index, &addresses, true);
    settled.map_err(failed("give it its addresses in the pod"))
}

/// The end of a container and that of its pod both take back, and who came second would take the mark from what the first has moved, and not yet
/// found again to give it its addresses. Nothing but netlink is waited for under it.
static TAKING_BACK: Mutex<()> = Mutex::new(());

/// Moves back all that a borrower has, with the addresses that it has now, under the names and in the state that it had before. Succeeds where
/// there is nothing, and where the namespace is gone. A name that is taken meanwhile becomes another one, as the kernel makes it.
pub fn take_back(netns: &Path, borrower: &str) -> Result<(), DeviceError> {
    let _one_at_a_time = TAKING_BACK.lock().unwrap_or_else(PoisonError::into_inner);
    let mut there = match Side::of(netns) {
        Ok(there) => there,
        Err(DeviceError::Namespace { source, .. })
            if source.kind() == io::ErrorKind::NotFound
                || source.raw_os_error() == Some(Errno::INVAL.raw_os_error()) =>
        {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut here = Side::own()?;
    for link in there.links()? {
        let Some(loan) = Loan::parse(&link.alias).filter(|loan| loan.borrower == borrower) else {
            continue;
        };
        let failed = |doing| {
            move |source| DeviceError::Netlink {
                device: loan.device.to_owned(),
                doing,
                source,
            }
        };
        let addresses = route::addresses(&mut there.socket, link.index);
        let addresses = addresses.map_err(failed("read its addresses"))?;
        let mut hand_over = |name: &str| {
            let mut request = Request::new();
            let to = here.netns.as_fd();
            route::hand_over(&mut request, link.index, to, name, &link.alias);
            there.socket.run(&request)
        };
        let handed = match hand_over(loan.device) {
            Err(error) if error.errno() == Some(Errno::EXIST) => {
                tracing::warn!(device = loan.device, "its name on the node is taken");
                hand_over(SPARE)
            }
            other => other,
        };
        match handed {
            Ok(()) => {}
            // Somebody else has just done it.
            Err(error) if error.errno() == Some(Errno::NODEV) => continue,
            Err(error) => return Err(failed("move it back to the node")(error)),
        }
        if let Some(came) = here.find(|one| one.alias == link.alias)? {
            let settled = settle(&mut here.socket, came.index, &addresses, loan.up);
            settled.map_err(failed("give it its addresses on the node"))?;
        }
    }
    here.release(borrower)
}

/// What the alias of a device that is lent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Loan<'a> {
    borrower: &'a str,
    /// Its name on the node.
    device: &'a str,
    up: bool,
    /// What it had before.
    alias: &'a str,
}

impl<'a> Loan<'a> {
    fn parse(alias: &'a str) -> Option<Self> {
        let mut parts = alias.strip_prefix(MARK)?.splitn(4, ':');
        Some(Self {
            borrower: parts.next()?,
            device: parts.next()?,
            up: parts.next()? == "up",
            alias: parts.next()?,
        })
    }
}

/// One of the two namespaces.
struct Side {
    whose: &'static str,
    netns: OwnedFd,
    socket: Socket,
}

impl Side {
    /// The calling thread's.
    fn own() -> Result<Self, DeviceError> {
        let whose = "the node";
        let netns = open(Path::new("/proc/thread-self/ns/net"))?;
        let socket = Socket::route().map_err(|source| DeviceError::List { whose, source })?;
        Ok(Self {
            whose,
            netns,
            socket,
        })
    }

    /// A socket stays in the namespace that it was opened in, and only a thread of its own may go there.
    fn of(path: &Path) -> Result<Self, DeviceError> {
        let whose = "the pod";
        let netns = open(path)?;
        let failed = |source: Errno| DeviceError::Namespace {
            namespace: path.display().to_string(),
            source: source.into(),
        };
        let opened = thread::scope(|scope| {
            let enter = || {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(netns.as_fd(), kind).map_err(failed)?;
                Socket::route().map_err(|source| DeviceError::List { whose, source })
            };
            scope.spawn(enter).join()
        });
        let socket = opened.unwrap_or_else(|_panicked| Err(failed(Errno::CANCELED)))?;
        Ok(Self {
            whose,
            netns,
            socket,
        })
    }

    fn links(&mut self) -> Result<Vec<Link>, DeviceError> {
        route::links(&mut self.socket).map_err(|source| DeviceError::List {
            whose: self.whose,
            source,
        })
    }

    fn find(&mut self, which: impl Fn(&Link) -> bool) -> Result<Option<Link>, DeviceError> {
        Ok(self.links()?.into_iter().find(|link| which(link)))
    }

    /// Moves back what came unmarked, under its own name.
    fn send_home(&mut self, home: &Self, known: &Link) -> Result<(), DeviceError> {
        let Some(link) = self.find(|link| link.name == known.name)? else {
            return Ok(());
        };
        let mut request = Request::new();
        let (to, name) = (home.netns.as_fd(), &known.name);
        route::hand_over(&mut request, link.index, to, name, &known.alias);
        let moved = self.socket.run(&request);
        moved.map_err(|source| DeviceError::Netlink {
            device: name.clone(),
            doing: "move it back to the node",
            source,
        })
    }

    /// What has come back is nobody's any more.
    fn release(&mut self, borrower: &str) -> Result<(), DeviceError> {
        for link in self.links()? {
            let Some(loan) = Loan::parse(&link.alias).filter(|loan| loan.borrower == borrower)
            else {
                continue;
            };
            let mut request = Request::new();
            route::rename(&mut request, link.index, loan.alias);
            let renamed = self.socket.run(&request);
            renamed.map_err(|source| DeviceError::Netlink {
                device: link.name.clone(),
                doing: "give it its own alias back",
                source,
            })?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<OwnedFd, DeviceError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|source| DeviceError::Namespace {
        namespace: path.display().to_string(),
        source: source.into(),
    })
}

/// Addresses before the device is up: the kernel then makes the routes of all of them at once.
fn settle(
    socket: &mut Socket,
    link: u32,
    addresses: &[Address],
    up: bool,
) -> Result<(), NetlinkError> {
    let mut request = Request::new();
    for address in addresses {
        route::restore_address(&mut request, link, address);
    }
    if up {
        route::up(&mut request, link);
    }
    match addresses.is_empty() && !up {
        true => Ok(()),
        false => socket.run(&request),
    }
}

fn check_name(name: &str) -> Result<(), DeviceError> {
    // `%d` once, as the kernel has it.
    let plain = name.replacen("%d", "0", 1);
    let wrong = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
    match name.len() > LONGEST_NAME || plain == "." || plain == ".." || plain.contains(wrong) {
        true => Err(DeviceError::Name(name.to_owned())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_says_whose_a_device_is() {
        let loan = Loan::parse("longshore:c1:eth5:up:the uplink: left").unwrap();
        let expected = Loan {
            borrower: "c1",
            device: "eth5",
            up: true,
            alias: "the uplink: left",
        };
        assert_eq!(loan, expected);
        assert_eq!(Loan::parse("longshore:c1:eth5:down:").unwrap().alias, "");
        assert_eq!(Loan::parse("the uplink"), None);
        assert_eq!(Loan::parse("longshore:c1"), None);
    }

    #[test]
    fn names_are_the_kernel_s() {
        for good in ["eth0", "net%d", "a.b-c_d"] {
            check_name(good).unwrap();
        }
        for wrong in ["a/b", "a b", "..", "sixteen-letters-", "%d%d", "a:b", "%s"] {
            check_name(wrong).unwrap_err();
        }
    }
}
