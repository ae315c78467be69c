//! The policy for signatures, from the pull to the container.

use std::{fs, path::Path};

use cri::v1::{ImageSpec, PodSandboxConfig, PodSandboxMetadata, PullImageRequest};
use e2e::{ContainerSettings, PodSettings, scenario_with};
use testkit::{daemon::binary, image, signer::Key};
use tonic::Code;

/// Busybox of every scenario comes unsigned, and the namespace "default" is where pods of scenarios are.
const RULES: &str = r#"
default = "reject"

[[rule]]
name = "everybody's"
images = ["127.0.0.1:5000/library"]
action = "accept"

[[rule]]
name = "nothing of theirs in production"
images = ["127.0.0.1:5000/theirs"]
namespaces = ["production"]
action = "reject"

[[rule]]
name = "theirs"
images = ["127.0.0.1:5000/theirs"]
action = "accept"

[[rule]]
name = "ours"
images = ["127.0.0.1:5000/ours"]
action = "signed"
keys = ["ours.pub"]
"#;

fn write(directory: &Path, rules: &str, key: &Key) -> String {
    fs::write(directory.join("ours.pub"), key.public_pem()).expect("a file of the test's own");
    let path = directory.join("signatures.toml");
    fs::write(&path, rules).expect("a file of the test's own");
    format!("registries.signature_policy = {path:?}\n")
}

#[test]
fn what_the_policy_refuses_is_neither_pulled_nor_run() {
    let directory = tempfile::tempdir().unwrap();
    let key = Key::new();
    let settings = write(directory.path(), RULES, &key);
    scenario_with(&settings, async |host| {
        let built = image::busybox()?.label("of", "ours").build();
        let ours = host.registry.push("ours/app", "1", &built);
        let refused = host.cri.pull(&ours).await.unwrap_err();
        // The kubelet reads this beginning, of errors that have no code.
        assert!(
            refused.message().starts_with("SignatureValidationFailed: "),
            "{refused}"
        );
        assert_eq!(refused.code(), Code::Unknown, "{refused}");
        assert!(refused.message().contains("rule \"ours\""), "{refused}");
        key.sign_by_tag(&host.registry, "ours/app", built.digest());
        let id = host.cri.pull(&ours).await?;

        let theirs = host.registry.push(
            "theirs/app",
            "1",
            &image::busybox()?.label("of", "theirs").build(),
        );
        let pull = |namespace: &str| PullImageRequest {
            image: Some(ImageSpec {
                image: theirs.clone(),
                ..Default::default()
            }),
            sandbox_config: Some(PodSandboxConfig {
                metadata: Some(PodSandboxMetadata {
                    namespace: namespace.to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut rpc = host.cri.client.image_service();
        let refused = rpc.pull_image(pull("production")).await.unwrap_err();
        assert!(refused.message().contains("in production"), "{refused}");
        let their_id = rpc
            .pull_image(pull("staging"))
            .await?
            .into_inner()
            .image_ref;

        // As the kubelet does it: by id, with the name of the pod's manifest beside it.
        let settings = |name: &str, id: &str, specified: &str| {
            let (id, specified) = (id.to_owned(), specified.to_owned());
            ContainerSettings::sleeper(name).edited(move |config| {
                config.image = Some(ImageSpec {
                    image: id.clone(),
                    user_specified_image: specified.clone(),
                    ..Default::default()
                });
            })
        };
        let pod = PodSettings::edited("production", |config| {
            config.metadata.get_or_insert_default().namespace = "production".to_owned();
        });
        let pod_id = host.run_pod(&pod).await?;
        host.run(&pod_id, &pod, &settings("ours", &id, &ours))
            .await?;
        let refused = host
            .create(&pod_id, &pod, &settings("theirs", &their_id, &theirs))
            .await;
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("nothing of theirs in production"),
            "{refused}"
        );
        let other = PodSettings::new("other");
        let other_id = host.run_pod(&other).await?;
        host.run(&other_id, &other, &settings("theirs", &their_id, &theirs))
            .await?;

        // A key that is no more good is so for the next container, and says which rule.
        write(directory.path(), RULES, &Key::new());
        let refused = host
            .create(&other_id, &other, &settings("late", &id, &ours))
            .await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("rule \"ours\""), "{refused}");

        let mut explain = host.sandbox.command(binary("longshore")?);
        let output = explain
            .args(["explain-pull", &theirs, "--namespace", "production"])
            .output()?;
        let shown = String::from_utf8(output.stdout)?;
        let line = "signatures: rejected, by rule \"nothing of theirs in production\" of ";
        assert!(
            shown.contains(line),
            "{shown}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            shown.contains("1. http://127.0.0.1:5000/v2/theirs/app\n"),
            "{shown}"
        );
        Ok(())
    });
}
