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

pub(super) fn config(flags: &Transport) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let trusts_all = flags.tls_ca.is_none() && flags.tls_cert.is_none() && flags.tls_key.is_none();
    let own = match (&flags.tls_cert, &flags.tls_key) {
        (Some(certificate), Some(key)) => Some(identity(certificate, key)?),
        _ if trusts_all => None,
        _ => {
            return Err(Error::Usage(
                "--tls-cert and --tls-key go together, and with --tls-ca".to_owned(),
            ));
        }
    };
    let judge = match trusts_all {
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
    /// By a name of our choice, not that of the URL, which mostly is an address.
    Named {
        inner: Arc<WebPkiServerVerifier>,
        name: ServerName<'static>,
    },
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
        let name = ServerName::try_from(flags.tls_sni.clone())
            .map_err(|error| Error::Usage(format!("--tls-sni {}: {error}", flags.tls_sni)))?;
        Ok(Self::Named { inner, name })
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match self {
            Self::Anybody(_) => Ok(ServerCertVerified::assertion()),
            Self::Named { inner, name } => {
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
            Self::Named { inner, .. } => inner.verify_tls12_signature(message, certificate, signed),
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
            Self::Named { inner, .. } => inner.verify_tls13_signature(message, certificate, signed),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        match self {
            Self::Anybody(provider) => provider
                .signature_verification_algorithms
                .supported_schemes(),
            Self::Named { inner, .. } => inner.supported_verify_schemes(),
        }
    }
}
