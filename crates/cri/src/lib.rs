//! The Container Runtime Interface on the wire: messages, server traits and a thin client.
//!
//! Only this crate and the daemon's `rpc/` know protobuf. Maps are `BTreeMap`s, so that what we
//! print and compare has one order.

pub mod client;

use std::{fmt, iter};

/// Messages and services of package `runtime.v1` (cri-api v0.37), generated from `proto/`.
#[allow(
    missing_debug_implementations,
    unreachable_pub,
    deprecated,
    clippy::unwrap_used,
    clippy::large_enum_variant
)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// Messages and services of package `longshore.v1`: progress and plans of pulls, the store from within, and what is under way, which CRI does not tell. Generated from `proto/`.
#[allow(missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]
pub mod progress {
    tonic::include_proto!("longshore.v1");
}

/// The `google.protobuf.FileDescriptorSet` of [`v1`] and [`progress`], encoded: for JSON by reflection. Linked only where it is used.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cri.fds"));

/// The default address of `longshored`'s CRI socket.
pub const DEFAULT_SOCKET: &str = "/run/longshore/longshore.sock";

/// CRI requests and replies may be this large (bytes); gRPC's own default is 4 MiB.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

impl v1::CreateContainerRequest {
    /// With the images, those that are mounted too, as their user named them, where nobody said how: kubelets always say, and runtimes that
    /// look for signatures by that name refuse a request without one.
    #[must_use]
    pub fn naming_the_users_images(mut self) -> Self {
        let config = self.config.iter_mut();
        let images = config.flat_map(|it| {
            let mounts = it.mounts.iter_mut().map(|mount| &mut mount.image);
            iter::once(&mut it.image).chain(mounts).flatten()
        });
        for image in images {
            if image.user_specified_image.is_empty() {
                image.user_specified_image.clone_from(&image.image);
            }
        }
        self
    }
}

impl fmt::Debug for progress::PullCredentials {
    /// Shows whose they are and no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullCredentials")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::AuthConfig {
    /// Names the fields that are set and shows none of the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |secret: &str| if secret.is_empty() { "" } else { "<redacted>" };
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &shown(&self.password))
            .field("auth", &shown(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &shown(&self.identity_token))
            .field("registry_token", &shown(&self.registry_token))
            .finish()
    }
}
