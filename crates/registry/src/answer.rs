//! One request, one answer.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::sync::mpsc;

use super::{Auth, Fault, LoggedRequest, Shared, State};
use crate::image::{Blob, OCI_INDEX};

type Body = BoxBody<Bytes, io::Error>;

/// What would be sent if nothing went wrong.
struct Plain {
    response: Response<()>,
    bytes: Bytes,
}

pub(crate) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let method = request.method().clone();
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    let header = |name| {
        let value = request.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let (range, authorization) = (header(header::RANGE), header(header::AUTHORIZATION));

    let headers = (request.headers().iter())
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value)
        })
        .collect();

    // Of whatever came; nobody sends much.
    let body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let (plain, fault) = {
        let mut state = shared.state();
        let fault = state
            .rules
            .iter_mut()
            .find_map(|rule| rule.apply(method.as_str(), &path));
        let plain = match &fault {
            Some(Fault::Status(status)) => refuse(*status, 0),
            Some(Fault::Busy(seconds)) => refuse(429, *seconds),
            Some(Fault::Redirect(location)) => redirect(location),
            _ => {
                let range = match (&fault, range.as_deref()) {
                    (Some(Fault::NoRanges), _) => None,
                    (Some(Fault::OtherRange), Some(_)) => Some("bytes=7-99"),
                    (_, range) => range,
                };
                route(
                    &shared,
                    &state,
                    &path,
                    range,
                    authorization.as_deref(),
                    &body,
                )
            }
        };
        state.log.push(LoggedRequest {
            method: method.to_string(),
            path,
            range,
            authorization,
            headers,
            status: plain.response.status().as_u16(),
        });
        (plain, fault)
    };
    Ok(send(plain, fault, &method).await)
}

fn route(
    shared: &Shared,
    state: &State,
    path: &str,
    range: Option<&str>,
    authorization: Option<&str>,
    body: &[u8],
) -> Plain {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    if path == "/token" {
        return token(state, query, authorization, body);
    }
    let Some(rest) = path.strip_prefix("/v2") else {
        return problem(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "not a registry path");
    };
    if let Some(challenge) = challenge(shared, state, rest, authorization) {
        return challenge;
    }
    let rest = rest.trim_start_matches('/');
    if rest.is_empty() {
        return document(
            StatusCode::OK,
            "application/json",
            Bytes::from_static(b"{}"),
        );
    }
    if let Some((repository, reference)) = rest.rsplit_once("/manifests/") {
        return match state.store.find_manifest(repository, reference) {
            Some(manifest) => blob(manifest, None),
            None => problem(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", reference),
        };
    }
    if let Some((repository, digest)) = rest.rsplit_once("/blobs/") {
        return match state.store.find_blob(repository, digest) {
            Some(found) => blob(found, range),
            None => problem(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", digest),
        };
    }
    if let Some((repository, digest)) = rest.rsplit_once("/referrers/")
        && !state.without_referrers
    {
        let manifests = state.store.referrers(repository, digest);
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        return document(StatusCode::OK, OCI_INDEX, index.to_string().into());
    }
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        let body = json!({ "name": repository, "tags": state.store.tags(repository) });
        return document(StatusCode::OK, "application/json", body.to_string().into());
    }
    problem(StatusCode::NOT_FOUND, "UNSUPPORTED", path)
}

/// 401, where what was shown does not do.
fn challenge(
    shared: &Shared,
    state: &State,
    path: &str,
    authorization: Option<&str>,
) -> Option<Plain> {
    let (expected, challenge) = match &state.auth {
        Auth::None => return None,
        Auth::Basic { user, password } => {
            (basic(user, password), "Basic realm=\"testkit\"".to_owned())
        }
        Auth::Bearer { .. } | Auth::Refresh { .. } | Auth::Token { .. } => {
            let repository = ["/manifests/", "/blobs/", "/tags/"]
                .iter()
                .find_map(|part| path.split_once(part))
                .map_or("", |(name, _)| name.trim_start_matches('/'));
            let scope = if repository.is_empty() {
                String::new()
            } else {
                format!(",scope=\"repository:{repository}:pull\"")
            };
            let challenge = format!(
                "Bearer realm=\"http://{}/token\",service=\"testkit\"{scope}",
                shared.address
            );
            let token = match &state.auth {
                Auth::Bearer { user, .. } => token_of(user),
                Auth::Token { token } => token.clone(),
                Auth::Refresh { .. } | Auth::None | Auth::Basic { .. } => token_of("refreshed"),
            };
            (format!("Bearer {token}"), challenge)
        }
    };
    if authorization == Some(&*expected) {
        return None;
    }
    let mut refusal = problem(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "show credentials");
    if let Ok(challenge) = HeaderValue::from_str(&challenge) {
        let headers = refusal.response.headers_mut();
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    Some(refusal)
}

/// The token endpoint of the distribution project's token authentication. With `Auth::Bearer`, the user's password is an identity token too.
fn token(state: &State, query: &str, authorization: Option<&str>, body: &[u8]) -> Plain {
    if let Auth::Refresh { token } = &state.auth {
        let wanted = format!("refresh_token={token}");
        let fields = String::from_utf8_lossy(body);
        if !fields.split('&').any(|field| field == wanted) {
            return problem(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", &fields);
        }
        let body = json!({ "access_token": token_of("refreshed"), "expires_in": 300 });
        return document(StatusCode::OK, "application/json", body.to_string().into());
    }
    let Auth::Bearer { user, password } = &state.auth else {
        return problem(StatusCode::NOT_FOUND, "UNSUPPORTED", "no tokens here");
    };
    if !body.is_empty() {
        let form = String::from_utf8_lossy(body);
        let has = |field: &str| form.split('&').any(|one| one == field);
        let refreshes = has("grant_type=refresh_token") && has("service=testkit");
        if !refreshes || !has(&format!("refresh_token={password}")) {
            return problem(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "not this token");
        }
        let body = json!({ "access_token": token_of(user), "expires_in": 300 });
        return document(StatusCode::OK, "application/json", body.to_string().into());
    }
    if !user.is_empty() && authorization != Some(&*basic(user, password)) {
        return problem(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", query);
    }
    let body = json!({ "token": token_of(user), "expires_in": 300 });
    document(StatusCode::OK, "application/json", body.to_string().into())
}

fn token_of(user: &str) -> String {
    format!("testkit-token-of-{user}")
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn blob(blob: &Blob, range: Option<&str>) -> Plain {
    let size = blob.bytes.len();
    let mut plain = document(StatusCode::OK, &blob.media_type, blob.bytes.clone());
    let headers = plain.response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(digest) = HeaderValue::from_str(&blob.digest) {
        headers.insert("docker-content-digest", digest);
    }
    let Some((start, end)) = range.and_then(|range| parse_range(range, size)) else {
        return plain;
    };
    if start >= size || end < start {
        let mut refusal = problem(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE", &blob.digest);
        if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
            let headers = refusal.response.headers_mut();
            headers.insert(header::CONTENT_RANGE, value);
        }
        return refusal;
    }
    *plain.response.status_mut() = StatusCode::PARTIAL_CONTENT;
    if let Ok(value) = HeaderValue::from_str(&format!("bytes {start}-{end}/{size}")) {
        let headers = plain.response.headers_mut();
        headers.insert(header::CONTENT_RANGE, value);
    }
    plain.bytes = plain.bytes.slice(start..=end);
    plain
}

/// First and last byte of `bytes=FIRST-LAST`, `bytes=FIRST-` and `bytes=-COUNT`; one range only (RFC 9110, 14.1.2).
fn parse_range(header: &str, size: usize) -> Option<(usize, usize)> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let end = size.checked_sub(1)?;
    match (first, last) {
        ("", count) => Some((size.saturating_sub(count.parse().ok()?), end)),
        (first, "") => Some((first.parse().ok()?, end)),
        (first, last) => Some((first.parse().ok()?, last.parse::<usize>().ok()?.min(end))),
    }
}

fn document(status: StatusCode, media_type: &str, bytes: Bytes) -> Plain {
    let mut response = Response::new(());
    *response.status_mut() = status;
    if let Ok(media_type) = HeaderValue::from_str(media_type) {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, media_type);
    }
    Plain { response, bytes }
}

fn problem(status: StatusCode, code: &str, message: &str) -> Plain {
    let body = json!({ "errors": [{ "code": code, "message": message }] });
    document(status, "application/json", body.to_string().into())
}

fn refuse(status: u16, retry_after: u64) -> Plain {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut plain = document(status, "text/plain", Bytes::new());
    if [429, 503].contains(&status.as_u16()) {
        let headers = plain.response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
    }
    plain
}

fn redirect(location: &str) -> Plain {
    let mut plain = document(StatusCode::TEMPORARY_REDIRECT, "text/plain", Bytes::new());
    if let Ok(location) = HeaderValue::from_str(location) {
        let headers = plain.response.headers_mut();
        headers.insert(header::LOCATION, location);
    }
    plain
}

async fn send(plain: Plain, fault: Option<Fault>, method: &Method) -> Response<Body> {
    let Plain {
        mut response,
        mut bytes,
    } = plain;
    let length = HeaderValue::from(bytes.len());
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, length);
    if method == Method::HEAD {
        return response.map(|()| whole(Bytes::new()));
    }
    match fault {
        Some(Fault::Delay(delay)) => tokio::time::sleep(delay).await,
        Some(Fault::Corrupt) => {
            let mut copy = bytes.to_vec();
            let middle = copy.len() / 2;
            if let Some(byte) = copy.get_mut(middle) {
                *byte ^= 0x55;
            }
            bytes = copy.into();
        }
        Some(Fault::Truncate(after)) => return response.map(|()| cut(bytes, after, Cut::Close)),
        Some(Fault::Stall(after)) => return response.map(|()| cut(bytes, after, Cut::Hang)),
        Some(Fault::Trickle(step)) => return response.map(|()| trickle(bytes, step)),
        Some(
            Fault::Status(_)
            | Fault::Busy(_)
            | Fault::Redirect(_)
            | Fault::NoRanges
            | Fault::OtherRange,
        )
        | None => {}
    }
    response.map(|()| whole(bytes))
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

enum Cut {
    Close,
    Hang,
}

fn cut(bytes: Bytes, after: usize, how: Cut) -> Body {
    let (sender, body) = channel();
    tokio::spawn(async move {
        let start = bytes.slice(..after.min(bytes.len()));
        if sender.send(Ok(Frame::data(start))).await.is_err() {
            return;
        }
        match how {
            // Let the bytes out before the connection is torn down.
            Cut::Close => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let _ = sender
                    .send(Err(io::ErrorKind::ConnectionReset.into()))
                    .await;
            }
            Cut::Hang => sender.closed().await,
        }
    });
    body
}

fn trickle(bytes: Bytes, step: usize) -> Body {
    let (sender, body) = channel();
    tokio::spawn(async move {
        for chunk in bytes.chunks(step.max(1)) {
            let frame = Frame::data(Bytes::copy_from_slice(chunk));
            if sender.send(Ok(frame)).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    body
}

type FrameSender = mpsc::Sender<Result<Frame<Bytes>, io::Error>>;

fn channel() -> (FrameSender, Body) {
    let (sender, mut receiver) = mpsc::channel(1);
    let stream = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    (sender, BodyExt::boxed(StreamBody::new(stream)))
}
