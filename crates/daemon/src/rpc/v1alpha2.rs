//! `runtime.v1alpha2` has the messages and numbers of `runtime.v1`: its requests are served by rewriting their path.

use std::task::{Context, Poll};

use http::{Request, Uri, uri::PathAndQuery};
use tower::{Layer, Service};

const OLDER: &str = "/runtime.v1alpha2.";
const SERVED: &str = "/runtime.v1.";

/// Marks a request that came by the older package's name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OlderPackage;

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RewriteOlderPackage;

impl<S> Layer<S> for RewriteOlderPackage {
    type Service = Rewrite<S>;

    fn layer(&self, inner: S) -> Rewrite<S> {
        Rewrite { inner }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Rewrite<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for Rewrite<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(uri) = rewritten(request.uri()) {
            *request.uri_mut() = uri;
            request.extensions_mut().insert(OlderPackage);
        }
        self.inner.call(request)
    }
}

fn rewritten(uri: &Uri) -> Option<Uri> {
    let method = uri.path().strip_prefix(OLDER)?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{SERVED}{method}")).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_older_package_is_rewritten() {
        let path = |text: &str| rewritten(&text.parse().unwrap()).map(|uri| uri.path().to_owned());
        assert_eq!(
            path("http://localhost/runtime.v1alpha2.ImageService/ListImages").as_deref(),
            Some("/runtime.v1.ImageService/ListImages")
        );
        assert_eq!(
            path("http://localhost/runtime.v1.RuntimeService/Version"),
            None
        );
        assert_eq!(path("/grpc.health.v1.Health/Check"), None);
    }
}
