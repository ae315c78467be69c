//! CRIU, by its command line: it writes down what a container's processes are, and makes them again.

use std::os::fd::{AsFd, OwnedFd};

use supervisor_api::{Dump, WireError};

use super::oci::{Node, Order};
use super::{Aim, Command, Handler, failed_precondition, internal, invalid};

impl Handler {
    /// Begins to write down the tree of processes below `init`. `mounts` is the host's mount namespace.
    pub(crate) fn dump(
        &self,
        dump: &Dump,
        init: i32,
        mounts: &OwnedFd,
        aim: Aim,
    ) -> Result<Command, WireError> {
        if self.runtime.is_some() {
            return Err(failed_precondition(
                "its handler is an OCI runtime, whose containers are not written down".to_owned(),
            ));
        }
        let mut arguments = vec!["dump".to_owned(), "--tree".to_owned(), init.to_string()];
        arguments.extend(dump.arguments.iter().cloned());
        let order = Order {
            aim,
            arguments,
            stdio: None,
            places: &[],
            oom_score: None,
            cgroup: None,
            path: Some(&dump.path),
        };
        self.run_criu(&dump.program, mounts, order)
    }

    fn run_criu(
        &self,
        program: &str,
        mounts: &OwnedFd,
        order: Order<'_>,
    ) -> Result<Command, WireError> {
        if !program.starts_with('/') {
            return Err(invalid(format!("{program:?} is no absolute path")));
        }
        let node = Node {
            mounts: mounts.as_fd(),
            host: self.core.host(),
            hidden: None,
        };
        let verb = order.aim.verb();
        Command::run_plain(program, order, node)
            .map_err(|error| internal(format!("run {program} {verb}: {error}")))
    }
}
