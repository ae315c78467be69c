//! Attachments of other runtimes on this node, as the reference library writes them down for those that use it.

use std::path::Path;

use serde::Deserialize;

#[derive(Deserialize)]
struct Cached {
    #[serde(rename = "containerId")]
    container: String,
    #[serde(rename = "ifName")]
    interface: String,
    #[serde(rename = "networkName")]
    network: String,
}

/// Container and interface of each on this network. What cannot be read is passed over: it is nobody's contract.
pub(super) fn attached(cache: &Path, network: &str) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(cache.join("results"))
        .into_iter()
        .flatten();
    entries
        .flatten()
        .filter_map(|entry| {
            let cached: Cached = serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok()?;
            (cached.network == network).then_some((cached.container, cached.interface))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_attachments_are_found_by_network() {
        let cache = tempfile::tempdir().unwrap();
        assert!(attached(cache.path(), "net").is_empty());
        let results = cache.path().join("results");
        std::fs::create_dir(&results).unwrap();
        let mine = r#"{"kind": "cniCacheV1", "containerId": "c1", "ifName": "eth0", "networkName": "net"}"#;
        std::fs::write(results.join("net-c1-eth0"), mine).unwrap();
        std::fs::write(
            results.join("other-c2-eth0"),
            mine.replace("\"net\"", "\"other\""),
        )
        .unwrap();
        std::fs::write(results.join("damaged"), "{").unwrap();
        assert_eq!(
            attached(cache.path(), "net"),
            [("c1".to_owned(), "eth0".to_owned())]
        );
    }
}
