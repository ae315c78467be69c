//! `longshore-pod --proof HOST_ID`: looks around in a container that was made to try a runtime, and says by its exit status what it found
//! ([`supervisor_api::Proof`]).

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use supervisor_api::{PROOF_TREE, Proof};

/// Never returns: `host_id` is who the container's root is to be on the node.
pub(crate) fn give(host_id: Option<&str>) -> ! {
    let of = |process: &str| first_mapping(&format!("/proc/{process}/uid_map"));
    let mapped = |process: &str| {
        let mapping = of(process);
        host_id.is_some() && mapping.as_ref().map(|(_, host)| host.as_str()) == host_id
    };
    let tops = [PROOF_TREE.to_owned(), format!("{PROOF_TREE}/below")];
    let proof = Proof {
        init_mapped: mapped("1"),
        exec_mapped: mapped("self"),
        read_only: tops.iter().all(|top| refuses_writers(top)),
    };
    sys::exit_process(proof.exit_status())
}

/// The id inside and the id outside at which a map begins.
fn first_mapping(path: &str) -> Option<(String, String)> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut words = text.split_ascii_whitespace().map(str::to_owned);
    Some((words.next()?, words.next()?))
}

/// Whoever owns the directory: a read-only mount is said before what its modes allow.
fn refuses_writers(directory: &str) -> bool {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let made = rustix::fs::open(
        format!("{directory}/new"),
        flags,
        Mode::from_raw_mode(0o600),
    );
    matches!(made, Err(Errno::ROFS))
}
