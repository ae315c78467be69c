//! The pods' ranges that a kubelet was given for its node, and tells its runtime.
//!
//! ```text
//!                      ┌ a template is configured, and no configuration but the one made from it ─▶ CNI configuration
//!   pod_cidr ─ parsed ─┤ CNI plugins serve, or only they may ────────────────────────────────────▶ nothing: they have it from elsewhere
//!                      └ else ───────────────────────────────────────────────────────────────────▶ the built-in network
//! ```

mod template;

use std::{
    io,
    net::IpAddr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use cni::builtin::{Ipv4Subnet, Ipv6Subnet, RangeError, Ranges, SubnetError};
pub(crate) use template::TemplateError;

use crate::runtime::{BlockingError, DISK_BOUND, Runtime, blocking};

/// In `cni.configurations`. Others that come before it win.
const FILE: &str = "10-longshore.conflist";

/// Why a range was not taken over. Nothing has changed then, unless the last two say otherwise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error(transparent)]
    Subnet(SubnetError),
    #[error("two ranges of one family, {0} and {1}; the built-in network has one of each")]
    Twice(String, String),
    #[error(
        "no IPv4 range, which the built-in network needs; set cni.template or install a network of CNI plugins for pods with IPv6 alone"
    )]
    NoIpv4,
    #[error(transparent)]
    Network(RangeError),
    #[error("cni.template {}", path.display())]
    Template {
        path: PathBuf,
        #[source]
        source: TemplateError,
    },
    #[error("cni.template {} does not become JSON", path.display())]
    NoJson {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{doing} {}", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write the CNI configuration of cni.template")]
    Blocking(#[from] BlockingError),
}

/// Has pods get addresses in `text`, ranges with commas between them, from the next one on. An empty text says nothing.
pub(crate) async fn update(runtime: &Arc<Runtime>, text: &str) -> Result<(), UpdateError> {
    let ranges = parse(text)?;
    if ranges.is_empty() {
        return Ok(());
    }
    let cni = &runtime.config.cni;
    if let (Some(template), true) = (&cni.template, cni.enabled) {
        let file = cni.configurations.join(FILE);
        // Somebody else's configuration is left to serve, as with the peers.
        if !runtime.plugins.serves() || file.exists() {
            let template = template.clone();
            blocking(DISK_BOUND, move || write(&template, &file, &ranges)).await??;
            runtime.plugins.reload().await;
        }
        return Ok(());
    }
    if cni.enabled && (runtime.plugins.serves() || cni.required) {
        tracing::debug!(
            pod_cidr = text,
            "the network of CNI plugins serves; it knows its ranges"
        );
        return Ok(());
    }
    let ranges = of_the_bridge(&ranges, runtime)?;
    let changed = runtime.network.use_ranges(ranges, true).await;
    changed.map_err(UpdateError::Network)
}

fn parse(text: &str) -> Result<Vec<(IpAddr, u8)>, UpdateError> {
    let texts = text.split(',').map(str::trim);
    let texts: Vec<&str> = match text.trim().is_empty() {
        true => Vec::new(),
        false => texts.collect(),
    };
    texts
        .into_iter()
        .map(|text| match text.contains(':') {
            true => text
                .parse::<Ipv6Subnet>()
                .map(|subnet| (subnet.network().into(), subnet.prefix())),
            false => text
                .parse::<Ipv4Subnet>()
                .map(|subnet| (subnet.network().into(), subnet.prefix())),
        })
        .collect::<Result<_, _>>()
        .map_err(UpdateError::Subnet)
}

/// A family without a range keeps the configured one.
fn of_the_bridge(given: &[(IpAddr, u8)], runtime: &Runtime) -> Result<Ranges, UpdateError> {
    let one = |family: fn(&IpAddr) -> bool| -> Result<Option<String>, UpdateError> {
        let mut texts = given
            .iter()
            .filter(|(network, _)| family(network))
            .map(|(network, prefix)| format!("{network}/{prefix}"));
        match (texts.next(), texts.next()) {
            (Some(first), Some(second)) => Err(UpdateError::Twice(first, second)),
            (first, _) => Ok(first),
        }
    };
    let ipv4 = one(IpAddr::is_ipv4)?.ok_or(UpdateError::NoIpv4)?;
    let ipv6 = match one(IpAddr::is_ipv6)? {
        Some(text) => Some(text.parse().map_err(UpdateError::Subnet)?),
        // As it is used: without, on a kernel that has no IPv6.
        None => runtime
            .config
            .network
            .ipv6
            .filter(|_| runtime.network.has_ipv6()),
    };
    Ok(Ranges {
        ipv4: ipv4.parse().map_err(UpdateError::Subnet)?,
        ipv6,
    })
}

fn write(template: &Path, file: &Path, ranges: &[(IpAddr, u8)]) -> Result<(), UpdateError> {
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| UpdateError::File {
            doing,
            path,
            source,
        }
    };
    let text = std::fs::read_to_string(template).map_err(failed("read cni.template", template))?;
    let data = template::Data { ranges };
    let text = template::render(&text, &data).map_err(|source| UpdateError::Template {
        path: template.to_owned(),
        source,
    })?;
    if let Err(source) = serde_json::from_str::<serde_json::Value>(&text) {
        return Err(UpdateError::NoJson {
            path: template.to_owned(),
            source,
        });
    }
    if std::fs::read(file).is_ok_and(|now| now == text.as_bytes()) {
        return Ok(());
    }
    let directory = file.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory).map_err(failed("make", directory))?;
    let opened = std::fs::File::open(directory).map_err(failed("open", directory))?;
    sys::replace_file(
        opened.as_fd(),
        FILE,
        text.as_bytes(),
        0o644,
        sys::Durability::Power,
    )
    .map_err(|errno| failed("write", file)(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_a_list() {
        assert!(parse("").unwrap().is_empty());
        assert!(parse(" ").unwrap().is_empty());
        let both = parse("fd00::/64, 10.1.0.0/24").unwrap();
        assert_eq!(both.len(), 2);
        assert!(both[0].0.is_ipv6());
        for text in [
            "10.1.0.0/24,",
            "10.1.0.0",
            "10.1.0.1/24",
            "10.1.0.0/31",
            "10.1.0.0/99",
            "10.0.0.0/-1",
            "127.0.0.0/8",
            "fe80::/64",
            "::/64",
            "host/24",
            "10.1.0.0/24 10.2.0.0/24",
        ] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, UpdateError::Subnet(_)), "{text}: {error}");
        }
    }
}
