//! Lists select as they are asked to, and their streams alike.

use cri::v1::{
    ContainerFilter, ContainerStatsFilter, ImageFilter, ImageSpec, ImageStatusRequest,
    ListImagesRequest, PodSandboxFilter, StreamContainerStatsRequest, StreamContainersRequest,
    StreamImagesRequest, StreamPodSandboxesRequest,
};
use e2e::{ContainerSettings, PodSettings, scenario};
use testkit::image;
use tonic::Code;

/// Of every batch of a stream, what it holds.
macro_rules! streamed {
    ($stream:expr, $field:ident) => {{
        let mut stream = $stream.await?.into_inner();
        let mut all = Vec::new();
        while let Some(batch) = stream.message().await? {
            all.extend(batch.$field);
        }
        all
    }};
}

#[test]
fn streams_of_pods_and_containers_take_the_filters_of_lists() {
    scenario(async |host| {
        let labels = || [("k".to_owned(), "v".to_owned())].into();
        let one = PodSettings::edited("one", move |config| config.labels = labels());
        let two = PodSettings::new("two");
        let (one_id, two_id) = (host.run_pod(&one).await?, host.run_pod(&two).await?);
        let labelled =
            ContainerSettings::sleeper("a").edited(move |config| config.labels = labels());
        let a = host.run(&one_id, &one, &labelled).await?;
        let b = host
            .run(&two_id, &two, &ContainerSettings::sleeper("b"))
            .await?;
        let mut rpc = host.cri.client.runtime_service();

        let filter = Some(PodSandboxFilter {
            label_selector: labels(),
            ..Default::default()
        });
        let request = StreamPodSandboxesRequest { filter };
        let found = streamed!(rpc.stream_pod_sandboxes(request), pod_sandboxes);
        let ids: Vec<_> = found.into_iter().map(|pod| pod.id).collect();
        assert_eq!(ids, [one_id]);

        let filter = Some(ContainerFilter {
            pod_sandbox_id: two_id,
            ..Default::default()
        });
        let request = StreamContainersRequest { filter };
        let found = streamed!(rpc.stream_containers(request), containers);
        let ids: Vec<_> = found.into_iter().map(|container| container.id).collect();
        assert_eq!(ids, std::slice::from_ref(&b));

        let by_id = ContainerStatsFilter {
            id: b[..12].to_owned(),
            ..Default::default()
        };
        let by_label = ContainerStatsFilter {
            label_selector: labels(),
            ..Default::default()
        };
        for (filter, expected) in [(by_id, &b), (by_label, &a)] {
            let request = StreamContainerStatsRequest {
                filter: Some(filter.clone()),
            };
            let streamed = streamed!(rpc.stream_container_stats(request), container_stats);
            let listed = host.cri.list_stats(Some(filter)).await?;
            for found in [listed, streamed] {
                let ids = found.into_iter().filter_map(|stats| stats.attributes);
                let ids: Vec<_> = ids.map(|attributes| attributes.id).collect();
                assert_eq!(ids, std::slice::from_ref(expected));
            }
        }
        Ok(())
    });
}

#[test]
fn images_are_selected_by_name() {
    scenario(async |host| {
        let built = image::busybox()?.env(["OTHER=1"]).build();
        let other = host.registry.push("other", "1", &built);
        host.cri.pull(&other).await?;
        let mut rpc = host.cri.client.image_service();
        let named = |image: &str| ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        };
        for (name, expected) in [
            (other.as_str(), vec![other.as_str()]),
            ("example.invalid/none:1", vec![]),
        ] {
            let filter = Some(ImageFilter {
                image: Some(named(name)),
            });
            let request = ListImagesRequest {
                filter: filter.clone(),
            };
            let listed = rpc.list_images(request).await?.into_inner().images;
            let streamed = streamed!(rpc.stream_images(StreamImagesRequest { filter }), images);
            for found in [listed, streamed] {
                let tags = found.iter().flat_map(|image| &image.repo_tags);
                assert_eq!(tags.collect::<Vec<_>>(), expected);
            }
        }
        let mut info = async |verbose: bool| -> Result<usize, tonic::Status> {
            let image = Some(named(&other));
            let reply = rpc
                .image_status(ImageStatusRequest { image, verbose })
                .await?;
            Ok(reply.into_inner().info.len())
        };
        assert_eq!(info(false).await?, 0);
        assert!(info(true).await? > 0);
        let refusal = rpc
            .image_status(ImageStatusRequest::default())
            .await
            .unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
        Ok(())
    });
}
