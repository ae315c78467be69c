use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT,
    WWW_AUTHENTICATE,
};
use http::uri::Scheme;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Deserialize;

use super::challenge::{self, Challenge};
use super::client::{self, Client};
use super::endpoint::{Endpoint, is_loopback, same_server};
use super::location::{MAX_REDIRECTS, resolve};
use super::words::said;
use super::{RegistryError, RegistryFailure};
use crate::Reference;
use crate::auth::Credentials;

/// Distribution-spec: registries accept manifests of up to 4 MiB.
const MAX_DOCUMENT_BYTES: usize = 4 << 20;
const MAX_ERROR_BYTES: usize = 16 << 10;
const MAX_TOKEN_BYTES: usize = 1 << 20;
const MAX_WAIT: Duration = Duration::from_secs(20);
/// A server that asks for more patience than this gets none.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// One pull's conversation with one repository.
#[derive(Debug)]
pub(crate) struct Session {
    pub(super) client: Arc<Client>,
    endpoint: Endpoint,
    repository: String,
    credentials: Credentials,
    /// The last `Authorization` that the endpoint has asked for.
    authorization: Mutex<Option<HeaderValue>>,
}

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) failure: RegistryFailure,
    retry_after: Option<Duration>,
}

impl From<RegistryFailure> for Failed {
    fn from(failure: RegistryFailure) -> Self {
        Self {
            failure,
            retry_after: None,
        }
    }
}

impl Session {
    /// Settles how the reference's registry is spoken to.
    pub(crate) async fn open(
        client: Arc<Client>,
        reference: &Reference,
        credentials: Credentials,
    ) -> Result<Self, RegistryError> {
        let domain = reference.domain();
        let endpoint = Self::endpoint(&client, domain)
            .await
            .map_err(|failure| RegistryError {
                host: domain.to_owned(),
                repository: reference.path().to_owned(),
                request: "the first request".into(),
                failure,
            })?;
        let authorization = Mutex::new(credentials.registry_token());
        Ok(Self {
            client,
            endpoint,
            repository: reference.path().to_owned(),
            credentials,
            authorization,
        })
    }

    async fn endpoint(client: &Client, domain: &str) -> Result<Endpoint, RegistryFailure> {
        let plain = Endpoint::of(Scheme::HTTP, domain)?;
        if client.is_insecure(domain) {
            return Ok(plain);
        }
        if is_loopback(&plain.authority) && client.answers_plain(plain.uri("")?).await {
            return Ok(plain);
        }
        Endpoint::of(Scheme::HTTPS, domain)
    }

    /// Scheme, host and port.
    pub(crate) fn origin(&self) -> String {
        self.endpoint.origin()
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
        let path = format!("{}/manifests/{target}", self.repository);
        self.document(&path, accept, MAX_DOCUMENT_BYTES)
            .await
            .map_err(|failure| self.error(format!("GET manifest {target}"), failure))
    }

    /// A small blob in memory. Its digest is the caller's to check.
    pub(crate) async fn small_blob(
        &self,
        digest: &str,
        limit: usize,
    ) -> Result<Bytes, RegistryError> {
        let path = format!("{}/blobs/{digest}", self.repository);
        self.document(&path, "*/*", limit)
            .await
            .map(|(bytes, _)| bytes)
            .map_err(|failure| self.error(format!("GET blob {digest}"), failure))
    }

    async fn document(
        &self,
        path: &str,
        accept: &str,
        limit: usize,
    ) -> Result<(Bytes, String), RegistryFailure> {
        let mut headers = HeaderMap::new();
        let accept = HeaderValue::from_str(accept).map_err(|error| request_failure(&error))?;
        headers.insert(ACCEPT, accept);
        let mut attempt = 1;
        loop {
            let result = async {
                let response = self.get(path, &headers).await?;
                let media_type = (response.headers().get(CONTENT_TYPE))
                    .and_then(|value| value.to_str().ok())
                    .unwrap_or_default()
                    .to_owned();
                let bytes = self.client.read(response.into_body(), limit).await?;
                Ok((bytes, media_type))
            };
            match result.await {
                Ok(document) => return Ok(document),
                Err(failed) => self.wait(failed, &mut attempt).await?,
            }
        }
    }

    /// Waits before the next attempt, if there should be one.
    pub(super) async fn wait(
        &self,
        failed: Failed,
        attempt: &mut u32,
    ) -> Result<(), RegistryFailure> {
        let timeouts = &self.client.timeouts;
        let patience = failed.retry_after.unwrap_or_default();
        if !failed.failure.is_transient()
            || *attempt >= timeouts.attempts
            || patience > MAX_RETRY_AFTER
        {
            return Err(failed.failure);
        }
        let doubled = timeouts.backoff.saturating_mul(1 << (*attempt - 1).min(16));
        *attempt += 1;
        tracing::debug!(
            origin = self.origin(),
            repository = self.repository,
            attempt,
            error = &failed.failure as &dyn std::error::Error,
            "trying again"
        );
        tokio::time::sleep(jittered(doubled.min(MAX_WAIT)).max(patience)).await;
        Ok(())
    }

    /// One attempt at a GET, authorized and redirected: a response that says yes.
    pub(super) async fn get(
        &self,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, Failed> {
        let origin = self.endpoint.uri(path)?;
        let mut uri = origin.clone();
        let mut authorized = false;
        let mut redirects = 0;
        loop {
            let trusted = same_server(&uri, &origin);
            let mut request = Request::get(&uri)
                .header(USER_AGENT, client::USER_AGENT)
                .body(Full::default())
                .map_err(|error| request_failure(&error))?;
            request.headers_mut().extend(headers.clone());
            let given = self.authorization();
            if let (true, Some(value)) = (trusted, &given) {
                request.headers_mut().insert(AUTHORIZATION, value.clone());
            }
            let response = self.client.send(request).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if status == StatusCode::UNAUTHORIZED && trusted && !authorized {
                authorized = true;
                let challenges = challenges(response.headers());
                // Another request of this session may have got a new token meanwhile.
                if self.authorization() != given {
                    continue;
                }
                let words = self.words(response).await;
                let value = self.answer(&challenges, &words).await?;
                *self
                    .authorization
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(value);
                continue;
            }
            if let (301 | 302 | 303 | 307 | 308, Some(location)) =
                (status.as_u16(), response.headers().get(LOCATION))
            {
                redirects += 1;
                if redirects > MAX_REDIRECTS {
                    return Err(RegistryFailure::Redirect {
                        reason: format!("it is the {redirects}th"),
                    }
                    .into());
                }
                let location = location.to_str().map_err(|_| RegistryFailure::Redirect {
                    reason: "its target is no address".into(),
                })?;
                uri = resolve(&uri, location, |host| self.client.is_insecure(host))?;
                continue;
            }
            return Err(self.refusal(response, trusted).await);
        }
    }

    /// What a response that says no means.
    async fn refusal(&self, response: Response<Incoming>, trusted: bool) -> Failed {
        let status = response.status();
        let retry_after = (response.headers().get(RETRY_AFTER))
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let said = self.words(response).await;
        let failure = match status {
            StatusCode::UNAUTHORIZED if trusted => RegistryFailure::Unauthenticated {
                given: self.credentials.kind(),
                said,
            },
            status => RegistryFailure::Status { status, said },
        };
        Failed {
            failure,
            retry_after,
        }
    }

    async fn words(&self, response: Response<Incoming>) -> String {
        let body = self.client.read(response.into_body(), MAX_ERROR_BYTES);
        let mut secrets = self.credentials.secrets();
        if let Some(value) = self.authorization()
            && let Some((_, secret)) = value.to_str().ok().and_then(|text| text.split_once(' '))
        {
            secrets.push(secret.to_owned());
        }
        said(&body.await.unwrap_or_default(), &secrets)
    }

    fn authorization(&self) -> Option<HeaderValue> {
        (self.authorization.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The `Authorization` that meets a challenge.
    async fn answer(&self, challenges: &[Challenge], words: &str) -> Result<HeaderValue, Failed> {
        let unmet = || RegistryFailure::Unauthenticated {
            given: self.credentials.kind(),
            said: words.to_owned(),
        };
        for challenge in challenges {
            match challenge {
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                } => {
                    return self
                        .token(realm, service.as_deref(), scope.as_deref())
                        .await;
                }
                Challenge::Basic => {
                    if let Some(value) = self.credentials.basic() {
                        return Ok(value);
                    }
                }
            }
        }
        Err(unmet().into())
    }

    /// Asks a token server (distribution's "Token Authentication").
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<HeaderValue, Failed> {
        let challenge = |reason: String| RegistryFailure::Challenge { reason };
        let uri: Uri = (realm.parse()).map_err(|_| challenge("its realm is no address".into()))?;
        let authority =
            (uri.authority()).ok_or_else(|| challenge("its realm has no host".into()))?;
        // Credentials go where the registry says, but not in plain text unless the registry itself is spoken to so.
        let plain_allowed = self.endpoint.is_plain()
            || is_loopback(authority)
            || self.client.is_insecure(authority.as_str());
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if plain_allowed => {}
            _ => return Err(challenge(format!("its realm at {authority} is not HTTPS")).into()),
        }
        let default_scope = format!("repository:{}:pull", self.repository);
        let mut fields = Vec::new();
        fields.extend(service.map(|service| ("service", service)));
        fields.push(("scope", scope.unwrap_or(&default_scope)));
        let request = match self.credentials.identity_token() {
            Some(refresh_token) => {
                fields.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "longshore"),
                    ("refresh_token", refresh_token),
                ]);
                Request::builder()
                    .method(Method::POST)
                    .uri(&uri)
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(Full::from(form(&fields)))
            }
            None => {
                let joint = if uri.query().is_some() { '&' } else { '?' };
                let mut request = Request::get(format!("{uri}{joint}{}", form(&fields)));
                if let Some(basic) = self.credentials.basic() {
                    request = request.header(AUTHORIZATION, basic);
                }
                request.body(Full::default())
            }
        };
        let mut request = request.map_err(|error| request_failure(&error))?;
        let agent = HeaderValue::from_static(client::USER_AGENT);
        request.headers_mut().insert(USER_AGENT, agent);
        let response = self.client.send(request).await?;
        if !response.status().is_success() {
            let mut failed = self.refusal(response, false).await;
            if let RegistryFailure::Status { status, said } = &failed.failure
                && matches!(status.as_u16(), 400 | 401 | 403)
            {
                failed.failure = RegistryFailure::Unauthenticated {
                    given: self.credentials.kind(),
                    said: said.clone(),
                };
            }
            return Err(failed);
        }
        let body = self
            .client
            .read(response.into_body(), MAX_TOKEN_BYTES)
            .await?;
        let token: Token = serde_json::from_slice(&body)
            .map_err(|_| challenge(format!("the answer of {authority} is no token")))?;
        let token = (token.token.or(token.access_token))
            .filter(|token| !token.is_empty())
            .ok_or_else(|| challenge(format!("the answer of {authority} has no token")))?;
        bearer(&token)
            .ok_or_else(|| challenge(format!("the token of {authority} is malformed")).into())
    }

    pub(super) fn error(&self, request: String, failure: RegistryFailure) -> RegistryError {
        RegistryError {
            host: self.origin(),
            repository: self.repository.clone(),
            request,
            failure,
        }
    }

    pub(super) fn repository(&self) -> &str {
        &self.repository
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// `Authorization` with a bearer token, not shown by `Debug`.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(challenge::parse)
        .collect()
}

fn request_failure(error: &dyn std::fmt::Display) -> RegistryFailure {
    RegistryFailure::Request {
        reason: error.to_string(),
    }
}

/// `application/x-www-form-urlencoded`.
fn form(fields: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    text.push(char::from(byte));
                }
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    text
}

/// Between half of a duration and all of it, so that many who wait do not come back at once.
fn jittered(duration: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(());
    duration.mul_f64(0.5 + 0.5 * (random as f64 / u64::MAX as f64))
}
