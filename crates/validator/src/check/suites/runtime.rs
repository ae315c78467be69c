use cri::v1::*;
use tonic::Code;

use crate::check::{
    case::{Case, Ended, Verdict, case, ensure, ensure_eq},
    scene::Scene,
};

pub(super) const CASES: &[Case] = &[
    case!(
        "runtime",
        "it says its name, its version and that of the interface",
        version
    ),
    case!(
        "runtime",
        "it says whether it and its network are ready",
        conditions
    ),
    case!(
        "runtime",
        "a verbose status says more than a plain one",
        verbose
    ),
    case!(
        "runtime",
        "a handler is listed once, the default one among them",
        handlers
    ),
    case!("runtime", "it says who makes cgroups", cgroup_driver),
    case!(
        "runtime",
        "a pod range of nothing changes nothing",
        no_range
    ),
    case!("runtime", "v1alpha2 is as v1, or not there at all", older),
    case!(
        "runtime",
        "a method that nobody has is not implemented",
        unknown_method
    ),
];

async fn version(scene: &Scene<'_>) -> Verdict {
    let request = VersionRequest {
        version: "v1".to_owned(),
    };
    let reply = scene.calls().version(request).await?;
    ensure!(!reply.version.is_empty(), "version is empty");
    ensure!(!reply.runtime_name.is_empty(), "runtime_name is empty");
    ensure!(
        !reply.runtime_version.is_empty(),
        "runtime_version is empty"
    );
    ensure_eq!(reply.runtime_api_version, "v1", "runtime_api_version");
    Ok(())
}

async fn conditions(scene: &Scene<'_>) -> Verdict {
    let reply = scene.calls().status(StatusRequest::default()).await?;
    let conditions = reply.status.unwrap_or_default().conditions;
    for wanted in ["RuntimeReady", "NetworkReady"] {
        let condition = conditions.iter().find(|it| it.r#type == wanted);
        let Some(condition) = condition else {
            return Err(Ended::Failed(format!(
                "no condition {wanted}: {conditions:?}"
            )));
        };
        ensure!(condition.status, "{wanted} is false: {}", condition.message);
    }
    Ok(())
}

async fn verbose(scene: &Scene<'_>) -> Verdict {
    let plain = scene.calls().status(StatusRequest::default()).await?;
    let verbose = scene
        .calls()
        .status(StatusRequest { verbose: true })
        .await?;
    ensure!(
        plain.info.is_empty(),
        "a plain status has {:?}",
        plain.info.keys()
    );
    ensure!(!verbose.info.is_empty(), "a verbose status has no info");
    Ok(())
}

async fn handlers(scene: &Scene<'_>) -> Verdict {
    let reply = scene.calls().status(StatusRequest::default()).await?;
    let mut names: Vec<_> = reply.runtime_handlers.iter().map(|it| &it.name).collect();
    if names.is_empty() {
        return Err(Ended::Unimplemented("Status.runtime_handlers"));
    }
    ensure!(
        names.iter().any(|name| name.is_empty()),
        "the default, of no name, is not there: {names:?}"
    );
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    ensure_eq!(names.len(), all, "different names among {names:?}");
    Ok(())
}

async fn cgroup_driver(scene: &Scene<'_>) -> Verdict {
    let reply = scene
        .calls()
        .runtime_config(RuntimeConfigRequest::default())
        .await?;
    let linux = reply
        .linux
        .ok_or_else(|| Ended::Failed("nothing about Linux".to_owned()))?;
    let known = CgroupDriver::try_from(linux.cgroup_driver);
    ensure!(known.is_ok(), "cgroup driver {}", linux.cgroup_driver);
    Ok(())
}

async fn no_range(scene: &Scene<'_>) -> Verdict {
    let before = scene
        .calls()
        .runtime_config(RuntimeConfigRequest::default())
        .await;
    let request = UpdateRuntimeConfigRequest {
        runtime_config: Some(RuntimeConfig {
            network_config: Some(NetworkConfig::default()),
        }),
    };
    scene.calls().update_runtime_config(request).await?;
    let after = scene
        .calls()
        .runtime_config(RuntimeConfigRequest::default())
        .await;
    ensure_eq!(after.ok(), before.ok(), "the configuration afterwards");
    conditions(scene).await
}

async fn older(scene: &Scene<'_>) -> Verdict {
    let path = "/runtime.v1alpha2.RuntimeService/Version";
    let asked = scene
        .calls()
        .by_path::<_, VersionResponse>(path, VersionRequest::default());
    let older = match asked.await {
        Ok(reply) => reply,
        Err(status) if status.code() == Code::Unimplemented => {
            return Err(Ended::Unimplemented("runtime.v1alpha2"));
        }
        Err(status) => return Err(Ended::Failed(format!("{path}: {status}"))),
    };
    let newer = scene.calls().version(VersionRequest::default()).await?;
    ensure_eq!(
        older.runtime_name,
        newer.runtime_name,
        "the name by v1alpha2"
    );
    ensure_eq!(
        older.runtime_version,
        newer.runtime_version,
        "the version by v1alpha2"
    );
    let path = "/runtime.v1alpha2.RuntimeService/ListPodSandbox";
    let pod = scene.any_pod().await?;
    let request = ListPodSandboxRequest {
        filter: Some(PodSandboxFilter {
            id: pod.id.clone(),
            ..Default::default()
        }),
    };
    let listed = scene
        .calls()
        .by_path::<_, ListPodSandboxResponse>(path, request)
        .await;
    let listed = listed.map_err(|status| Ended::Failed(format!("{path}: {status}")))?;
    let ids: Vec<_> = listed.items.iter().map(|it| &it.id).collect();
    ensure_eq!(ids, [&pod.id], "pods of that id by v1alpha2");
    Ok(())
}

async fn unknown_method(scene: &Scene<'_>) -> Verdict {
    let path = "/runtime.v1.RuntimeService/BrewCoffee";
    let asked = scene
        .calls()
        .by_path::<_, VersionResponse>(path, VersionRequest::default());
    match asked.await {
        Ok(_) => Err(Ended::Failed("BrewCoffee is answered".to_owned())),
        Err(status) => {
            ensure_eq!(status.code(), Code::Unimplemented, "the code");
            Ok(())
        }
    }
}
