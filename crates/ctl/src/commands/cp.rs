use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use clap::Args;
use cri::progress::{
    CopyInOptions, CopyInRequest, CopyInResponse, CopyOutRequest, copy_in_request::Part,
};
use rustix::fs::{Mode, OFlags};
use tokio::sync::mpsc;

use super::pieces::{Arriving, PIECE_BYTES, Pieces};
use crate::error::{self, Error};
use crate::ids;
use crate::output::Output;
use crate::session::Session;

/// Pieces of an archive that wait.
const WAITING: usize = 4;

/// Copy files out of a container, or into one; - is a tar archive on stdin or stdout
#[derive(Debug, Args)]
pub(crate) struct Cp {
    #[arg(value_name = "[CONTAINER-ID:]FROM")]
    from: String,
    #[arg(value_name = "[CONTAINER-ID:]TO")]
    to: String,
    /// Keep owners, set-id bits and extended attributes
    #[arg(long, short)]
    archive: bool,
    /// Where FROM is a link, copy what it leads to
    #[arg(long, short = 'L')]
    follow_link: bool,
    /// Do not say what was left out
    #[arg(long, short)]
    quiet: bool,
}

impl Cp {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let left_out = match (parse(&self.from), parse(&self.to)) {
            (Side::Container(id, path), Side::Local(to)) => {
                self.out_of(session, id, path, to, out).await?
            }
            (Side::Local(from), Side::Container(id, path)) => {
                self.in_to(session, from, id, path).await?
            }
            (Side::Local(_), Side::Local(_)) => {
                return Err(Error::Usage(
                    "cp: one of the two must be CONTAINER-ID:PATH".to_owned(),
                ));
            }
            (Side::Container(..), Side::Container(..)) => {
                return Err(Error::Usage(
                    "cp: one of the two must be here; through a pipe: cp A:PATH - | cp - B:PATH"
                        .to_owned(),
                ));
            }
        };
        for line in left_out.iter().filter(|_| !self.quiet) {
            error::note(&format!("left out: {line}"));
        }
        Ok(())
    }

    async fn out_of(
        &self,
        session: &Session,
        id: &str,
        path: &str,
        to: &str,
        out: &mut Output,
    ) -> Result<Vec<String>, Error> {
        if to == "-" && io::stdout().is_terminal() {
            return Err(Error::Usage(
                "cp: an archive is nothing for a terminal: send it to a file or a pipe".to_owned(),
            ));
        }
        let contents = is_nameless(path);
        let request = CopyOutRequest {
            container_id: ids::container(session, id).await?,
            path: path.to_owned(),
            follow: self.follow_link,
            contents,
        };
        let failed = |status| Error::own_rpc(format!("copy {path} from the container"), status);
        let mut parts = session.copy_out(request).await?;
        let mut left_out = Vec::new();
        if to == "-" {
            while let Some(part) = parts.message().await.map_err(failed)? {
                out.write_all(&part.data)?;
                left_out.extend(part.left_out);
            }
            return Ok(left_out);
        }
        // Before anything is made: most of what can go wrong has by now.
        let mut next = parts.message().await.map_err(failed)?;
        let target = copy::Target {
            path: absolute(to)?,
            directory: false,
            contents,
            keep: self.archive,
            owner: None,
        };
        let (sender, receiver) = mpsc::channel(WAITING);
        let unpacking = tokio::task::spawn_blocking(move || {
            let root = root().map_err(|error| local("open /", error))?;
            copy::unpack(root.as_fd(), &target, Arriving::new(receiver)).map_err(Error::Copy)
        });
        let mut ended = Ok(());
        while let Some(part) = next {
            left_out.extend(part.left_out);
            if sender.send(part.data).await.is_err() {
                break;
            }
            next = match parts.message().await {
                Ok(part) => part,
                Err(status) => {
                    ended = Err(failed(status));
                    None
                }
            };
        }
        drop(sender);
        let unpacked = unpacking.await.unwrap_or_else(|panicked| {
            let error = io::Error::other(panicked);
            Err(local("copy", error))
        });
        // An archive that was cut off makes both fail, and the first is why.
        ended?;
        left_out.extend(unpacked?);
        Ok(left_out)
    }

    async fn in_to(
        &self,
        session: &Session,
        from: &str,
        id: &str,
        path: &str,
    ) -> Result<Vec<String>, Error> {
        let contents = is_nameless(from);
        let options = CopyInOptions {
            container_id: ids::container(session, id).await?,
            path: path.to_owned(),
            directory: from == "-",
            contents,
            keep: self.archive,
        };
        let source = match from {
            "-" => None,
            from => Some(copy::Source {
                path: absolute(from)?,
                follow: self.follow_link,
                contents,
            }),
        };
        // A source that is not there is found before the container is touched.
        if let Some(source) = &source {
            std::fs::symlink_metadata(&source.path)
                .map_err(|error| local(&format!("look at {from}"), error))?;
        }
        let (sender, messages) = mpsc::channel(WAITING);
        let packing = tokio::task::spawn_blocking(move || pack(source, options, sender));
        let copying = session.copy_in(messages);
        tokio::pin!(copying);
        let (reply, left_out): (CopyInResponse, _) = tokio::select! {
            reply = &mut copying => (reply?, Vec::new()),
            packed = packing => {
                match packed.unwrap_or_else(|panicked| Err(local("copy", io::Error::other(panicked)))) {
                    Ok(left_out) => (copying.await?, left_out),
                    // The runtime wants no more, and says why.
                    Err(error) if is_broken(&error) => (copying.await?, Vec::new()),
                    Err(error) => return Err(error),
                }
            }
        };
        Ok([left_out, reply.left_out].concat())
    }
}

fn pack(
    source: Option<copy::Source>,
    options: CopyInOptions,
    sender: mpsc::Sender<CopyInRequest>,
) -> Result<Vec<String>, Error> {
    let first = CopyInRequest {
        part: Some(Part::Options(options)),
    };
    // A service that wants no more says why itself.
    let _ = sender.blocking_send(first);
    let mut pieces = Pieces {
        sender,
        message: |bytes| CopyInRequest {
            part: Some(Part::Chunk(bytes)),
        },
    };
    let Some(source) = source else {
        let copied = pieces.copy(&mut io::stdin().lock());
        return copied
            .map(|()| Vec::new())
            .map_err(|error| local("read stdin", error));
    };
    let root = root().map_err(|error| local("open /", error))?;
    let buffered = io::BufWriter::with_capacity(PIECE_BYTES, pieces);
    copy::pack(root.as_fd(), &source, buffered).map_err(Error::Copy)
}

fn is_broken(error: &Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    match error {
        Error::Io { source, .. } | Error::Copy(copy::Error::Write(source)) => broken(source),
        _ => false,
    }
}

fn root() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/", flags, Mode::empty())?)
}

fn local(what: &str, source: io::Error) -> Error {
    Error::Io {
        what: what.to_owned(),
        source,
    }
}

/// `.` and an end in `/` are kept: they mean something.
fn absolute(path: &str) -> Result<PathBuf, Error> {
    let mut whole = match Path::new(path).is_absolute() {
        true => PathBuf::new(),
        false => {
            std::env::current_dir().map_err(|error| local("find the working directory", error))?
        }
    };
    whole.push(path);
    Ok(whole)
}

/// `DIRECTORY/.`, `/` and what ends in `..`: what is in it, without a name.
fn is_nameless(path: &str) -> bool {
    path == "." || path.ends_with("/.") || Path::new(path).file_name().is_none()
}

#[derive(Debug, PartialEq)]
enum Side<'a> {
    Local(&'a str),
    Container(&'a str, &'a str),
}

/// A container's id or name has no slash and does not begin with a dot; a file whose name has a colon is `./a:b`.
fn parse(text: &str) -> Side<'_> {
    match text.split_once(':') {
        Some((id, path)) if !id.is_empty() && !id.contains('/') && !id.starts_with('.') => {
            match path {
                "" => Side::Container(id, "/"),
                path => Side::Container(id, path),
            }
        }
        _ => Side::Local(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_a_containers_where_an_id_stands_before_a_colon() {
        assert_eq!(parse("web:/etc"), Side::Container("web", "/etc"));
        assert_eq!(parse("web:"), Side::Container("web", "/"));
        assert_eq!(parse("web:a:b"), Side::Container("web", "a:b"));
        for local in ["-", "file", "./a:b", "/a:b", "d/a:b", ":x", "../x:y"] {
            assert_eq!(parse(local), Side::Local(local), "{local}");
        }
        for nameless in ["a/.", ".", "/", "a/..", ".."] {
            assert!(is_nameless(nameless), "{nameless}");
        }
        for named in ["a", "a.", "/a", "a/b/"] {
            assert!(!is_nameless(named), "{named}");
        }
    }
}
