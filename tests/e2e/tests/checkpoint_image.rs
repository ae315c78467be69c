//! A container from a checkpoint that came as an image: one layer with an archive's content, and the annotation by which the field knows it.

use std::fs;

use bytes::Bytes;
use cri::v1::ContainerState;
use e2e::{ContainerSettings, PodSettings, scenario_with};
use serde_json::json;
use testkit::image::{Blob, ImageBuilder, Layer};
use tonic::Code;

use crate::{
    checkpoint::{COUNTER, Criu, members, unlabelled},
    checkpoint_pods::last,
};

#[test]
fn with_criu_a_container_goes_on_from_an_image() {
    let criu = Criu::find().unwrap();
    scenario_with(&criu.setting(), async |host| {
        let pod = PodSettings::new("first");
        let pod_id = host.run_pod(&pod).await?;
        let counter = ContainerSettings::sh("counter", COUNTER).edited(unlabelled);
        let id = host.run(&pod_id, &pod, &counter).await?;
        host.until_logged(&pod, &counter, "count 3\n").await?;
        let place = host.sandbox.directory().join("c.tar");
        let made = host.cri.checkpoint(&id, &place, 0).await;
        let Criu::Works(_) = &criu else {
            assert_eq!(made.unwrap_err().code(), Code::FailedPrecondition);
            return Ok(());
        };
        made?;
        let before = last(host, &pod, &counter);
        host.cri.stop_pod(&pod_id).await?;

        let mut layer = Layer::new().directory("checkpoint", 0o700);
        for (name, contents) in members(&place)? {
            layer = layer.file(&name, 0o600, contents);
        }
        let image = ImageBuilder::new().without_command().layer(layer).build();
        let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest.bytes)?;
        manifest["annotations"] =
            json!({ "io.kubernetes.cri-o.annotations.checkpoint.name": "counter" });
        let manifest = Blob::new(
            image.manifest.media_type.clone(),
            Bytes::from(manifest.to_string()),
        );
        host.registry
            .push_blobs("checkpoints/counter", &image.layers);
        host.registry
            .push_blobs("checkpoints/counter", [&image.config]);
        let name = host
            .registry
            .push_manifest("checkpoints/counter", "1", &manifest);
        host.cri.pull(&name).await?;

        let second = PodSettings::new("second");
        let second_id = host.run_pod(&second).await?;
        let restored = counter.clone().image(&name);
        let id = host.create(&second_id, &second, &restored).await?;
        let status = host.cri.container_status(&id).await?;
        assert_eq!(status.state(), ContainerState::ContainerCreated);
        host.cri.start(&id).await?;
        host.until_logged(&second, &restored, &format!("count {}\n", before + 3))
            .await?;
        let output = host.output(&second, &restored)?;
        assert!(!output.contains("count 1\n"), "{output}");
        let seen = host.cri.exec(&id, &["cat", "/tmp/count"], 10).await?;
        let count: u32 = String::from_utf8(seen.stdout)?.trim().parse()?;
        assert!(count >= before + 3, "{count} after {before}");
        fs::remove_file(host.sandbox.view("/run/criu.kdat"))?;
        fs::remove_file(place)?;
        Ok(())
    });
}
