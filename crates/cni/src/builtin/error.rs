use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::portmap::Protocol;
use crate::netlink::NetlinkError;
use crate::records::{RecordError, RecordsError};

/// Why the network could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("bridge name {0:?} is not an interface name")]
    Name(String),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error("open this thread's network namespace")]
    Namespace(#[source] Errno),
}

/// Why a pod was not attached. Everything was undone, except where the error has a clean-up failure beside it, which
/// `collect` or the next `detach` tries again. Cloned to every caller that joined.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AttachError {
    #[error("attachment id {id:?} is not made of letters, digits, dots, underscores and hyphens")]
    InvalidId { id: String },
    /// `field` is as in `port_mappings[2].protocol`.
    #[error("{field} = {value}: {reason}")]
    Port {
        field: String,
        value: String,
        reason: &'static str,
    },
    #[error("host port {port}/{protocol}{} is taken by {holder}", on(host_ip))]
    PortTaken {
        protocol: Protocol,
        port: u16,
        host_ip: Option<IpAddr>,
        /// The id of the attachment that has it.
        holder: String,
    },
    #[error("no address is left in {subnet}")]
    Exhausted { subnet: String },
    #[error(
        "{id} is attached already, to another network namespace or with other host ports; detach it first"
    )]
    Different { id: String },
    #[error(
        "attach {id}: the links of earlier pods, whose addresses it needs, are not gone after {waited:?}"
    )]
    Held { id: String, waited: Duration },
    #[error("{id} is being detached")]
    Detaching { id: String },
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("attach {id} to bridge {bridge}{}", beside(cleanup))]
    Step {
        id: String,
        bridge: String,
        #[source]
        source: StepError,
        /// What could not be undone.
        cleanup: Option<Box<DetachError>>,
    },
    #[error("attach {id}: not done after {waited:?}; it goes on, and a retry joins it")]
    Stuck { id: String, waited: Duration },
}

/// Why pods' ranges were not changed. Nothing was, unless it is a step that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RangeError {
    #[error("this node has no IPv6, so that pods can have no address in {range}")]
    NoIpv6 { range: String },
    #[error("{link} of the node leads to {destination}, which is in {range}")]
    Routed {
        range: String,
        destination: String,
        link: String,
    },
    #[error(
        "{address}, which the bridge would have in {range}, is the address of {holder}, which runs"
    )]
    GatewayTaken {
        range: String,
        address: IpAddr,
        /// The id of the attachment that has it.
        holder: String,
    },
    #[error("{range} begins with the same address as {other}, which pods that run are in")]
    GatewayShared { range: String, other: String },
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("bring the new ranges of pods to the bridge; the next pod tries again")]
    Step(#[source] StepError),
    #[error("not done after {waited:?}; it goes on")]
    Stuck { waited: Duration },
}

/// Why a pod is not detached. Its addresses and host ports stay taken; try again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DetachError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("detach {id} from bridge {bridge}")]
    Step {
        id: String,
        bridge: String,
        #[source]
        source: StepError,
    },
    #[error("remove what no record explains from bridge {bridge}")]
    Sweep {
        bridge: String,
        #[source]
        source: StepError,
    },
    #[error("detach {id}: not done after {waited:?}; it goes on")]
    Stuck { id: String, waited: Duration },
}

/// One step of attaching or detaching.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StepError {
    #[error("{doing}")]
    Netlink {
        doing: String,
        #[source]
        source: NetlinkError,
    },
    #[error("enter the {whose} network namespace")]
    Enter {
        whose: &'static str,
        #[source]
        source: Errno,
    },
    #[error("set {name} to {value}")]
    Sysctl {
        name: String,
        value: String,
        #[source]
        source: Arc<io::Error>,
    },
    #[error(transparent)]
    Record(RecordError),
    #[error("start a thread")]
    Thread(#[source] Arc<io::Error>),
    #[error("the thread at work ended without a result")]
    Lost,
    #[cfg(test)]
    #[error("failpoint {0}")]
    Failpoint(&'static str),
}

fn on(host_ip: &Option<IpAddr>) -> String {
    host_ip.map_or_else(String::new, |ip| format!(" on {ip}"))
}

fn beside(cleanup: &Option<Box<DetachError>>) -> String {
    cleanup.as_ref().map_or_else(String::new, |error| {
        format!(" (and then could not undo it: {error})")
    })
}
