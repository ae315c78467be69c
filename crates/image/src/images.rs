use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use snapshot::{Overlay, Usage};
use tokio::sync::{Notify, Semaphore, watch};

use crate::auth::Credentials;
use crate::ongoing::{Ongoing, Outcome, PullKey};
use crate::pull::Pull;
use crate::registry::{Client, Plan};
use crate::shelf::Shelf;
use crate::signature::{self, PolicyFile, PolicyUnread};
use crate::{
    Auth, FindError, Holdings, Image, ImagesConfig, PinError, PullCause, PullError, PullPlan,
    PullProgress, Reference, ReferenceError, RemoveError, SignatureError, StoreError,
};

/// The images of one root. Cheap to clone; all clones are one store.
#[derive(Debug, Clone)]
pub struct Images {
    pub(crate) shelf: Arc<Shelf>,
    /// Replaced as a whole when the configuration changes; each pull keeps the one that it began with.
    client: Arc<RwLock<Arc<Client>>>,
    pub(crate) permits: Arc<Semaphore>,
    /// One check at a time.
    pub(crate) checking: Arc<tokio::sync::Mutex<()>>,
    policy: Arc<PolicyFile>,
    ongoing: Arc<Mutex<HashMap<PullKey, Arc<Ongoing>>>>,
    /// Tells those who wait for a pull to watch.
    begun: Arc<Notify>,
}

/// What to pull.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// As people write it.
    pub reference: String,
    /// None: anonymously.
    pub auth: Option<Auth>,
    /// On whose behalf, where the policy for signatures tells them apart; may be empty.
    pub namespace: String,
}

impl Images {
    /// Opens the store, sweeps what an interrupted pull has left, and drops what a power cut may have damaged. Only one process
    /// can have a root open. Background work runs on the tokio runtime of the caller.
    pub async fn open(config: ImagesConfig, overlay: Arc<Overlay>) -> Result<Self, StoreError> {
        let client = Arc::new(RwLock::new(Arc::new(Client::new(&config))));
        let permits = Arc::new(Semaphore::new(config.layers_at_once.max(1)));
        let policy = Arc::new(PolicyFile::new(config.signature_policy.clone()));
        let shelf = crate::recovery::open(config, overlay).await?;
        shelf.sync_behind();
        Ok(Self {
            shelf,
            client,
            permits,
            policy,
            checking: Arc::default(),
            ongoing: Arc::default(),
            begun: Arc::default(),
        })
    }

    /// From here on pulls reach registries as this says, and these images count as pinned. Pulls that have begun go on as they began; all else
    /// stays as it was when the store was opened.
    pub fn reconfigure(&self, config: &ImagesConfig) {
        let client = Arc::new(Client::new(config));
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        self.shelf.write().set_pinned(config.pinned.clone());
    }

    pub(crate) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// All images, by id. From memory.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.shelf.read().list()
    }

    /// An image by tag, digest, id, or unambiguous prefix of its id. From memory.
    pub fn find(&self, name_or_id: &str) -> Result<Option<Arc<Image>>, FindError> {
        let catalogue = self.shelf.read();
        let entry = catalogue.find(name_or_id)?;
        Ok(entry.map(|entry| Arc::clone(&entry.image)))
    }

    /// The image's configuration, byte for byte, from disk; `None` for an unknown id. Blocks for a read from the page cache.
    pub fn config_json(&self, image_id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.shelf.config_json(image_id)
    }

    /// Fetches an image, or finds that it is here already.
    ///
    /// Pulls of one reference with the same credentials join: all get the same result. Dropping the future abandons nothing at once:
    /// the pull goes on for a while ([`crate::Timeouts::abandon`]), for a retry to join. A pull that fails or is abandoned
    /// leaves nothing behind.
    pub async fn pull(&self, request: PullRequest) -> Result<Arc<Image>, PullError> {
        let failed = |cause: PullCause| PullError {
            reference: request.reference.clone(),
            cause: Arc::new(cause),
        };
        let reference =
            Reference::parse(&request.reference).map_err(|error| failed(error.into()))?;
        // Malformed ones are refused before anything is begun.
        Credentials::of(request.auth.as_ref(), reference.domain())
            .map_err(|reason| failed(PullCause::Credentials { reason }))?;
        let mut result = self.join_or_start(&request, reference);
        let done = result.wait_for(Option::is_some).await;
        match done.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            // The task was cut short: the runtime is going down.
            Ok(None) | Err(_) => Err(failed(PullCause::Abandoned)),
        }
    }

    /// Whether a container may be made of an image, by the policy for signatures as it is now. `name` is how the user has called the image,
    /// `namespace` on whose behalf. Asks no registry: what was found of signatures at the pull is verified again.
    pub async fn admit(
        &self,
        image: &Image,
        name: &str,
        namespace: &str,
    ) -> Result<(), SignatureError> {
        signature::admit(&self.shelf, &self.policy, image, name, namespace).await
    }

    /// What a pull would try, in which order and as whom, by the configuration as it is now. Asks no registry anything, but one
    /// on this machine whether it speaks TLS, and the programs that know credentials.
    pub async fn explain(&self, request: PullRequest) -> Result<PullPlan, PullError> {
        let failed = |cause: PullCause| PullError {
            reference: request.reference.clone(),
            cause: Arc::new(cause),
        };
        let reference =
            Reference::parse(&request.reference).map_err(|error| failed(error.into()))?;
        let client = self.client();
        let plan = Plan::make(&client, &reference, request.auth.as_ref())
            .await
            .map_err(failed)?;
        let mut shown = plan.shown(&client, &reference);
        let policy = self.policy.current().await.map_err(|error| {
            failed(match error {
                PolicyUnread::Configuration(error) => {
                    PullCause::Signature(SignatureError::Policy(error))
                }
                PolicyUnread::Store(error) => PullCause::Store(error),
            })
        })?;
        shown.signatures = match policy {
            Some(policy) => {
                let verdict = policy.verdict(&reference.repository(), &request.namespace);
                verdict.shown()
            }
            None => "not looked at: no policy is configured".to_owned(),
        };
        Ok(shown)
    }

    /// How far the pull of an image is; waits for one to begin, without a bound. The channel closes when the pull ends, well or
    /// badly, and keeps its last state. Of pulls with different credentials it is any one. Watching does not keep a pull going.
    pub async fn watch_pull(
        &self,
        reference: &str,
    ) -> Result<watch::Receiver<PullProgress>, ReferenceError> {
        let reference = Reference::parse(reference)?.canonical();
        loop {
            // Before the look: a pull that begins between look and wait is noticed.
            let begun = self.begun.notified();
            if let Some(progress) = self.progress_of(&reference) {
                return Ok(progress);
            }
            begun.await;
        }
    }

    /// The pulls in flight: each image's name in full, how far it is, and for how long it has been going on.
    pub fn pulls(&self) -> Vec<(String, PullProgress, Duration)> {
        let ongoing = self.ongoing.lock().unwrap_or_else(PoisonError::into_inner);
        let pulls = ongoing.iter().map(|(key, pull)| {
            let progress = pull.progress().borrow().clone();
            (key.reference.clone(), progress, pull.age())
        });
        pulls.collect()
    }

    /// Bytes of layers, compressed, that registries have sent since the store was opened.
    pub fn fetched_bytes(&self) -> u64 {
        self.shelf.fetched_bytes.load(Ordering::Relaxed)
    }

    fn progress_of(&self, canonical: &str) -> Option<watch::Receiver<PullProgress>> {
        let ongoing = self.ongoing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pulls = ongoing.iter();
        let (_, pull) = pulls.find(|(key, _)| key.reference == canonical)?;
        Some(pull.progress())
    }

    /// Removes an image with all its names. Succeeds if there is none. Layers that containers use stay until the last is unpinned.
    /// Dropping the future does not undo it.
    pub async fn remove(&self, name_or_id: &str) -> Result<(), RemoveError> {
        let Some(image) = self.find(name_or_id)? else {
            return Ok(());
        };
        let id = image.id.clone();
        (self.shelf.remove(id.clone()).await).map_err(|source| RemoveError::Store { id, source })
    }

    /// Keeps an image's layers for a container until [`Images::unpin`]. Outlives the daemon (one symbolic link), not the
    /// machine. Repeating it changes nothing.
    pub fn pin(&self, container_id: &str, image_id: &str) -> Result<(), PinError> {
        {
            let mut catalogue = self.shelf.write();
            if catalogue.entry(image_id).is_none() {
                return Err(PinError::UnknownImage {
                    id: image_id.to_owned(),
                    container_id: container_id.to_owned(),
                });
            }
            // In memory first: from here on nothing sweeps the layers.
            let pins = &mut catalogue.pins;
            pins.insert(container_id.to_owned(), image_id.to_owned());
        }
        let result = self.shelf.pins.set(container_id, image_id);
        if result.is_err() {
            self.shelf.write().pins.remove(container_id);
        }
        result
    }

    /// Undoes [`Images::pin`]; layers that nobody needs any more go in the background. Succeeds if there is no pin.
    pub fn unpin(&self, container_id: &str) -> Result<(), PinError> {
        if !self.shelf.read().pins.contains_key(container_id) {
            return Ok(());
        }
        self.shelf.pins.remove(container_id)?;
        let orphaned = {
            let mut catalogue = self.shelf.write();
            catalogue.pins.remove(container_id);
            !catalogue.forsaken().is_empty() || catalogue.has_free_retired()
        };
        if orphaned {
            self.shelf.sweep_behind();
        }
        Ok(())
    }

    /// Which container uses which image (by id), also one that has been removed since.
    pub fn pins(&self) -> BTreeMap<String, String> {
        self.shelf.read().pins.clone()
    }

    /// The image that a container has pinned, also one that has been removed since.
    pub fn pinned_by(&self, container_id: &str) -> Option<Arc<Image>> {
        let catalogue = self.shelf.read();
        let entry = catalogue.entry(catalogue.pins.get(container_id)?)?;
        Some(Arc::clone(&entry.image))
    }

    /// Unpins what no live container needs.
    pub fn reconcile(&self, live: &BTreeSet<String>) -> Result<(), PinError> {
        for container_id in self.pins().keys().filter(|id| !live.contains(*id)) {
            self.unpin(container_id)?;
        }
        Ok(())
    }

    /// What all layers take on disk with their indexes, to the inode. From memory.
    pub fn usage(&self) -> Usage {
        self.shelf.read().usage()
    }

    /// Whose what is on disk is. From memory.
    pub fn holdings(&self) -> Holdings {
        Holdings::of(&self.shelf.read())
    }

    fn join_or_start(
        &self,
        request: &PullRequest,
        reference: Reference,
    ) -> watch::Receiver<Option<Outcome>> {
        let key = PullKey {
            reference: reference.canonical(),
            credentials: Auth::fingerprint(request.auth.as_ref()),
            namespace: request.namespace.clone(),
        };
        let mut ongoing = self.ongoing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pull) = ongoing.get(&key) {
            return pull.join();
        }
        let (progress, watched) = watch::channel(PullProgress::default());
        let pull = Arc::new(Ongoing::new(watched));
        let joined = pull.join();
        ongoing.insert(key.clone(), Arc::clone(&pull));
        drop(ongoing);
        self.begun.notify_waiters();

        let client = self.client();
        let work = Pull {
            shelf: Arc::clone(&self.shelf),
            client: Arc::clone(&client),
            permits: Arc::clone(&self.permits),
            reference,
            auth: request.auth.clone(),
            namespace: request.namespace.clone(),
            policy: Arc::clone(&self.policy),
            progress,
        };
        let timeouts = client.timeouts.clone();
        let all = Arc::clone(&self.ongoing);
        let written = request.reference.clone();
        tokio::spawn(async move {
            let outcome = pull.drive(work.run(), &timeouts).await;
            // First out of the map, then told: whoever has joined until now gets the outcome, whoever comes later starts anew.
            all.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&key);
            pull.finish(outcome.map_err(|cause| PullError {
                reference: written,
                cause: Arc::new(cause),
            }));
        });
        joined
    }
}

#[cfg(test)]
impl Images {
    pub(crate) fn failpoints(&self) -> &crate::failpoint::Failpoints {
        &self.shelf.failpoints
    }

    pub(crate) fn layers_synced(&self) -> bool {
        self.shelf.read().layers.values().all(|layer| layer.synced)
    }
}
