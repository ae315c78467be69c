use std::collections::BTreeMap;

use cri::v1::*;

use crate::check::{
    calls::Refused,
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

async fn pods(scene: &Scene<'_>) -> Result<Vec<PodSandboxMetrics>, Refused> {
    let request = ListPodSandboxMetricsRequest::default();
    let reply = scene.calls().list_pod_sandbox_metrics(request).await?;
    Ok(reply.pod_metrics)
}

/// What is told of a pod once its container has been measured too.
async fn of(scene: &Scene<'_>, pod: &str, container: &str) -> Verdict<PodSandboxMetrics> {
    let measured = |it: &PodSandboxMetrics| {
        let own = it.container_metrics.iter();
        it.pod_sandbox_id == pod && own.clone().any(|it| memory(it, container) > 0)
    };
    let found = async || Ok(pods(scene).await?.into_iter().find(measured));
    let what = "metrics of the pod, and memory of its container";
    scene.until_told(what, found).await
}

/// 0 of another container, and of one that was not measured.
fn memory(metrics: &ContainerMetrics, container: &str) -> u64 {
    let own = metrics.metrics.iter().filter(|it| {
        metrics.container_id == container && it.name == "container_memory_working_set_bytes"
    });
    own.filter_map(|it| it.value).map(|it| it.value).sum()
}

async fn described(scene: &Scene<'_>) -> Verdict {
    let (pod, id) = scene.any_container().await?;
    let names = all(scene).await?;
    let metrics = of(scene, &pod.id, &id).await?;
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
    of(scene, &pod.id, &id).await?;
    scene.stop_pod(&pod.id).await?;
    scene.remove_pod(&pod.id).await?;
    let gone = async || {
        let others = |it: &PodSandboxMetrics| it.pod_sandbox_id != pod.id;
        Ok(pods(scene).await?.iter().all(others).then_some(()))
    };
    scene
        .until_told("no metrics of the removed pod", gone)
        .await
}
