use http::Uri;

use super::RegistryFailure;
use super::endpoint::is_loopback;

/// Redirects followed for one request.
pub(super) const MAX_REDIRECTS: usize = 10;

/// The address that a `Location` header means (RFC 9110, 10.2.2), seen from `base`. `plain_allowed` says which hosts are spoken to without
/// TLS beside this machine.
pub(super) fn resolve(
    base: &Uri,
    location: &str,
    plain_allowed: impl Fn(&str) -> bool,
) -> Result<Uri, RegistryFailure> {
    let refused = |reason: &str| RegistryFailure::Redirect {
        reason: reason.to_owned(),
    };
    let (scheme, authority) = match (base.scheme_str(), base.authority()) {
        (Some(scheme), Some(authority)) => (scheme, authority),
        _ => return Err(refused("its origin has no address")),
    };
    let location = location.split('#').next().unwrap_or_default();
    let text = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.contains("://") {
        location.to_owned()
    } else {
        let path = base.path();
        let directory = path.rfind('/').map_or("/", |end| &path[..=end]);
        format!("{scheme}://{authority}{directory}{location}")
    };
    // The address itself may carry a signature, and is in no error.
    let uri: Uri = (text.parse()).map_err(|_| refused("its target is no address"))?;
    let Some(target) = uri.authority() else {
        return Err(refused("its target has no host"));
    };
    match (scheme, uri.scheme_str()) {
        (_, Some("https")) | ("http", Some("http")) => Ok(uri),
        (_, Some("http")) if is_loopback(target) || plain_allowed(target.as_str()) => Ok(uri),
        (_, Some("http")) => Err(refused("it leads from HTTPS to plain HTTP")),
        _ => Err(refused("its target is neither HTTP nor HTTPS")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let base: Uri = "https://r.io:5000/v2/a/blobs/x?y=z".parse().unwrap();
        for (location, target) in [
            ("https://cdn.io/x?s=1", "https://cdn.io/x?s=1"),
            ("//cdn.io/x", "https://cdn.io/x"),
            ("/other", "https://r.io:5000/other"),
            ("other", "https://r.io:5000/v2/a/blobs/other"),
            ("http://127.0.0.1:1/x", "http://127.0.0.1:1/x"),
            ("http://plain.io/x", "http://plain.io/x"),
        ] {
            let uri = resolve(&base, location, |host| host == "plain.io").unwrap();
            assert_eq!(uri.to_string(), target);
        }
        for location in [
            "http://cdn.io/x",
            "ftp://cdn.io/x",
            "https://",
            "file:///etc/passwd",
        ] {
            assert!(resolve(&base, location, |_| false).is_err(), "{location}");
        }
    }
}
