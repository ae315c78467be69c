use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Key, SIGNED, attach_by_referrer, attach_by_tag, pae, payload, statement};
use crate::registry::Registry;

/// Fulcio's extension that names who has identified the signer.
const ISSUER: &[u64] = &[1, 3, 6, 1, 4, 1, 57264, 1, 8];
/// RFC 6962, 3.3.
const TIMESTAMPS: &[u64] = &[1, 3, 6, 1, 4, 1, 11129, 2, 4, 2];

/// An authority for signers, and its logs.
#[derive(Debug, Default)]
pub struct Sigstore {
    authority: Key,
    certificates: Key,
    signatures: Key,
}

/// Whom a signer's certificate is for.
#[derive(Debug, Clone, Copy)]
pub struct Certificate<'a> {
    /// A URI.
    pub subject: &'a str,
    /// Who has identified the subject.
    pub issuer: &'a str,
    /// The last year in which it was good; they are all good from 2020 on.
    pub until: i32,
}

impl Sigstore {
    /// A new one, which nobody trusts yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sigstore's `trusted_root.json`.
    #[must_use]
    pub fn trusted_root(&self) -> String {
        let log = |key: &Key| {
            json!({
                "baseUrl": "https://log.test",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": STANDARD.encode(key.public_der()),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": { "start": "2020-01-01T00:00:00Z" },
                },
                "logId": { "keyId": STANDARD.encode(key.id()) },
            })
        };
        let parameters = self.authority();
        let certificate = parameters
            .self_signed(&self.authority.0)
            .expect("a certificate");
        json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(&self.signatures)],
            "certificateAuthorities": [{
                "subject": { "organization": "test", "commonName": "test" },
                "uri": "https://authority.test",
                "certChain": { "certificates": [{ "rawBytes": STANDARD.encode(certificate.der()) }] },
                "validFor": { "start": "2020-01-01T00:00:00Z" },
            }],
            "ctlogs": [log(&self.certificates)],
        })
        .to_string()
    }

    /// Signs a digest by certificate, in the layout of referrers.
    pub fn sign_by_referrer(
        &self,
        registry: &Registry,
        repository: &str,
        digest: &str,
        certificate: Certificate<'_>,
    ) {
        let bundle = self.bundle(&statement(digest, SIGNED), certificate);
        attach_by_referrer(registry, repository, digest, &bundle);
    }

    /// Signs a digest by certificate, in the older layout.
    pub fn sign_by_tag(
        &self,
        registry: &Registry,
        repository: &str,
        digest: &str,
        certificate: Certificate<'_>,
    ) {
        let key = Key::new();
        let (_, pem) = self.certify(&key, certificate);
        let payload = payload(repository, digest);
        let signature = STANDARD.encode(key.sign(payload.as_bytes()));
        let body = json!({
            "apiVersion": "0.0.1",
            "kind": "hashedrekord",
            "spec": {
                "data": { "hash": { "algorithm": "sha256", "value": hex::encode(Sha256::digest(&payload)) } },
                "signature": { "content": signature, "publicKey": { "content": STANDARD.encode(&pem) } },
            },
        });
        let Entry {
            body,
            time,
            promise,
        } = self.log(&body);
        let promise = json!({
            "SignedEntryTimestamp": promise,
            "Payload": { "body": body, "integratedTime": time, "logIndex": 0, "logID": hex::encode(self.signatures.id()) },
        });
        let annotations = json!({
            "dev.cosignproject.cosign/signature": signature,
            "dev.sigstore.cosign/certificate": pem,
            "dev.sigstore.cosign/bundle": promise.to_string(),
        });
        attach_by_tag(registry, repository, digest, &payload, &annotations);
    }

    /// A statement signed by certificate, as a sigstore bundle.
    #[must_use]
    pub fn bundle(&self, statement: &str, certificate: Certificate<'_>) -> Value {
        let key = Key::new();
        let (der, pem) = self.certify(&key, certificate);
        let signature = STANDARD.encode(key.sign(&pae(statement)));
        let mut envelope = key.envelope(statement);
        envelope["signatures"][0]["sig"] = signature.clone().into();
        let body = json!({
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": { "algorithm": "sha256", "value": "0".repeat(64) },
                "payloadHash": { "algorithm": "sha256", "value": hex::encode(Sha256::digest(statement)) },
                "signatures": [{ "signature": signature, "verifier": STANDARD.encode(&pem) }],
            },
        });
        let leaf = Sha256::new()
            .chain_update([0])
            .chain_update(body.to_string())
            .finalize();
        let Entry {
            body,
            time,
            promise,
        } = self.log(&body);
        json!({
            "mediaType": super::BUNDLE,
            "verificationMaterial": {
                "certificate": { "rawBytes": STANDARD.encode(der) },
                "tlogEntries": [{
                    "logIndex": "0",
                    "logId": { "keyId": STANDARD.encode(self.signatures.id()) },
                    "kindVersion": { "kind": "dsse", "version": "0.0.1" },
                    "integratedTime": time.to_string(),
                    "inclusionPromise": { "signedEntryTimestamp": promise },
                    "inclusionProof": {
                        "logIndex": "0",
                        "rootHash": STANDARD.encode(leaf),
                        "treeSize": "1",
                        "hashes": [],
                        "checkpoint": { "envelope": self.checkpoint(&leaf) },
                    },
                    "canonicalizedBody": body,
                }],
            },
            "dsseEnvelope": envelope,
        })
    }

    /// The log of signatures has one leaf: this one.
    fn log(&self, body: &Value) -> Entry {
        let body = STANDARD.encode(body.to_string());
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("later than 1970")
            .as_secs();
        // Its keys are sorted, as RFC 8785 wants them.
        let entry = json!({
            "body": body,
            "integratedTime": time,
            "logID": hex::encode(self.signatures.id()),
            "logIndex": 0,
        });
        let promise = STANDARD.encode(self.signatures.sign(entry.to_string().as_bytes()));
        Entry {
            body,
            time,
            promise,
        }
    }

    /// A signed note about a tree of one leaf.
    fn checkpoint(&self, root: &[u8]) -> String {
        let note = format!("log.test\n1\n{}\n", STANDARD.encode(root));
        let mut signature = self.signatures.id()[..4].to_vec();
        signature.extend(self.signatures.sign(note.as_bytes()));
        format!("{note}\n\u{2014} log.test {}\n", STANDARD.encode(signature))
    }

    fn authority(&self) -> CertificateParams {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        parameters.serial_number = Some(SerialNumber::from_slice(&[1]));
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(2070, 1, 1);
        parameters
    }

    /// DER and PEM of a certificate that the log of certificates has seen.
    fn certify(&self, key: &Key, whom: Certificate<'_>) -> (Vec<u8>, String) {
        let mut parameters = CertificateParams::default();
        parameters.serial_number = Some(SerialNumber::from_slice(&[2]));
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(whom.until, 12, 31);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        let subject = whom.subject.try_into().expect("ASCII");
        parameters.subject_alt_names = vec![SanType::URI(subject)];
        let issuer =
            CustomExtension::from_oid_content(ISSUER, element(0x0c, whom.issuer.as_bytes()));
        parameters.custom_extensions = vec![issuer];
        let ca = self.authority();
        let ca = Issuer::from_params(&ca, &self.authority.0);
        let unseen = parameters.signed_by(&key.0, &ca).expect("a certificate");
        let timestamps = self.seen(to_be_signed(unseen.der()));
        let seen = CustomExtension::from_oid_content(TIMESTAMPS, element(0x04, &timestamps));
        parameters.custom_extensions.push(seen);
        let certificate = parameters.signed_by(&key.0, &ca).expect("a certificate");
        (certificate.der().to_vec(), certificate.pem())
    }

    /// A list of one signed timestamp (RFC 6962, 3.2 and 3.3).
    fn seen(&self, certificate: &[u8]) -> Vec<u8> {
        // Version 1; then the type "certificate timestamp", where it is signed.
        let mut signed = vec![0, 0];
        let time = 1_600_000_000_000_u64.to_be_bytes();
        signed.extend(time);
        // A certificate without its timestamps.
        signed.extend([0, 1]);
        signed.extend(self.authority.id());
        let length = u32::try_from(certificate.len()).expect("a short certificate");
        signed.extend(&length.to_be_bytes()[1..]);
        signed.extend(certificate);
        // No extensions.
        signed.extend([0, 0]);
        let signature = self.certificates.sign(&signed);
        let mut timestamp = vec![0];
        timestamp.extend(self.certificates.id());
        timestamp.extend(time);
        timestamp.extend([0, 0]);
        // SHA-256, ECDSA.
        timestamp.extend([4, 3]);
        timestamp.extend(prefixed(&signature));
        prefixed(&prefixed(&timestamp))
    }
}

struct Entry {
    body: String,
    time: u64,
    promise: String,
}

fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a short list");
    [&length.to_be_bytes(), bytes].concat()
}

/// DER: tag, length, contents.
fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = u8::try_from(contents.len()).expect("less than 256 bytes");
    let head = match length {
        0..128 => vec![tag, length],
        _ => vec![tag, 0x81, length],
    };
    [&head, contents].concat()
}

/// The part of a certificate that is signed: the first element within the outermost.
fn to_be_signed(certificate: &[u8]) -> &[u8] {
    let inner = &certificate[head(certificate).0..];
    let (head, length) = head(inner);
    &inner[..head + length]
}

/// The lengths of an element's head and of its contents.
fn head(element: &[u8]) -> (usize, usize) {
    match element[1] {
        short @ 0..128 => (2, short.into()),
        long => {
            let count = usize::from(long & 0x7f);
            let length = element[2..2 + count]
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (2 + count, length)
        }
    }
}
