//! How much a container may write to its root file system.

use snapshot::NoLimits;

use super::{config::ContainerConfig, create::CreateError};
use crate::{config::LayerLimit, pod::Pod, runtime::Runtime};

/// On a container, or on its pod for each of its containers.
const ANNOTATION: &str = "longshore.io/writable-layer-limit";

#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("{ANNOTATION}: {value:?} is not {}", LayerLimit::EXPECTED)]
    Value { value: String },
    #[error(
        "{ANNOTATION}: {asked} is more than the {most} of this node (containers.writable_layer_limit)"
    )]
    Excess { asked: LayerLimit, most: LayerLimit },
    #[error("{ANNOTATION}: {asked}: this node cannot limit writable layers")]
    Unavailable {
        asked: LayerLimit,
        #[source]
        source: NoLimits,
    },
}

/// The most that a container's writable layer may take, bytes: what is asked for, or else the node's own limit. `None` is no limit. Less
/// than what is asked for is never granted without a word.
pub(super) fn of(
    runtime: &Runtime,
    pod: &Pod,
    config: &ContainerConfig,
) -> Result<Option<u64>, CreateError> {
    let mut annotations = [&config.annotations, &pod.config.annotations].into_iter();
    let asked = annotations.find_map(|all| all.get(ANNOTATION));
    let node = runtime.config.containers.writable_layer_limit;
    let limit = judge(asked.map(String::as_str), node).and_then(|limit| {
        match (limit, runtime.overlay.limits()) {
            (Some(asked), Err(why)) => Err(LimitError::Unavailable {
                asked,
                source: why.clone(),
            }),
            (limit, _) => Ok(limit.map(LayerLimit::bytes)),
        }
    });
    limit.map_err(|source| CreateError::Limit {
        name: config.metadata.name.clone(),
        source,
    })
}

fn judge(asked: Option<&str>, node: Option<LayerLimit>) -> Result<Option<LayerLimit>, LimitError> {
    let Some(text) = asked.filter(|text| !text.is_empty()) else {
        return Ok(node);
    };
    let asked = LayerLimit::parse(text).ok_or_else(|| LimitError::Value {
        value: text.to_owned(),
    })?;
    match node {
        Some(most) if asked > most => Err(LimitError::Excess { asked, most }),
        _ => Ok(Some(asked)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_may_ask_for_less_than_the_node_gives_and_not_for_more() {
        let limit = |text: &str| LayerLimit::parse(text).unwrap();
        let node = Some(limit("1Gi"));
        assert_eq!(judge(None, None), Ok(None));
        assert_eq!(judge(None, node), Ok(node));
        assert_eq!(judge(Some(""), node), Ok(node));
        assert_eq!(judge(Some("1.5Mi"), node), Ok(Some(limit("1536Ki"))));
        assert_eq!(judge(Some("5Ti"), None), Ok(Some(limit("5Ti"))));
        let excess = judge(Some("1073741825"), node).unwrap_err();
        assert!(
            excess
                .to_string()
                .contains("1073741825 is more than the 1Gi")
        );
        for wrong in ["0", "63Ki", "-1", "much", "9000000Ti", "1 Gi"] {
            let refused = judge(Some(wrong), node).unwrap_err();
            assert!(refused.to_string().contains("at least 64Ki"), "{wrong}");
        }
    }
}
