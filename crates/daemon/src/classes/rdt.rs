//! Classes of caches and memory bandwidth. A file divides the node's caches into partitions, which do not overlap, and each partition into
//! classes, which may; what that is in bits depends on the node.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::Deserialize;

use super::{Asker, ClassError, list};

mod shares;

use shares::{Bandwidth, Cache, Kind, ways};

/// What everything on the node belongs to at first.
pub(super) const ROOT_CLASS: &str = "system/default";

/// `rdt.yaml`, as goresctrl has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    options: Options,
    #[serde(default)]
    partitions: BTreeMap<String, Partition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    l2: Optional,
    l3: Optional,
    mb: Optional,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Optional {
    /// A node that cannot divide it has all of it for everybody.
    optional: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Partition {
    l2_allocation: Option<Cache>,
    l3_allocation: Option<Cache>,
    mb_allocation: Option<Bandwidth>,
    classes: BTreeMap<String, Option<Class>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Class {
    l2_allocation: Option<Cache>,
    l3_allocation: Option<Cache>,
    mb_allocation: Option<Bandwidth>,
    kubernetes: Kubernetes,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Kubernetes {
    deny_pod_annotation: bool,
    deny_container_annotation: bool,
}

/// A file of classes.
#[derive(Debug)]
pub(super) struct Config<'a> {
    path: &'a Path,
    file: File,
}

pub(super) fn parse<'a>(path: &'a Path, text: &str) -> Result<Config<'a>, ClassError> {
    let file = serde_saphyr::from_str(text).map_err(|error| ClassError::Parse {
        file: path.to_owned(),
        text: error.to_string(),
    })?;
    Ok(Config { path, file })
}

impl Config<'_> {
    /// Has the class's group have its shares; makes it if it is not there. The group is the node's, and stays.
    pub(super) fn make(&self, root: &Path, name: &str, asker: Asker) -> Result<(), ClassError> {
        let none = Class::default();
        let found = self.file.partitions.iter().find_map(|(partition, within)| {
            let (_, class) = within.classes.iter().find(|(known, _)| *known == name)?;
            Some((partition, within, class.as_ref().unwrap_or(&none)))
        });
        let Some((partition, within, class)) = found else {
            let partitions = self.file.partitions.values();
            let known = partitions.flat_map(|partition| partition.classes.keys());
            return Err(ClassError::Unknown {
                kind: "RDT",
                name: name.to_owned(),
                file: self.path.to_owned(),
                known: list(known.map(String::as_str)),
            });
        };
        let denied = [
            (Asker::Pod, class.kubernetes.deny_pod_annotation, "pods"),
            (
                Asker::Container,
                class.kubernetes.deny_container_annotation,
                "containers",
            ),
        ];
        if let Some((_, _, askers)) = denied.into_iter().find(|(who, no, _)| *who == asker && *no) {
            return Err(ClassError::Denied {
                name: name.to_owned(),
                askers,
            });
        }
        let lines = self.lines(root, partition, within, class)?;
        let group = match name {
            ROOT_CLASS => root.to_owned(),
            name => root.join(name),
        };
        if !plain(name) {
            return Err(self.wrong(name, "", "it cannot name a group of resctrl"));
        }
        let failed = |path: &Path, source| ClassError::Resctrl {
            name: name.to_owned(),
            path: path.to_owned(),
            source,
        };
        match fs::create_dir(&group) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(&group, error));
            }
            Ok(()) | Err(_) => {}
        }
        let schemata = group.join("schemata");
        let known = fs::read_to_string(&schemata).map_err(|error| failed(&schemata, error))?;
        let known = shares::parse(&known);
        for (resource, shares) in &lines {
            if known.get(resource) == Some(shares) {
                continue;
            }
            let line = shares::line(resource, shares);
            // One write a line, which is how the kernel tells which of them it does not like.
            append(&schemata, &line).map_err(|error| failed(&schemata, error))?;
        }
        Ok(())
    }

    /// Of the class's `schemata`, by resource: what each cache gives.
    fn lines(
        &self,
        root: &Path,
        name: &str,
        partition: &Partition,
        class: &Class,
    ) -> Result<BTreeMap<String, BTreeMap<u32, u64>>, ClassError> {
        let failed = |path: &Path, source| ClassError::Resctrl {
            name: name.to_owned(),
            path: path.to_owned(),
            source,
        };
        let path = root.join("schemata");
        let text = fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
        let node = shares::parse(&text);
        let mut lines = BTreeMap::new();
        for level in ["L2", "L3"] {
            let of_partition = |partition: &Partition| match level {
                "L2" => partition.l2_allocation.clone(),
                _ => partition.l3_allocation.clone(),
            };
            let (of_class, optional) = match level {
                "L2" => (&class.l2_allocation, self.file.options.l2.optional),
                _ => (&class.l3_allocation, self.file.options.l3.optional),
            };
            let field = format!("partitions.{name}.{}Allocation", level.to_lowercase());
            if of_partition(partition).is_none() {
                match of_class {
                    None => continue,
                    Some(_) => {
                        return Err(self.wrong(&field, "", "a class of it has one: say how much"));
                    }
                }
            }
            let kinds = Kind::of(level, &node);
            if kinds.is_empty() {
                match optional {
                    true => continue,
                    false => {
                        return Err(self.wrong(&field, "", "this node cannot divide that cache"));
                    }
                }
            }
            for (resource, kind) in kinds {
                let info = root.join("info").join(&resource);
                let mask = info.join("cbm_mask");
                let whole = number(&mask, 16).map_err(|error| failed(&mask, error))?;
                let least = number(&info.join("min_cbm_bits"), 10).unwrap_or(1);
                let mut given = BTreeMap::new();
                for id in node[&resource].keys() {
                    let asked = self.file.partitions.iter();
                    let asked: Vec<_> = asked
                        .map(|(name, partition)| (name.as_str(), of_partition(partition)))
                        .collect();
                    let wrong = |why: String| self.wrong(&field, &format!("cache {id}"), &why);
                    let base =
                        ways::divide(&asked, name, kind, *id, whole, least).map_err(wrong)?;
                    let share = match of_class {
                        None => base,
                        Some(cache) => {
                            ways::within(cache, kind, *id, base, least).map_err(wrong)?
                        }
                    };
                    given.insert(*id, share);
                }
                lines.insert(resource, given);
            }
        }
        self.bandwidth(root, name, partition, class, &node, &mut lines)?;
        Ok(lines)
    }

    fn bandwidth(
        &self,
        root: &Path,
        name: &str,
        partition: &Partition,
        class: &Class,
        node: &BTreeMap<String, BTreeMap<u32, u64>>,
        lines: &mut BTreeMap<String, BTreeMap<u32, u64>>,
    ) -> Result<(), ClassError> {
        let field = format!("partitions.{name}.mbAllocation");
        let Some(of_partition) = &partition.mb_allocation else {
            return match &class.mb_allocation {
                None => Ok(()),
                Some(_) => Err(self.wrong(&field, "", "a class of it has one: say how much")),
            };
        };
        let Some(caches) = node.get("MB") else {
            return match self.file.options.mb.optional {
                true => Ok(()),
                false => Err(self.wrong(&field, "", "this node cannot divide memory bandwidth")),
            };
        };
        let absolute = shares::in_megabytes(root);
        let least = number(&root.join("info/MB/min_bandwidth"), 10).unwrap_or(10);
        let mut given = BTreeMap::new();
        for id in caches.keys() {
            let wrong = |why: String| self.wrong(&field, &format!("cache {id}"), &why);
            let base = of_partition.share(*id, absolute).map_err(wrong)?;
            let share = match &class.mb_allocation {
                None => base,
                Some(asked) => {
                    let asked = asked.share(*id, absolute).map_err(wrong)?;
                    match absolute {
                        true => asked.min(base),
                        false => asked * base / 100,
                    }
                }
            };
            let share = match absolute {
                true => share,
                false => share.max(least),
            };
            given.insert(*id, share);
        }
        lines.insert("MB".to_owned(), given);
        Ok(())
    }

    fn wrong(&self, field: &str, value: &str, why: &str) -> ClassError {
        ClassError::Field {
            file: self.path.to_owned(),
            field: field.to_owned(),
            value: value.to_owned(),
            why: why.to_owned(),
        }
    }
}

/// Whether it can be the name of a group: the kernel has some there itself.
fn plain(name: &str) -> bool {
    let own = ["", ".", "..", "info", "mon_groups", "mon_data"].contains(&name);
    name == ROOT_CLASS || !own && !name.contains(['/', '\n', '\0'])
}

fn number(path: &Path, radix: u32) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    u64::from_str_radix(text.trim(), radix).map_err(io::Error::other)
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    use io::Write;
    let mut file = fs::OpenOptions::new().append(true).open(path)?;
    file.write_all(line.as_bytes())
}
