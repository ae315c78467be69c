use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use crate::Digest;

/// Credentials of one pull, as CRI's `AuthConfig` has them. Their text never appears in `Debug`, errors or logs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// With `password`: basic credentials.
    pub username: String,
    /// See `username`.
    pub password: String,
    /// `base64(username:password)`, instead of the two.
    pub auth: String,
    /// If not empty, the credentials are only for this registry.
    pub server_address: String,
    /// A refresh token for the registry's token server.
    pub identity_token: String,
    /// A bearer token for the registry itself.
    pub registry_token: String,
}

impl Auth {
    /// Tells credentials apart without keeping them: pulls join only those of the same.
    pub(crate) fn fingerprint(auth: Option<&Self>) -> Digest {
        let parts = auth.map_or([""; 6], |auth| {
            [
                &*auth.username,
                &*auth.password,
                &*auth.auth,
                &*auth.server_address,
                &*auth.identity_token,
                &*auth.registry_token,
            ]
        });
        Digest::of(format!("{parts:?}").as_bytes())
    }

    /// Whether they are for the registry at `address` by their own words.
    pub(crate) fn names(&self, address: &str) -> bool {
        !self.server_address.is_empty() && server(&self.server_address) == server(address)
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Auth")
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// Who is asking, as far as the registry at hand may know.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Anonymous,
    /// `username:password`.
    Basic(String),
    IdentityToken(String),
    RegistryToken(String),
}

/// Why credentials cannot be used; says nothing of what they are.
pub(crate) type Malformed = &'static str;

impl Credentials {
    /// Those of a request, for the registry `domain`.
    pub(crate) fn of(auth: Option<&Auth>, domain: &str) -> Result<Self, Malformed> {
        let Some(auth) = auth else {
            return Ok(Self::Anonymous);
        };
        if !auth.server_address.is_empty() && server(&auth.server_address) != server(domain) {
            return Ok(Self::Anonymous);
        }
        if !auth.registry_token.is_empty() {
            crate::registry::bearer(&auth.registry_token)
                .ok_or("the registry token has characters that no token has")?;
            return Ok(Self::RegistryToken(auth.registry_token.clone()));
        }
        if !auth.identity_token.is_empty() {
            return Ok(Self::IdentityToken(auth.identity_token.clone()));
        }
        if !auth.username.is_empty() {
            let pair = format!("{}:{}", auth.username, auth.password);
            return Ok(Self::Basic(pair));
        }
        if !auth.auth.is_empty() {
            let pair = STANDARD
                .decode(auth.auth.trim())
                .map_err(|_| "the auth field is no base64")?;
            let pair = String::from_utf8(pair).map_err(|_| "the auth field is not UTF-8")?;
            // Some tools pad with zeros.
            let pair = pair.trim_end_matches('\0');
            if !pair.contains(':') {
                return Err("the auth field has no colon between user and password");
            }
            return Ok(Self::Basic(pair.to_owned()));
        }
        Ok(Self::Anonymous)
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Anonymous => "none",
            Self::Basic(_) => "the user and password",
            Self::IdentityToken(_) => "the identity token",
            Self::RegistryToken(_) => "the registry token",
        }
    }

    pub(crate) fn basic(&self) -> Option<HeaderValue> {
        let Self::Basic(pair) = self else { return None };
        let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    pub(crate) fn identity_token(&self) -> Option<&str> {
        match self {
            Self::IdentityToken(token) => Some(token),
            _ => None,
        }
    }

    pub(crate) fn registry_token(&self) -> Option<HeaderValue> {
        match self {
            Self::RegistryToken(token) => crate::registry::bearer(token),
            _ => None,
        }
    }

    /// What must not be repeated when a server says it.
    pub(crate) fn secrets(&self) -> Vec<String> {
        match self {
            Self::Anonymous => Vec::new(),
            Self::Basic(pair) => {
                let password = pair.split_once(':').map_or("", |(_, password)| password);
                vec![STANDARD.encode(pair), password.to_owned()]
            }
            Self::IdentityToken(token) | Self::RegistryToken(token) => vec![token.clone()],
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.kind())
    }
}

/// The host and port of a server's address as people write it: `https://index.docker.io/v1/` is docker.io.
pub(crate) fn server(address: &str) -> String {
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = address.split('/').next().unwrap_or_default();
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        host => host.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_every_form() {
        let auth = |username: &str, encoded: &str, server: &str| Auth {
            username: username.into(),
            password: "hunter2".into(),
            auth: encoded.into(),
            server_address: server.into(),
            ..Auth::default()
        };
        let basic = Ok(Credentials::Basic("me:hunter2".into()));
        let of = |auth: &Auth| Credentials::of(Some(auth), "docker.io");
        assert_eq!(of(&auth("me", "", "")), basic);
        assert_eq!(of(&auth("", "bWU6aHVudGVyMg==", "")), basic);
        assert_eq!(of(&auth("me", "", "https://index.docker.io/v1/")), basic);
        assert_eq!(of(&auth("me", "", "quay.io")), Ok(Credentials::Anonymous));
        assert!(of(&auth("", "!", "")).is_err());
        assert!(of(&auth("", "bWU=", "")).is_err());
        assert_eq!(Credentials::of(None, "x"), Ok(Credentials::Anonymous));
    }

    #[test]
    fn debug_says_nothing() {
        let auth = Auth {
            username: "me".into(),
            password: "hunter2".into(),
            registry_token: "tok".into(),
            ..Auth::default()
        };
        let credentials = Credentials::of(Some(&auth), "r.io").unwrap();
        for text in [format!("{auth:?}"), format!("{credentials:?}")] {
            assert!(
                !text.contains("hunter2") && !text.contains("tok\""),
                "{text}"
            );
        }
    }
}
