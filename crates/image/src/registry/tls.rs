//! Whom we trust, and who we are: certificates.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, client::WantsClientCert,
};

use super::RegistryFailure;
use super::hosts_file::Tls;
use crate::ConfigurationError;

/// What [`Tls`] names, read.
#[derive(Debug)]
pub(super) struct Certificates {
    pub(super) authorities: Vec<CertificateDer<'static>>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    skip_verify: bool,
}

impl Certificates {
    /// Blocks. A mistake names the `file` that names the certificates, and the host's `line` in it (0 for none).
    pub(super) fn read(tls: &Tls, file: &Path, line: usize) -> Result<Self, ConfigurationError> {
        let mistake = |key: &str, found: ConfigurationError| ConfigurationError {
            file: file.to_owned(),
            line: Some(line).filter(|line| *line > 0),
            key: key.to_owned(),
            reason: found.to_string(),
        };
        let mut authorities = Vec::new();
        for path in &tls.ca {
            authorities.extend(certificates(path).map_err(|found| mistake("ca", found))?);
        }
        // One is enough for every server that names no authorities; of several, the first.
        let client = match tls.client.first() {
            Some((certificate, key)) => {
                let secret = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| unreadable(key, "private key", &error))
                    .map_err(|found| mistake("client", found))?;
                let chain = certificates(certificate).map_err(|found| mistake("client", found))?;
                Some((chain, secret))
            }
            None => None,
        };
        Ok(Self {
            authorities,
            client,
            skip_verify: tls.skip_verify,
        })
    }

    /// Those for other hosts to which this one sends us: it may say whom we trust, but not who we are, nor that anybody will do.
    pub(super) fn elsewhere(&self) -> Option<Self> {
        (!self.authorities.is_empty()).then(|| Self {
            authorities: self.authorities.clone(),
            client: None,
            skip_verify: false,
        })
    }

    pub(super) fn config(&self, system: &RootCertStore) -> Result<ClientConfig, RegistryFailure> {
        let mut roots = system.clone();
        for certificate in &self.authorities {
            roots
                .add(certificate.clone())
                .map_err(|error| unusable(&error))?;
        }
        let builder = match self.skip_verify {
            true => builder()?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider()))),
            false => builder()?.with_root_certificates(roots),
        };
        let builder: rustls::ConfigBuilder<ClientConfig, WantsClientCert> = builder;
        match &self.client {
            Some((chain, key)) => builder
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .map_err(|error| unusable(&error)),
            None => Ok(builder.with_no_client_auth()),
        }
    }
}

/// The system's authorities and those of `files`. Blocks.
pub(super) fn roots(files: &[PathBuf]) -> Result<RootCertStore, RegistryFailure> {
    let mut roots = RootCertStore::empty();
    // Certificates that do not parse are the system's problem; the others do.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for path in files {
        for certificate in certificates(path).map_err(|error| unusable(&error))? {
            roots.add(certificate).map_err(|error| unusable(&error))?;
        }
    }
    Ok(roots)
}

pub(super) fn system_config(roots: &RootCertStore) -> Result<ClientConfig, RegistryFailure> {
    Ok(builder()?
        .with_root_certificates(roots.clone())
        .with_no_client_auth())
}

pub(super) fn unusable(error: &dyn Display) -> RegistryFailure {
    RegistryFailure::Request {
        reason: format!("TLS cannot be set up: {error}"),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, RegistryFailure>
{
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigurationError> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(path, "certificates", &error))?;
    match found.is_empty() {
        true => Err(ConfigurationError::of_file(path, "has no certificate")),
        false => Ok(found),
    }
}

fn unreadable(path: &Path, what: &str, error: &dyn Display) -> ConfigurationError {
    ConfigurationError::of_file(path, format_args!("has no {what}: {error}"))
}

/// `skip_verify`: encryption without knowing with whom.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
