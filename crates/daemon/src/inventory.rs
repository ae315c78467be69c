//! What exists, in memory: every list and status is answered from here, without a system call (invariant 4).

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::{
    container::{Container, config::ContainerMetadata},
    id::{self, ContainerId, PodId},
    pod::{Pod, config::PodMetadata},
};

/// Pods and containers by id and by the name that a client gave them.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    tables: RwLock<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    pods: BTreeMap<PodId, Arc<Pod>>,
    containers: BTreeMap<ContainerId, Arc<Container>>,
    pod_names: HashMap<PodMetadata, Arc<Pod>>,
    container_names: HashMap<(PodId, ContainerMetadata), Arc<Container>>,
}

/// Why a text does not lead to one thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FindError {
    #[error("{what} id is empty: give an id, or a prefix of one")]
    Empty { what: &'static str },
    #[error("{what} {id:?} not found: no id begins so")]
    NotFound { what: &'static str, id: String },
    #[error("{what} id {id:?} is ambiguous: {count} ids begin so, give more digits")]
    Ambiguous {
        what: &'static str,
        id: String,
        count: usize,
    },
}

impl FindError {
    /// Stop and Remove succeed for what is not there.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

impl Inventory {
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims the pod's name for it, or returns the pod that has it.
    pub(crate) fn claim_pod_name(&self, pod: &Arc<Pod>) -> Result<(), Arc<Pod>> {
        let mut tables = self.write();
        match tables.pod_names.get(&pod.config.metadata) {
            Some(holder) if holder.id != pod.id => Err(Arc::clone(holder)),
            Some(_) => Ok(()),
            None => {
                tables
                    .pod_names
                    .insert(pod.config.metadata.clone(), Arc::clone(pod));
                Ok(())
            }
        }
    }

    pub(crate) fn pod_named(&self, name: &PodMetadata) -> Option<Arc<Pod>> {
        self.read().pod_names.get(name).cloned()
    }

    /// From here on the pod is listed.
    pub(crate) fn list_pod(&self, pod: &Arc<Pod>) {
        self.write().pods.insert(pod.id.clone(), Arc::clone(pod));
    }

    pub(crate) fn forget_pod(&self, pod: &Pod) {
        let mut tables = self.write();
        tables.pods.remove(&pod.id);
        if tables
            .pod_names
            .get(&pod.config.metadata)
            .is_some_and(|named| named.id == pod.id)
        {
            tables.pod_names.remove(&pod.config.metadata);
        }
    }

    /// Frees the pod's name for another; the pod stays listed.
    pub(crate) fn release_pod_name(&self, pod: &Pod) {
        let mut tables = self.write();
        let named = tables.pod_names.get(&pod.config.metadata);
        if named.is_some_and(|named| named.id == pod.id) {
            tables.pod_names.remove(&pod.config.metadata);
        }
    }

    pub(crate) fn container_named(
        &self,
        pod: &PodId,
        name: &ContainerMetadata,
    ) -> Option<Arc<Container>> {
        let key = (pod.clone(), name.clone());
        self.read().container_names.get(&key).cloned()
    }

    pub(crate) fn claim_container_name(
        &self,
        container: &Arc<Container>,
    ) -> Result<(), Arc<Container>> {
        let key = (container.pod.id.clone(), container.config.metadata.clone());
        let mut tables = self.write();
        match tables.container_names.get(&key) {
            Some(holder) if holder.id != container.id => Err(Arc::clone(holder)),
            Some(_) => Ok(()),
            None => {
                tables.container_names.insert(key, Arc::clone(container));
                Ok(())
            }
        }
    }

    /// Has a container be in another cgroup than its own from now on, or says whose is that one, around it or below it.
    pub(crate) fn place_container(&self, container: &Container, path: &str) -> Result<(), String> {
        let tables = self.write();
        let pods = tables.pod_names.values().map(|pod| pod.cgroup());
        let others = tables.container_names.values();
        let others = others.filter(|other| other.id != container.id);
        let mut taken = pods.chain(others.map(|other| other.cgroup().to_owned()));
        let within = |inner: &str, outer: &str| {
            let outer = outer.trim_start_matches('/');
            let rest = inner.trim_start_matches('/').strip_prefix(outer);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match taken.find(|other| within(path, other) || within(other, path)) {
            Some(other) => Err(other),
            None => {
                container.place(path);
                Ok(())
            }
        }
    }

    pub(crate) fn list_container(&self, container: &Arc<Container>) {
        self.write()
            .containers
            .insert(container.id.clone(), Arc::clone(container));
    }

    pub(crate) fn forget_container(&self, container: &Container) {
        let key = (container.pod.id.clone(), container.config.metadata.clone());
        let mut tables = self.write();
        tables.containers.remove(&container.id);
        if tables
            .container_names
            .get(&key)
            .is_some_and(|named| named.id == container.id)
        {
            tables.container_names.remove(&key);
        }
    }

    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        self.read().pods.values().cloned().collect()
    }

    /// Listed pods, and those that are being made.
    pub(crate) fn all_pods(&self) -> Vec<Arc<Pod>> {
        let tables = self.read();
        let made = tables
            .pod_names
            .values()
            .filter(|pod| !tables.pods.contains_key(&pod.id));
        tables.pods.values().chain(made).cloned().collect()
    }

    pub(crate) fn has_pod(&self, id: &PodId) -> bool {
        self.read().pods.contains_key(id)
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        self.read().containers.values().cloned().collect()
    }

    /// Containers that are listed.
    pub(crate) fn containers_of(&self, pod: &PodId) -> Vec<Arc<Container>> {
        self.read()
            .containers
            .values()
            .filter(|c| c.pod.id == *pod)
            .cloned()
            .collect()
    }

    /// Every container of the pod, one that is being created included.
    pub(crate) fn claims_of(&self, pod: &PodId) -> Vec<Arc<Container>> {
        let tables = self.read();
        tables
            .container_names
            .values()
            .filter(|c| c.pod.id == *pod)
            .cloned()
            .collect()
    }

    /// By id or by a prefix that only one has.
    pub(crate) fn find_pod(&self, id: &str) -> Result<Arc<Pod>, FindError> {
        find("pod sandbox", &self.read().pods, id, PodId::as_str)
    }

    /// By id or by a prefix that only one has.
    pub(crate) fn find_container(&self, id: &str) -> Result<Arc<Container>, FindError> {
        find(
            "container",
            &self.read().containers,
            id,
            ContainerId::as_str,
        )
    }

    pub(crate) fn container(&self, id: &ContainerId) -> Option<Arc<Container>> {
        self.read().containers.get(id).cloned()
    }
}

fn find<K, V: Clone>(
    what: &'static str,
    table: &BTreeMap<K, V>,
    id: &str,
    text: impl Fn(&K) -> &str,
) -> Result<V, FindError>
where
    K: Ord + std::borrow::Borrow<str>,
{
    if id.is_empty() {
        return Err(FindError::Empty { what });
    }
    if !id::is_prefix(id) {
        return Err(FindError::NotFound {
            what,
            id: bounded(id),
        });
    }
    let mut matches = table
        .range::<str, _>((Bound::Included(id), Bound::Unbounded))
        .take_while(|(key, _)| text(key).starts_with(id));
    match (matches.next(), matches.count()) {
        (None, _) => Err(FindError::NotFound {
            what,
            id: id.to_owned(),
        }),
        (Some((_, value)), 0) => Ok(value.clone()),
        (Some(_), more) => Err(FindError::Ambiguous {
            what,
            id: id.to_owned(),
            count: more + 1,
        }),
    }
}

/// A client's text in an error: enough to recognise it.
fn bounded(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(ids: &[&str]) -> BTreeMap<PodId, u32> {
        ids.iter()
            .zip(0..)
            .map(|(id, n)| (PodId::parse(&format!("{id:0<64}")).unwrap(), n))
            .collect()
    }

    #[test]
    fn prefixes_lead_to_one_thing_or_say_why_not() {
        let table = table(&["abc1", "abc2", "ff"]);
        let find = |id: &str| find("pod sandbox", &table, id, PodId::as_str);
        assert_eq!(find("abc1"), Ok(0));
        assert_eq!(find("f"), Ok(2));
        assert_eq!(find(&format!("{:0<64}", "abc2")), Ok(1));
        assert!(matches!(
            find("abc"),
            Err(FindError::Ambiguous { count: 2, .. })
        ));
        assert!(find("0").unwrap_err().is_absent());
        assert!(find("../../etc/passwd").unwrap_err().is_absent());
        assert!(matches!(find(""), Err(FindError::Empty { .. })));
    }
}
