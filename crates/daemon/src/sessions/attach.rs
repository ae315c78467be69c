//! A client at the streams of a container's init.

use std::{io, sync::Arc, time::Duration};

use streaming::{AttachRequest, Reader, SessionError, Streams, Writer};
use supervisor_api::AttachEnd;

use super::{
    client_gone,
    exec::resizes,
    pump::{End, InputEnd, drop_rest, inward, outward},
    session_error,
};
use crate::container::{self, AttachError, Attachment, Container};

/// How long a client that is let go may take what is there: the last words of one that ends its input may still call something forth.
const LINGER: Duration = Duration::from_millis(200);

/// Serves until the container's output ends, or the client detaches: by leaving, or by ending its input where the container's does not end with
/// it.
pub(super) async fn attach(
    container: &Arc<Container>,
    request: &AttachRequest,
    streams: Streams,
) -> Result<(), SessionError> {
    let gone = streams.gone.clone();
    let wanted = [request.stdin, request.stdout, request.stderr];
    let attachment = container::attach(container, wanted)
        .await
        .map_err(session_error)?;
    tokio::select! {
        end = run(container, attachment, streams) => end,
        () = gone.gone() => Err(client_gone()),
    }
}

async fn run(
    container: &Container,
    attachment: Attachment,
    streams: Streams,
) -> Result<(), SessionError> {
    let Attachment {
        stdout,
        stderr,
        input,
        terminal,
        writable,
        end: mut told,
    } = attachment;
    let watch = |descriptor| {
        End::new(descriptor)
            .map_err(|error| session_error(AttachError::Pipe(container.id.clone(), error)))
    };
    let (stdout, stderr) = (
        stdout.map(watch).transpose()?,
        stderr.map(watch).transpose()?,
    );
    let mut input = input.map(watch).transpose()?;
    let mut hears = stdout.is_some() || stderr.is_some();
    let mut types = streams.stdin.is_some();
    let mut told_why = false;
    let output = async {
        let (out, err) = tokio::join!(carry(stdout, streams.stdout), carry(stderr, streams.stderr));
        out.and(err)
    };
    tokio::pin!(output);
    let master = if terminal { input.take() } else { None };
    let resizing = async {
        resizes(streams.resize, master.as_ref()).await;
        std::future::pending::<()>().await;
    };
    tokio::pin!(resizing);
    let typing = type_into(
        container,
        streams.stdin,
        input,
        master.as_ref().filter(|_| writable),
    );
    tokio::pin!(typing);

    while hears || types {
        tokio::select! {
            typed = &mut typing, if types => {
                types = false;
                match typed {
                    Typed::Away if hears => {
                        let _heard = tokio::time::timeout(LINGER, &mut output).await;
                        return Ok(());
                    }
                    Typed::Away | Typed::Nothing => {}
                    Typed::End => told.end_input(),
                }
            }
            why = told.wait(), if hears && !told_why => {
                told_why = true;
                let ended = how_it_ended(container, why);
                if ended.is_err() {
                    // It may not take what was before, which must not keep it from the reason.
                    let _heard = tokio::time::timeout(LINGER, &mut output).await;
                    return ended;
                }
            }
            carried = &mut output, if hears => {
                hears = false;
                carried.map_err(|_gone| client_gone())?;
                if !told_why {
                    how_it_ended(container, told.wait().await)?;
                }
                // One that has closed its output may still want input.
                types = types && writable;
            }
            () = container.exited(), if !hears => return Ok(()),
            () = &mut resizing => {}
        }
    }
    Ok(())
}

async fn carry(pipe: Option<End>, to: Option<Writer>) -> io::Result<()> {
    match (pipe, to) {
        (Some(pipe), Some(to)) => outward(&pipe, to, std::future::pending()).await,
        (Some(_) | None, _) => Ok(()),
    }
}

/// What the end of the client's input means.
#[derive(Debug, Clone, Copy)]
enum Typed {
    /// The client detaches.
    Away,
    /// The container's input ends with it.
    End,
    Nothing,
}

async fn type_into(
    container: &Container,
    from: Option<Reader>,
    pipe: Option<End>,
    terminal: Option<&End>,
) -> Typed {
    let Some(mut from) = from else {
        return Typed::Nothing;
    };
    let config = &container.config;
    let (ended, end) = match (&pipe, terminal) {
        (Some(pipe), _) if config.stdin_once => (inward(&mut from, pipe).await, Typed::End),
        (Some(pipe), _) => (inward(&mut from, pipe).await, Typed::Away),
        (None, Some(terminal)) => (inward(&mut from, terminal).await, Typed::Away),
        // Its input has ended with an earlier attach.
        (None, None) if config.stdin => (
            drop_rest(&mut from).await.map(|()| InputEnd::Closed),
            Typed::Away,
        ),
        // It never had any: the client's is not missed.
        (None, None) => (
            drop_rest(&mut from).await.map(|()| InputEnd::Closed),
            Typed::Nothing,
        ),
    };
    match ended {
        Ok(InputEnd::Closed) => end,
        // The container closed its input itself; or the client has gone, which is noticed elsewhere.
        Ok(InputEnd::Unread) | Err(_) => Typed::Nothing,
    }
}

fn how_it_ended(container: &Container, why: Option<AttachEnd>) -> Result<(), SessionError> {
    let words = match why {
        Some(AttachEnd::Output) => return Ok(()),
        Some(AttachEnd::Detached) => return Err(client_gone()),
        Some(AttachEnd::Lagged) => {
            "this client has fallen too far behind its output and is disconnected; the container and its log go on"
        }
        Some(AttachEnd::Interrupted) => {
            "the process that carries its output was killed; the container goes on: attach again"
        }
        None => "the pod's supervisor is gone",
    };
    Err(SessionError::new(format!(
        "attach to container {}: {words}",
        container.id
    )))
}
