//! Blobs and manifests into a registry (distribution-spec 1.1, "Push"): to the registry itself, never to a mirror.

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, USER_AGENT,
    WWW_AUTHENTICATE,
};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::challenge;
use super::client;
use super::endpoint::same_server;
use super::host::{Failed, Host, Patience};
use super::location::resolve;
use super::session::Session;
use super::{RegistryError, RegistryFailure};

/// How much of a blob is in memory. Registries may want larger chunks, and then get them, up to `MOST_CHUNK_BYTES`.
const CHUNK_BYTES: usize = 8 << 20;
const MOST_CHUNK_BYTES: usize = 64 << 20;

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The repository had it.
    There,
    /// The registry had it in another repository of the image.
    Mounted,
}

/// An upload that the registry waits for.
#[derive(Debug)]
pub(crate) struct Upload {
    at: Uri,
    chunk_bytes: usize,
}

impl Session {
    /// Asks for a place for a blob, unless the registry has it; `from` is another repository there that should.
    pub(crate) async fn begin_upload(
        &self,
        digest: &str,
        from: Option<&str>,
    ) -> Result<Result<Pushed, Upload>, RegistryError> {
        let host = self.registry();
        let request = format!("POST blob {digest}");
        let mut attempt = 1;
        loop {
            let failed = match host.begin(digest, from).await {
                Ok(begun) => return Ok(begun),
                Err(failed) => failed,
            };
            (host.wait(failed, &mut attempt, Patience::Full).await)
                .map_err(|failure| self.error(host, request.clone(), Vec::new(), failure))?;
        }
    }

    /// Sends a blob's bytes to the place that it got, in chunks; nothing of it counts before its digest does.
    pub(crate) async fn upload(
        &self,
        upload: Upload,
        digest: &str,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Result<(), RegistryError> {
        let host = self.registry();
        let sent = host.upload(upload, digest, pieces).await;
        sent.map_err(|failed| {
            self.error(
                host,
                format!("PUT blob {digest}"),
                Vec::new(),
                failed.failure,
            )
        })
    }

    /// Puts a manifest under a tag or its digest.
    pub(crate) async fn put_manifest(
        &self,
        target: &str,
        media_type: &str,
        manifest: &Bytes,
    ) -> Result<(), RegistryError> {
        let host = self.registry();
        let request = format!("PUT manifest {target}");
        let mut attempt = 1;
        loop {
            let failed = match host.put_manifest(target, media_type, manifest).await {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            (host.wait(failed, &mut attempt, Patience::Full).await)
                .map_err(|failure| self.error(host, request.clone(), Vec::new(), failure))?;
        }
    }
}

impl Host {
    async fn begin(
        &self,
        digest: &str,
        from: Option<&str>,
    ) -> Result<Result<Pushed, Upload>, Failed> {
        let nothing = HeaderMap::new;
        let blob = self.below(&format!("blobs/{digest}"))?;
        match self
            .exchange(Method::HEAD, &blob, nothing(), Bytes::new())
            .await
        {
            Ok(_) => return Ok(Ok(Pushed::There)),
            Err(failed) if is_not_found(&failed.failure) => {}
            Err(failed) => return Err(failed),
        }
        let place = match from {
            Some(from) => self.below(&format!("blobs/uploads/?mount={digest}&from={from}"))?,
            None => self.below("blobs/uploads/")?,
        };
        let response = self
            .exchange(Method::POST, &place, nothing(), Bytes::new())
            .await;
        let response = match (response, from) {
            // Whoever may write here need not be allowed to read there.
            (Err(_), Some(_)) => {
                let place = self.below("blobs/uploads/")?;
                self.exchange(Method::POST, &place, nothing(), Bytes::new())
                    .await?
            }
            (response, _) => response?,
        };
        if response.status() == StatusCode::CREATED {
            return Ok(Ok(Pushed::Mounted));
        }
        let least = response.headers().get("OCI-Chunk-Min-Length");
        let least = least.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        Ok(Err(Upload {
            at: self.location(&place, &response)?,
            chunk_bytes: least.unwrap_or(0).clamp(CHUNK_BYTES, MOST_CHUNK_BYTES),
        }))
    }

    async fn upload(
        &self,
        upload: Upload,
        digest: &str,
        mut pieces: mpsc::Receiver<Bytes>,
    ) -> Result<(), Failed> {
        let Upload {
            mut at,
            chunk_bytes,
        } = upload;
        let mut sent = 0_u64;
        let mut chunk: Vec<u8> = Vec::new();
        while let Some(piece) = pieces.recv().await {
            if !chunk.is_empty() && chunk.len() + piece.len() > chunk_bytes {
                let full = std::mem::take(&mut chunk);
                let mut headers = octets();
                let range = format!("{sent}-{}", sent + full.len() as u64 - 1);
                sent += full.len() as u64;
                if let Ok(range) = HeaderValue::from_str(&range) {
                    headers.insert(CONTENT_RANGE, range);
                }
                let response = self
                    .exchange(Method::PATCH, &at, headers, full.into())
                    .await?;
                at = self.location(&at, &response)?;
            }
            chunk.extend_from_slice(&piece);
        }
        let joint = if at.query().is_some() { '&' } else { '?' };
        let last: Uri = format!("{at}{joint}digest={}", digest.replace(':', "%3A"))
            .parse()
            .map_err(|_| refused("its target is no address"))?;
        let mut headers = octets();
        // With the rest of a blob that was sent in chunks comes its range; a blob that fits in one needs none.
        if sent > 0 && !chunk.is_empty() {
            let range = format!("{sent}-{}", sent + chunk.len() as u64 - 1);
            if let Ok(range) = HeaderValue::from_str(&range) {
                headers.insert(CONTENT_RANGE, range);
            }
        }
        self.exchange(Method::PUT, &last, headers, chunk.into())
            .await?;
        Ok(())
    }

    async fn put_manifest(
        &self,
        target: &str,
        media_type: &str,
        manifest: &Bytes,
    ) -> Result<(), Failed> {
        let at = self.below(&format!("manifests/{target}"))?;
        let mut headers = HeaderMap::new();
        if let Ok(media_type) = HeaderValue::from_str(media_type) {
            headers.insert(CONTENT_TYPE, media_type);
        }
        self.exchange(Method::PUT, &at, headers, manifest.clone())
            .await?;
        Ok(())
    }

    fn location(&self, base: &Uri, response: &Response<Incoming>) -> Result<Uri, Failed> {
        let location = response.headers().get(LOCATION);
        let location = location
            .and_then(|location| location.to_str().ok())
            .ok_or_else(|| refused("it has no target"))?;
        Ok(resolve(base, location, |host| {
            self.client.is_insecure(host)
        })?)
    }

    /// One request that changes something, authorized where it goes to the registry itself: a response that says yes.
    async fn exchange(
        &self,
        method: Method,
        uri: &Uri,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failed> {
        let origin = self.below("")?;
        let trusted = same_server(uri, &origin);
        let mut authorized = false;
        loop {
            let mut request = Request::builder()
                .method(method.clone())
                .uri(uri)
                .header(USER_AGENT, client::USER_AGENT)
                .body(Full::from(body.clone()))
                .map_err(|error| RegistryFailure::Request {
                    reason: error.to_string(),
                })?;
            request.headers_mut().extend(headers.clone());
            let given = self.authorization();
            if trusted {
                request.headers_mut().extend(self.headers.clone());
            }
            if let (true, Some(value)) = (trusted, &given) {
                request.headers_mut().insert(AUTHORIZATION, value.clone());
            }
            let response = self
                .client
                .send(request, self.transport_to(trusted))
                .await?;
            if response.status().is_success() {
                return Ok(response);
            }
            if response.status() != StatusCode::UNAUTHORIZED || !trusted || authorized {
                return Err(self.refusal(response, trusted).await);
            }
            authorized = true;
            let challenges: Vec<_> = (response.headers().get_all(WWW_AUTHENTICATE).iter())
                .filter_map(|value| value.to_str().ok())
                .flat_map(challenge::parse)
                .collect();
            let words = self.words(response).await;
            let value = self.answer(&challenges, &words).await?;
            self.authorize(value);
        }
    }
}

fn octets() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers
}

fn refused(reason: &str) -> RegistryFailure {
    RegistryFailure::Redirect {
        reason: reason.to_owned(),
    }
}

fn is_not_found(failure: &RegistryFailure) -> bool {
    matches!(failure, RegistryFailure::Status { status, .. } if *status == StatusCode::NOT_FOUND)
}
