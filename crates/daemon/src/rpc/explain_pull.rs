use std::path::Path;
use std::sync::Arc;

use cri::progress::{ExplainPullRequest, ExplainPullResponse, PullCredentials, PullSource};
use image::{Auth, PlannedSource, PullRequest};
use tonic::{Request, Status};

use super::pull_image;
use crate::runtime::Runtime;

pub(super) async fn explain_pull(
    runtime: &Arc<Runtime>,
    request: Request<ExplainPullRequest>,
) -> Result<ExplainPullResponse, Status> {
    let request = request.into_inner();
    let request = PullRequest {
        reference: request.image,
        auth: request.auth.map(auth),
        namespace: request.namespace,
    };
    let plan =
        (runtime.images.explain(request).await).map_err(|error| pull_image::status(&error))?;
    Ok(ExplainPullResponse {
        reference: plan.reference,
        sources: plan.hosts.into_iter().map(source).collect(),
        ignored: plan.ignored,
        signatures: plan.signatures,
    })
}

pub(super) fn auth(auth: PullCredentials) -> Auth {
    Auth {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    }
}

fn source(host: PlannedSource) -> PullSource {
    let shown = |path: &Path| path.display().to_string();
    PullSource {
        url: host.url,
        settled_by: host.settled_by,
        resolves: host.resolves,
        pulls: host.pulls,
        credentials: host.credentials,
        proxy: host.proxy.unwrap_or_default(),
        authorities: host.authorities.iter().map(|path| shown(path)).collect(),
        client_certificate: host
            .client_certificate
            .as_deref()
            .map(shown)
            .unwrap_or_default(),
        skip_verify: host.skip_verify,
        headers: host.headers,
    }
}
