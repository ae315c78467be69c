//! The two looks: at the pull, and when a container is to be made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Action, Evidence, Policy, PolicyFile, PolicyUnread, SignatureError, Subject};
use super::{collect, verify};
use crate::registry::Session;
use crate::shelf::Shelf;
use crate::{Digest, Image, PullCause, Reference, StoreError};

/// The policy as a pull has found it.
pub(crate) struct Admission {
    policy: Option<Arc<Policy>>,
    repository: String,
    namespace: String,
}

impl Admission {
    /// Reads the policy. Images that it rejects whatever they are signed with are refused here, before anybody is asked for them.
    pub(crate) async fn open(
        file: &Arc<PolicyFile>,
        reference: &Reference,
        namespace: &str,
    ) -> Result<Self, PullCause> {
        let policy = file.current().await.map_err(|error| match error {
            PolicyUnread::Configuration(error) => {
                PullCause::Signature(SignatureError::Policy(error))
            }
            PolicyUnread::Store(error) => PullCause::Store(error),
        })?;
        let admission = Self {
            policy,
            repository: reference.repository(),
            namespace: namespace.to_owned(),
        };
        if let Some(policy) = &admission.policy {
            let verdict = policy.verdict(&admission.repository, namespace);
            if matches!(verdict.action, Action::Reject) {
                verify(verdict, admission.subject(&[]), &[], "").map_err(PullCause::Signature)?;
            }
        }
        Ok(admission)
    }

    /// What the registry has of signatures on any of the digests, where the policy wants one and one of them will do.
    pub(crate) async fn check(
        &self,
        session: &Session,
        digests: &[Digest],
    ) -> Result<Vec<Evidence>, PullCause> {
        let Some(policy) = &self.policy else {
            return Ok(Vec::new());
        };
        let verdict = policy.verdict(&self.repository, &self.namespace);
        if matches!(verdict.action, Action::Accept) {
            return Ok(Vec::new());
        }
        let found = collect(session, digests)
            .await
            .map_err(PullCause::Unasked)?;
        verify(verdict, self.subject(digests), &found, &session.origin())
            .map_err(PullCause::Signature)?;
        Ok(found)
    }

    fn subject<'a>(&'a self, digests: &'a [Digest]) -> Subject<'a> {
        Subject {
            repository: &self.repository,
            namespace: &self.namespace,
            digests,
        }
    }
}

/// Whether a container may be made of an image, by the policy as it is now and the signatures that were kept at the pull. `name` is what the
/// user has asked for; where the image has not come from that repository, every repository that it has come from must do.
pub(crate) async fn admit(
    shelf: &Arc<Shelf>,
    file: &Arc<PolicyFile>,
    image: &Image,
    name: &str,
    namespace: &str,
) -> Result<(), SignatureError> {
    let policy = file.current().await.map_err(|error| match error {
        PolicyUnread::Configuration(error) => SignatureError::Policy(error),
        PolicyUnread::Store(error) => SignatureError::Store(error),
    })?;
    let Some(policy) = policy else {
        return Ok(());
    };
    let origins = origins(image);
    let named = Reference::parse(name).map(|reference| reference.repository());
    let chosen = (named.ok()).and_then(|repository| origins.get_key_value(&repository));
    let chosen: Vec<_> = match chosen {
        Some(one) => vec![one],
        None => origins.iter().collect(),
    };
    let (id, kept) = (image.id.clone(), Arc::clone(shelf));
    let kept = shelf
        .blocking("read what was kept of signatures", move || {
            kept.signatures(&id)
        })
        .await?;
    for (repository, digests) in chosen {
        let digests: Vec<Digest> = digests.iter().cloned().collect();
        let subject = Subject {
            repository,
            namespace,
            digests: &digests,
        };
        let verdict = policy.verdict(repository, namespace);
        if kept.is_empty() && matches!(verdict.action, Action::Signed(_)) {
            return Err(SignatureError::NotKept {
                rule: verdict.rule(),
                image: subject.shown(),
            });
        }
        verify(verdict, subject, &kept, "the node")?;
    }
    Ok(())
}

/// The repositories that an image has come from, each with the digests that it has there. One that has come from none has the empty name, for
/// which only rules for all images and the default are.
fn origins(image: &Image) -> BTreeMap<String, BTreeSet<Digest>> {
    let mut origins: BTreeMap<String, BTreeSet<Digest>> = BTreeMap::new();
    let manifest = Digest::parse(&image.manifest_digest).ok();
    for name in image.repo_tags.iter().chain(&image.repo_digests) {
        if let Ok(reference) = Reference::parse(name) {
            let digests = origins.entry(reference.repository()).or_default();
            digests.extend(reference.digest().cloned());
            digests.extend(manifest.clone());
        }
    }
    if origins.is_empty() {
        origins.insert(String::new(), manifest.into_iter().collect());
    }
    origins
}

/// Those that are kept already, and those that have been found now.
pub(crate) async fn united(
    shelf: &Arc<Shelf>,
    id: &str,
    found: Vec<Evidence>,
) -> Result<(bool, Vec<Evidence>), StoreError> {
    if found.is_empty() {
        return Ok((false, found));
    }
    let (id, reader) = (id.to_owned(), Arc::clone(shelf));
    let mut kept = shelf
        .blocking("read what was kept of signatures", move || {
            reader.signatures(&id)
        })
        .await?;
    let before = kept.len();
    let new = found
        .into_iter()
        .filter(|one| !kept.contains(one))
        .collect::<Vec<_>>();
    kept.extend(new);
    let news = kept.len() > before;
    // The oldest go: what is on the image now was found last.
    kept.drain(..kept.len().saturating_sub(MOST_KEPT));
    Ok((news, kept))
}

/// Of one image.
const MOST_KEPT: usize = 64;
