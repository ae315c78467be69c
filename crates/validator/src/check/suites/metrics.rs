use std::collections::BTreeMap;

use cri::v1::*;

use crate::check::{
    case::{Case, Ended, Verdict, case, ensure, ensure_eq},
    scene::Scene,
};

pub(super) const CASES: &[Case] = &[
    case!(
        "metrics",
        "descriptors have names, help and labels",
        descriptors
    ),
    case!(
        "metrics",
        "every metric is one that was described, with as many values as labels",
        described
    ),
    case!(
        "metrics",
        "a pod's are listed while it runs, with those of its container",
        listed
    ),
];

async fn all(scene: &Scene<'_>) -> Verdict<BTreeMap<String, usize>> {
    let request = ListMetricDescriptorsRequest::default();
    let descriptors = scene
        .calls()
        .list_metric_descriptors(request)
        .await?
        .descriptors;
    let labels = descriptors
        .into_iter()
        .map(|it| (it.name, it.label_keys.len()));
    Ok(labels.collect())
}

async fn descriptors(scene: &Scene<'_>) -> Verdict {
    let request = ListMetricDescriptorsRequest::default();
    let descriptors = scene
        .calls()
        .list_metric_descriptors(request)
        .await?
        .descriptors;
    ensure!(!descriptors.is_empty(), "there are none");
    for descriptor in &descriptors {
        ensure!(
            !descriptor.name.is_empty() && !descriptor.help.is_empty(),
            "without a name or help: {descriptor:?}"
        );
    }
    let names = all(scene).await?;
    ensure_eq!(names.len(), descriptors.len(), "different names");
    for wanted in [
        "container_cpu_usage_seconds_total",
        "container_memory_working_set_bytes",
        "container_network_receive_bytes_total",
    ] {
        ensure!(names.contains_key(wanted), "no {wanted}");
    }
    Ok(())
}

async fn of(scene: &Scene<'_>, pod: &str) -> Verdict<PodSandboxMetrics> {
    scene
        .until("metrics of the pod", async || {
            let request = ListPodSandboxMetricsRequest::default();
            let metrics = scene
                .calls()
                .list_pod_sandbox_metrics(request)
                .await?
                .pod_metrics;
            Ok(metrics.into_iter().find(|it| it.pod_sandbox_id == pod))
        })
        .await
}

async fn described(scene: &Scene<'_>) -> Verdict {
    let (pod, _) = scene.any_container().await?;
    let names = all(scene).await?;
    let metrics = of(scene, &pod.id).await?;
    let containers = metrics.container_metrics.iter().flat_map(|it| &it.metrics);
    for metric in metrics.metrics.iter().chain(containers) {
        let Some(labels) = names.get(&metric.name) else {
            return Err(Ended::Failed(format!("{} is not described", metric.name)));
        };
        ensure_eq!(
            metric.label_values.len(),
            *labels,
            "values of labels of {}",
            metric.name
        );
    }
    Ok(())
}

async fn listed(scene: &Scene<'_>) -> Verdict {
    let (pod, id) = scene.any_container().await?;
    let metrics = of(scene, &pod.id).await?;
    let Some(own) = metrics
        .container_metrics
        .iter()
        .find(|it| it.container_id == id)
    else {
        return Err(Ended::Failed("nothing of its container".to_owned()));
    };
    let memory = own
        .metrics
        .iter()
        .find(|it| it.name == "container_memory_working_set_bytes");
    let bytes = memory.and_then(|it| it.value).map(|it| it.value);
    ensure!(
        bytes.is_some_and(|bytes| bytes > 0),
        "its memory is {bytes:?}"
    );
    scene.stop_pod(&pod.id).await?;
    scene.remove_pod(&pod.id).await?;
    let gone = async || {
        let request = ListPodSandboxMetricsRequest::default();
        let metrics = scene
            .calls()
            .list_pod_sandbox_metrics(request)
            .await?
            .pod_metrics;
        Ok(metrics
            .iter()
            .all(|it| it.pod_sandbox_id != pod.id)
            .then_some(()))
    };
    scene.until("no metrics of the removed pod", gone).await
}
