//! Whom to trust to be the streaming server. Without any of the files everybody is, as crictl has it: the URL came from the runtime itself.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
};

use super::Transport;
use crate::error::Error;

fn trusts_all(flags: &Transport) -> bool {
    flags.tls_ca.is_none() && flags.tls_cert.is_none() && flags.tls_key.is_none()
}

/// The name that is asked for. Where the certificate is not checked and nothing was said, that is the host of the URL.
pub(super) fn server_name(flags: &Transport) -> Result<Option<String>, Error> {
    let name = match &flags.tls_sni {
        None if trusts_all(flags) => return Ok(None),
        name => name.as_deref().unwrap_or("localhost"),
    };
    ServerName::try_from(name)
        .map_err(|error| Error::Usage(format!("--tls-sni {name}: {error}")))?;
    Ok(Some(name.to_owned()))
}

pub(super) fn config(flags: &Transport) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let own = match (&flags.tls_cert, &flags.tls_key) {
        (Some(certificate), Some(key)) => Some(identity(certificate, key)?),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err(Error::Usage(
                "--tls-cert and --tls-key go together".to_owned(),
            ));
        }
    };
    let judge = match trusts_all(flags) {
        true => Judge::Anybody(Arc::clone(&provider)),
        false => Judge::named(flags, &provider)?,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refused("choose TLS versions"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(judge));
    let config = match own {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(refused("use --tls-cert and --tls-key"))?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn refused(what: &'static str) -> impl Fn(TlsError) -> Error {
    move |error| Error::Input(format!("{what}: {error}"))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(certificate: &Path, key: &Path) -> Result<Identity, Error> {
    let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
    Ok((certificates(certificate)?, key))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(unreadable(path))
}

fn unreadable(path: &Path) -> impl Fn(pem::Error) -> Error {
    let path = path.display().to_string();
    move |error| Error::Input(format!("read {path}: {error}"))
}

/// Decides whether a server is who it should be.
#[derive(Debug)]
enum Judge {
    Anybody(Arc<CryptoProvider>),
    /// Of the name that was asked for, by whom we trust.
    Named(Arc<WebPkiServerVerifier>),
}

impl Judge {
    fn named(flags: &Transport, provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        match &flags.tls_ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(refused("use --tls-ca"))?;
                }
            }
            None => {
                let native = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(native.certs);
            }
        }
        let inner =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .build()
                .map_err(|error| Error::Input(format!("use --tls-ca: {error}")))?;
        Ok(Self::Named(inner))
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match self {
            Self::Anybody(_) => Ok(ServerCertVerified::assertion()),
            Self::Named(inner) => {
                inner.verify_server_cert(certificate, intermediates, name, ocsp, now)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        match self {
            Self::Anybody(provider) => verify_tls12_signature(
                message,
                certificate,
                signed,
                &provider.signature_verification_algorithms,
            ),
            Self::Named(inner) => inner.verify_tls12_signature(message, certificate, signed),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        match self {
            Self::Anybody(provider) => verify_tls13_signature(
                message,
                certificate,
                signed,
                &provider.signature_verification_algorithms,
            ),
            Self::Named(inner) => inner.verify_tls13_signature(message, certificate, signed),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        match self {
            Self::Anybody(provider) => provider
                .signature_verification_algorithms
                .supported_schemes(),
            Self::Named(inner) => inner.supported_verify_schemes(),
        }
    }
}
