use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use cri::progress::PullCredentials;
use cri::v1::{AuthConfig, ContainerConfig, ImageSpec, PodSandboxConfig, PullImageRequest};
use rustix::termios::{LocalModes, OptionalActions};

use crate::error::Error;
use crate::output::{Output, progress};
use crate::session::Session;
use crate::{duration, input};

/// Pull an image from a registry
#[derive(Debug, Args)]
pub(crate) struct Pull {
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
    /// The PodSandboxConfig of the pod that it is for
    #[arg(long, value_name = "POD-CONFIG")]
    pod_config: Option<PathBuf>,
    /// Annotation of the request's image
    #[arg(long = "annotation", short, value_name = "KEY=VALUE")]
    annotations: Vec<String>,
    #[command(flatten)]
    flags: PullFlags,
    /// Print only the image's reference, and draw no progress
    #[arg(long, short)]
    quiet: bool,
}

/// Credentials and bounds, of every command that can pull.
#[derive(Debug, Default, Args)]
pub(crate) struct PullFlags {
    /// Credentials for the registry
    #[arg(long, value_name = "USERNAME[:PASSWORD]", conflicts_with_all = ["auth", "username"])]
    creds: Option<String>,
    /// Credentials for the registry, base64 of USERNAME[:PASSWORD]
    #[arg(long, value_name = "BASE64", conflicts_with = "username")]
    auth: Option<String>,
    /// User of the registry; the password is asked for
    #[arg(long, short)]
    username: Option<String>,
    /// Give up a pull after this time; 0s is never [env: CRICTL_PULL_TIMEOUT]
    #[arg(long, visible_alias = "pt", value_name = "DURATION", value_parser = duration::parse)]
    pull_timeout: Option<Duration>,
}

impl Pull {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let sandbox_config = match &self.pod_config {
            Some(path) => Some(input::pod_config(path)?),
            None => None,
        };
        let request = PullImageRequest {
            image: Some(ImageSpec {
                image: self.image,
                annotations: input::pairs("--annotation", &self.annotations)?,
                ..ImageSpec::default()
            }),
            auth: self.flags.credentials()?,
            sandbox_config,
        };
        if self.quiet {
            let reference = session.pull_image(request, self.flags.bound()?).await?;
            return Ok(writeln!(out, "{reference}")?);
        }
        let reference = one(session, request, &self.flags).await?;
        writeln!(out, "Image is up to date for {reference}")?;
        Ok(())
    }
}

/// Pulls the image of a container, and those of its image mounts.
pub(crate) async fn images_of(
    session: &Session,
    config: &ContainerConfig,
    sandbox: Option<&PodSandboxConfig>,
    flags: &PullFlags,
) -> Result<(), Error> {
    let auth = flags.credentials()?;
    let mounts = config
        .mounts
        .iter()
        .filter_map(|mount| mount.image.as_ref());
    for image in config.image.iter().chain(mounts) {
        let request = PullImageRequest {
            image: Some(image.clone()),
            auth: auth.clone(),
            sandbox_config: sandbox.cloned(),
        };
        one(session, request, flags).await?;
    }
    Ok(())
}

/// Pulls one image, and shows on a terminal how far it is; returns its reference.
pub(crate) async fn one(
    session: &Session,
    request: PullImageRequest,
    flags: &PullFlags,
) -> Result<String, Error> {
    let name = request
        .image
        .as_ref()
        .map_or("", |image| &image.image)
        .to_owned();
    if name.is_empty() {
        return Err(Error::Usage("the image's name is empty".to_owned()));
    }
    let pull = session.pull_image(request, flags.bound()?);
    progress::shown(&name, session.watch_pull(&name), pull).await
}

impl PullFlags {
    fn bound(&self) -> Result<Option<Duration>, Error> {
        let from_environment = || match std::env::var("CRICTL_PULL_TIMEOUT") {
            Ok(text) if !text.is_empty() => duration::parse(&text)
                .map(Some)
                .map_err(|reason| Error::Usage(format!("CRICTL_PULL_TIMEOUT: {reason}"))),
            _ => Ok(None),
        };
        let bound = match self.pull_timeout {
            Some(bound) => Some(bound),
            None => from_environment()?,
        };
        Ok(bound.filter(|bound| !bound.is_zero()))
    }

    pub(crate) fn credentials(&self) -> Result<Option<AuthConfig>, Error> {
        if let Some(creds) = &self.creds {
            let (username, password) = creds.split_once(':').unwrap_or((creds, ""));
            if username.is_empty() {
                return Err(Error::Usage("--creds: the username is empty".to_owned()));
            }
            return Ok(Some(login(username, password)));
        }
        if let Some(auth) = &self.auth {
            return Ok(Some(AuthConfig {
                auth: auth.clone(),
                ..AuthConfig::default()
            }));
        }
        match &self.username {
            Some(username) => Ok(Some(login(username, &ask_password()?))),
            None => Ok(None),
        }
    }
}

impl PullFlags {
    /// As services of Longshore's own have them.
    pub(crate) fn own_credentials(&self) -> Result<Option<PullCredentials>, Error> {
        let auth = self.credentials()?;
        Ok(auth.map(|auth| PullCredentials {
            username: auth.username,
            password: auth.password,
            auth: auth.auth,
            server_address: auth.server_address,
            identity_token: auth.identity_token,
            registry_token: auth.registry_token,
        }))
    }
}

fn login(username: &str, password: &str) -> AuthConfig {
    AuthConfig {
        username: username.to_owned(),
        password: password.to_owned(),
        ..AuthConfig::default()
    }
}

/// A line of stdin, unseen if that is a terminal.
fn ask_password() -> Result<String, Error> {
    let failed = |source| Error::Io {
        what: "read the password".to_owned(),
        source,
    };
    let stdin = io::stdin();
    let before = rustix::termios::tcgetattr(&stdin).ok();
    if let Some(before) = &before {
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        rustix::termios::tcsetattr(&stdin, OptionalActions::Flush, &silent)
            .map_err(|error| failed(error.into()))?;
    }
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(b"Enter Password:");
    let mut line = String::new();
    // Longer lines are no passwords, and could be a file without line ends.
    let read = io::BufRead::read_line(&mut io::BufReader::new(stdin.lock().take(4096)), &mut line);
    let _ = stderr.write_all(b"\n");
    if let Some(before) = &before {
        rustix::termios::tcsetattr(&stdin, OptionalActions::Flush, before)
            .map_err(|error| failed(error.into()))?;
    }
    read.map_err(failed)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_in_three_ways() {
        let flags = |creds: Option<&str>, auth: Option<&str>| PullFlags {
            creds: creds.map(str::to_owned),
            auth: auth.map(str::to_owned),
            ..PullFlags::default()
        };
        let auth = flags(Some("me:pass:word"), None)
            .credentials()
            .unwrap()
            .unwrap();
        assert_eq!(
            (auth.username.as_str(), auth.password.as_str()),
            ("me", "pass:word")
        );
        let auth = flags(None, Some("bWU6eA=="))
            .credentials()
            .unwrap()
            .unwrap();
        assert_eq!(auth.auth, "bWU6eA==");
        assert!(flags(None, None).credentials().unwrap().is_none());
        assert!(flags(Some(":x"), None).credentials().is_err());
    }
}
