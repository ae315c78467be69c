//! Archives become trees, and hostile ones become errors; every case looks at the file system afterwards.

mod pipeline;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use snapshot::{LayerKey, Overlay};
use testkit::image::Layer;

use super::archive::Archive;
use super::extract::{ExtractError, Extractor};
use super::place::Below;
use super::{Expected, Ingest, LayerError, Unpacked, unpack};
use crate::Digest;
use crate::failpoint::Failpoints;

/// An outer directory that must not change, with the layer's root in it.
struct Target {
    outer: tempfile::TempDir,
}

impl Target {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        fs::create_dir(outer.path().join("root")).unwrap();
        fs::write(outer.path().join("outside"), "untouched").unwrap();
        Self { outer }
    }

    fn root(&self) -> PathBuf {
        self.outer.path().join("root")
    }

    fn outside(&self) -> PathBuf {
        self.outer.path().join("outside")
    }

    fn extract(&self, archive: &[u8], below: Below) -> Result<bool, ExtractError> {
        let result = extract_into(&self.root(), archive, below, 1 << 30);
        let mut names: Vec<_> = fs::read_dir(self.outer.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["outside", "root"], "something got out");
        assert_eq!(fs::read_to_string(self.outside()).unwrap(), "untouched");
        assert_eq!(fs::metadata(self.outside()).unwrap().nlink(), 1);
        result
    }

    fn extract_whole(&self, layer: &Layer) {
        self.extract(&layer.tar(), Below::Nothing).unwrap();
    }

    fn stat(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.root().join(path)).unwrap()
    }
}

fn extract_into(
    root: &Path,
    archive: &[u8],
    below: Below,
    limit: u64,
) -> Result<bool, ExtractError> {
    let root = OwnedFd::from(fs::File::open(root).unwrap());
    let mut archive = Archive::new(archive);
    let extracted = Extractor::new(root, below, limit, false).run(&mut archive)?;
    Ok(extracted.depends)
}

/// The archive that GNU tar makes of a directory.
fn gnu_tar(directory: &Path, options: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args(options)
        .arg("--numeric-owner")
        .args(["-C", directory.to_str().unwrap(), "-cf", "-", "."])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// One entry with pax records before it.
fn with_pax(records: &[(&str, &[u8])], header: &mut tar::Header, contents: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_pax_extensions(records.iter().copied())
        .unwrap();
    header.set_size(contents.len() as u64);
    header.set_cksum();
    archive.append(header, contents).unwrap();
    archive.into_inner().unwrap()
}

fn header(kind: tar::EntryType, name: &str) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_path(name).unwrap();
    header.set_mode(0o644);
    header.set_mtime(1_000_000_000);
    header
}

#[test]
fn everything_that_tar_keeps_is_kept() {
    let source = tempfile::tempdir().unwrap();
    let at = |name: &str| source.path().join(name);
    let long = "n".repeat(200);
    fs::create_dir_all(at("dir/sub")).unwrap();
    fs::write(at("dir/file"), "contents").unwrap();
    fs::write(at("dir/setuid"), "x").unwrap();
    fs::write(at("dir").join(&long), "long").unwrap();
    fs::hard_link(at("dir/file"), at("dir/sub/link")).unwrap();
    symlink("l".repeat(150), at("dir/dangling")).unwrap();
    std::os::unix::fs::chown(at("dir/file"), Some(123), Some(456)).unwrap();
    std::os::unix::fs::chown(at("dir/setuid"), Some(7), Some(3_000_000)).unwrap();
    fs::set_permissions(at("dir/setuid"), PermissionsExt::from_mode(0o6751)).unwrap();
    fs::set_permissions(at("dir/sub"), PermissionsExt::from_mode(0o1777)).unwrap();
    let node = |name: &str, kind, device| {
        let mode = rustix::fs::Mode::from_raw_mode(0o620);
        rustix::fs::mknodat(rustix::fs::CWD, at(name), kind, mode, device).unwrap();
    };
    node("dir/pipe", rustix::fs::FileType::Fifo, 0);
    node(
        "dir/null",
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::makedev(1, 3),
    );
    node(
        "dir/disk",
        rustix::fs::FileType::BlockDevice,
        rustix::fs::makedev(7, 300),
    );
    let set = |name: &str, attribute: &str, value: &[u8]| {
        rustix::fs::lsetxattr(at(name), attribute, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    // Revision 2, CAP_DAC_OVERRIDE and CAP_FOWNER: a line feed in a pax record.
    let capability = [
        1, 0, 0, 2, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    set("dir/file", "security.capability", &capability);
    set("dir/sub", "user.note", b"a\nb=c");
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567, 890);
    for name in ["dir/file", "dir/sub", "dir", "."] {
        let file = fs::File::open(at(name)).unwrap();
        file.set_times(fs::FileTimes::new().set_modified(old))
            .unwrap();
    }

    for options in [
        &["--format=posix", "--xattrs", "--xattrs-include=*"][..],
        &["--format=gnu"],
        &["--format=oldgnu"],
    ] {
        let target = Target::new();
        let depends = target
            .extract(&gnu_tar(source.path(), options), Below::Unknown)
            .unwrap();
        assert!(!depends);
        assert_eq!(
            fs::read(target.root().join("dir/file")).unwrap(),
            b"contents"
        );
        assert_eq!(
            fs::read(target.root().join("dir").join(&long)).unwrap(),
            b"long"
        );
        let posix = options[0] == "--format=posix";
        for name in [
            "dir/file",
            "dir/setuid",
            "dir/sub",
            "dir/pipe",
            "dir/null",
            "dir/disk",
            "dir",
            ".",
            "dir/dangling",
        ] {
            let (made, original) = (target.stat(name), fs::symlink_metadata(at(name)).unwrap());
            let facts = |stat: &fs::Metadata| {
                (
                    stat.mode(),
                    stat.uid(),
                    stat.gid(),
                    stat.rdev(),
                    stat.mtime(),
                )
            };
            assert_eq!(facts(&made), facts(&original), "{name} {options:?}");
            if posix {
                assert_eq!(made.mtime_nsec(), original.mtime_nsec(), "{name}");
            }
        }
        assert_eq!(
            target.stat("dir/file").ino(),
            target.stat("dir/sub/link").ino()
        );
        let target_of = fs::read_link(target.root().join("dir/dangling")).unwrap();
        assert_eq!(target_of.as_os_str().len(), 150);
        if posix {
            let mut value = [0_u8; 64];
            let at = target.root();
            let length =
                rustix::fs::lgetxattr(at.join("dir/file"), "security.capability", &mut value)
                    .unwrap();
            assert_eq!(value[..length], capability);
            let length =
                rustix::fs::lgetxattr(at.join("dir/sub"), "user.note", &mut value).unwrap();
            assert_eq!(&value[..length], b"a\nb=c");
        }
    }
}

#[test]
fn holes_stay_holes() {
    let source = tempfile::tempdir().unwrap();
    let file = fs::File::create(source.path().join("sparse")).unwrap();
    use std::os::unix::fs::FileExt;
    for index in 0..30 {
        file.write_all_at(format!("data {index}").as_bytes(), index * (4 << 20))
            .unwrap();
    }
    file.set_len(200 << 20).unwrap();
    for options in [
        &["--format=oldgnu", "-S"][..],
        &["--format=posix", "-S", "--sparse-version=0.0"],
        &["--format=posix", "-S", "--sparse-version=0.1"],
        &["--format=posix", "-S", "--sparse-version=1.0"],
    ] {
        let archive = gnu_tar(source.path(), options);
        assert!(archive.len() < 1 << 20);
        let target = Target::new();
        target.extract(&archive, Below::Unknown).unwrap();
        let made = fs::File::open(target.root().join("sparse")).unwrap();
        assert_eq!(made.metadata().unwrap().len(), 200 << 20, "{options:?}");
        assert!(made.metadata().unwrap().blocks() < 2048);
        let mut piece = [0; 7];
        made.read_exact_at(&mut piece, 29 * (4 << 20)).unwrap();
        assert_eq!(&piece, b"data 29");
        let small = extract_into(&target.root(), &archive, Below::Unknown, 100 << 20);
        assert!(
            matches!(small, Err(ExtractError::Layer(LayerError::TooLarge { .. }))),
            "{options:?}"
        );
    }
}

#[test]
fn no_name_leads_out() {
    for name in [
        "../escape",
        "a/../../escape",
        "/../escape",
        "./../root/../escape",
    ] {
        let layer = Layer::new().file(name, 0o644, "x");
        let result = Target::new().extract(&layer.tar(), Below::Nothing);
        let refused = matches!(result, Err(ExtractError::Layer(LayerError::Entry { .. })));
        assert!(refused, "{name}");
    }
    let target = Target::new();
    target.extract_whole(
        &Layer::new()
            .file("/etc/absolute", 0o644, "x")
            .file("a/.././b", 0o644, "y"),
    );
    assert_eq!(fs::read(target.root().join("etc/absolute")).unwrap(), b"x");
    assert_eq!(fs::read(target.root().join("b")).unwrap(), b"y");
}

#[test]
fn no_link_leads_out() {
    let target = Target::new();
    let outer = target.outer.path().to_str().unwrap().to_owned();
    target.extract_whole(
        &Layer::new()
            .symlink("absolute", &outer)
            .file("absolute/inside", 0o644, "1")
            .symlink("up", "../../../../../../../..")
            .file("up/at-root", 0o644, "2")
            .symlink("chain", "./up/../absolute")
            .file("chain/too", 0o644, "3")
            // The link's own target is not written through.
            .symlink("victim", &format!("{outer}/outside"))
            .file("victim", 0o600, "4")
            // A directory that becomes a link.
            .directory("swapped", 0o755)
            .file("swapped/before", 0o644, "5")
            .symlink("swapped", &outer)
            .file("swapped/after", 0o644, "6"),
    );
    let inside = format!("{}{outer}", target.root().display());
    for (name, contents) in [("inside", "1"), ("too", "3"), ("after", "6")] {
        assert_eq!(
            fs::read_to_string(Path::new(&inside).join(name)).unwrap(),
            contents
        );
    }
    assert_eq!(
        fs::read_to_string(target.root().join("at-root")).unwrap(),
        "2"
    );
    assert!(target.stat("victim").is_file() && target.stat("swapped").is_symlink());
}

#[test]
fn no_hard_link_leads_out() {
    for link in ["../outside", "/outside", "up/outside", "missing", "dir", ""] {
        let layer = Layer::new()
            .directory("dir", 0o755)
            .symlink("up", "..")
            .hard_link("stolen", link);
        let result = Target::new().extract(&layer.tar(), Below::Nothing);
        assert!(
            matches!(result, Err(ExtractError::Layer(LayerError::Entry { .. }))),
            "{link}"
        );
    }
    let target = Target::new();
    target.extract_whole(
        &Layer::new()
            .file("file", 0o644, "x")
            .symlink("link", "/")
            .hard_link("one", "/file")
            .hard_link("two", "./link/file")
            .hard_link("file", "two"),
    );
    assert_eq!(target.stat("file").nlink(), 3);
}

#[test]
fn links_in_circles_end() {
    let layer = Layer::new()
        .symlink("a", "b")
        .symlink("b", "a")
        .file("a/file", 0o644, "x");
    let result = Target::new().extract(&layer.tar(), Below::Nothing);
    assert!(matches!(
        result,
        Err(ExtractError::Layer(LayerError::Entry { .. }))
    ));
    let layer = Layer::new()
        .file("file", 0o644, "x")
        .file("file/below", 0o644, "y");
    let result = Target::new().extract(&layer.tar(), Below::Nothing);
    assert!(matches!(
        result,
        Err(ExtractError::Layer(LayerError::Entry { .. }))
    ));
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    let target = Target::new();
    target.extract_whole(
        &Layer::new()
            .file("a", 0o644, "old")
            .file("a", 0o755, "new")
            .directory("b", 0o755)
            .file("b/c", 0o644, "x")
            .file("b", 0o600, "now a file")
            .file("d", 0o644, "x")
            .directory("d", 0o700)
            .file("d/e", 0o644, "kept")
            .directory("d", 0o711)
            .fifo("f", 0o644)
            .fifo("f", 0o600)
            .symlink("g", "a")
            .symlink("g", "b"),
    );
    assert_eq!(fs::read_to_string(target.root().join("a")).unwrap(), "new");
    assert_eq!(target.stat("a").mode() & 0o7777, 0o755);
    assert_eq!(
        fs::read_to_string(target.root().join("b")).unwrap(),
        "now a file"
    );
    assert_eq!(
        fs::read_to_string(target.root().join("d/e")).unwrap(),
        "kept"
    );
    assert_eq!(target.stat("d").mode() & 0o7777, 0o711);
    assert!(target.stat("f").file_type().is_fifo());
    assert_eq!(
        fs::read_link(target.root().join("g")).unwrap(),
        Path::new("b")
    );
}

#[test]
fn overlayfs_sees_deletions() {
    let root = tempfile::tempdir().unwrap();
    let overlay = Overlay::open(root.path()).unwrap();
    let mut keys = Vec::new();
    let base = Layer::new()
        .directory("a", 0o755)
        .file("a/gone", 0o644, "")
        .file("a/stays", 0o644, "")
        .directory("b", 0o755)
        .file("b/hidden", 0o644, "")
        .directory("c", 0o755)
        .file("c/hidden", 0o644, "")
        .directory("d", 0o755)
        .file("d/hidden", 0o644, "")
        .file("e", 0o644, "old");
    let upper = Layer::new()
        .directory("a", 0o755)
        .whiteout("a/gone")
        .whiteout("a/never-there")
        // Opaque, said after what is beside it.
        .directory("b", 0o755)
        .file("b/new", 0o644, "")
        .opaque("b")
        // A whiteout and what replaces it, in both orders.
        .whiteout("c")
        .directory("c", 0o755)
        .file("c/new", 0o644, "")
        .directory("d", 0o755)
        .file("d/new", 0o644, "")
        .whiteout("d")
        .whiteout("e")
        .file("e", 0o644, "new")
        .file(".wh..wh.plnk", 0o644, "");
    for (layer, digit) in [(base, "a"), (upper, "b")] {
        let key = LayerKey::of_diff_id(&digit.repeat(64)).unwrap();
        fs::create_dir(overlay.layer_dir(&key)).unwrap();
        extract_into(
            &overlay.layer_dir(&key),
            &layer.tar(),
            Below::Unknown,
            1 << 30,
        )
        .unwrap();
        keys.push(key);
    }
    let view = overlay.view(&keys).unwrap();
    let list = |name: &str| {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        let directory = rustix::fs::openat(&view, name, flags, rustix::fs::Mode::empty()).unwrap();
        let mut names: Vec<String> = (rustix::fs::Dir::new(directory).unwrap())
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
            .filter(|name| name != "." && name != "..")
            .collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(list("."), "a b c d e");
    assert_eq!(list("a"), "stays");
    for name in ["b", "c", "d"] {
        assert_eq!(list(name), "new", "{name}");
    }
    let whiteout = fs::symlink_metadata(overlay.layer_dir(&keys[1]).join("a/gone")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
}

#[test]
fn a_whiteout_of_nothing_is_refused() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.."] {
        let layer = Layer::new().directory("a", 0o755).file(name, 0o644, "");
        let result = Target::new().extract(&layer.tar(), Below::Nothing);
        assert!(
            matches!(result, Err(ExtractError::Layer(LayerError::Entry { .. }))),
            "{name}"
        );
    }
}

#[test]
fn an_image_cannot_speak_for_overlayfs() {
    let target = Target::new();
    target.extract_whole(
        &Layer::new()
            .directory("a", 0o755)
            .xattr("trusted.overlay.redirect", "/b")
            .xattr("trusted.overlay.opaque", "y")
            .xattr("user.overlay.opaque", "y")
            .xattr("trusted.longshore.implied", "y")
            .xattr("security.selinux", "label")
            .xattr("trusted.kept", "1"),
    );
    let mut names = [0_u8; 1024];
    let length = rustix::fs::llistxattr(target.root().join("a"), &mut names).unwrap();
    assert_eq!(&names[..length], b"trusted.kept\0");
}

#[test]
fn what_depends_on_the_layers_below_says_so() {
    let depends = |layer: Layer| {
        let target = Target::new();
        matches!(
            target.extract(&layer.tar(), Below::Unknown),
            Err(ExtractError::NeedsBelow)
        )
    };
    assert!(depends(Layer::new().file("a/b", 0o644, "")));
    assert!(depends(Layer::new().whiteout("a/b")));
    assert!(depends(Layer::new().opaque("a")));
    assert!(depends(Layer::new().hard_link("a", "b")));
    assert!(depends(
        Layer::new().symlink("l", "usr/lib").file("l/x", 0o644, "")
    ));
    assert!(!depends(Layer::new().file("a", 0o644, "").whiteout("b")));
    // Nothing below shows through what is opaque or replaces a deletion.
    assert!(!depends(
        Layer::new()
            .directory("a", 0o755)
            .opaque("a")
            .file("a/b/c", 0o644, "")
    ));
    assert!(!depends(
        Layer::new().whiteout("a").file("a/b/c", 0o644, "")
    ));

    let target = Target::new();
    let implied = Layer::new().file("a/b/c", 0o644, "");
    assert!(target.extract(&implied.tar(), Below::Nothing).unwrap());
    assert_eq!(target.stat("a/b").mode() & 0o7777, 0o755);
}

#[test]
fn deep_trees_and_long_names() {
    // Deeper than a path can be long.
    let deep: String = format!("{}/", "d".repeat(60)).repeat(150);
    let mut archive = with_pax(
        &[("path", format!("{deep}file").as_bytes())],
        &mut header(tar::EntryType::Regular, "short"),
        b"deep",
    );
    let target = Target::new();
    target.extract(&archive, Below::Nothing).unwrap();
    assert_eq!(snapshot::measure(&target.root()).unwrap().inodes, 152);

    let too_deep: String = "d/".repeat(20_000);
    archive = with_pax(
        &[("path", too_deep.as_bytes())],
        &mut header(tar::EntryType::Directory, "s"),
        b"",
    );
    assert!(Target::new().extract(&archive, Below::Nothing).is_err());
    let too_long = "n".repeat(300);
    archive = with_pax(
        &[("path", too_long.as_bytes())],
        &mut header(tar::EntryType::Regular, "s"),
        b"",
    );
    match Target::new().extract(&archive, Below::Nothing) {
        Err(ExtractError::Layer(error)) => assert_eq!(error.kind(), crate::PullErrorKind::DataLoss),
        other => panic!("{other:?}"),
    }
}

#[test]
fn damaged_archives_are_refused() {
    let good = Layer::new()
        .directory("a", 0o755)
        .file("a/b", 0o644, [7; 2000])
        .tar();
    let refused = |archive: &[u8]| {
        let result = Target::new().extract(archive, Below::Nothing);
        matches!(result, Err(ExtractError::Layer(LayerError::Archive(_))))
    };
    assert!(!refused(&good));
    // Cut anywhere but between entries.
    for end in [100, 600, 1100, 1600, 2600] {
        assert!(refused(&good[..end]), "cut at {end}");
    }
    let mut changed = good.clone();
    changed[3] ^= 1;
    assert!(refused(&changed), "checksum");
    let mut more = good.clone();
    let end = more.len() - 1024;
    more.splice(end + 512.., good.clone());
    assert!(refused(&more), "entries after the end");

    // Headers that would fill the memory.
    let mut long = tar::Header::new_gnu();
    long.set_entry_type(tar::EntryType::GNULongName);
    long.set_path("././@LongLink").unwrap();
    for size in [2 << 20, 8 << 30, u64::MAX >> 2] {
        long.set_size(size);
        long.set_cksum();
        let mut archive = long.as_bytes().to_vec();
        archive.resize(4 << 20, b'n');
        assert!(refused(&archive), "{size}");
    }
    let mut many = Vec::new();
    long.set_size(1);
    long.set_cksum();
    for _ in 0..4000 {
        many.extend_from_slice(long.as_bytes());
        many.extend_from_slice(&[b'n'; 512]);
    }
    assert!(refused(&many), "many extended headers");
    for record in [
        ("size", "-1"),
        ("size", "99999999999999999999"),
        ("uid", "4294967296"),
        ("mtime", "x"),
    ] {
        let archive = with_pax(
            &[(record.0, record.1.as_bytes())],
            &mut header(tar::EntryType::Regular, "f"),
            b"",
        );
        assert!(refused(&archive), "{record:?}");
    }
}

#[test]
fn no_change_of_a_byte_gets_out() {
    let good = Layer::new()
        .directory("a", 0o755)
        .symlink("a/l", "..")
        .file("a/l/x", 0o644, "1")
        .hard_link("h", "a/l/x")
        .whiteout("a/w")
        .file("long".repeat(40).as_str(), 0o644, "2")
        .tar();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for _ in 0..300 {
        let mut changed = good.clone();
        for _ in 0..1 + next() % 4 {
            let block = (next() as usize % (changed.len() / 512)) * 512;
            let position = block + next() as usize % 512;
            changed[position] = [b'/', b'.', 0, b'0', b'1', b'2', 0xff, b'x'][next() as usize % 8];
            // Most changes are of headers; give them their checksum.
            let sum: u32 = (changed[block..block + 512].iter().enumerate())
                .map(|(i, &byte)| {
                    if (148..156).contains(&i) {
                        32
                    } else {
                        u32::from(byte)
                    }
                })
                .sum();
            changed[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let below = if next() % 2 == 0 {
            Below::Nothing
        } else {
            Below::Unknown
        };
        let _ = Target::new().extract(&changed, below);
    }
}
