//! Attach: a client gets at the streams of a container's init.

use std::{io, os::fd::OwnedFd, sync::Arc};

use oci_plan::FdSlot;
use rustix::pipe::PipeFlags;
use supervisor_api::{Attach, AttachEnd, ReplyBody, RequestBody};
use tokio::sync::oneshot;

use super::{Container, Phase};
use crate::{
    id::{self, ContainerId},
    pod::Pod,
    supervisor::{CallError, Link, mismatch},
};

/// How far a listener may lag behind a container's output, bytes of a pipe. The second is what the kernel allows to everybody
/// (`/proc/sys/fs/pipe-max-size`), the first needs CAP_SYS_RESOURCE. Only what is unread takes memory.
const LAG_BYTES: [usize; 2] = [4 * 1024 * 1024, 1024 * 1024];

#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    #[error("attach to container {0}: it is not running")]
    NotRunning(ContainerId),
    #[error("attach to container {0}: make pipes")]
    Pipe(ContainerId, #[source] io::Error),
    #[error("attach to container {0}")]
    Supervisor(ContainerId, #[source] CallError),
}

/// A container's streams. Dropping it detaches.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    /// The writing end of its stdin, where that was asked for and is to be had; or, always, the master of its terminal. Non-blocking.
    pub(crate) input: Option<OwnedFd>,
    /// The container has a terminal.
    pub(crate) terminal: bool,
    /// What is written to `input` reaches the container.
    pub(crate) writable: bool,
    pub(crate) end: AttachmentEnd,
}

/// Why the output ends, to be waited for.
#[derive(Debug)]
pub(crate) struct AttachmentEnd {
    told: oneshot::Receiver<AttachEnd>,
    leash: Leash,
}

impl AttachmentEnd {
    /// `None`: nobody will ever tell. Not to be called again after it has returned.
    pub(crate) async fn wait(&mut self) -> Option<AttachEnd> {
        (&mut self.told).await.ok()
    }

    /// The client's input has ended: closes the container's where it is to close after the first attach. The `input` of the attachment must
    /// have been dropped.
    pub(crate) fn end_input(&mut self) {
        self.leash.let_go();
    }
}

/// Whether a client can attach now.
pub(crate) fn check_attach(container: &Container) -> Result<(), AttachError> {
    match container.phase() {
        Phase::Running { .. } => Ok(()),
        _ => Err(AttachError::NotRunning(container.id.clone())),
    }
}

/// Attaches to the streams that are asked for. What has been printed before is not repeated.
pub(crate) async fn attach(
    container: &Arc<Container>,
    [stdin, stdout, stderr]: [bool; 3],
) -> Result<Attachment, AttachError> {
    let id = &container.id;
    check_attach(container)?;
    let link = container
        .pod
        .link()
        .ok_or_else(|| AttachError::NotRunning(id.clone()))?;
    let failed = |error: io::Error| AttachError::Pipe(id.clone(), error);
    let attach_id = id::random_hex().map_err(failed)?;
    let (mut descriptors, mut ours) = (Vec::new(), Vec::new());
    let mut slots = Vec::new();
    for wanted in [stdout, stderr && !container.config.tty] {
        let mut slot = None;
        let mut our = None;
        if wanted {
            let (read, write) = pipe().map_err(failed)?;
            slot = Some(FdSlot(descriptors.len() as u16));
            descriptors.push(write);
            our = Some(read);
        }
        slots.push(slot);
        ours.push(our);
    }
    let told = container.pod.attaches.expect(&attach_id);
    let leash = Leash {
        pod: Arc::clone(&container.pod),
        link: Arc::clone(&link),
        attach_id: attach_id.clone(),
        // A container with a terminal has no stdin to close.
        held: stdin && !container.config.tty && container.config.stdin_once,
    };
    let request = RequestBody::Attach(Attach {
        container_id: id.to_string(),
        attach_id,
        stdin,
        stdout: slots[0],
        stderr: slots[1],
    });
    let refused = |error| AttachError::Supervisor(id.clone(), error);
    let (reply, descriptors) = link.call(request, descriptors).await.map_err(refused)?;
    let ReplyBody::Attached { terminal, input } = reply else {
        return Err(refused(mismatch("Attach", &reply)));
    };
    let stderr = ours.pop().flatten();
    Ok(Attachment {
        stdout: ours.pop().flatten(),
        stderr,
        input: descriptors.into_iter().next(),
        terminal,
        writable: input,
        end: AttachmentEnd { told, leash },
    })
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // With neither the pipe stays as it is, and the listener gets less patience.
    let _size = LAG_BYTES
        .iter()
        .find_map(|&size| rustix::pipe::fcntl_setpipe_size(&write, size).ok());
    Ok((read, write))
}

/// Ends the input when its client goes away.
#[derive(Debug)]
struct Leash {
    pod: Arc<Pod>,
    link: Arc<Link>,
    attach_id: String,
    held: bool,
}

impl Leash {
    fn let_go(&mut self) {
        if !std::mem::take(&mut self.held) {
            return;
        }
        let link = Arc::clone(&self.link);
        let request = RequestBody::EndInput {
            attach_id: self.attach_id.clone(),
        };
        tokio::spawn(async move {
            if let Err(error) = link.order("EndInput", request, Vec::new()).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "end the input of an attach");
            }
        });
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.pod.attaches.forget(&self.attach_id);
        self.let_go();
    }
}
