//! Which protocol a client and this server have in common.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};

use super::token::Errand;
use crate::{status::Language, websocket};

pub(super) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");

/// What will be spoken after the upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    SpdyCommand {
        language: Language,
        resize: bool,
    },
    SpdyPorts,
    WebSocketCommand {
        codec: websocket::Codec,
        language: Language,
    },
    WebSocketPorts {
        codec: websocket::Codec,
    },
    /// SPDY inside of WebSocket messages.
    TunnelledPorts,
}

/// Why a request is answered with an error, and with which.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: String,
    pub(super) accepted: &'static [&'static str],
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            accepted: &[],
        }
    }
}

const SPDY_COMMAND: &[&str] = &[
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
const SPDY_PORTS: &[&str] = &["portforward.k8s.io"];
const WEBSOCKET_COMMAND: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
const WEBSOCKET_PORTS: &[&str] = &[
    "SPDY/3.1+portforward.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "portforward.k8s.io",
];

/// The protocol, and what answers the client that it may begin.
pub(super) fn negotiate<B>(
    request: &Request<B>,
    errand: &Errand,
) -> Result<(Protocol, Response<()>), Refusal> {
    let headers = request.headers();
    let upgrade = tokens(headers, &header::UPGRADE);
    let upgrades = tokens(headers, &header::CONNECTION)
        .iter()
        .any(|token| token.eq_ignore_ascii_case("upgrade"));
    let asks = |protocol| {
        upgrades
            && upgrade
                .iter()
                .any(|token| token.eq_ignore_ascii_case(protocol))
    };
    let is_command = !matches!(errand, Errand::PortForward(_));
    if asks("SPDY/3.1") {
        let (protocol, name) = spdy(headers, is_command)?;
        let mut response = switching("SPDY/3.1");
        add(&mut response, STREAM_PROTOCOL, name);
        Ok((protocol, response))
    } else if asks("websocket") {
        let (protocol, name) = web_socket(headers, is_command)?;
        let mut response = switching("websocket");
        let key = handshake_key(headers)?;
        add(&mut response, header::SEC_WEBSOCKET_ACCEPT, Some(&key));
        add(&mut response, header::SEC_WEBSOCKET_PROTOCOL, name);
        Ok((protocol, response))
    } else {
        let mut refusal = Refusal::new(
            StatusCode::BAD_REQUEST,
            format!(
                "this URL is for an upgrade to SPDY/3.1 or WebSocket; the request has Connection: {} and Upgrade: {}",
                shown(headers, &header::CONNECTION),
                shown(headers, &header::UPGRADE)
            ),
        );
        refusal.accepted = &[];
        Err(refusal)
    }
}

fn spdy(
    headers: &HeaderMap,
    is_command: bool,
) -> Result<(Protocol, Option<&'static str>), Refusal> {
    let supported = if is_command { SPDY_COMMAND } else { SPDY_PORTS };
    let offered = tokens(headers, &STREAM_PROTOCOL);
    let name = choose(&offered, supported, StatusCode::FORBIDDEN)?;
    let protocol = if is_command {
        Protocol::SpdyCommand {
            language: match name {
                Some("v4.channel.k8s.io") => Language::Json,
                _ => Language::Words,
            },
            resize: matches!(name, Some("v4.channel.k8s.io" | "v3.channel.k8s.io")),
        }
    } else {
        Protocol::SpdyPorts
    };
    Ok((protocol, name))
}

fn web_socket(
    headers: &HeaderMap,
    is_command: bool,
) -> Result<(Protocol, Option<&'static str>), Refusal> {
    let supported = if is_command {
        WEBSOCKET_COMMAND
    } else {
        WEBSOCKET_PORTS
    };
    let offered = tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    let name = choose(&offered, supported, StatusCode::BAD_REQUEST)?;
    if name == Some("SPDY/3.1+portforward.k8s.io") {
        return Ok((Protocol::TunnelledPorts, name));
    }
    let named = name.unwrap_or_default();
    let codec = websocket::Codec {
        base64: named.contains("base64."),
        closes: named.starts_with("v5."),
    };
    let protocol = if is_command {
        Protocol::WebSocketCommand {
            codec,
            language: if named.starts_with("v4.") || named.starts_with("v5.") {
                Language::Json
            } else {
                Language::Words
            },
        }
    } else {
        Protocol::WebSocketPorts { codec }
    };
    Ok((protocol, name))
}

/// The first that the client offers and we have; none if it offers none, as the oldest clients do.
fn choose(
    offered: &[&str],
    supported: &'static [&'static str],
    status: StatusCode,
) -> Result<Option<&'static str>, Refusal> {
    if offered.is_empty() {
        return Ok(None);
    }
    let mut common = offered
        .iter()
        .filter_map(|name| supported.iter().find(|known| *known == name));
    match common.next() {
        Some(name) => Ok(Some(name)),
        None => Err(Refusal {
            status,
            text: format!(
                "no protocol in common: the client offers {offered:?}, and this server has {supported:?}"
            ),
            accepted: supported,
        }),
    }
}

/// RFC 6455, 4.2.1: the version, and a nonce that shows that the answer is to this request.
fn handshake_key(headers: &HeaderMap) -> Result<String, Refusal> {
    let version = headers.get(header::SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version != "13") {
        return Err(Refusal::new(
            StatusCode::UPGRADE_REQUIRED,
            "WebSocket version 13 is the one that this server has",
        ));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .and_then(|key| key.to_str().ok())
        .filter(|key| key.len() == 24);
    key.map(websocket::accept_key).ok_or_else(|| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "a WebSocket handshake without its key",
        )
    })
}

fn switching(protocol: &'static str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    add(&mut response, header::CONNECTION, Some("Upgrade"));
    add(&mut response, header::UPGRADE, Some(protocol));
    response
}

pub(super) fn refuse(refusal: &Refusal) -> Response<String> {
    let mut response = Response::new(format!("{}\n", refusal.text));
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    for name in refusal.accepted {
        headers.append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(name));
    }
    response
}

fn add<B>(response: &mut Response<B>, name: HeaderName, value: Option<&str>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
        response.headers_mut().insert(name, value);
    }
}

/// The elements of a header, in lists or repeated.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
        .collect()
}

fn shown(headers: &HeaderMap, name: &HeaderName) -> String {
    let all = tokens(headers, name);
    if all.is_empty() {
        "(none)".to_owned()
    } else {
        all.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{ExecRequest, PortForwardRequest};

    fn ask(errand: &Errand, headers: &[(&str, &str)]) -> Result<(Protocol, Response<()>), Refusal> {
        let mut request = Request::new(());
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        negotiate(&request, errand)
    }

    fn exec() -> Errand {
        Errand::Exec(ExecRequest::default())
    }

    fn ports() -> Errand {
        Errand::PortForward(PortForwardRequest::default())
    }

    const SPDY: [(&str, &str); 2] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "spdy/3.1"),
    ];
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn socket(protocols: &'static str) -> Vec<(&'static str, &'static str)> {
        vec![
            ("connection", "upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
            ("sec-websocket-protocol", protocols),
        ]
    }

    #[test]
    fn the_first_that_the_client_offers_and_we_have() {
        let mut headers = SPDY.to_vec();
        headers.push(("x-stream-protocol-version", "v9.channel.k8s.io"));
        headers.push(("x-stream-protocol-version", "v4.channel.k8s.io"));
        headers.push(("x-stream-protocol-version", "channel.k8s.io"));
        let (protocol, response) = ask(&exec(), &headers).unwrap();
        let (language, resize) = (Language::Json, true);
        assert_eq!(protocol, Protocol::SpdyCommand { language, resize });
        assert_eq!(response.headers()[STREAM_PROTOCOL], "v4.channel.k8s.io");

        let (protocol, response) = ask(
            &exec(),
            &socket("v5.channel.k8s.io, v4.base64.channel.k8s.io"),
        )
        .unwrap();
        let codec = websocket::Codec {
            base64: false,
            closes: true,
        };
        let language = Language::Json;
        assert_eq!(protocol, Protocol::WebSocketCommand { codec, language });
        // RFC 6455, 1.3.
        let accept = &response.headers()[header::SEC_WEBSOCKET_ACCEPT];
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

        let tunnel = socket("SPDY/3.1+portforward.k8s.io");
        assert_eq!(ask(&ports(), &tunnel).unwrap().0, Protocol::TunnelledPorts);
    }

    #[test]
    fn none_offered_is_the_oldest() {
        let (protocol, response) = ask(&exec(), &SPDY).unwrap();
        let (language, resize) = (Language::Words, false);
        assert_eq!(protocol, Protocol::SpdyCommand { language, resize });
        assert!(!response.headers().contains_key(STREAM_PROTOCOL));
    }

    #[test]
    fn refusals_say_what_there_is() {
        let mut headers = SPDY.to_vec();
        headers.push(("x-stream-protocol-version", "v5.channel.k8s.io"));
        let refusal = ask(&exec(), &headers).unwrap_err();
        assert_eq!(refusal.status, StatusCode::FORBIDDEN);
        let response = refuse(&refusal);
        let accepted = response.headers().get_all(ACCEPTED_PROTOCOLS);
        assert_eq!(accepted.iter().count(), SPDY_COMMAND.len());

        let refusal = ask(&exec(), &socket("SPDY/3.1+portforward.k8s.io")).unwrap_err();
        assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
        assert!(refusal.text.contains("v5.channel.k8s.io"));

        let refusal = ask(&exec(), &[("upgrade", "h2c")]).unwrap_err();
        assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
        assert!(refusal.text.contains("h2c"));
        // An upgrade that the Connection header does not name is none.
        assert!(ask(&exec(), &[("upgrade", "SPDY/3.1")]).is_err());

        let mut old = socket("v4.channel.k8s.io");
        old[2].1 = "8";
        assert_eq!(
            ask(&exec(), &old).unwrap_err().status,
            StatusCode::UPGRADE_REQUIRED
        );
    }
}
