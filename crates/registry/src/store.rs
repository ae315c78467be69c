use std::collections::HashMap;

use serde_json::Value;

use crate::image::{Blob, Image};

/// What clients must show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Auth {
    #[default]
    None,
    /// RFC 7617.
    Basic { user: String, password: String },
    /// A token from `/token`, which wants Basic with this user; an empty user lets anybody have one.
    Bearer { user: String, password: String },
    /// A token from `/token`, which wants this one for it (distribution's OAuth 2 flow: a `POST` with `grant_type=refresh_token`).
    Refresh { token: String },
    /// This very token.
    Token { token: String },
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    manifests: HashMap<(String, String), Blob>,
    blobs: HashMap<(String, String), Blob>,
    tags: HashMap<(String, String), String>,
}

impl Store {
    pub(crate) fn image(&mut self, repository: &str, image: &Image) {
        self.manifest(repository, &image.manifest);
        for blob in image.layers.iter().chain([&image.config]) {
            self.blob(repository, blob);
        }
    }

    pub(crate) fn blob(&mut self, repository: &str, blob: &Blob) {
        self.blobs
            .insert((repository.to_owned(), blob.digest.clone()), blob.clone());
    }

    /// Manifests whose subject is `digest`.
    pub(crate) fn referrers(&self, repository: &str, digest: &str) -> Vec<Value> {
        let own = (self.manifests.iter()).filter(|((name, _), _)| name == repository);
        own.filter_map(|(_, manifest)| {
            let document: Value = serde_json::from_slice(&manifest.bytes).ok()?;
            let mut descriptor = manifest.descriptor();
            descriptor["artifactType"] = document["artifactType"].clone();
            (document["subject"]["digest"] == digest).then_some(descriptor)
        })
        .collect()
    }

    pub(crate) fn manifest(&mut self, repository: &str, manifest: &Blob) {
        self.manifests.insert(
            (repository.to_owned(), manifest.digest.clone()),
            manifest.clone(),
        );
    }

    pub(crate) fn tag(&mut self, repository: &str, tag: &str, digest: &str) {
        self.tags
            .insert((repository.to_owned(), tag.to_owned()), digest.to_owned());
    }

    pub(crate) fn remove_blob(&mut self, repository: &str, digest: &str) {
        self.blobs
            .remove(&(repository.to_owned(), digest.to_owned()));
    }

    /// `reference` is a tag or a digest.
    pub(crate) fn find_manifest(&self, repository: &str, reference: &str) -> Option<&Blob> {
        let tagged = (repository.to_owned(), reference.to_owned());
        let digest = self.tags.get(&tagged).map_or(reference, String::as_str);
        self.manifests
            .get(&(repository.to_owned(), digest.to_owned()))
    }

    pub(crate) fn find_blob(&self, repository: &str, digest: &str) -> Option<&Blob> {
        self.blobs.get(&(repository.to_owned(), digest.to_owned()))
    }

    pub(crate) fn tags(&self, repository: &str) -> Vec<&str> {
        let mut tags: Vec<&str> = self
            .tags
            .keys()
            .filter(|(name, _)| name == repository)
            .map(|(_, tag)| tag.as_str())
            .collect();
        tags.sort_unstable();
        tags
    }
}
