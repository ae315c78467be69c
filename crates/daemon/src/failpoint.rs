//! Deaths on demand, for the recovery tests: in a debug build, `LONGSHORE_FAILPOINT=EDGE:ACTION` kills the daemon, the pod's supervisor, or
//! both (`daemon`, `supervisor`, `both`), the first time that an operation reaches the edge. Release builds have none of it.
//!
//! An edge is named by what has just been done, such as `pod.attached`; every edge of the diagrams in `pod` and `container` has one.

use crate::pod::Pod;

/// Marks an edge.
pub(crate) fn reach(edge: &str, pod: &Pod) {
    if cfg!(debug_assertions) {
        armed::reach(edge, pod);
    }
}

mod armed {
    use std::sync::Mutex;

    use rustix::process::{Pid, Signal};

    use crate::pod::Pod;

    /// Taken by the first operation that reaches its edge.
    static ARMED: Mutex<Option<Failpoint>> = Mutex::new(None);

    struct Failpoint {
        edge: String,
        daemon: bool,
        supervisor: bool,
    }

    pub(super) fn reach(edge: &str, pod: &Pod) {
        let Some(failpoint) = take(edge) else { return };
        tracing::warn!(edge, "failpoint");
        if failpoint.supervisor
            && let Some(supervisor) = pod.record().supervisor
            && let Some(pid) = Pid::from_raw(supervisor.pid)
        {
            // A supervisor that has gone by itself is dead enough.
            let _gone = rustix::process::kill_process(pid, Signal::KILL);
        }
        if failpoint.daemon {
            let _unreachable =
                rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
        }
    }

    fn take(edge: &str) -> Option<Failpoint> {
        let mut armed = ARMED.lock().ok()?;
        armed.take_if(|failpoint| failpoint.edge == edge)
    }

    pub(super) fn arm(text: &str) -> bool {
        let Some((edge, action)) = text.split_once(':') else {
            return false;
        };
        let (daemon, supervisor) = match action {
            "daemon" => (true, false),
            "supervisor" => (false, true),
            "both" => (true, true),
            _ => return false,
        };
        if let Ok(mut armed) = ARMED.lock() {
            *armed = Some(Failpoint {
                edge: edge.to_owned(),
                daemon,
                supervisor,
            });
        }
        true
    }
}

/// Reads the environment, once, at start.
pub(crate) fn arm() {
    if cfg!(debug_assertions)
        && let Ok(text) = std::env::var("LONGSHORE_FAILPOINT")
        && !armed::arm(&text)
    {
        tracing::error!(
            text,
            "LONGSHORE_FAILPOINT is not EDGE:daemon, EDGE:supervisor or EDGE:both"
        );
    }
}
