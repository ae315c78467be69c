use serde::Deserialize;
use serde_json::json;
use sigstore_verify::VerificationPolicy;
use sigstore_verify::crypto::{VerificationKey, sha256};
use sigstore_verify::types::{
    Artifact, Bundle, DerCertificate, Sha256Hash, SignatureBytes, SignatureContent, Statement,
};

use super::collect::decoded;
use super::crypto::on_message;
use super::evidence::Certified;
use super::pattern::fits;
use super::policy::{Action, Keyless, Requirement, Verdict};
use super::{Evidence, SignatureError, Subject};
use crate::Digest;

/// `critical.type` of a payload that signs an image.
const SIMPLE_TYPE: &str = "cosign container image signature";
/// What an in-toto statement says that signs an image, and not its bill of materials or the like.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// What marks an in-toto statement in its envelope.
const IN_TOTO: &str = "application/vnd.in-toto+json";
/// Said of so many signatures what is wrong with them.
const MOST_REASONS: usize = 4;

/// Whether an image may be used by the rule that applies, given all signatures on it. `place` is who was asked for them.
pub(crate) fn verify(
    verdict: Verdict<'_>,
    subject: Subject<'_>,
    evidence: &[Evidence],
    place: &str,
) -> Result<(), SignatureError> {
    let requirement = match verdict.action {
        Action::Accept => return Ok(()),
        Action::Reject => {
            return Err(SignatureError::Rejected {
                rule: verdict.rule(),
                image: subject.shown(),
            });
        }
        Action::Signed(requirement) => requirement,
    };
    let digest = subject
        .digests
        .first()
        .map(Digest::to_string)
        .unwrap_or_default();
    if evidence.is_empty() {
        return Err(SignatureError::Missing {
            rule: verdict.rule(),
            image: subject.shown(),
            digest,
            place: place.to_owned(),
        });
    }
    let mut reasons = Vec::new();
    for signature in evidence {
        match signature.check(requirement, subject.digests) {
            Ok(()) => return Ok(()),
            Err(reason) => reasons.push(format!("{}: {reason}", signature.kind())),
        }
    }
    reasons.dedup();
    let more = reasons.len().saturating_sub(MOST_REASONS);
    reasons.truncate(MOST_REASONS);
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    let reasons: String = reasons.join("; ").chars().take(2000).collect();
    Err(SignatureError::Refused {
        rule: verdict.rule(),
        image: subject.shown(),
        digest,
        reasons,
    })
}

/// The part of a payload that is signed for (containers/image, "atomic signature").
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SignedImage {
    docker_manifest_digest: String,
}

/// Rekor's promise, as an annotation has it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Promise {
    signed_entry_timestamp: String,
    payload: PromisedEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PromisedEntry {
    body: String,
    integrated_time: i64,
    log_index: i64,
    #[serde(rename = "logID")]
    log_id: String,
}

impl Evidence {
    fn check(&self, requirement: &Requirement, digests: &[Digest]) -> Result<(), String> {
        match self {
            Self::Simple {
                payload,
                signature,
                certified,
            } => {
                let signature = decoded(signature).ok_or("it is no base64")?;
                match certified {
                    None => by_key(
                        requirement,
                        payload.as_bytes(),
                        &SignatureBytes::new(signature),
                    )?,
                    Some(certified) => {
                        let keyless = wanted(requirement)?;
                        let bundle = as_bundle(payload, &signature, certified)?;
                        let policy = keyless.policy().skip_tlog_unsafe();
                        keyless.verify(
                            &bundle,
                            policy,
                            Artifact::Blob(payload.as_bytes()),
                            payload.as_bytes(),
                        )?;
                    }
                }
                // Only what is signed is read.
                names(payload, digests)
            }
            Self::Bundle { json } => bundle(requirement, json, digests),
        }
    }
}

/// A message signed with one of the keys.
fn by_key(
    requirement: &Requirement,
    message: &[u8],
    signature: &SignatureBytes,
) -> Result<(), String> {
    if requirement.keys.is_empty() {
        return Err("the rule has no keys".into());
    }
    for key in &requirement.keys {
        let verified =
            VerificationKey::from_spki(&key.key).and_then(|key| key.verify(message, signature));
        if verified.is_ok() {
            return Ok(());
        }
    }
    Err("it is by none of the rule's keys".into())
}

/// Whether a payload is for one of the digests.
fn names(payload: &str, digests: &[Digest]) -> Result<(), String> {
    let payload: Payload = serde_json::from_str(payload)
        .map_err(|error| format!("its payload is malformed: {error}"))?;
    let Critical { image, kind } = payload.critical;
    if kind != SIMPLE_TYPE {
        return Err("its payload is no signature on an image".into());
    }
    let named = &image.docker_manifest_digest;
    match digests.iter().any(|digest| digest.as_str() == named) {
        true => Ok(()),
        false => {
            let named: String = named.chars().take(80).collect();
            Err(format!("it is on another image, {named}"))
        }
    }
}

fn wanted(requirement: &Requirement) -> Result<&Keyless, String> {
    (requirement.keyless.as_ref())
        .ok_or_else(|| "it is by certificate, and the rule wants a key".into())
}

/// A sigstore bundle: an in-toto statement about one of the digests, signed with a key or by certificate.
fn bundle(requirement: &Requirement, json: &str, digests: &[Digest]) -> Result<(), String> {
    let bundle = Bundle::from_json(json).map_err(|error| format!("it is malformed: {error}"))?;
    let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
        return Err("it signs a message, and no statement about an image".into());
    };
    let statement: Statement = (envelope.payload_type == IN_TOTO)
        .then(|| serde_json::from_slice(envelope.payload.as_bytes()))
        .ok_or("it is no in-toto statement")?
        .map_err(|error| format!("its statement is malformed: {error}"))?;
    if statement.predicate_type != SIGNED {
        let kind: String = statement.predicate_type.chars().take(120).collect();
        return Err(format!(
            "it is no signature but another statement, {kind:?}"
        ));
    }
    let hash = (digests.iter())
        .filter(|digest| digest.as_str().starts_with("sha256:"))
        .filter_map(|digest| Sha256Hash::from_hex(digest.hex()).ok())
        .find(|hash| statement.matches_sha256(hash))
        .ok_or("it is on another image")?;
    let message = envelope.pae();
    if bundle.signing_certificate().is_some() {
        let keyless = wanted(requirement)?;
        return keyless.verify(&bundle, keyless.policy(), hash.into(), &message);
    }
    if requirement.keys.is_empty() {
        return Err("it is by key, and the rule wants a certificate".into());
    }
    // A key is trusted by itself: neither certificates nor logs have a say.
    by_key(requirement, &message, &envelope.signature.sig)
}

impl Keyless {
    /// Who it is, is looked at afterwards: there may be several.
    fn policy(&self) -> VerificationPolicy {
        let mut policy = VerificationPolicy::any_identity();
        if !self.logged {
            policy = policy.skip_tlog_unsafe();
        }
        match self.certificates_logged {
            true => policy,
            false => policy.skip_sct(),
        }
    }

    fn verify<'a>(
        &self,
        bundle: &Bundle,
        policy: VerificationPolicy,
        artifact: Artifact<'a>,
        message: &[u8],
    ) -> Result<(), String> {
        let result = on_message(message, || self.verifier.verify(artifact, bundle, &policy))
            .map_err(|error| error.to_string())?;
        let subject = result
            .identity()
            .map_or("nobody", |identity| identity.as_str());
        let issuer = result.issuer().unwrap_or("nobody");
        let known = (self.signers.iter())
            .any(|signer| signer.issuer == issuer && fits(&signer.subject, subject));
        match known {
            true => Ok(()),
            false => Err(format!(
                "it is by {subject} of {issuer}, none of the rule's signers"
            )),
        }
    }
}

/// The older layout in the words of a bundle of that time.
fn as_bundle(payload: &str, signature: &[u8], certified: &Certified) -> Result<Bundle, String> {
    let promise: Promise = serde_json::from_str(&certified.promise)
        .map_err(|error| format!("its log entry is missing or malformed: {error}"))?;
    let mut certificates = Vec::new();
    for pem in &certified.chain {
        for block in pem.split_inclusive("-----END CERTIFICATE-----") {
            if block.trim().is_empty() {
                continue;
            }
            let certificate = DerCertificate::from_pem(block.trim())
                .map_err(|error| format!("its certificate is malformed: {error}"))?;
            certificates.push(json!({ "rawBytes": certificate }));
        }
    }
    let log_id = hex::decode(&promise.payload.log_id)
        .map_err(|_| "the id of its log is malformed".to_owned())?;
    let encoded = |bytes: &[u8]| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(bytes)
    };
    let document = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1",
        "verificationMaterial": {
            "x509CertificateChain": { "certificates": certificates },
            "tlogEntries": [{
                "logIndex": promise.payload.log_index.to_string(),
                "logId": { "keyId": encoded(&log_id) },
                "kindVersion": { "kind": "hashedrekord", "version": "0.0.1" },
                "integratedTime": promise.payload.integrated_time.to_string(),
                "inclusionPromise": { "signedEntryTimestamp": promise.signed_entry_timestamp },
                "canonicalizedBody": promise.payload.body,
            }],
        },
        "messageSignature": {
            "messageDigest": { "algorithm": "SHA2_256", "digest": encoded(sha256(payload.as_bytes()).as_bytes()) },
            "signature": encoded(signature),
        },
    });
    Bundle::from_json(&document.to_string()).map_err(|error| format!("it is malformed: {error}"))
}
