//! An index tells every kind of damage, and nothing else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};

use super::*;

struct Layer {
    directory: tempfile::TempDir,
}

impl Layer {
    /// A layer with something of each kind, and its index.
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(more: impl FnOnce(&Self)) -> Self {
        let layer = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        for name in ["", "a", "a/deep", "empty", "opaque"] {
            fs::create_dir(layer.at(name)).unwrap();
        }
        fs::write(layer.at("a/file"), "contents").unwrap();
        fs::write(layer.at("a/large"), [7; 300_000]).unwrap();
        fs::hard_link(layer.at("a/file"), layer.at("a/deep/link")).unwrap();
        symlink("target", layer.at("a/symlink")).unwrap();
        let sparse = fs::File::create(layer.at("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", 1 << 30).unwrap();
        for (name, kind, device) in [
            ("null", FileType::CharacterDevice, makedev(1, 3)),
            ("disk", FileType::BlockDevice, makedev(7, 300)),
            ("a/whiteout", FileType::CharacterDevice, 0),
            ("pipe", FileType::Fifo, 0),
        ] {
            mknodat(
                CWD,
                layer.at(name),
                kind,
                Mode::from_raw_mode(0o600),
                device,
            )
            .unwrap();
        }
        set_attribute(&layer.at("opaque"), "trusted.overlay.opaque", b"y");
        set_attribute(&layer.at("a/large"), "user.note", b"a note");
        more(&layer);
        let (root, index) = (layer.at(""), layer.index());
        let usage = on_a_thread(move || write(&root, &index, &Sums::default())).unwrap();
        let index = fs::metadata(layer.index()).unwrap();
        let measured = snapshot::measure(&layer.at("")).unwrap();
        assert_eq!(usage.inodes, measured.inodes + 1);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&index) * 512;
        assert_eq!(usage.bytes, measured.bytes + blocks);
        layer
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join("layer").join(name)
    }

    fn index(&self) -> PathBuf {
        self.directory.path().join("index")
    }

    fn verify(&self) -> io::Result<Vec<(String, DamageKind)>> {
        let (root, index) = (self.at(""), self.index());
        on_a_thread(move || {
            let mut damages = Vec::new();
            verify(&root, &index, &mut |damage| {
                // A directory's time tells of what was done in it; that is another test's.
                if damage.kind != DamageKind::Time {
                    damages.push((damage.path, damage.kind));
                }
                true
            })
            .map(|()| damages)
        })
    }
}

fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// Working directories change there.
fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(work).join().unwrap()
}

#[test]
fn what_is_whole_has_no_damage() {
    assert_eq!(Layer::new().verify().unwrap(), []);
}

#[test]
fn every_kind_of_damage_is_told() {
    use DamageKind::{Attributes, Contents, Extra, Kind, Missing, Mode, Owner, Whiteout};
    type Deed = fn(&Layer);
    let cases: [(Deed, &str, DamageKind); 22] = [
        (
            |l| fs::remove_file(l.at("a/large")).unwrap(),
            "/a/large",
            Missing,
        ),
        (
            |l| fs::remove_dir_all(l.at("a/deep")).unwrap(),
            "/a/deep",
            Missing,
        ),
        (
            |l| fs::remove_dir(l.at("empty")).unwrap(),
            "/empty",
            Missing,
        ),
        (
            |l| fs::write(l.at("a/added"), "").unwrap(),
            "/a/added",
            Extra,
        ),
        (|l| fs::write(l.at("zzz"), "").unwrap(), "/zzz", Extra),
        (
            |l| fs::create_dir_all(l.at("empty/x/y")).unwrap(),
            "/empty/x",
            Extra,
        ),
        (|l| flip(&l.at("a/large"), 150_000), "/a/large", Contents),
        (
            |l| flip(&l.at("sparse"), (1 << 30) + 2),
            "/sparse",
            Contents,
        ),
        (|l| flip(&l.at("sparse"), 5 << 30), "/sparse", Contents),
        (|l| truncate(&l.at("a/large"), 0), "/a/large", Contents),
        (|l| truncate(&l.at("sparse"), 1 << 39), "/sparse", Contents),
        (
            |l| fs::hard_link(l.at("a/large"), l.at("empty/more")).unwrap(),
            "/empty/more",
            Extra,
        ),
        (
            |l| again(&l.at("a/symlink"), |path| symlink("other", path)),
            "/a/symlink",
            Contents,
        ),
        (
            |l| again(&l.at("null"), |path| node(path, 1, 5)),
            "/null",
            Contents,
        ),
        (
            |l| fs::set_permissions(l.at("a/large"), PermissionsExt::from_mode(0o4644)).unwrap(),
            "/a/large",
            Mode {
                expected: 0o644,
                found: 0o4644,
            },
        ),
        (
            |l| fs::set_permissions(l.at("empty"), PermissionsExt::from_mode(0o700)).unwrap(),
            "/empty",
            Mode {
                expected: 0o755,
                found: 0o700,
            },
        ),
        (
            |l| chown(l.at("a/large"), Some(5), Some(6)).unwrap(),
            "/a/large",
            Owner {
                expected: (0, 0),
                found: (5, 6),
            },
        ),
        (
            |l| set_attribute(&l.at("a/large"), "user.note", b"another"),
            "/a/large",
            Attributes,
        ),
        (
            |l| rustix::fs::removexattr(l.at("opaque"), "trusted.overlay.opaque").unwrap(),
            "/opaque",
            Attributes,
        ),
        (
            |l| again(&l.at("a/large"), |path| fs::create_dir(path)),
            "/a/large",
            Kind,
        ),
        (
            |l| fs::remove_file(l.at("a/whiteout")).unwrap(),
            "/a/whiteout",
            Whiteout,
        ),
        (
            |l| again(&l.at("a/whiteout"), |path| fs::write(path, "")),
            "/a/whiteout",
            Whiteout,
        ),
    ];
    // The umask of the tests is 022.
    for (number, (deed, path, kind)) in cases.into_iter().enumerate() {
        let layer = Layer::new();
        deed(&layer);
        let found = layer.verify().unwrap();
        assert!(
            found.contains(&(path.to_owned(), kind.clone())),
            "case {number}: {path} {kind:?} is not in {found:?}"
        );
        // The other name of a file that has lost one says so.
        let elsewhere =
            (found.iter()).find(|(other, kind)| other != path && *kind != DamageKind::Links);
        assert_eq!(elsewhere, None, "case {number}");
    }
}

fn again(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) {
    fs::remove_file(path).unwrap();
    make(path).unwrap();
}

fn node(path: &Path, major: u32, minor: u32) -> io::Result<()> {
    let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o600));
    Ok(mknodat(CWD, path, kind, mode, makedev(major, minor))?)
}

/// Without a trace in the times.
fn flip(path: &Path, offset: u64) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let times = file.metadata().unwrap().modified().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff], offset).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(times))
        .unwrap();
}

fn truncate(path: &Path, size: u64) {
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(size)
        .unwrap();
}

#[test]
fn times_count() {
    let layer = Layer::new();
    let file = fs::File::open(layer.at("a/large")).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH))
        .unwrap();
    let (root, index) = (layer.at(""), layer.index());
    let found = on_a_thread(move || {
        let mut found = Vec::new();
        verify(&root, &index, &mut |damage| {
            found.push(damage);
            true
        })
        .unwrap();
        found
    });
    let path = "/a/large".to_owned();
    let kind = DamageKind::Time;
    assert_eq!(found, [Damage { path, kind }]);
}

#[test]
fn a_damaged_index_is_no_index() {
    let layer = Layer::new();
    let whole = fs::read(layer.index()).unwrap();
    // Cut anywhere, or a byte changed anywhere.
    for position in (0..whole.len()).step_by(7) {
        let mut changed = whole.clone();
        changed[position] ^= 0x10;
        for index in [&whole[..position], &*changed] {
            fs::write(layer.index(), index).unwrap();
            let told = layer.verify();
            // What zstd does not mind, such as an unused bit of a header, changes nothing.
            assert!(
                told.is_err()
                    || told
                        .as_ref()
                        .is_ok_and(|damages| damages.is_empty() && index.len() == whole.len()),
                "{position}: {told:?}"
            );
        }
    }
    fs::remove_file(layer.index()).unwrap();
    let missing = layer.verify().unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    fs::write(layer.index(), &whole).unwrap();
    fs::remove_dir_all(layer.at("")).unwrap();
    assert_eq!(
        layer.verify().unwrap(),
        [("/".to_owned(), DamageKind::Missing)]
    );
}

#[test]
fn large_directories_cost_no_memory() {
    let layer = Layer::with(|layer| {
        for name in 0..20 {
            let path = layer.at(&format!("a/{name}"));
            fs::write(&path, "x").unwrap();
            // Of each inode the walk sees every link, and remembers none.
            for link in 0..name % 4 {
                fs::hard_link(&path, layer.at(&format!("opaque/{name}-{link}"))).unwrap();
            }
        }
    });
    assert_eq!(layer.verify().unwrap(), []);
    for missing in ["a/0", "a/12", "a/9"] {
        fs::remove_file(layer.at(missing)).unwrap();
    }
    for extra in ["a/!", "a/100", "a/zz", "a/~1", "a/~2", "a/~3", "a/~4"] {
        fs::write(layer.at(extra), "x").unwrap();
    }
    let told = layer.verify().unwrap();
    let of = |wanted: DamageKind| {
        let these = told.iter().filter(|(_, kind)| *kind == wanted);
        these.map(|(path, _)| &**path).collect::<Vec<_>>()
    };
    assert_eq!(of(DamageKind::Missing), ["/a/0", "/a/12", "/a/9"]);
    let extra = [
        "/a/!", "/a/100", "/a/zz", "/a/~1", "/a/~2", "/a/~3", "/a/~4",
    ];
    assert_eq!(of(DamageKind::Extra), extra);
}

#[test]
fn depth_costs_no_descriptors() {
    let top = tempfile::tempdir().unwrap();
    let mut path = top.path().join("layer");
    fs::create_dir(&path).unwrap();
    for _ in 0..100 {
        // More than are in memory at a time, before what the walk goes into and behind it.
        for beside in ["a", "b", "beside", "x", "y", "z"] {
            fs::write(path.join(beside), beside).unwrap();
        }
        path.push("deeper");
        fs::create_dir(&path).unwrap();
    }
    let (root, index) = (top.path().join("layer"), top.path().join("index"));
    on_a_thread(move || {
        write(&root, &index, &Sums::default()).unwrap();
        verify(&root, &index, &mut |damage| panic!("{damage:?}")).unwrap();
    });
}
