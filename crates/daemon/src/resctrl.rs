//! Classes of caches and memory bandwidth: `linux.intelRdt` of the runtime specification, in the kernel's `resctrl` file system.
//!
//! A class is a directory there; its `schemata` has its shares, its `tasks` the processes that belong to it. One that is named is the node's:
//! it stays when its containers go. One without a name is the container's own.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use oci_spec::runtime::LinuxIntelRdt;

/// Where the file system is mounted, if it is.
pub(crate) const ROOT: &str = "/sys/fs/resctrl";

#[derive(Debug, thiserror::Error)]
pub(crate) enum ResctrlError {
    #[error(
        "linux.intelRdt: the node has no resctrl file system at {}: mount it, or ask for no class",
        .0.display()
    )]
    Missing(PathBuf),
    #[error("linux.intelRdt.closID: {name:?}: {why}")]
    Name { name: String, why: &'static str },
    #[error("linux.intelRdt: class {name:?} is there, and its schemata has no line {line:?}")]
    Other { name: String, line: String },
    #[error("linux.intelRdt: {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Puts a process into its container's class, which is made if it may be. Whatever it forks belongs to it as well. Blocks.
pub(crate) fn join(
    root: &Path,
    container: &str,
    asked: &LinuxIntelRdt,
    pid: i32,
) -> Result<(), ResctrlError> {
    if !root.join("schemata").is_file() {
        return Err(ResctrlError::Missing(root.to_owned()));
    }
    let class = class(root, container, asked)?;
    let lines = lines(asked);
    let make = asked.clos_id().is_none() || !lines.is_empty();
    match fs::create_dir(&class).map_err(|error| (error.kind(), error)) {
        _ if class == root => {}
        Ok(()) if make => write(&class.join("schemata"), &lines)?,
        Ok(()) => {
            // Gone again: it was the node's to make.
            let _left = fs::remove_dir(&class);
            return Err(ResctrlError::Name {
                name: asked.clos_id().clone().unwrap_or_default(),
                why: "there is no such class, and no schemata to make it of",
            });
        }
        Err((io::ErrorKind::AlreadyExists, _)) => compare(&class, &lines)?,
        Err((_, source)) => {
            return Err(ResctrlError::Io {
                path: class,
                source,
            });
        }
    }
    write(&class.join("tasks"), &[pid.to_string()])?;
    if monitored(asked) {
        let group = class.join("mon_groups").join(container);
        match fs::create_dir(&group) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(ResctrlError::Io {
                    path: group,
                    source,
                });
            }
            Ok(()) | Err(_) => write(&group.join("tasks"), &[pid.to_string()])?,
        }
    }
    Ok(())
}

/// Removes what is a container's own; its processes have ended. Blocks.
pub(crate) fn leave(
    root: &Path,
    container: &str,
    asked: &LinuxIntelRdt,
) -> Result<(), ResctrlError> {
    let Ok(class) = class(root, container, asked) else {
        return Ok(());
    };
    let own = asked.clos_id().is_none().then(|| class.clone());
    let monitoring = monitored(asked).then(|| class.join("mon_groups").join(container));
    for path in monitoring.into_iter().chain(own) {
        match fs::remove_dir(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(ResctrlError::Io { path, source });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// The directory of a class: `/` is the node's first one.
fn class(root: &Path, container: &str, asked: &LinuxIntelRdt) -> Result<PathBuf, ResctrlError> {
    let name = asked.clos_id().as_deref().unwrap_or(container);
    let own = ["info", "mon_groups", "mon_data"].contains(&name) || name.starts_with('.');
    match name {
        "/" => Ok(root.to_owned()),
        name if name.is_empty() || own || name.contains(['/', '\n', '\0']) => {
            Err(ResctrlError::Name {
                name: name.to_owned(),
                why: "it cannot name a class",
            })
        }
        name => Ok(root.join(name)),
    }
}

fn lines(asked: &LinuxIntelRdt) -> Vec<String> {
    let single = [asked.l3_cache_schema(), asked.mem_bw_schema()];
    let single = single.into_iter().flatten().flat_map(|text| text.lines());
    let listed = asked.schemata().iter().flatten();
    let all = single.chain(listed.flat_map(|text| text.lines()));
    all.map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

fn monitored(asked: &LinuxIntelRdt) -> bool {
    [
        asked.enable_monitoring(),
        asked.enable_cmt(),
        asked.enable_mbm(),
    ]
    .contains(&&Some(true))
}

/// One class cannot be two: what a container asks for must be what it has.
fn compare(class: &Path, lines: &[String]) -> Result<(), ResctrlError> {
    let path = class.join("schemata");
    let known = fs::read_to_string(&path).map_err(|source| ResctrlError::Io { path, source })?;
    match lines
        .iter()
        .find(|line| !known.lines().any(|known| known.trim() == line.as_str()))
    {
        Some(line) => Err(ResctrlError::Other {
            name: class.display().to_string(),
            line: line.clone(),
        }),
        None => Ok(()),
    }
}

/// One write a line, which is how the kernel tells which of them it does not like.
fn write(path: &Path, lines: &[String]) -> Result<(), ResctrlError> {
    use io::Write;
    let failed = |source| ResctrlError::Io {
        path: path.to_owned(),
        source,
    };
    let mut options = fs::OpenOptions::new();
    let mut file = options.append(true).open(path).map_err(failed)?;
    for line in lines {
        file.write_all(format!("{line}\n").as_bytes())
            .map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with the files that the kernel would make.
    fn node() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().to_owned();
        group(&path, "L3:0=fff\n");
        (root, path)
    }

    fn group(path: &Path, schemata: &str) {
        fs::create_dir_all(path.join("mon_groups/c1")).unwrap();
        fs::write(path.join("mon_groups/c1/tasks"), "").unwrap();
        fs::write(path.join("schemata"), schemata).unwrap();
        fs::write(path.join("tasks"), "").unwrap();
    }

    fn asked(json: serde_json::Value) -> LinuxIntelRdt {
        serde_json::from_value(json).unwrap()
    }

    fn tasks(path: &Path) -> String {
        fs::read_to_string(path.join("tasks")).unwrap()
    }

    #[test]
    fn a_process_joins_the_class_that_is_named() {
        let (_kept, root) = node();
        group(&root.join("fast"), "L3:0=ff0\nMB:0=50\n");
        let fast = asked(serde_json::json!({"closID": "fast"}));
        join(&root, "c1", &fast, 7).unwrap();
        let same = asked(serde_json::json!({"closID": "fast", "schemata": ["L3:0=ff0"]}));
        join(&root, "c1", &same, 8).unwrap();
        assert_eq!(tasks(&root.join("fast")), "7\n8\n");
        let monitored = asked(serde_json::json!({"closID": "/", "enableMonitoring": true}));
        join(&root, "c1", &monitored, 9).unwrap();
        assert_eq!(tasks(&root), "9\n");
        assert_eq!(tasks(&root.join("mon_groups/c1")), "9\n");
        leave(&root, "c1", &fast).unwrap();
        assert!(root.join("fast").is_dir(), "it is the node's");
    }

    #[test]
    fn what_cannot_be_a_class_is_refused() {
        let (_kept, root) = node();
        group(&root.join("fast"), "L3:0=ff0\n");
        for (given, words) in [
            (serde_json::json!({"closID": "absent"}), "no such class"),
            (serde_json::json!({"closID": "../fast"}), "cannot name"),
            (serde_json::json!({"closID": "info"}), "cannot name"),
            (
                serde_json::json!({"closID": "fast", "l3CacheSchema": "L3:0=1"}),
                "L3:0=1",
            ),
        ] {
            let error = join(&root, "c1", &asked(given), 7).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(!root.join("absent").exists(), "nothing of it stays");
        let nowhere = root.join("not-mounted");
        let error = join(&nowhere, "c1", &asked(serde_json::json!({})), 7).unwrap_err();
        assert!(error.to_string().contains("no resctrl"), "{error}");
        leave(&nowhere, "c1", &asked(serde_json::json!({}))).unwrap();
    }
}
