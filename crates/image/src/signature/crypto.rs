//! What sigstore's crates need of cryptography, by the library that TLS uses already.

use std::cell::RefCell;

use ring::digest::{Context, SHA256, SHA384, SHA512, digest};
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use sigstore_verify::crypto::{
    CryptoProvider, Error, HashContext, Result, SigningScheme, install_default_provider,
};
use sigstore_verify::types::HashAlgorithm;

/// Once for the process; repeating it changes nothing.
pub(super) fn install() {
    // Refused where it has been installed before.
    let _ = install_default_provider(&Ring);
}

thread_local! {
    static MESSAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `verification` of a signature on a message. ring verifies signatures on messages and never on digests, which the caller in between
/// knows alone: by this the message is known that has the digest.
pub(super) fn on_message<T>(message: &[u8], verification: impl FnOnce() -> T) -> T {
    MESSAGE.with_borrow_mut(|known| message.clone_into(known));
    let result = verification();
    MESSAGE.with_borrow_mut(Vec::clear);
    result
}

#[derive(Debug)]
struct Ring;

struct Hash(Context);

impl HashContext for Hash {
    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn finalize(self: Box<Self>) -> Vec<u8> {
        self.0.finish().as_ref().to_vec()
    }
}

impl CryptoProvider for Ring {
    fn hash(&self, algorithm: HashAlgorithm) -> Result<Box<dyn HashContext>> {
        Ok(Box::new(Hash(Context::new(hash(algorithm)?))))
    }

    fn verify_raw(
        &self,
        scheme: SigningScheme,
        key: &[u8],
        data: &[u8],
        signature: &[u8],
    ) -> Result<()> {
        let wrong = |_| Error::Verification(format!("{} signature invalid", scheme.name()));
        UnparsedPublicKey::new(verification(scheme)?, key)
            .verify(data, signature)
            .map_err(wrong)
    }

    fn verify_prehashed(
        &self,
        scheme: SigningScheme,
        key: &[u8],
        wanted: &[u8],
        signature: &[u8],
    ) -> Result<()> {
        let algorithm = scheme
            .hash_algorithm()
            .ok_or_else(|| unsupported(scheme.name()))?;
        let algorithm = hash(algorithm)?;
        MESSAGE.with_borrow(|message| {
            if digest(algorithm, message).as_ref() != wanted {
                return Err(Error::Verification(
                    "the signature is on the digest of something else".into(),
                ));
            }
            self.verify_raw(scheme, key, message, signature)
        })
    }
}

fn hash(algorithm: HashAlgorithm) -> Result<&'static ring::digest::Algorithm> {
    match algorithm {
        HashAlgorithm::Sha2256 => Ok(&SHA256),
        HashAlgorithm::Sha2384 => Ok(&SHA384),
        HashAlgorithm::Sha2512 => Ok(&SHA512),
        other => Err(unsupported(&other.to_string())),
    }
}

fn verification(scheme: SigningScheme) -> Result<&'static dyn VerificationAlgorithm> {
    Ok(match scheme {
        SigningScheme::EcdsaP256Sha256 => &signature::ECDSA_P256_SHA256_ASN1,
        SigningScheme::EcdsaP256Sha384 => &signature::ECDSA_P256_SHA384_ASN1,
        SigningScheme::EcdsaP384Sha256 => &signature::ECDSA_P384_SHA256_ASN1,
        SigningScheme::EcdsaP384Sha384 => &signature::ECDSA_P384_SHA384_ASN1,
        SigningScheme::Ed25519 => &signature::ED25519,
        SigningScheme::RsaPssSha256 => &signature::RSA_PSS_2048_8192_SHA256,
        SigningScheme::RsaPssSha384 => &signature::RSA_PSS_2048_8192_SHA384,
        SigningScheme::RsaPssSha512 => &signature::RSA_PSS_2048_8192_SHA512,
        SigningScheme::RsaPkcs1Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        SigningScheme::RsaPkcs1Sha384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        SigningScheme::RsaPkcs1Sha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        other => return Err(unsupported(other.name())),
    })
}

fn unsupported(what: &str) -> Error {
    Error::UnsupportedAlgorithm(format!("{what} is not supported"))
}
