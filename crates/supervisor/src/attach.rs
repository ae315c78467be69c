//! Attach: the streams of a container that runs, for somebody at the daemon.
//!
//! Bytes take the shortest way. Output goes from the log process, which reads it anyway, into a pipe of the listener's; input goes from the
//! daemon straight into the container's stdin or terminal, of which it gets a descriptor. Nothing of it passes through this process.

use std::os::fd::OwnedFd;

use oci_plan::FdSlot;
use supervisor_api::{Attach, AttachEnd, Event, ReplyBody, WireError};

use crate::connection::Asker;
use crate::container::Container;
use crate::logs::AttachKey;
use crate::runtime::{failed_precondition, internal, resource_exhausted};
use crate::supervisor::{Supervisor, take_slot};

/// Somebody who listens.
#[derive(Debug)]
pub(crate) struct Listener {
    key: AttachKey,
    attach_id: String,
    /// Until the log process has heard of it.
    pending: Option<Pending>,
}

/// A reply that waits, and its descriptor.
#[derive(Debug)]
struct Pending {
    asker: Asker,
    container_id: String,
    reply: ReplyBody,
    descriptor: Option<OwnedFd>,
}

/// A container's input.
#[derive(Debug)]
pub(crate) struct Stdin {
    /// Non-blocking. Nobody here writes to it.
    pipe: OwnedFd,
    /// It closes when the first attach that had it ends.
    once: bool,
    /// The first attach of one that closes, and the connection it came on.
    first: Option<(String, u32)>,
}

impl Stdin {
    pub(crate) fn new(pipe: OwnedFd, once: bool) -> Self {
        Self {
            pipe,
            once,
            first: None,
        }
    }
}

impl Supervisor {
    pub(crate) fn attach(&mut self, asker: Asker, request: &Attach, descriptors: &[OwnedFd]) {
        if let Err(error) = self.begin_attach(asker, request, descriptors) {
            self.attach_failed(asker, &request.container_id, error);
        }
    }

    fn attach_failed(&mut self, asker: Asker, container_id: &str, error: WireError) {
        let message = format!("attach to container {container_id}: {}", error.message);
        self.reply(asker, Err(WireError { message, ..error }));
    }

    fn begin_attach(
        &mut self,
        asker: Asker,
        request: &Attach,
        descriptors: &[OwnedFd],
    ) -> Result<(), WireError> {
        let pipe = |slot: Option<FdSlot>| {
            let Some(slot) = slot else { return Ok(None) };
            let pipe = take_slot(descriptors, slot)?;
            rustix::io::ioctl_fionbio(&pipe, true)
                .map_err(|error| internal(format!("prepare its streams: {error}")))?;
            Ok(Some(pipe))
        };
        let (stdout, stderr) = (pipe(request.stdout)?, pipe(request.stderr)?);
        let key = AttachKey(self.new_key());
        let index = self
            .containers
            .iter()
            .position(|one| one.id == request.container_id)
            .ok_or_else(|| {
                crate::runtime::not_found("the container is not in this pod".to_owned())
            })?;
        let container = &self.containers[index];
        if container.running_init().is_none() {
            return Err(failed_precondition(
                "the container is not running".to_owned(),
            ));
        }
        let log = container.log.ok_or_else(|| {
            failed_precondition("the container has no output to listen to".to_owned())
        })?;
        let terminal = container.console.is_some();
        let stdin = container.stdin.as_ref().map(|stdin| &stdin.pipe);
        let descriptor = container.console.as_ref().or(stdin);
        let descriptor = descriptor.map(OwnedFd::try_clone).transpose();
        let descriptor = descriptor
            .map_err(|error| resource_exhausted(format!("duplicate its input: {error}")))?;
        let listens = stdout.is_some() || stderr.is_some();
        if listens {
            self.logs
                .attach(&self.poll, log, key, stdout, stderr)
                .map_err(|error| {
                    resource_exhausted(format!("hand its streams to the log process: {error}"))
                })?;
        }
        let input = request.stdin && self.containers[index].grants_input(asker, request);
        let pending = Pending {
            asker,
            container_id: request.container_id.clone(),
            reply: ReplyBody::Attached { terminal, input },
            descriptor: descriptor.filter(|_| terminal || input),
        };
        if listens {
            self.listeners.push(Listener {
                key,
                attach_id: request.attach_id.clone(),
                pending: Some(pending),
            });
        } else {
            self.answer_attach(pending);
        }
        Ok(())
    }

    fn answer_attach(&mut self, pending: Pending) {
        let descriptors = pending.descriptor.into_iter().collect();
        self.connections
            .reply(&self.poll, pending.asker, Ok(pending.reply), descriptors);
    }

    pub(crate) fn attached(&mut self, key: AttachKey) {
        let listener = self.listeners.iter_mut().find(|one| one.key == key);
        if let Some(pending) = listener.and_then(|one| one.pending.take()) {
            self.answer_attach(pending);
        }
    }

    pub(crate) fn attach_ended(&mut self, key: AttachKey, reason: AttachEnd) {
        let Some(index) = self.listeners.iter().position(|one| one.key == key) else {
            return;
        };
        let listener = self.listeners.swap_remove(index);
        let attach_id = listener.attach_id;
        match listener.pending {
            // The log process has died, or the container has gone.
            Some(pending) => {
                self.forget_first(&attach_id);
                let error = internal("its output ended before it could be listened to".to_owned());
                self.attach_failed(pending.asker, &pending.container_id, error);
            }
            None => self.tell(Event::AttachEnded { attach_id, reason }),
        }
    }

    /// One that failed was not the first.
    fn forget_first(&mut self, attach_id: &str) {
        for stdin in self
            .containers
            .iter_mut()
            .filter_map(|one| one.stdin.as_mut())
        {
            stdin.first.take_if(|(first, _)| first == attach_id);
        }
    }

    pub(crate) fn end_input(&mut self, attach_id: &str) -> Result<ReplyBody, WireError> {
        self.close_inputs(|attach, _| attach == attach_id);
        Ok(ReplyBody::Done)
    }

    /// The connection has closed, and with it the input of all that attached over it.
    pub(crate) fn inputs_lost(&mut self, connection: u32) {
        self.close_inputs(|_, first| first == connection);
    }

    fn close_inputs(&mut self, ended: impl Fn(&str, u32) -> bool) {
        for container in &mut self.containers {
            let first = container
                .stdin
                .as_ref()
                .and_then(|stdin| stdin.first.as_ref());
            if first.is_some_and(|(attach, connection)| ended(attach, *connection)) {
                // The daemon closes its own copy; the program reads the end once both are gone.
                container.stdin = None;
            }
        }
    }
}

impl Container {
    /// Whether an attach may write to the container, and notes it where the first such attach is the only one.
    fn grants_input(&mut self, asker: Asker, request: &Attach) -> bool {
        match (&self.console, &mut self.stdin) {
            (Some(_), _) => true,
            (None, None) => false,
            (None, Some(stdin)) if !stdin.once => true,
            (None, Some(stdin)) => {
                let free = stdin.first.is_none();
                if free {
                    stdin.first = Some((request.attach_id.clone(), asker.connection));
                }
                free
            }
        }
    }
}
