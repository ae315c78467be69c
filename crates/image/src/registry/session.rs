use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::client::Client;
use super::error::Tried;
use super::host::{Host, Patience};
use super::plan::Plan;
use super::{RegistryError, RegistryFailure};
use crate::error::with_causes;
use crate::{Auth, Digest, PullCause, Reference};

/// Distribution-spec: registries accept manifests of up to 4 MiB.
const MAX_DOCUMENT_BYTES: usize = 4 << 20;

/// One pull's conversation with one repository: with its mirrors in order, and the registry last.
///
/// Each request goes to the first host that has not been given up; where that does not do, to the next. A host is given up for the rest
/// of the pull when what it did says something of itself: it cannot be reached, is slow, refuses. That it does not have something says
/// nothing more.
#[derive(Debug)]
pub(crate) struct Session {
    repository: String,
    hosts: Vec<Host>,
    /// The host that has said what the name means.
    origin: AtomicUsize,
    /// Which hosts have given bytes of which blob.
    givers: Mutex<HashMap<String, Vec<usize>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Capability {
    Resolve,
    Pull,
}

/// Hosts to ask, in order, and what is known of those that are not asked any more.
pub(super) struct Candidates<'a> {
    pub(super) hosts: Vec<(usize, &'a Host)>,
    pub(super) tried: Vec<Tried>,
}

impl Session {
    /// Settles how the reference's registry is spoken to.
    pub(crate) async fn open(
        client: Arc<Client>,
        reference: &Reference,
        auth: Option<&Auth>,
    ) -> Result<Self, PullCause> {
        let plan = Plan::make(&client, reference, auth).await?;
        let mut hosts = Vec::with_capacity(plan.hosts.len());
        for planned in plan.hosts {
            let origin = planned.endpoint.origin();
            let host = Host::open(Arc::clone(&client), planned, reference.path())
                .await
                .map_err(|failure| RegistryError {
                    host: origin,
                    repository: reference.path().to_owned(),
                    request: "the first request".into(),
                    tried: Vec::new(),
                    failure,
                })?;
            hosts.push(host);
        }
        Ok(Self {
            repository: reference.path().to_owned(),
            origin: AtomicUsize::new(hosts.len() - 1),
            hosts,
            givers: Mutex::default(),
        })
    }

    /// Scheme, host and port of where the name's meaning is from.
    pub(crate) fn origin(&self) -> String {
        self.hosts[self.origin.load(Ordering::Relaxed)].origin()
    }

    /// The registry that the name is of, which comes after its mirrors.
    pub(super) fn registry(&self) -> &Host {
        &self.hosts[self.hosts.len() - 1]
    }

    /// For messages: the registry and the repository.
    pub(crate) fn subject(&self) -> String {
        format!("{} at {}", self.repository, self.origin())
    }

    /// A manifest or index by tag or digest, and the media type that the server gives it. Its digest is the caller's to check.
    pub(crate) async fn manifest(
        &self,
        target: &str,
        accept: &str,
    ) -> Result<(Bytes, String), RegistryError> {
        let digest = Digest::parse(target).ok();
        let request = format!("GET manifest {target}");
        let path = format!("manifests/{target}");
        let (index, document) = self
            .document(request, &path, accept, MAX_DOCUMENT_BYTES, digest)
            .await?;
        self.origin.store(index, Ordering::Relaxed);
        Ok(document)
    }

    /// A manifest or a list that is about the image, at `path` of the repository; of at most a manifest's size.
    pub(crate) async fn attached(&self, path: &str, accept: &str) -> Result<Bytes, RegistryError> {
        let request = format!("GET {path}");
        let (_, (bytes, _)) = self
            .document(request, path, accept, MAX_DOCUMENT_BYTES, None)
            .await?;
        Ok(bytes)
    }

    /// A blob of at most `limit` bytes, into memory. Its digest is the caller's to check.
    pub(crate) async fn small_blob(
        &self,
        digest: &str,
        limit: usize,
    ) -> Result<Bytes, RegistryError> {
        let request = format!("GET blob {digest}");
        let path = format!("blobs/{digest}");
        let wanted = Digest::parse(digest).ok();
        let (_, (bytes, _)) = self.document(request, &path, "*/*", limit, wanted).await?;
        Ok(bytes)
    }

    /// What the first host that has it gives, and which host that is. A host whose bytes have another digest does not have it, unless it is
    /// the last.
    async fn document(
        &self,
        request: String,
        path: &str,
        accept: &str,
        limit: usize,
        digest: Option<Digest>,
    ) -> Result<(usize, (Bytes, String)), RegistryError> {
        let capability = match digest {
            Some(_) => Capability::Pull,
            None => Capability::Resolve,
        };
        let Candidates { hosts, mut tried } = self.candidates(capability, &request)?;
        let mut hosts = hosts.into_iter().peekable();
        while let Some((index, host)) = hosts.next() {
            let patience = match hosts.peek() {
                Some(_) => Patience::Short,
                None => Patience::Full,
            };
            let work = host.document(path, accept, limit, patience);
            let failure = match host.within_its_time(patience, work).await {
                Ok((bytes, media_type)) => match &digest {
                    Some(digest) if patience == Patience::Short && !digest.matches(&bytes) => {
                        RegistryFailure::Digest {
                            found: Digest::of(&bytes).to_string(),
                        }
                    }
                    _ => return Ok((index, (bytes, media_type))),
                },
                Err(failure) => failure,
            };
            if patience == Patience::Full {
                return Err(self.error(host, request, tried, failure));
            }
            tried.push(self.go_on(host, &request, &failure));
        }
        Err(self.incapable(capability, request))
    }

    /// Those that may be asked and have not been given up; all that may, if they all have.
    pub(super) fn candidates(
        &self,
        capability: Capability,
        request: &str,
    ) -> Result<Candidates<'_>, RegistryError> {
        let capable = |host: &Host| match capability {
            Capability::Resolve => host.resolve,
            Capability::Pull => host.pull,
        };
        let all: Vec<(usize, &Host)> = (self.hosts.iter().enumerate())
            .filter(|(_, host)| capable(host))
            .collect();
        if all.is_empty() {
            return Err(self.incapable(capability, request.to_owned()));
        }
        let mut candidates = Candidates {
            hosts: Vec::with_capacity(all.len()),
            tried: Vec::new(),
        };
        for (index, host) in &all {
            match host.given_up() {
                None => candidates.hosts.push((*index, *host)),
                Some(outcome) => candidates.tried.push(Tried {
                    host: host.origin(),
                    outcome,
                }),
            }
        }
        if candidates.hosts.is_empty() {
            (candidates.hosts, candidates.tried) = (all, Vec::new());
        }
        Ok(candidates)
    }

    /// Notes why the next host is asked.
    pub(super) fn go_on(&self, host: &Host, request: &str, failure: &RegistryFailure) -> Tried {
        let outcome = with_causes(&failure);
        tracing::info!(
            host = host.origin(),
            repository = self.repository,
            request,
            outcome,
            "asking the next host"
        );
        if !failure.is_of_the_object() {
            host.give_up(outcome.clone());
        }
        Tried {
            host: host.origin(),
            outcome,
        }
    }

    pub(super) fn gave(&self, digest: &str, index: usize) {
        let mut givers = self.givers.lock().unwrap_or_else(PoisonError::into_inner);
        let indexes = givers.entry(digest.to_owned()).or_default();
        if !indexes.contains(&index) {
            indexes.push(index);
        }
    }

    /// Gives up those hosts whose bytes turned out not to be the blob's. Whether there is another one to ask for it.
    pub(crate) fn distrust(&self, digest: &str) -> bool {
        let givers = (self.givers.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .remove(digest)
            .unwrap_or_default();
        let another = (self.hosts.iter().enumerate()).any(|(index, host)| {
            host.pull && host.given_up().is_none() && !givers.contains(&index)
        });
        if another {
            for index in givers {
                self.hosts[index].give_up(format!("its bytes are not those of {digest}"));
            }
        }
        another
    }

    fn incapable(&self, capability: Capability, request: String) -> RegistryError {
        RegistryError {
            host: self.origin(),
            repository: self.repository.clone(),
            request,
            tried: Vec::new(),
            failure: RegistryFailure::Incapable {
                capability: match capability {
                    Capability::Resolve => "resolve",
                    Capability::Pull => "pull",
                },
            },
        }
    }

    pub(super) fn error(
        &self,
        host: &Host,
        request: String,
        tried: Vec<Tried>,
        failure: RegistryFailure,
    ) -> RegistryError {
        RegistryError {
            host: host.origin(),
            repository: self.repository.clone(),
            request,
            tried,
            failure,
        }
    }
}
