use std::fmt;

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

impl fmt::Debug for Auth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Auth")
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}
