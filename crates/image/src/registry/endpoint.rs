use std::net::IpAddr;

use http::Uri;
use http::uri::{Authority, Scheme};

use super::RegistryFailure;

/// Where a registry is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) scheme: Scheme,
    pub(crate) authority: Authority,
    /// Of the API: `/v2`.
    pub(crate) prefix: String,
}

impl Endpoint {
    /// For a registry as it stands in names.
    pub(crate) fn of(scheme: Scheme, domain: &str) -> Result<Self, RegistryFailure> {
        // The one registry whose name is not its address.
        let host = match domain {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let authority = host.parse().map_err(|error| RegistryFailure::Request {
            reason: format!("{host:?} is no address: {error}"),
        })?;
        Ok(Self {
            scheme,
            authority,
            prefix: "/v2".into(),
        })
    }

    /// An address as people configure it: `https://mirror.io/proxy`, whose API lies below `/proxy/v2`, or below `/proxy` if it is to be
    /// taken as it is. Without a scheme it is HTTPS.
    pub(crate) fn parse(text: &str, as_is: bool) -> Result<Self, &'static str> {
        let full = match text.contains("://") {
            true => text.to_owned(),
            false => format!("https://{text}"),
        };
        let uri: Uri = full.parse().map_err(|_| "is no address")?;
        let scheme = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => scheme.clone(),
            _ => return Err("is neither http:// nor https://"),
        };
        let authority = uri.authority().ok_or("is no address")?.clone();
        if authority.as_str().contains('@') {
            return Err("has credentials, which belong into the credentials file");
        }
        if uri.query().is_some() {
            return Err("has a query, which an address of a registry has not");
        }
        let path = uri.path().trim_end_matches('/');
        let prefix = match as_is || path.ends_with("/v2") {
            true => path.to_owned(),
            false => format!("{path}/v2"),
        };
        Ok(Self {
            scheme,
            authority,
            prefix,
        })
    }

    /// `https://registry-1.docker.io`.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    pub(crate) fn uri(&self, path: &str) -> Result<Uri, RegistryFailure> {
        let text = format!("{}{}/{path}", self.origin(), self.prefix);
        text.parse()
            .map_err(|error: http::uri::InvalidUri| RegistryFailure::Request {
                reason: error.to_string(),
            })
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.scheme == Scheme::HTTP
    }
}

/// Whether `authority` is this machine, for which plain HTTP does no harm.
pub(crate) fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// Whether two URIs lead to the same server, so that what one may see, the other may.
pub(crate) fn same_server(one: &Uri, other: &Uri) -> bool {
    let server = |uri: &Uri| {
        let authority = uri.authority()?;
        let port = authority
            .port_u16()
            .unwrap_or(if uri.scheme() == Some(&Scheme::HTTP) {
                80
            } else {
                443
            });
        Some((
            uri.scheme_str()?.to_ascii_lowercase(),
            authority.host().to_ascii_lowercase(),
            port,
        ))
    };
    server(one).is_some() && server(one) == server(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_from_what_looks_like_it() {
        for (text, loopback) in [
            ("localhost", true),
            ("LOCALHOST:5000", true),
            ("127.0.0.1:5000", true),
            ("127.8.9.1", true),
            ("[::1]:5000", true),
            ("localhost.example.org", false),
            ("127.0.0.1.example.org", false),
            ("10.0.0.1:5000", false),
            ("[::2]", false),
        ] {
            assert_eq!(is_loopback(&text.parse().unwrap()), loopback, "{text}");
        }
    }

    #[test]
    fn servers_are_compared_by_scheme_host_and_port() {
        for (one, other, same) in [
            ("https://r.io/a", "https://R.io:443/b", true),
            ("http://r.io/a", "http://r.io:80/b", true),
            ("https://r.io/a", "http://r.io/a", false),
            ("https://r.io/a", "https://r.io:5000/a", false),
            ("https://r.io/a", "https://x.r.io/a", false),
        ] {
            assert_eq!(
                same_server(&one.parse().unwrap(), &other.parse().unwrap()),
                same
            );
        }
    }
}
