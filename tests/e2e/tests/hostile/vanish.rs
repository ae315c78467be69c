//! Images that are removed between one call and the next.

use e2e::{ContainerSettings, PodSettings, scenario};
use testkit::image;
use tonic::Code;

#[test]
fn images_that_vanish_between_calls() {
    scenario(async |host| {
        let built = image::busybox()?.label("will", "vanish").build();
        let reference = host.registry.push("vanishing", "1", &built);
        let pod = PodSettings::new("vanishing");
        let settings = ContainerSettings::sleeper("main").image(&reference);

        // Before CreateContainer: nothing of a container is there, and the same request succeeds once the image is back.
        host.cri.pull(&reference).await?;
        let pod_id = host.run_pod(&pod).await?;
        host.cri.remove_image(&reference).await?;
        let refusal = host.create(&pod_id, &pod, &settings).await.unwrap_err();
        assert_eq!(refusal.code(), Code::NotFound, "{refusal}");
        assert!(refusal.message().contains(&reference), "{refusal}");
        assert_eq!(host.cri.containers(None).await?, []);
        host.cri.pull(&reference).await?;

        // Before StartContainer: the container has its layers, whoever removes the name of their image.
        let id = host.create(&pod_id, &pod, &settings).await?;
        host.cri.remove_image(&reference).await?;
        assert_eq!(host.cri.image(&reference).await?, None);
        host.cri.start(&id).await?;
        assert_eq!(host.cri.sh(&id, "echo here").await?, "here\n");
        let status = host.cri.container_status(&id).await?;
        assert!(!status.image_id.is_empty(), "{status:?}");

        // Another of the same image has none any more, and does not take the first one's.
        let second = ContainerSettings::sleeper("second").image(&reference);
        let refusal = host.create(&pod_id, &pod, &second).await.unwrap_err();
        assert_eq!(refusal.code(), Code::NotFound, "{refusal}");
        host.cri.remove(&id).await?;
        Ok(())
    });
}
