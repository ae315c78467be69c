//! Classes of block I/O and of cache and memory bandwidth (RDT), which pods ask for by annotation, as on the peers. A node must define what a
//! class is; this runtime has no such definitions yet, so that no class can be honoured, and none is ignored.

use std::collections::BTreeMap;

use super::{SpecError, SpecInput};

const BLOCK_IO: &str = "blockio.resources.beta.kubernetes.io";
const RDT: &str = "rdt.resources.beta.kubernetes.io";

pub(super) fn check(input: &SpecInput<'_>) -> Result<(), SpecError> {
    let name = &input.container.metadata.name;
    let own = &input.container.annotations;
    let pods = &input.pod.annotations;
    for (domain, remedy) in [
        (
            BLOCK_IO,
            "no classes of block I/O are defined on this node: leave the annotation out",
        ),
        (
            RDT,
            "no classes of cache and memory bandwidth are defined on this node: leave the annotation out",
        ),
    ] {
        if let Some((field, class)) = asked(domain, name, own, pods) {
            return Err(SpecError::field(field, format_args!("{class:?}"), remedy));
        }
    }
    Ok(())
}

/// The container's own annotation, else the pod's for this container, else the pod's for all. An empty class is none.
fn asked<'a>(
    domain: &str,
    container: &str,
    own: &'a BTreeMap<String, String>,
    pods: &'a BTreeMap<String, String>,
) -> Option<(String, &'a str)> {
    let of_container = format!("{domain}/container.{container}");
    let found = [
        ("config", own, of_container.clone()),
        ("sandbox_config", pods, of_container),
        ("sandbox_config", pods, format!("{domain}/pod")),
    ];
    let mut given = found
        .into_iter()
        .filter_map(|(message, map, key)| Some((message, map.get(&key)?, key)));
    let (message, class, key) = given.next()?;
    (!class.is_empty()).then(|| (format!("{message}.annotations[{key}]"), class.as_str()))
}
