use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT,
    WWW_AUTHENTICATE,
};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::time::Instant;

use super::RegistryFailure;
use super::challenge::{self, Challenge};
use super::client::{self, Client, Transport};
use super::endpoint::{Endpoint, is_loopback, same_server};
use super::location::{MAX_REDIRECTS, resolve};
use super::plan::PlannedHost;
use super::words::said;
use crate::auth::Credentials;

const MAX_ERROR_BYTES: usize = 16 << 10;
const MAX_TOKEN_BYTES: usize = 1 << 20;
const MAX_WAIT: Duration = Duration::from_secs(20);
/// A server that asks for more patience than this gets none.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// How often a request is tried where another host can be asked.
const ATTEMPTS_BEFORE_ANOTHER: u32 = 2;

/// One pull's conversation with one repository at one host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) client: Arc<Client>,
    endpoint: Endpoint,
    repository: String,
    pub(super) resolve: bool,
    pub(super) pull: bool,
    namespace: Option<String>,
    pub(super) headers: HeaderMap,
    credentials: Credentials,
    /// What the credentials are and where they are from, or why there are none.
    given: String,
    /// To the host itself.
    transport: Transport,
    /// To wherever it sends us.
    elsewhere: Transport,
    /// The last `Authorization` that the host has asked for.
    authorization: Mutex<Option<HeaderValue>>,
    /// When it was first asked for something.
    began: OnceLock<Instant>,
    /// Why it is asked no more in this pull.
    given_up: Mutex<Option<String>>,
}

/// How long a host is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// There is another one to ask.
    Short,
    /// It is the last.
    Full,
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

impl Host {
    pub(super) async fn open(
        client: Arc<Client>,
        planned: PlannedHost,
        repository: &str,
    ) -> Result<Self, RegistryFailure> {
        let secure = !planned.endpoint.is_plain();
        let certificates = planned.certificates.as_ref();
        let transport = client
            .transport(secure, certificates, planned.dial_timeout)
            .await?;
        let others = certificates.and_then(|certificates| certificates.elsewhere());
        let elsewhere = client.transport(true, others.as_ref(), None).await?;
        Ok(Self {
            client,
            endpoint: planned.endpoint,
            repository: repository.to_owned(),
            resolve: planned.resolve,
            pull: planned.pull,
            namespace: planned.namespace,
            headers: planned.headers,
            authorization: Mutex::new(planned.found.credentials.registry_token()),
            credentials: planned.found.credentials,
            given: planned.found.source,
            transport,
            elsewhere,
            began: OnceLock::new(),
            given_up: Mutex::default(),
        })
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> String {
        self.endpoint.origin()
    }

    pub(super) fn give_up(&self, why: String) {
        *self.lock_given_up() = Some(why);
    }

    pub(super) fn given_up(&self) -> Option<String> {
        self.lock_given_up().clone()
    }

    fn lock_given_up(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` no longer than all that is asked of one mirror may take together.
    pub(super) async fn within_its_time<T>(
        &self,
        patience: Patience,
        work: impl Future<Output = Result<T, RegistryFailure>>,
    ) -> Result<T, RegistryFailure> {
        if patience == Patience::Full {
            return work.await;
        }
        let bound = self.client.timeouts.mirror;
        let end = *self.began.get_or_init(Instant::now) + bound;
        tokio::time::timeout_at(end, work)
            .await
            .unwrap_or(Err(RegistryFailure::TimedOut {
                what: "what was asked of this mirror",
                seconds: bound.as_secs(),
            }))
    }

    /// A manifest or a small blob, by its path below the repository, and the media type that the server gives it.
    pub(super) async fn document(
        &self,
        path: &str,
        accept: &str,
        limit: usize,
        patience: Patience,
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
                Err(failed) => self.wait(failed, &mut attempt, patience).await?,
            }
        }
    }

    /// Waits before the next attempt, if there should be one.
    pub(super) async fn wait(
        &self,
        failed: Failed,
        attempt: &mut u32,
        patience: Patience,
    ) -> Result<(), RegistryFailure> {
        let timeouts = &self.client.timeouts;
        let asked_for = failed.retry_after.unwrap_or_default();
        // Who is not there, or asks for patience, is not waited for where another may have it at once.
        let (attempts, hopeless) = match patience {
            Patience::Full => (timeouts.attempts, asked_for > MAX_RETRY_AFTER),
            Patience::Short => (
                timeouts.attempts.min(ATTEMPTS_BEFORE_ANOTHER),
                failed.failure.is_unreachable() || failed.retry_after.is_some(),
            ),
        };
        if !failed.failure.is_transient() || *attempt >= attempts || hopeless {
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
        tokio::time::sleep(jittered(doubled.min(MAX_WAIT)).max(asked_for)).await;
        Ok(())
    }

    /// One attempt at a GET, authorized and redirected: a response that says yes.
    pub(super) async fn get(
        &self,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, Failed> {
        let origin = match &self.namespace {
            // By this a mirror of several registries knows which one is meant.
            Some(namespace) => self.endpoint.uri(&format!(
                "{}/{path}?{}",
                self.repository,
                form(&[("ns", namespace)])
            ))?,
            None => self.endpoint.uri(&format!("{}/{path}", self.repository))?,
        };
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
            if trusted {
                for name in self.headers.keys() {
                    request.headers_mut().remove(name);
                }
                request.headers_mut().extend(self.headers.clone());
            }
            if let (true, Some(value)) = (trusted, &given) {
                request.headers_mut().insert(AUTHORIZATION, value.clone());
            }
            let transport = match trusted {
                true => &self.transport,
                false => &self.elsewhere,
            };
            let response = self.client.send(request, transport).await?;
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
    pub(super) async fn refusal(&self, response: Response<Incoming>, trusted: bool) -> Failed {
        let status = response.status();
        let retry_after = (response.headers().get(RETRY_AFTER))
            .and_then(|value| retry_after(value.to_str().ok()?.trim()));
        let said = self.words(response).await;
        let failure = match status {
            StatusCode::UNAUTHORIZED if trusted => RegistryFailure::Unauthenticated {
                given: self.given.clone(),
                said,
            },
            status => RegistryFailure::Status { status, said },
        };
        Failed {
            failure,
            retry_after,
        }
    }

    pub(super) async fn words(&self, response: Response<Incoming>) -> String {
        let body = self.client.read(response.into_body(), MAX_ERROR_BYTES);
        let mut secrets = self.credentials.secrets();
        let headers = self
            .headers
            .values()
            .filter_map(|value| value.to_str().ok());
        for secret in headers {
            // With and without the scheme of an Authorization.
            secrets.push(secret.to_owned());
            secrets.extend(secret.split_once(' ').map(|(_, rest)| rest.to_owned()));
        }
        if let Some(value) = self.authorization()
            && let Some((_, secret)) = value.to_str().ok().and_then(|text| text.split_once(' '))
        {
            secrets.push(secret.to_owned());
        }
        said(&body.await.unwrap_or_default(), &secrets)
    }

    /// An address below the repository.
    pub(super) fn below(&self, path: &str) -> Result<Uri, RegistryFailure> {
        self.endpoint.uri(&format!("{}/{path}", self.repository))
    }

    /// To the host itself, or to wherever it has sent us.
    pub(super) fn transport_to(&self, trusted: bool) -> &Transport {
        match trusted {
            true => &self.transport,
            false => &self.elsewhere,
        }
    }

    pub(super) fn authorize(&self, value: HeaderValue) {
        *self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(value);
    }

    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        (self.authorization.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The `Authorization` that meets a challenge.
    pub(super) async fn answer(
        &self,
        challenges: &[Challenge],
        words: &str,
    ) -> Result<HeaderValue, Failed> {
        let unmet = || RegistryFailure::Unauthenticated {
            given: self.given.clone(),
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
        let same = (self.endpoint.uri("").ok()).is_some_and(|own| same_server(&uri, &own));
        let transport = match same {
            true => &self.transport,
            false => &self.elsewhere,
        };
        let response = self.client.send(request, transport).await?;
        if !response.status().is_success() {
            let mut failed = self.refusal(response, false).await;
            if let RegistryFailure::Status { status, said } = &failed.failure
                && matches!(status.as_u16(), 400 | 401 | 403)
            {
                failed.failure = RegistryFailure::Unauthenticated {
                    given: self.given.clone(),
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

/// Seconds or a date (RFC 9110, 10.2.3); a date that is over is no wait.
fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let now = std::time::SystemTime::now();
    Some(date.duration_since(now).unwrap_or_default())
}

/// Between half of a duration and all of it, so that many who wait do not come back at once.
fn jittered(duration: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(());
    duration.mul_f64(0.5 + 0.5 * (random as f64 / u64::MAX as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_asked_for_in_seconds_or_until_a_date() {
        let seconds = |text| retry_after(text).map(|duration| duration.as_secs());
        assert_eq!(seconds("7"), Some(7));
        assert_eq!(seconds("Wed, 21 Oct 2015 07:28:00 GMT"), Some(0));
        let later = std::time::SystemTime::now() + Duration::from_secs(3600);
        let date = httpdate::fmt_http_date(later);
        assert!(seconds(&date).is_some_and(|seconds| (3000..=3600).contains(&seconds)));
        assert_eq!(seconds("soon"), None);
    }

    #[test]
    fn jitter_stays_between_half_and_all() {
        for _ in 0..100 {
            let waited = jittered(Duration::from_secs(2));
            assert!(waited >= Duration::from_secs(1) && waited <= Duration::from_secs(2));
        }
    }
}
