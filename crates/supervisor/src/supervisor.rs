use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use oci_plan::FdSlot;
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use supervisor_api::{
    ContainerState, Event, LABELS, MEMORY_POLICY, OciRuntime, PodState, ReplyBody, RequestBody,
    SandboxState, WireError,
};

use crate::anchor::Anchor;
use crate::attach::Listener;
use crate::checkpoint::Frozen;
use crate::connection::{Arrival, Asker, Connections};
use crate::container::Container;
use crate::denied::Watched;
use crate::exec::Exec;
use crate::exits::Exits;
use crate::logs::{Finished, Logs};
use crate::poll::{Deadline, Interest, Poll, Source};
use crate::reap::Ending;
use crate::runtime::{Command, Handler, failed_precondition, invalid};
use crate::sandbox::Sandbox;

/// Everything of one pod, and the loop that serves it. One thread: what a request starts and cannot finish at once goes on
/// in the loop.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) poll: Poll,
    pub(crate) signals: OwnedFd,
    pub(crate) connections: Connections,
    pub(crate) handler: Handler,
    pub(crate) exits: Exits,
    pub(crate) logs: Logs,
    pub(crate) sandbox: Sandbox,
    pub(crate) containers: Vec<Container>,
    pub(crate) execs: Vec<Exec>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) anchor: Option<Anchor>,
    pub(crate) frozen: Vec<Frozen>,
    pub(crate) watched: Vec<Watched>,
    /// Of a runtime, while they run.
    pub(crate) commands: Vec<Command>,
    /// Of children that were unknown when they ended, while commands run.
    pub(crate) endings: Vec<(i32, Ending)>,
    /// The pod's, as the host calls it.
    directory: PathBuf,
    next_key: u32,
    pub(crate) finished: bool,
}

impl Supervisor {
    /// Takes the listening socket, a signal descriptor of SIGCHLD, the handler, and where exit records go.
    pub(crate) fn new(
        listener: OwnedFd,
        signals: OwnedFd,
        handler: Handler,
        exits: Exits,
        directory: PathBuf,
    ) -> Result<Self, Errno> {
        let poll = Poll::new()?;
        poll.add(signals.as_fd(), Source::Signals, Interest::Read)?;
        Ok(Self {
            connections: Connections::new(listener, &poll)?,
            poll,
            signals,
            handler,
            exits,
            logs: Logs::default(),
            sandbox: Sandbox::Empty,
            containers: Vec::new(),
            execs: Vec::new(),
            listeners: Vec::new(),
            anchor: None,
            frozen: Vec::new(),
            watched: Vec::new(),
            commands: Vec::new(),
            endings: Vec::new(),
            directory,
            next_key: 0,
            finished: false,
        })
    }

    /// Serves until it is shut down.
    pub(crate) fn run(&mut self) -> Result<(), Errno> {
        while !self.finished {
            let (ready, due) = self.poll.wait()?;
            for source in ready {
                self.ready(source);
            }
            for deadline in due {
                self.due(deadline);
            }
            for connection in self.connections.take_closed() {
                self.connection_closed(connection);
            }
        }
        Ok(())
    }

    fn ready(&mut self, source: Source) {
        match source {
            Source::Listener => self.connections.accept(&mut self.poll),
            Source::Signals => self.reap(),
            Source::LogProcess => {
                for finished in self.logs.ready(&self.poll) {
                    self.log_finished(finished);
                }
            }
            Source::Connection(id) => {
                if let Some(arrival) = self.connections.ready(&self.poll, id) {
                    self.serve(arrival);
                }
            }
            Source::Launch(key) => self.advance(key),
            Source::Command(pid) => self.command_wrote(pid),
            Source::Denied(key) => self.hear(key),
        }
    }

    fn due(&mut self, deadline: Deadline) {
        match deadline {
            Deadline::Accept => self.connections.accept_again(&self.poll),
            Deadline::Launch(key) => self.launch_overdue(key),
            Deadline::Exec(key) => self.exec_overdue(key),
            Deadline::Drain(key) => self.drain_overdue(key),
            Deadline::Reopen(key) => self.reopen_overdue(key),
            Deadline::RestartLogs => self.logs.restart_due(&mut self.poll),
            Deadline::Remove(key) => self.try_remove(key),
            Deadline::Stop => self.stop_tick(),
            Deadline::Command(pid) => self.command_overdue(pid),
            Deadline::Frozen(number) => self.frozen_overdue(number),
            Deadline::Denied(key) => self.denied_due(key),
        }
    }

    pub(crate) fn log_finished(&mut self, finished: Finished) {
        match finished {
            Finished::Reopened(key) => self.log_reopened(key),
            Finished::Drained { key, trouble } => self.log_drained(key, trouble),
            Finished::Attached(attach) => self.attached(attach),
            Finished::AttachEnded { attach, reason } => self.attach_ended(attach, reason),
        }
    }

    fn serve(&mut self, arrival: Arrival) {
        let Arrival {
            asker,
            body,
            descriptors,
        } = arrival;
        // Those that are answered later answer themselves.
        let result = match body {
            RequestBody::Hello => Ok(ReplyBody::Hello {
                supervisor_version: format!(
                    "{}+{LABELS}.{MEMORY_POLICY}",
                    env!("CARGO_PKG_VERSION")
                ),
                pid: rustix::process::getpid().as_raw_nonzero().get(),
            }),
            RequestBody::CreateSandbox(plan) => return self.create_sandbox(asker, plan),
            RequestBody::UserNamespace => return self.user_namespace(asker),
            RequestBody::CreateContainer(request) => {
                return self.create_container(asker, *request, None, &descriptors);
            }
            RequestBody::StartContainer { id } => return self.start_container(asker, &id),
            RequestBody::Signal { id, signal, all } => {
                return self.signal(asker, &id, signal, all);
            }
            RequestBody::Exec(request) => return self.exec(asker, *request, false, &descriptors),
            RequestBody::KillExec { exec_id } => self.kill_exec_requested(&exec_id),
            RequestBody::ReopenLog { id, log } => {
                return self.reopen_log(asker, &id, log, &descriptors);
            }
            RequestBody::ResizeTerminal { id, size } => self.resize_terminal(&id, size),
            RequestBody::UpdateResources { id, resources } => {
                self.update_resources(&id, &resources)
            }
            RequestBody::DeleteContainer { id } => return self.delete_container(asker, &id),
            RequestBody::State => {
                self.reply(asker, Ok(ReplyBody::State(self.state())));
                return self.tell_denied();
            }
            RequestBody::StopSandbox => return self.stop_sandbox(asker),
            RequestBody::Shutdown => return self.shut_down(asker),
            RequestBody::Anchor { socket } => return self.anchor(asker, socket, &descriptors),
            RequestBody::Attach(request) => return self.attach(asker, &request, &descriptors),
            RequestBody::EndInput { attach_id } => self.end_input(&attach_id),
            RequestBody::UseRuntime {
                runtime,
                mounts,
                directory,
            } => self.use_runtime(runtime, (mounts, directory), &descriptors),
            RequestBody::CreatePaused(request) => {
                let at = Some((request.host, request.at.as_str()));
                return self.create_container(asker, request.create, at, &descriptors);
            }
            body @ (RequestBody::Labelled { .. } | RequestBody::Placed { .. }) => {
                return self.serve(Arrival {
                    asker,
                    body: body.unpacked(),
                    descriptors,
                });
            }
            RequestBody::Resume { id } => return self.resume_container(asker, &id),
            RequestBody::ExecBefore(request) => {
                return self.exec(asker, *request, true, &descriptors);
            }
            RequestBody::Freeze { ids, bound_ms } => self.freeze(asker, &ids, bound_ms),
            RequestBody::Thaw { ids } => self.thaw_asked(&ids),
            RequestBody::Dump(request) => return self.dump(asker, &request, &descriptors),
            RequestBody::Connect { socket } => return self.connect(asker, socket, &descriptors),
            RequestBody::Restore(request) => {
                return self.restore_container(asker, &request, &descriptors);
            }
        };
        self.reply(asker, result);
    }

    fn use_runtime(
        &mut self,
        runtime: OciRuntime,
        (mounts, directory): (FdSlot, FdSlot),
        descriptors: &[OwnedFd],
    ) -> Result<ReplyBody, WireError> {
        let Sandbox::Empty = self.sandbox else {
            return Err(failed_precondition(
                "use a runtime: there is a sandbox already".to_owned(),
            ));
        };
        let mounts = take_slot(descriptors, mounts)?;
        let directory = take_slot(descriptors, directory)?;
        self.handler
            .use_runtime(runtime, mounts, directory, self.directory.clone())?;
        Ok(ReplyBody::Done)
    }

    /// The pod's, as the host calls it.
    pub(crate) fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    pub(crate) fn reply(&mut self, asker: Asker, result: Result<ReplyBody, WireError>) {
        self.connections
            .reply(&self.poll, asker, result, Vec::new());
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.connections.tell(&self.poll, event);
    }

    /// Names a container, or an exec, for as long as the supervisor lives.
    pub(crate) fn new_key(&mut self) -> u32 {
        self.next_key += 1;
        self.next_key
    }

    /// A launch has something to say.
    pub(crate) fn advance(&mut self, key: u32) {
        if self.containers.iter().any(|one| one.key == key) {
            self.advance_container(key);
        } else {
            self.advance_exec(key);
        }
    }

    fn launch_overdue(&mut self, key: u32) {
        if self.containers.iter().any(|one| one.key == key) {
            self.container_overdue(key);
        } else {
            self.exec_launch_overdue(key);
        }
    }

    fn state(&self) -> PodState {
        let containers = self.containers.iter().filter_map(|one| {
            Some(ContainerState {
                id: one.id.clone(),
                status: one.status()?,
            })
        });
        PodState {
            init_pid: self.live_init(),
            sandbox: match &self.sandbox {
                Sandbox::Empty => SandboxState::Empty,
                Sandbox::Ready {
                    init_died: false, ..
                } => SandboxState::Ready,
                // Nothing runs in it any more, or soon.
                Sandbox::Ready { .. } | Sandbox::Stopping { .. } | Sandbox::Stopped => {
                    SandboxState::Stopped
                }
            },
            containers: containers.collect(),
        }
    }
}

/// The descriptor of a slot; the list keeps its own.
pub(crate) fn take_slot(descriptors: &[OwnedFd], slot: FdSlot) -> Result<OwnedFd, WireError> {
    let descriptor = descriptors.get(usize::from(slot.0)).ok_or_else(|| {
        invalid(format!(
            "descriptor slot {} of {}",
            slot.0,
            descriptors.len()
        ))
    })?;
    descriptor.try_clone().map_err(|error| {
        crate::runtime::resource_exhausted(format!("duplicate a descriptor: {error}"))
    })
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Only real trouble comes here; the daemon is told of all else.
pub(crate) fn complain(line: &str) {
    let _ = rustix::io::write(
        rustix::stdio::stderr(),
        format!("longshore-pod: {line}\n").as_bytes(),
    );
}
