use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use supervisor_api::{DEEPEST_NODE, DeviceNode, MOST_NODES, NoNodes, PathAnswer};

/// Other file systems' mount points in `/dev`, which hold no devices of the node.
const NOT_DEVICES: [&str; 6] = ["pts", "shm", "mqueue", "fd", "hugepages", ".udev"];

pub(super) fn find(paths: &[PathBuf]) -> PathAnswer {
    let mut found = Vec::with_capacity(paths.len());
    for path in paths {
        match at(path) {
            Ok(nodes) => found.push(nodes),
            Err((path, why)) => return PathAnswer::NoNodes { path, why },
        }
    }
    PathAnswer::Nodes(found)
}

type Refusal = (PathBuf, NoNodes);

fn at(path: &Path) -> Result<Vec<DeviceNode>, Refusal> {
    // A link to a node stands for the node.
    let metadata = fs::metadata(path).map_err(failed(path))?;
    let mut found = Vec::new();
    if metadata.is_dir() {
        walk(path, "", 0, &mut found)?;
    } else {
        let node = node(&metadata, String::new());
        found.push(node.ok_or_else(|| (path.to_owned(), NoNodes::NotADevice))?);
    }
    Ok(found)
}

fn walk(
    path: &Path,
    below: &str,
    depth: usize,
    found: &mut Vec<DeviceNode>,
) -> Result<(), Refusal> {
    if depth > DEEPEST_NODE {
        return Err((path.to_owned(), NoNodes::TooDeep));
    }
    let entries = fs::read_dir(path).map_err(failed(path))?;
    let mut entries = entries
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed(path))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if NOT_DEVICES.contains(&name) {
            continue;
        }
        // Links are skipped: what they point to is found by itself.
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Devices come and go.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&entry.path())(error)),
        };
        let below = format!("{below}/{name}");
        if metadata.is_dir() {
            walk(&entry.path(), &below, depth + 1, found)?;
        } else {
            found.extend(node(&metadata, below));
        }
        if found.len() > MOST_NODES {
            return Err((path.to_owned(), NoNodes::TooMany));
        }
    }
    Ok(())
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Refusal {
    let path = path.to_owned();
    |error| (path, NoNodes::Failed(super::errno(error).raw_os_error()))
}

fn node(metadata: &fs::Metadata, below: String) -> Option<DeviceNode> {
    let file_type = metadata.file_type();
    let block = file_type.is_block_device();
    (block || file_type.is_char_device()).then(|| DeviceNode {
        below,
        block,
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

    use super::*;

    fn make(path: &Path, kind: FileType, major: u32, minor: u32) {
        let mode = Mode::from_raw_mode(0o640);
        mknodat(CWD, path, kind, mode, makedev(major, minor)).unwrap();
    }

    #[test]
    fn a_node_a_link_to_it_and_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("sub/pts")).unwrap();
        make(&root.join("b"), FileType::BlockDevice, 7, 300);
        make(&root.join("sub/a"), FileType::CharacterDevice, 1, 3);
        // None of these is a device.
        make(&root.join("sub/pts/0"), FileType::CharacterDevice, 136, 0);
        make(&root.join("pipe"), FileType::Fifo, 0, 0);
        fs::write(root.join("file"), "").unwrap();
        symlink(root.join("b"), root.join("link")).unwrap();

        let PathAnswer::Nodes(found) = find(&[root.join("link"), root.to_owned()]) else {
            panic!("refused");
        };
        let shown = |nodes: &[DeviceNode]| -> Vec<_> {
            let shown = |n: &DeviceNode| (n.below.clone(), n.block, n.major, n.minor, n.mode);
            nodes.iter().map(shown).collect()
        };
        assert_eq!(shown(&found[0]), [(String::new(), true, 7, 300, 0o640)]);
        assert_eq!(
            shown(&found[1]),
            [
                ("/b".to_owned(), true, 7, 300, 0o640),
                ("/sub/a".to_owned(), false, 1, 3, 0o640),
            ]
        );
    }

    #[test]
    fn what_is_no_device() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let missing = directory.path().join("missing");
        let not_found = NoNodes::Failed(rustix::io::Errno::NOENT.raw_os_error());
        for (path, why) in [(file, NoNodes::NotADevice), (missing, not_found)] {
            let answer = find(std::slice::from_ref(&path));
            assert_eq!(answer, PathAnswer::NoNodes { path, why });
        }
        let mut deep = directory.path().to_owned();
        (0..12).for_each(|_| deep.push("d"));
        fs::create_dir_all(&deep).unwrap();
        let answer = find(&[directory.path().to_owned()]);
        assert!(matches!(
            answer,
            PathAnswer::NoNodes {
                why: NoNodes::TooDeep,
                ..
            }
        ));
    }
}
