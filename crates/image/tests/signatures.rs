//! Signatures: which images the policy lets come and run, in both of cosign's layouts, by key and by certificate.
#![allow(clippy::unwrap_used)] // Helpers are no tests to clippy.

mod support;

use std::path::Path;
use std::sync::Arc;

use longshore_image::{Image, PullErrorKind, PullRequest, SignatureError};
use support::{Store, layer, text, two_layers};
use testkit::image::ImageBuilder;
use testkit::registry::{Fault, Registry, Rule};
use testkit::signer::{
    Certificate, Key, Sigstore, attach_by_referrer, attach_by_tag, payload, statement,
};

const SIGNER: Certificate<'_> = Certificate {
    subject: "https://ci.test/team/app/release.yml@refs/tags/v1",
    issuer: "https://accounts.test",
    until: 2060,
};

/// A policy with its keys, and a store that goes by it.
struct Node {
    directory: tempfile::TempDir,
    store: Store,
}

impl Node {
    async fn new(policy: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("signatures.toml");
        std::fs::write(&path, policy).unwrap();
        let store = Store::open_with(|config| config.signature_policy = Some(path)).await;
        Self { directory, store }
    }

    fn write(&self, name: &str, text: &str) {
        // Another inode, as editors and configuration management make it.
        let path = self.path().join(name);
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What the refusal says.
    async fn refused(&self, reference: &str) -> String {
        let error = self.store.pull(reference).await.unwrap_err();
        assert_eq!(error.kind(), PullErrorKind::Untrusted, "{}", text(&error));
        assert!(self.store.images.list().is_empty());
        self.store.settles_empty().await;
        text(&error)
    }

    async fn pulled(&self, reference: &str) -> Arc<Image> {
        let pulled = self.store.pull(reference).await;
        pulled.unwrap_or_else(|error| panic!("{}", text(&error)))
    }

    async fn admit(&self, image: &Image, name: &str, namespace: &str) -> Result<(), String> {
        let admitted = self.store.images.admit(image, name, namespace).await;
        admitted.map_err(|error| text(&error))
    }
}

fn by_key(registry: &Registry) -> String {
    format!(
        "default = \"reject\"\n[[rule]]\nname = \"ours\"\nimages = [\"{}/team\"]\naction = \"signed\"\nkeys = [\"old.pub\", \"team.pub\"]\n",
        registry.address()
    )
}

fn by_certificate(registry: &Registry, subject: &str) -> String {
    format!(
        "default = \"accept\"\n[[rule]]\nname = \"certified\"\nimages = [\"{}\"]\naction = \"signed\"\ntrusted_root = \"root.json\"\n\
         signers = [{{ issuer = \"https://accounts.test\", subject = \"{subject}\" }}]\n",
        registry.address()
    )
}

async fn node_with_key(registry: &Registry, key: &Key) -> Node {
    let node = Node::new(&by_key(registry)).await;
    node.write("old.pub", &Key::new().public_pem());
    node.write("team.pub", &key.public_pem());
    node
}

#[tokio::test]
async fn a_signature_by_key_lets_an_image_come_in_either_layout() {
    for by_tag in [true, false] {
        for old in [true, false] {
            let registry = Registry::start().unwrap();
            let built = two_layers();
            let reference = registry.push("team/app", "v1", &built);
            if old {
                registry.without_referrers();
            }
            let key = Key::new();
            let node = node_with_key(&registry, &key).await;
            let said = node.refused(&reference).await;
            for part in [
                "rule \"ours\" of ",
                "signatures.toml",
                "team/app",
                built.digest(),
                "has none",
            ] {
                assert!(said.contains(part), "{part}: {said}");
            }
            match by_tag {
                true => key.sign_by_tag(&registry, "team/app", built.digest()),
                false => key.sign_by_referrer(&registry, "team/app", built.digest()),
            }
            let image = node.pulled(&reference).await;
            node.admit(&image, &reference, "").await.unwrap();
            // Also when the node has it, which asks for the signature again, and when the registry has lost it.
            node.pulled(&registry.digest_reference("team/app", built.digest()))
                .await;
        }
    }
}

#[tokio::test]
async fn a_signature_on_an_index_or_on_this_machines_part_will_do() {
    let ours = ImageBuilder::new().layer(layer("ours")).build();
    let other = ImageBuilder::new()
        .layer(layer("other"))
        .architecture("s390x")
        .build();
    let index = testkit::image::index([&other, &ours]).digest;
    for (digest, good) in [
        (&*index, true),
        (ours.digest(), true),
        (other.digest(), false),
    ] {
        let registry = Registry::start().unwrap();
        let reference = registry.push_index("team/app", "v1", &[&other, &ours]);
        let key = Key::new();
        key.sign_by_tag(&registry, "team/app", digest);
        let node = node_with_key(&registry, &key).await;
        match good {
            true => drop(node.pulled(&reference).await),
            false => drop(node.refused(&reference).await),
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_signature_is_said() {
    let registry = Registry::start().unwrap();
    let key = Key::new();
    let node = node_with_key(&registry, &key).await;
    let built = two_layers();
    let digest = built.digest();
    let other = ImageBuilder::new().layer(layer("other")).build();
    let signature = |payload: &str| {
        use base64::Engine as _;
        let signature = key.sign(payload.as_bytes());
        let text = base64::engine::general_purpose::STANDARD.encode(signature);
        serde_json::json!({ "dev.cosignproject.cosign/signature": text })
    };
    let good = payload("team/app", digest);
    type Attach<'a> = Box<dyn Fn(&str) + 'a>;
    let cases: [(&str, &str, Attach<'_>); 9] = [
        (
            "wrong-key",
            "by none of the rule's keys",
            Box::new(|repository| {
                Key::new().sign_by_tag(&registry, repository, digest);
            }),
        ),
        (
            "tampered-payload",
            "by none of the rule's keys",
            Box::new(|repository| {
                let changed = payload("team/other", digest);
                attach_by_tag(&registry, repository, digest, &changed, &signature(&good));
            }),
        ),
        (
            "replayed",
            "on another image",
            Box::new(|repository| {
                let replayed = payload("team/app", other.digest());
                attach_by_tag(
                    &registry,
                    repository,
                    digest,
                    &replayed,
                    &signature(&replayed),
                );
            }),
        ),
        (
            "another-purpose",
            "no signature on an image",
            Box::new(|repository| {
                let changed = good.replace("cosign container image signature", "atomic");
                attach_by_tag(
                    &registry,
                    repository,
                    digest,
                    &changed,
                    &signature(&changed),
                );
            }),
        ),
        (
            "junk",
            "its payload is malformed",
            Box::new(|repository| {
                attach_by_tag(&registry, repository, digest, "[]", &signature("[]"));
            }),
        ),
        (
            "bundle-of-another-key",
            "by none of the rule's keys",
            Box::new(|repository| {
                Key::new().sign_by_referrer(&registry, repository, digest);
            }),
        ),
        (
            "replayed-bundle",
            "on another image",
            Box::new(|repository| {
                let bundle = key.bundle(&statement(other.digest(), testkit::signer::SIGNED));
                attach_by_referrer(&registry, repository, digest, &bundle);
            }),
        ),
        (
            "materials",
            "another statement, \"https://spdx.dev/Document\"",
            Box::new(|repository| {
                let bundle = key.bundle(&statement(digest, "https://spdx.dev/Document"));
                attach_by_referrer(&registry, repository, digest, &bundle);
            }),
        ),
        (
            "tampered-bundle",
            "by none of the rule's keys",
            Box::new(|repository| {
                use base64::Engine as _;
                let mut bundle = key.bundle(&statement(digest, testkit::signer::SIGNED));
                let changed = statement(digest, testkit::signer::SIGNED).replace("{}", "{\"a\":1}");
                bundle["dsseEnvelope"]["payload"] = base64::engine::general_purpose::STANDARD
                    .encode(changed)
                    .into();
                attach_by_referrer(&registry, repository, digest, &bundle);
            }),
        ),
    ];
    for (name, wanted, attach) in cases {
        let repository = format!("team/{name}");
        let reference = registry.push(&repository, "v1", &built);
        attach(&repository);
        let said = node.refused(&reference).await;
        assert!(
            said.contains(wanted) && said.contains("rule \"ours\""),
            "{name}: {said}"
        );
    }
    // One good one among bad ones is enough.
    let reference = registry.push("team/wrong-key", "v1", &built);
    key.sign_by_referrer(&registry, "team/wrong-key", digest);
    node.pulled(&reference).await;
}

#[tokio::test]
async fn a_registry_that_cannot_be_asked_is_no_registry_without_signatures() {
    let registry = Registry::start().unwrap();
    let built = two_layers();
    let reference = registry.push("team/app", "v1", &built);
    let key = Key::new();
    key.sign_by_tag(&registry, "team/app", built.digest());
    let node = node_with_key(&registry, &key).await;
    for path in [".sig", "/referrers/"] {
        registry.inject(Rule::new(path, Fault::Status(503)));
        let error = node.store.pull(&reference).await.unwrap_err();
        assert_eq!(error.kind(), PullErrorKind::Unavailable, "{}", text(&error));
        assert!(
            text(&error).contains("could not be looked for"),
            "{}",
            text(&error)
        );
        node.store.settles_empty().await;
        registry.heal();
    }
    node.pulled(&reference).await;
}

#[tokio::test]
async fn a_signature_by_certificate_is_bound_to_who_made_it_and_when() {
    let registry = Registry::start().unwrap();
    let sigstore = Sigstore::new();
    let node = Node::new(&by_certificate(
        &registry,
        "https://ci.test/team/*@refs/tags/v*",
    ))
    .await;
    node.write("root.json", &sigstore.trusted_root());
    let built = two_layers();
    let digest = built.digest();
    let stranger = Sigstore::new();
    let cases = [
        ("good", &sigstore, SIGNER, ""),
        (
            "expired",
            &sigstore,
            Certificate {
                until: 2020,
                ..SIGNER
            },
            "expired",
        ),
        (
            "wrong-subject",
            &sigstore,
            Certificate {
                subject: "https://ci.test/team/app/release.yml@refs/heads/main",
                ..SIGNER
            },
            "refs/heads/main of https://accounts.test, none of the rule's signers",
        ),
        (
            "wrong-issuer",
            &sigstore,
            Certificate {
                issuer: "https://accounts.evil",
                ..SIGNER
            },
            "of https://accounts.evil, none of the rule's signers",
        ),
        ("stranger", &stranger, SIGNER, "none of those on"),
    ];
    for (name, authority, certificate, wanted) in cases {
        for by_tag in [true, false] {
            let repository = format!("team/{name}-{by_tag}");
            let reference = registry.push(&repository, "v1", &built);
            match by_tag {
                true => authority.sign_by_tag(&registry, &repository, digest, certificate),
                false => authority.sign_by_referrer(&registry, &repository, digest, certificate),
            }
            match wanted {
                "" => {
                    let image = node.pulled(&reference).await;
                    node.admit(&image, &reference, "").await.unwrap();
                    node.store.images.remove(&reference).await.unwrap();
                    node.store.settles_empty().await;
                }
                wanted => {
                    let said = node.refused(&reference).await.to_lowercase();
                    assert!(said.contains(wanted), "{name}, {by_tag}: {said}");
                }
            }
        }
    }
    // A signature by key is none by certificate, and its log's word is looked at: another leaf's proof proves nothing.
    let reference = registry.push("team/by-key", "v1", &built);
    Key::new().sign_by_referrer(&registry, "team/by-key", digest);
    assert!(
        node.refused(&reference)
            .await
            .contains("the rule wants a certificate")
    );
    let reference = registry.push("team/unlogged", "v1", &built);
    let statement = statement(digest, testkit::signer::SIGNED);
    let mut bundle = sigstore.bundle(&statement, SIGNER);
    let other = sigstore.bundle(&statement, SIGNER);
    let entry = "/verificationMaterial/tlogEntries/0/inclusionProof";
    *bundle.pointer_mut(entry).unwrap() = other.pointer(entry).unwrap().clone();
    attach_by_referrer(&registry, "team/unlogged", digest, &bundle);
    assert!(node.refused(&reference).await.contains("inclusion proof"));
}

#[tokio::test]
async fn a_policy_that_has_changed_holds_for_what_is_here() {
    let registry = Registry::start().unwrap();
    let built = two_layers();
    let reference = registry.push("team/app", "v1", &built);
    let key = Key::new();
    let node = Node::new("default = \"accept\"\n").await;
    let early = node.pulled(&reference).await;
    node.admit(&early, &reference, "").await.unwrap();

    // What came when nothing was wanted, has nothing to show.
    node.write("old.pub", &Key::new().public_pem());
    node.write("team.pub", &key.public_pem());
    node.write("signatures.toml", &by_key(&registry));
    let said = node.admit(&early, &reference, "").await.unwrap_err();
    assert!(
        said.contains("rule \"ours\"") && said.contains("pull it again"),
        "{said}"
    );
    let error = node.store.pull(&reference).await.unwrap_err();
    assert_eq!(error.kind(), PullErrorKind::Untrusted);
    key.sign_by_tag(&registry, "team/app", built.digest());
    let image = node.pulled(&reference).await;
    for name in [&*reference, &image.id, "unknown/name:1"] {
        node.admit(&image, name, "").await.unwrap();
    }

    // Offline, and after a restart.
    drop(registry);
    let Node { directory, store } = node;
    let node = Node {
        directory,
        store: store.reopen().await,
    };
    node.admit(&image, &reference, "").await.unwrap();

    // Another key, nobody's, none readable: each time a refusal that names its reason.
    node.write("team.pub", &Key::new().public_pem());
    let said = node.admit(&image, &reference, "").await.unwrap_err();
    assert!(said.contains("by none of the rule's keys"), "{said}");
    node.write("signatures.toml", "default = \"reject\"\n");
    let said = node.admit(&image, &reference, "").await.unwrap_err();
    assert!(
        said.contains("the default of ") && said.contains("rejects"),
        "{said}"
    );
    for broken in [
        "default = \"reject\"\nrules = []\n",
        "default = \"sometimes\"\n",
        "",
    ] {
        node.write("signatures.toml", broken);
        let admitted = node.store.images.admit(&image, &reference, "").await;
        assert!(
            matches!(admitted, Err(SignatureError::Policy(_))),
            "{admitted:?}"
        );
    }
    std::fs::remove_file(node.path().join("signatures.toml")).unwrap();
    let error = node.store.pull(&reference).await.unwrap_err();
    assert_eq!(
        error.kind(),
        PullErrorKind::Misconfigured,
        "{}",
        text(&error)
    );
    node.write("signatures.toml", "default = \"accept\"\n");
    node.admit(&image, &reference, "").await.unwrap();
}

#[tokio::test]
async fn the_first_rule_that_fits_image_and_namespace_applies() {
    let registry = Registry::start().unwrap();
    let address = registry.address();
    let reference = registry.push("team/app", "v1", &two_layers());
    let beside = registry.push("teams/app", "v1", &two_layers());
    let policy = format!(
        "default = \"reject\"\n\
         [[rule]]\nname = \"production\"\nimages = [\"*\"]\nnamespaces = [\"prod-*\"]\naction = \"reject\"\n\
         [[rule]]\nname = \"team\"\nimages = [\"{address}/team/\"]\naction = \"accept\"\n"
    );
    let node = Node::new(&policy).await;
    let image = node.pulled(&reference).await;
    node.admit(&image, &reference, "dev").await.unwrap();
    let said = node.admit(&image, &reference, "prod-eu").await.unwrap_err();
    assert!(
        said.contains("rule \"production\"") && said.contains("in namespace prod-eu"),
        "{said}"
    );
    registry.clear_requests();
    let request = |reference: &str, namespace: &str| PullRequest {
        reference: reference.to_owned(),
        namespace: namespace.to_owned(),
        ..PullRequest::default()
    };
    // The same pull for somebody else is another; what is rejected whatever it is signed with is not even asked for.
    for (reference, namespace) in [(&reference, "prod-eu"), (&beside, "")] {
        let refused = node.store.images.pull(request(reference, namespace)).await;
        assert_eq!(refused.unwrap_err().kind(), PullErrorKind::Untrusted);
    }
    assert!(registry.requests().is_empty());
    let shown = |namespace: &'static str| {
        let images = node.store.images.clone();
        let request = request(&reference, namespace);
        async move { images.explain(request).await.unwrap().signatures }
    };
    assert!(
        shown("")
            .await
            .starts_with("accepted, by rule \"team\" of ")
    );
    assert!(
        shown("prod-x")
            .await
            .starts_with("rejected, by rule \"production\" of ")
    );
}

#[tokio::test]
async fn mistakes_of_a_policy_are_named() {
    let node = Node::new("").await;
    node.write("team.pub", &Key::new().public_pem());
    node.write("root.json", &Sigstore::new().trusted_root());
    node.write(
        "empty.json",
        "{\"mediaType\":\"application/vnd.dev.sigstore.trustedroot+json;version=0.1\"}",
    );
    let rule = "default = \"reject\"\n[[rule]]\nname = \"x\"\n";
    for (rest, said) in [
        (
            "images = [\"busybox\"]\naction = \"accept\"\n",
            "rule \"x\": images: \"busybox\" is neither",
        ),
        ("images = []\naction = \"accept\"\n", "never applies"),
        ("images = [\"*\"]\naction = \"signed\"\n", "wants keys"),
        (
            "images = [\"*\"]\naction = \"accept\"\nkeys = [\"team.pub\"]\n",
            "alone",
        ),
        (
            "images = [\"*\"]\naction = \"signed\"\nkeys = [\"none.pub\"]\n",
            "none.pub",
        ),
        (
            "images = [\"*\"]\naction = \"signed\"\nkeys = [\"root.json\"]\n",
            "root.json",
        ),
        (
            "images = [\"*\"]\naction = \"signed\"\ntrusted_root = \"root.json\"\n",
            "rule \"x\": signers",
        ),
        (
            "images = [\"*\"]\naction = \"signed\"\nsigners = [{ issuer = \"i\", subject = \"s\" }]\n",
            "rule \"x\": trusted_root",
        ),
        (
            "images = [\"*\"]\naction = \"signed\"\ntrusted_root = \"empty.json\"\nsigners = [{ issuer = \"i\", subject = \"s\" }]\n",
            "empty.json",
        ),
        ("images = [\"*\"]\naction = \"sign\"\n", "signatures.toml:5"),
    ] {
        node.write("signatures.toml", &format!("{rule}{rest}"));
        let error = node.store.pull("r.io/app:1").await.unwrap_err();
        assert_eq!(
            error.kind(),
            PullErrorKind::Misconfigured,
            "{}",
            text(&error)
        );
        assert!(text(&error).contains(said), "{rest}: {}", text(&error));
    }
}
