//! Classes of block I/O and of cache and memory bandwidth (RDT), which pods ask for by annotation, as on the peers. What a class is, the node
//! defines ([`crate::classes`]).

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxBlockIo, LinuxIntelRdt};

use crate::{classes::Asker, container::config::ContainerConfig, pod::config::PodConfig};

const BLOCK_IO: Domain = Domain {
    name: "blockio.resources.beta.kubernetes.io",
    own: "io.kubernetes.cri.blockio-class",
};
const RDT: Domain = Domain {
    name: "rdt.resources.beta.kubernetes.io",
    own: "io.kubernetes.cri.rdt-class",
};

/// What the classes are that a container asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClassesFound {
    pub(crate) block_io: Option<LinuxBlockIo>,
    pub(crate) rdt: Option<LinuxIntelRdt>,
}

/// Classes by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClassesAsked {
    pub(crate) block_io: Option<ClassAsked>,
    pub(crate) rdt: Option<ClassAsked>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClassAsked {
    /// Which annotation says so, for messages.
    pub(crate) field: String,
    pub(crate) name: String,
    pub(crate) asker: Asker,
}

/// The classes that a container's annotations name, or its pod's.
pub(crate) fn classes_asked(container: &ContainerConfig, pod: &PodConfig) -> ClassesAsked {
    let of = |domain: &Domain| {
        let name = &container.metadata.name;
        domain.asked(name, &container.annotations, &pod.annotations)
    };
    ClassesAsked {
        block_io: of(&BLOCK_IO),
        rdt: of(&RDT),
    }
}

struct Domain {
    name: &'static str,
    /// The annotation of a container in a request, which no pod can have.
    own: &'static str,
}

impl Domain {
    /// The container's own annotation, else the pod's for this container, else the pod's for all. An empty class is none.
    fn asked(
        &self,
        container: &str,
        own: &BTreeMap<String, String>,
        pods: &BTreeMap<String, String>,
    ) -> Option<ClassAsked> {
        let domain = self.name;
        let of_container = format!("{domain}/container.{container}");
        let found = [
            ("config", own, self.own.to_owned(), Asker::Container),
            ("config", own, of_container.clone(), Asker::Pod),
            ("sandbox_config", pods, of_container, Asker::Pod),
            ("sandbox_config", pods, format!("{domain}/pod"), Asker::Pod),
        ];
        let mut given = found
            .into_iter()
            .filter_map(|(message, map, key, asker)| Some((message, map.get(&key)?, key, asker)));
        let (message, class, key, asker) = given.next()?;
        (!class.is_empty()).then(|| ClassAsked {
            field: format!("{message}.annotations[{key}]"),
            name: class.clone(),
            asker,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_own_annotation_comes_first() {
        let map = |entries: &[(&str, &str)]| {
            let entries = entries.iter();
            entries
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        let pods = map(&[
            ("rdt.resources.beta.kubernetes.io/pod", "all"),
            ("rdt.resources.beta.kubernetes.io/container.web", "web"),
            ("rdt.resources.beta.kubernetes.io/container.plain", ""),
        ]);
        let own = map(&[("io.kubernetes.cri.rdt-class", "own")]);
        let none = map(&[]);
        for (container, own, expected) in [
            ("web", &own, Some(("own", Asker::Container))),
            ("web", &none, Some(("web", Asker::Pod))),
            ("other", &none, Some(("all", Asker::Pod))),
            ("plain", &none, None),
        ] {
            let asked = RDT.asked(container, own, &pods);
            let asked = asked
                .as_ref()
                .map(|asked| (asked.name.as_str(), asked.asker));
            assert_eq!(asked, expected, "{container}");
        }
        assert_eq!(BLOCK_IO.asked("web", &own, &pods), None);
    }
}
