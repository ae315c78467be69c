//! The pod's resolv.conf, hosts and hostname, which its containers mount unless they bring their own.

use std::{
    fmt::Write as _,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::{
    paths::Paths,
    pod::config::{DnsConfig, PodConfig},
    selinux::{self, Label},
};

/// More than any hosts file was seen to have.
const MOST_BYTES: u64 = 4 << 20;

/// Paths of the three files.
#[derive(Debug, Clone)]
pub(crate) struct PodFiles {
    pub(crate) resolv_conf: PathBuf,
    pub(crate) hosts: PathBuf,
    pub(crate) hostname: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    #[error("write the pod's {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("give the pod's {} its SELinux label", path.display())]
    Label {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read the node's hostname")]
    NodeHostname(#[source] io::Error),
}

impl PodFiles {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            resolv_conf: directory.join("resolv.conf"),
            hosts: directory.join("hosts"),
            hostname: directory.join("hostname"),
        }
    }

    /// Writes all three. `ips` is empty on the host's network. `label` is the SELinux label of what is the pod's.
    pub(crate) fn write(
        &self,
        config: &PodConfig,
        node: NodeFiles,
        ips: &[IpAddr],
        label: Option<&Label>,
    ) -> Result<(), FilesError> {
        let hostname = hostname(config)?;
        let resolv_conf = match &config.dns_config {
            Some(dns) => resolv_conf(dns),
            None => node.resolv_conf.unwrap_or_default(),
        };
        let hosts = if config.namespaces().net {
            hosts(&hostname, ips)
        } else {
            node.hosts.unwrap_or_else(|| hosts("", &[]))
        };
        for (path, text) in [
            (&self.resolv_conf, resolv_conf),
            (&self.hosts, hosts),
            (&self.hostname, format!("{hostname}\n")),
        ] {
            std::fs::write(path, text).map_err(|source| FilesError::Write {
                path: path.clone(),
                source,
            })?;
            if let Some(label) = label {
                selinux::set(path, label).map_err(|source| FilesError::Label {
                    path: path.clone(),
                    source,
                })?;
            }
        }
        Ok(())
    }
}

/// What the node has for a pod's files. They are read while the pod's namespaces are made.
#[derive(Debug, Default)]
pub(crate) struct NodeFiles {
    resolv_conf: Option<String>,
    hosts: Option<String>,
}

impl NodeFiles {
    /// Reads those that the pod needs.
    pub(crate) async fn read(paths: &Paths, config: &PodConfig) -> Self {
        let mut files = Self::default();
        if config.dns_config.is_none() {
            files.resolv_conf = node_s(paths, "/etc/resolv.conf").await;
        }
        if !config.namespaces().net {
            files.hosts = node_s(paths, "/etc/hosts").await;
        }
        files
    }
}

/// A file of the node's, which may be a link to anywhere.
async fn node_s(paths: &Paths, path: &str) -> Option<String> {
    match paths.text(Path::new(path), MOST_BYTES).await {
        Ok(text) => String::from_utf8(text).ok(),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(path, error, "the node has none for the pod");
            None
        }
    }
}

/// The pod's hostname: the request's, or the node's.
pub(crate) fn hostname(config: &PodConfig) -> Result<String, FilesError> {
    if !config.hostname.is_empty() {
        return Ok(config.hostname.clone());
    }
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|text| text.trim().to_owned())
        .map_err(FilesError::NodeHostname)
}

/// resolv.conf(5) of what the kubelet says; a `DnsConfig` with nothing in it is an empty file, as on the peers.
fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    let mut line = |keyword: &str, words: &[String]| {
        if !words.is_empty() {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "{keyword} {}", words.join(" "));
        }
    };
    line("search", &dns.searches);
    for server in &dns.servers {
        line("nameserver", std::slice::from_ref(server));
    }
    line("options", &dns.options);
    text
}

fn hosts(hostname: &str, ips: &[IpAddr]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for ip in ips {
        let _infallible = writeln!(text, "{ip}\t{hostname}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_the_kubelet_s_words_in_the_resolver_s_order() {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
        let dns = DnsConfig {
            servers: words(&["10.96.0.10", "fd00::a"]),
            searches: words(&["default.svc.cluster.local", "cluster.local"]),
            options: words(&["ndots:5"]),
        };
        assert_eq!(
            resolv_conf(&dns),
            "search default.svc.cluster.local cluster.local\nnameserver 10.96.0.10\n\
             nameserver fd00::a\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }

    #[test]
    fn hosts_names_the_pod_on_each_of_its_addresses() {
        let text = hosts(
            "web-0",
            &["10.88.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        );
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.88.0.2\tweb-0\nfd00::2\tweb-0\n"));
    }
}
