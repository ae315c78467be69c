//! What a pull will try, in which order, as whom: settled before the first request, and what `explain-pull` shows.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderMap;
use http::uri::Scheme;

use super::client::Client;
use super::endpoint::{Endpoint, is_loopback};
use super::hosts_file::{Entry, HostsFile, Tls};
use super::tls::Certificates;
use super::{RegistryError, RegistryFailure};
use crate::auth::Credentials;
use crate::keyring::{Found, Keyring};
use crate::{Auth, ConfigurationError, PullCause, Reference, StoreError};

/// The hosts of one pull, in order.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(super) hosts: Vec<PlannedHost>,
    ignored: Vec<String>,
}

#[derive(Debug)]
pub(super) struct PlannedHost {
    pub(super) endpoint: Endpoint,
    /// File and line, or why it is asked at all.
    settled_by: String,
    pub(super) resolve: bool,
    pub(super) pull: bool,
    /// The registry that a mirror is asked to stand for, where it is not the registry itself.
    pub(super) namespace: Option<String>,
    pub(super) headers: HeaderMap,
    tls: Tls,
    pub(super) certificates: Option<Certificates>,
    pub(super) dial_timeout: Option<Duration>,
    pub(super) found: Found,
}

/// What a pull would try, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullPlan {
    /// The reference in full.
    pub reference: String,
    /// First to last.
    pub hosts: Vec<PlannedSource>,
    /// Keys of the registry's `hosts.toml` that mean nothing, with file and line.
    pub ignored: Vec<String>,
    /// What the policy for signatures says, and which of its rules.
    pub signatures: String,
}

/// One host of a plan. Nothing of it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedSource {
    /// Of the repository's API there.
    pub url: String,
    /// File and line, or why it is asked at all.
    pub settled_by: String,
    /// Whether it is asked what a tag means.
    pub resolves: bool,
    /// Whether it is asked for what has a digest: manifests and layers.
    pub pulls: bool,
    /// Kind of the credentials and where they are from; `none (…)` says why there are none.
    pub credentials: String,
    /// The proxy on the way.
    pub proxy: Option<String>,
    /// Certificate authorities trusted beside the system's.
    pub authorities: Vec<PathBuf>,
    /// The certificate by which we are known.
    pub client_certificate: Option<PathBuf>,
    /// Any certificate of the host will do.
    pub skip_verify: bool,
    /// Names of the headers that it gets beside the usual.
    pub headers: Vec<String>,
}

impl Plan {
    /// Reads the files of configuration, and asks a registry on this machine whether it speaks TLS.
    pub(crate) async fn make(
        client: &Client,
        reference: &Reference,
        auth: Option<&Auth>,
    ) -> Result<Self, PullCause> {
        let domain = reference.domain();
        let credentials =
            Credentials::of(auth, domain).map_err(|reason| PullCause::Credentials { reason })?;
        let (hosts, keyring) = files(client, domain).await?;
        let unusable = |failure| RegistryError {
            host: domain.to_owned(),
            repository: reference.path().to_owned(),
            request: "the first request".into(),
            tried: Vec::new(),
            failure,
        };
        let (path, mut entries, ignored) = match hosts {
            Some((path, entries, ignored)) => (Some(path), entries, ignored),
            None => (None, vec![(Entry::plain(), None)], Vec::new()),
        };
        let place = |line: usize| match (&path, line) {
            (Some(path), 0) => format!("the image's name, and {}", path.display()),
            (Some(path), line) => format!("{}:{line}", path.display()),
            (None, _) => "the image's name".to_owned(),
        };
        // The last is the registry itself.
        let mut plain = "";
        let mut registry = None;
        if let Some((server, _)) = entries.last_mut() {
            if server.endpoint.is_none() {
                let (endpoint, why) = implied(client, domain).await.map_err(unusable)?;
                (server.endpoint, plain) = (Some(endpoint), why);
            }
            registry.clone_from(&server.endpoint);
        }
        let own = Found {
            source: format!("{} of the request", credentials.kind()),
            credentials,
        };
        let last = entries.len() - 1;
        let mut hosts: Vec<PlannedHost> = Vec::with_capacity(entries.len());
        for (index, (entry, certificates)) in entries.into_iter().enumerate() {
            let Some(endpoint) = entry.endpoint else {
                continue;
            };
            // Who has listed the registry among its mirrors has meant that place.
            if (hosts.iter()).any(|host| host.endpoint == endpoint && host.resolve && host.pull) {
                continue;
            }
            let address = endpoint.authority.as_str();
            let is_registry = index == last
                || (registry.as_ref()).is_some_and(|other| other.authority == endpoint.authority);
            let requested = match auth {
                _ if is_registry => Some(own.clone()),
                Some(auth) if auth.names(address) => {
                    let credentials = Credentials::of(Some(auth), address)
                        .map_err(|reason| PullCause::Credentials { reason })?;
                    Some(Found {
                        source: format!("{} of the request", credentials.kind()),
                        credentials,
                    })
                }
                _ => None,
            };
            let found = match requested {
                Some(found) if found.credentials != Credentials::Anonymous => found,
                _ => {
                    let name = if is_registry { domain } else { address };
                    keyring.find(name, reference.path()).await?
                }
            };
            let mut settled_by = place(entry.line);
            if index == last {
                settled_by.push_str(plain);
            }
            hosts.push(PlannedHost {
                namespace: (!is_registry).then(|| domain.to_owned()),
                endpoint,
                settled_by,
                resolve: entry.resolve,
                pull: entry.pull,
                headers: entry.headers,
                tls: entry.tls,
                certificates,
                dial_timeout: entry.dial_timeout,
                found,
            });
        }
        Ok(Self { hosts, ignored })
    }

    /// What of it may be shown, which is all but the secrets.
    pub(crate) fn shown(&self, client: &Client, reference: &Reference) -> PullPlan {
        let hosts = self.hosts.iter().map(|host| PlannedSource {
            url: format!(
                "{}{}/{}",
                host.endpoint.origin(),
                host.endpoint.prefix,
                reference.path()
            ),
            settled_by: host.settled_by.clone(),
            resolves: host.resolve,
            pulls: host.pull,
            credentials: host.found.source.clone(),
            proxy: (host.endpoint.uri("").ok()).and_then(|uri| client.proxies.shown(&uri)),
            authorities: host.tls.ca.clone(),
            client_certificate: host.tls.client.first().map(|(path, _)| path.clone()),
            skip_verify: host.tls.skip_verify,
            headers: host.headers.keys().map(ToString::to_string).collect(),
        });
        PullPlan {
            reference: reference.canonical(),
            hosts: hosts.collect(),
            ignored: self.ignored.clone(),
            signatures: String::new(),
        }
    }
}

type Entries = Vec<(Entry, Option<Certificates>)>;

/// What is configured for the registry, the mirrors first and the registry last; and the node's credentials.
async fn files(
    client: &Client,
    domain: &str,
) -> Result<(Option<(PathBuf, Entries, Vec<String>)>, Keyring), PullCause> {
    let (root, credentials) = (
        client.hosts_directory.clone(),
        client.credentials_file.clone(),
    );
    let programs = client.credential_programs.clone();
    let domain = domain.to_owned();
    let read = move || -> Result<_, ConfigurationError> {
        let keyring = match &credentials {
            Some(path) => Keyring::read(path, programs)?,
            None => Keyring::default(),
        };
        let file = match &root {
            Some(root) => HostsFile::find(root, &domain)?,
            None => None,
        };
        let Some(file) = file else {
            return Ok((None, keyring));
        };
        let mut entries = Vec::with_capacity(file.mirrors.len() + 1);
        for entry in file.mirrors.into_iter().chain([file.server]) {
            let certificates = match entry.tls == Tls::default() {
                true => None,
                false => Some(Certificates::read(&entry.tls, &file.path, entry.line)?),
            };
            entries.push((entry, certificates));
        }
        Ok((Some((file.path, entries, file.ignored)), keyring))
    };
    let read = tokio::task::spawn_blocking(read)
        .await
        .map_err(|source| StoreError::Task {
            action: "read the configuration of registries",
            source,
        })?;
    Ok(read?)
}

/// How a registry is spoken to of which nothing more is known than its name; and why, where that is not by HTTPS.
async fn implied(
    client: &Client,
    domain: &str,
) -> Result<(Endpoint, &'static str), RegistryFailure> {
    let plain = Endpoint::of(Scheme::HTTP, domain)?;
    if client.is_insecure(domain) {
        return Ok((plain, "; plain HTTP by registries.insecure"));
    }
    if is_loopback(&plain.authority) && client.answers_plain(plain.uri("")?).await {
        return Ok((plain, "; plain HTTP, since it is this machine"));
    }
    Ok((Endpoint::of(Scheme::HTTPS, domain)?, ""))
}
