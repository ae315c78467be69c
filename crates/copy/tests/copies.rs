//! Trees that go through an archive, and archives that mean no good. As root: owners are set.

#![allow(clippy::unwrap_used, reason = "all of this crate is test code")]

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use copy::{Error, Source, Target, pack, unpack};
use rustix::fs::{CWD, FileType, Mode, OFlags};

fn root(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

fn packed(top: &Path, path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let contents = path.ends_with("/.");
    let source = Source {
        path: path.into(),
        follow: false,
        contents,
    };
    pack(root(top).as_fd(), &source, &mut bytes).unwrap();
    bytes
}

fn target(path: &str) -> Target {
    Target {
        path: path.into(),
        directory: false,
        contents: false,
        keep: false,
        owner: None,
    }
}

fn unpacked(top: &Path, target: &Target, archive: &[u8]) -> Result<Vec<String>, Error> {
    unpack(root(top).as_fd(), target, archive)
}

/// The members' names, and where links lead.
fn members(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        match entry.link_name().unwrap() {
            Some(link) => format!("{path} -> {}", link.display()),
            None => path,
        }
    });
    entries.collect()
}

fn sample(top: &Path) {
    fs::create_dir_all(top.join("tree/sub")).unwrap();
    fs::write(top.join("tree/file"), "file").unwrap();
    fs::write(top.join("tree/sub/deep"), "deep").unwrap();
    fs::hard_link(top.join("tree/file"), top.join("tree/same")).unwrap();
    symlink("/etc/shadow", top.join("tree/link")).unwrap();
    fs::set_permissions(top.join("tree/file"), fs::Permissions::from_mode(0o4755)).unwrap();
    rustix::fs::chownat(
        CWD,
        top.join("tree/sub/deep"),
        Some(rustix::fs::Uid::from_raw(1234)),
        Some(rustix::fs::Gid::from_raw(2_345_678)),
        rustix::fs::AtFlags::empty(),
    )
    .unwrap();
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let top = tempfile::tempdir().unwrap();
    sample(top.path());
    let archive = packed(top.path(), "/tree");
    assert_eq!(
        members(&archive),
        [
            "tree",
            "tree/file",
            "tree/link -> /etc/shadow",
            "tree/same -> tree/file",
            "tree/sub",
            "tree/sub/deep"
        ]
    );
    let keep = Target {
        keep: true,
        ..target("/kept")
    };
    assert!(unpacked(top.path(), &keep, &archive).unwrap().is_empty());
    let kept = top.path().join("kept");
    let file = kept.join("file").metadata().unwrap();
    assert_eq!((file.mode() & 0o7777, file.nlink()), (0o4755, 2));
    let deep = kept.join("sub/deep").metadata().unwrap();
    assert_eq!((deep.uid(), deep.gid()), (1234, 2_345_678));
    assert_eq!(
        fs::read_link(kept.join("link")).unwrap(),
        Path::new("/etc/shadow")
    );
    // Without being asked to keep them, set-id bits and owners go.
    unpacked(top.path(), &target("/plain"), &archive).unwrap();
    let plain = top.path().join("plain");
    assert_eq!(
        plain.join("file").metadata().unwrap().mode() & 0o7777,
        0o755
    );
    assert_eq!(plain.join("sub/deep").metadata().unwrap().uid(), 0);
}

#[test]
fn where_it_goes_depends_on_what_is_there() {
    let top = tempfile::tempdir().unwrap();
    sample(top.path());
    fs::create_dir(top.path().join("there")).unwrap();
    let (tree, file) = (
        packed(top.path(), "/tree"),
        packed(top.path(), "/tree/file"),
    );
    let exists = |path: &str| top.path().join(path).symlink_metadata().is_ok();
    let put = |target: &Target, archive: &[u8]| unpacked(top.path(), target, archive);

    put(&target("/there"), &tree).unwrap();
    assert!(exists("there/tree/sub/deep"));
    put(&target("/new"), &tree).unwrap();
    assert!(exists("new/sub/deep") && !exists("new/tree"));
    put(&target("/there/named"), &file).unwrap();
    assert!(exists("there/named"));
    // A file in its place goes, and so does a link that leads to none.
    symlink("/nowhere/at/all", top.path().join("there/dead")).unwrap();
    put(&target("/there/dead"), &file).unwrap();
    assert!(top.path().join("there/dead").is_file());
    let contents = Target {
        contents: true,
        ..target("/flat")
    };
    put(&contents, &packed(top.path(), "/tree/.")).unwrap();
    assert!(exists("flat/sub/deep") && exists("flat/file"));

    let refused = put(&target("/none/below"), &file).unwrap_err();
    assert_eq!(refused.path_kind(), Some(std::io::ErrorKind::NotFound));
    let refused = put(&target("/file-as-directory/"), &file).unwrap_err();
    assert!(matches!(refused, Error::NoDirectory(_)), "{refused}");
    let refused = put(&target("/there/named"), &tree).unwrap_err();
    assert!(matches!(refused, Error::NoDirectory(_)), "{refused}");
    fs::create_dir(top.path().join("there/file")).unwrap();
    let refused = put(&target("/there"), &file).unwrap_err();
    assert!(matches!(refused, Error::IsDirectory(_)), "{refused}");
    let must = Target {
        directory: true,
        ..target("/not-there")
    };
    assert!(put(&must, &file).is_err());
}

/// A member and what it is: `Some` is a link.
fn archive(members: &[(&str, Option<(tar::EntryType, &str)>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, link) in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        if let Some((kind, link)) = link {
            header.set_entry_type(*kind);
            header.set_link_name_literal(link).unwrap();
        }
        // Names that the builder would refuse.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, std::io::empty()).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn no_name_and_no_link_leads_out() {
    use tar::EntryType::{Block, Char, Link, Symlink};
    let outside = tempfile::tempdir().unwrap();
    let top = outside.path().join("root");
    fs::create_dir_all(top.join("in")).unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let out = outside.path().display().to_string();
    for name in ["../escaped", "in/../../escaped", "/escaped"] {
        let refused = unpacked(&top, &target("/in"), &archive(&[(name, None)]));
        assert!(
            matches!(refused, Err(Error::Member(_))),
            "{name}: {refused:?}"
        );
    }
    // A link of the archive, and then a file through it: inside of the root, or nowhere.
    for link in ["../..", &*out, "../../../../../../.."] {
        let members = [("l", Some((Symlink, link))), ("l/escaped", None)];
        let _inside_or_refused = unpacked(&top, &target("/in"), &archive(&members));
        fs::remove_file(top.join("in/l")).unwrap();
    }
    let members = [("h", Some((Link, "../../secret")))];
    assert!(unpacked(&top, &target("/in"), &archive(&members)).is_err());
    let members = [("h", Some((Link, "l"))), ("l", Some((Symlink, "/secret")))];
    assert!(unpacked(&top, &target("/in"), &archive(&members)).is_err());
    assert!(!outside.path().join("escaped").exists());
    assert_eq!(outside.path().join("secret").metadata().unwrap().nlink(), 1);
    // What is there already leads nowhere else either.
    symlink("../../..", top.join("up")).unwrap();
    symlink(&out, top.join("absolute")).unwrap();
    unpacked(&top, &target("/up"), &archive(&[("up-file", None)])).unwrap();
    assert!(top.join("up-file").exists());
    assert!(unpacked(&top, &target("/absolute/x"), &archive(&[("f", None)])).is_err());
    assert!(!outside.path().join("x").exists());
    let source = |path: &str| Source {
        path: path.into(),
        follow: true,
        contents: false,
    };
    for path in [
        "/absolute/secret",
        "/up/secret",
        "/../secret",
        "/in/../../secret",
    ] {
        let read = pack(root(&top).as_fd(), &source(path), std::io::sink());
        assert!(read.is_err(), "{path}");
    }
    // A device of somebody else's making is none of ours.
    let members = [
        ("c", Some((Char, ""))),
        ("b", Some((Block, ""))),
        ("f", None),
    ];
    let left_out = unpacked(&top, &target("/in"), &archive(&members)).unwrap();
    assert_eq!(left_out.len(), 2);
    assert!(!top.join("in/c").exists() && top.join("in/f").exists());
}

#[test]
fn what_is_no_archive_is_said_to_be_none() {
    let top = tempfile::tempdir().unwrap();
    sample(top.path());
    let whole = packed(top.path(), "/tree");
    for bad in [&b"no archive at all"[..], &[1; 2048], &whole[..700]] {
        let refused = unpacked(top.path(), &target("/"), bad);
        assert!(refused.is_err(), "{} bytes", bad.len());
    }
    let two = archive(&[("a", None), ("b", None)]);
    let refused = unpacked(top.path(), &target("/one"), &two);
    assert!(matches!(refused, Err(Error::SeveralTops)), "{refused:?}");
    assert!(unpacked(top.path(), &target("/"), &[]).unwrap().is_empty());
}

#[test]
fn what_is_no_file_is_copied_without_waiting_for_it() {
    let top = tempfile::tempdir().unwrap();
    fs::create_dir(top.path().join("odd")).unwrap();
    let node = |name: &str, kind| {
        let path = top.path().join("odd").join(name);
        rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o600), 0x103).unwrap();
    };
    node("pipe", FileType::Fifo);
    node("null", FileType::CharacterDevice);
    let _socket = std::os::unix::net::UnixListener::bind(top.path().join("odd/socket")).unwrap();
    let mut bytes = Vec::new();
    let source = Source {
        path: "/odd".into(),
        follow: false,
        contents: false,
    };
    let left_out = pack(root(top.path()).as_fd(), &source, &mut bytes).unwrap();
    assert_eq!(left_out, ["odd/socket: it is a socket"]);
    assert_eq!(members(&bytes), ["odd", "odd/null", "odd/pipe"]);
    // A file that does not know its size.
    let mut bytes = Vec::new();
    let source = Source {
        path: "/proc/version".into(),
        follow: false,
        contents: false,
    };
    pack(root(Path::new("/")).as_fd(), &source, &mut bytes).unwrap();
    unpacked(top.path(), &target("/version"), &bytes).unwrap();
    let version = fs::read_to_string("/proc/version").unwrap();
    assert_eq!(
        fs::read_to_string(top.path().join("version")).unwrap(),
        version
    );
    // Its links lead anywhere.
    let source = Source {
        path: "/proc/self/root/etc".into(),
        follow: true,
        contents: false,
    };
    let refused = pack(root(Path::new("/")).as_fd(), &source, std::io::sink());
    assert!(refused.is_err(), "{refused:?}");
}
