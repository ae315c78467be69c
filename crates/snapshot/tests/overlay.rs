//! Real overlays, mounted both ways.
#![allow(clippy::unwrap_used)] // Helpers are no tests to clippy.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use longshore_snapshot::{
    ContainerError, IMPLIED_ROOT_XATTR, LayerKey, MountMethod, Overlay, Usage, UserMapping,
};
use rustix::fs::{AtFlags, Mode, OFlags, openat};
use rustix::io::Errno;

/// Those that this kernel must have: `lowerdir+` came with 6.8, and before it the other is all there is.
fn methods() -> Vec<MountMethod> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap());
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    match version >= (6, 8) {
        true => vec![MountMethod::Fsconfig, MountMethod::PrivateNamespace],
        false => vec![MountMethod::PrivateNamespace],
    }
}

#[test]
fn the_best_method_of_this_kernel_is_found() {
    let root = tempfile::tempdir().unwrap();
    let overlay = Overlay::open(root.path()).unwrap();
    assert_eq!(overlay.method(), methods()[0]);
}

fn key(number: usize) -> LayerKey {
    LayerKey::of_diff_id(&format!("{number:064x}")).unwrap()
}

fn layer(overlay: &Overlay, number: usize, files: &[(&str, &str)]) -> LayerKey {
    let key = key(number);
    let root = overlay.layer_dir(&key);
    fs::create_dir(&root).unwrap();
    for (name, contents) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
    key
}

fn read(mount: &OwnedFd, name: &str) -> Option<String> {
    match openat(mount, name, OFlags::RDONLY, Mode::empty()) {
        Ok(file) => Some(std::io::read_to_string(fs::File::from(file)).unwrap()),
        Err(Errno::NOENT) => None,
        Err(errno) => panic!("{name}: {errno}"),
    }
}

fn write(mount: &OwnedFd, name: &str, contents: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let file = openat(mount, name, flags, Mode::from_raw_mode(0o644))?;
    rustix::io::write(&file, contents.as_bytes()).map(drop)
}

fn until_empty(directory: &Path) {
    for _ in 0..2000 {
        if fs::read_dir(directory).unwrap().count() == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("{} is never empty", directory.display());
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

#[test]
fn a_container_writes_to_its_own_layer_only() {
    for method in methods() {
        let root = tempfile::tempdir().unwrap();
        let overlay = Overlay::open_with(root.path(), method).unwrap();
        let layers = [
            layer(&overlay, 1, &[("a", "1"), ("both", "lower")]),
            layer(&overlay, 2, &[("b", "2"), ("both", "upper")]),
        ];
        overlay.create("c1", &layers, None).unwrap();
        overlay.create("c1", &layers, None).unwrap();
        let mount = overlay.mount("c1", &layers, None, None).unwrap();
        assert!(
            !mounts().contains(root.path().to_str().unwrap()),
            "{method:?}"
        );
        assert_eq!(read(&mount, "a").unwrap(), "1");
        assert_eq!(read(&mount, "both").unwrap(), "upper");
        write(&mount, "a", "changed").unwrap();
        rustix::fs::unlinkat(&mount, "b", AtFlags::empty()).unwrap();
        assert_eq!(read(&mount, "b"), None);
        let usage = overlay.usage("c1").unwrap();
        // A file system that counts by itself has what overlayfs keeps beside the layer, too.
        match overlay.limits() {
            Err(_no_projects) => assert_eq!(usage.inodes, 3),
            Ok(()) => assert!((4..16).contains(&usage.inodes), "{usage:?}"),
        }
        assert!(usage.bytes > 0);
        drop(mount);

        // What was written is there when it is mounted again, and the layers are as they were.
        let mount = overlay.mount("c1", &layers, None, None).unwrap();
        assert_eq!(read(&mount, "a").unwrap(), "changed");
        let view = overlay.view(&layers).unwrap();
        assert_eq!(read(&view, "a").unwrap(), "1");
        assert_eq!(write(&view, "x", "x"), Err(Errno::ROFS));
        assert_eq!(overlay.containers().unwrap(), ["c1"]);
        drop((mount, view));
        overlay.remove("c1").unwrap();
        overlay.remove("c1").unwrap();
        assert_eq!(overlay.usage("c1").unwrap(), Usage::default());
        assert!(overlay.containers().unwrap().is_empty());
        for directory in ["ingest", "empty/lower", "empty/under", "empty/desk"] {
            assert_eq!(
                fs::read_dir(root.path().join(directory)).unwrap().count(),
                0
            );
        }
    }
}

#[test]
fn images_with_no_layer_one_or_the_same_twice() {
    for method in methods() {
        let root = tempfile::tempdir().unwrap();
        let overlay = Overlay::open_with(root.path(), method).unwrap();
        let one = layer(&overlay, 1, &[("a", "1")]);
        let two = layer(&overlay, 2, &[("a", "2")]);
        for (id, layers, expected) in [
            ("none", vec![], None),
            ("one", vec![one.clone()], Some("1")),
            (
                "again",
                vec![one.clone(), two.clone(), one.clone()],
                Some("1"),
            ),
            ("twice", vec![two.clone(), two], Some("2")),
        ] {
            overlay.create(id, &layers, None).unwrap();
            let mount = overlay.mount(id, &layers, None, None).unwrap();
            assert_eq!(read(&mount, "a").as_deref(), expected, "{id} {method:?}");
            write(&mount, "new", "x").unwrap();
            assert_eq!(read(&mount, "new").unwrap(), "x");
            let view = overlay.view(&layers).unwrap();
            assert_eq!(read(&view, "a").as_deref(), expected);
        }
    }
}

#[test]
fn many_layers_and_odd_paths() {
    for method in methods() {
        let parent = tempfile::tempdir().unwrap();
        // Longer than fsconfig takes, and with what overlay options give a meaning to.
        for name in ["a:b,c\\d e".to_owned(), "long/".repeat(60)] {
            let overlay = Overlay::open_with(&parent.path().join(name), method).unwrap();
            let layers: Vec<LayerKey> = (0..130)
                .map(|number| {
                    let own = format!("{number}");
                    layer(&overlay, number, &[(&own, &own), ("last", &own)])
                })
                .collect();
            overlay.create("c", &layers, None).unwrap();
            let mount = overlay.mount("c", &layers, None, None).unwrap();
            assert_eq!(read(&mount, "0").unwrap(), "0");
            assert_eq!(read(&mount, "last").unwrap(), "129", "{method:?}");
        }
    }
}

#[test]
fn the_root_directory_is_the_topmost_that_is_described() {
    let root = tempfile::tempdir().unwrap();
    let overlay = Overlay::open(root.path()).unwrap();
    let layers = [layer(&overlay, 1, &[]), layer(&overlay, 2, &[])];
    let [bottom, top] = [0, 1].map(|index| overlay.layer_dir(&layers[index]));
    fs::set_permissions(&bottom, PermissionsExt::from_mode(0o1750)).unwrap();
    std::os::unix::fs::chown(&bottom, Some(5), Some(6)).unwrap();
    rustix::fs::setxattr(
        &top,
        IMPLIED_ROOT_XATTR,
        b"y",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    overlay.create("c", &layers, None).unwrap();
    let mount = overlay.mount("c", &layers, None, None).unwrap();
    let stat = rustix::fs::fstat(&mount).unwrap();
    assert_eq!(
        (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid),
        (0o1750, 5, 6)
    );
    overlay.create("scratch", &[], None).unwrap();
    let stat = fs::metadata(overlay.container_dir("scratch").join("upper")).unwrap();
    assert_eq!(stat.mode() & 0o7777, 0o755);
}

#[test]
fn what_is_missing_or_malformed_is_named() {
    let root = tempfile::tempdir().unwrap();
    let overlay = Overlay::open(root.path()).unwrap();
    for id in ["", "..", "a/b", ".hidden", "a\0b", &"x".repeat(256)] {
        assert!(
            matches!(
                overlay.create(id, &[], None),
                Err(ContainerError::Id { .. })
            ),
            "{id}"
        );
        assert!(matches!(overlay.remove(id), Err(ContainerError::Id { .. })));
    }
    let missing = overlay.create("c", &[key(9)], None);
    assert!(
        matches!(missing, Err(ContainerError::MissingLayer { .. })),
        "{missing:?}"
    );
    overlay.create("d", &[], None).unwrap();
    let missing = overlay.mount("d", &[key(9)], None, None);
    assert!(
        matches!(missing, Err(ContainerError::MissingLayer { .. })),
        "{missing:?}"
    );
    overlay.remove("d").unwrap();

    let proc = Overlay::open(Path::new("/proc/nowhere"));
    assert!(proc.is_err());
}

#[test]
fn a_removal_needs_no_space() {
    // A mount namespace of this thread's own, so that the small file system has a path and nobody else sees it.
    let checked = std::thread::spawn(|| {
        #[allow(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).unwrap();
        use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).unwrap();
        let root = tempfile::tempdir().unwrap();
        let size = c"size=1m";
        mount("tmpfs", root.path(), "tmpfs", MountFlags::empty(), size).unwrap();
        let overlay = Overlay::open(root.path()).unwrap();
        let one = layer(&overlay, 1, &[("a", "1")]);
        overlay
            .create("c", std::slice::from_ref(&one), None)
            .unwrap();
        let mounted = overlay.mount("c", &[one], None, None).unwrap();
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = openat(&mounted, "filler", flags, Mode::RUSR).unwrap();
        let mut written = 0;
        let full = loop {
            match rustix::io::write(&file, &[1; 4096]) {
                Ok(length) => written += length,
                Err(errno) => break errno,
            }
            assert!(written <= 1 << 20, "this is another file system");
        };
        assert_eq!(full, Errno::NOSPC);
        drop((file, mounted));
        overlay.remove("c").unwrap();
        assert!(overlay.containers().unwrap().is_empty());
        until_empty(&root.path().join("trash"));
        rustix::mount::unmount(root.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    });
    checked.join().unwrap();
}

#[test]
fn a_root_without_a_path_is_refused() {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen,
    };
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_create(context.as_fd()).unwrap();
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let detached = fsmount(context.as_fd(), flags, MountAttrFlags::empty()).unwrap();
    let path = format!("/proc/self/fd/{}", detached.as_raw_fd());
    // Its links lead to `/`, which is another directory.
    assert!(Overlay::open(Path::new(&path)).is_err());
}

/// A user namespace whose ids 0 to 65535 are `first` and up outside, held by a process that sleeps.
struct UserNamespace {
    process: std::process::Child,
    descriptor: OwnedFd,
}

impl UserNamespace {
    fn new(first: u32) -> Self {
        let mut process = std::process::Command::new("unshare")
            .args(["--user", "sleep", "600"])
            .spawn()
            .unwrap();
        let at = |name: &str| format!("/proc/{}/{name}", process.id());
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        for _ in 0..1000 {
            if fs::read_link(at("ns/user")).is_ok_and(|theirs| theirs != own) {
                for map in ["uid_map", "gid_map"] {
                    fs::write(at(map), format!("0 {first} 65536")).unwrap();
                }
                let descriptor = fs::File::open(at("ns/user")).unwrap().into();
                return Self {
                    process,
                    descriptor,
                };
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        process.kill().ok();
        process.wait().ok();
        panic!("unshare makes no user namespace");
    }
}

impl Drop for UserNamespace {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[test]
fn a_user_namespace_sees_the_layers_as_its_own() {
    let user = UserNamespace::new(100_000);
    for method in methods() {
        let root = tempfile::tempdir().unwrap();
        let overlay = Overlay::open_with(root.path(), method).unwrap();
        let layers = [
            layer(&overlay, 1, &[("bottom", "1")]),
            layer(&overlay, 2, &[("file", "2")]),
        ];
        let path = overlay.layer_dir(&layers[1]).join("file");
        std::os::unix::fs::chown(&path, Some(33), Some(34)).unwrap();
        let mapping = UserMapping {
            namespace: user.descriptor.as_fd(),
            root_uid: 100_000,
            root_gid: 100_000,
        };
        overlay.create("c", &layers, Some(&mapping)).unwrap();
        let mount = overlay.mount("c", &layers, Some(mapping), None).unwrap();
        let owner = |name: &str| {
            let stat = rustix::fs::statat(&mount, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            (stat.st_uid, stat.st_gid)
        };
        assert_eq!(owner("."), (100_000, 100_000), "{method:?}");
        assert_eq!(owner("bottom"), (100_000, 100_000));
        assert_eq!(owner("file"), (100_033, 100_034));
        // It can be written, and what is copied up keeps its owner.
        write(&mount, "file", "changed").unwrap();
        assert_eq!(owner("file"), (100_033, 100_034));
        let unchanged = fs::metadata(&path).unwrap();
        assert_eq!((unchanged.uid(), unchanged.len()), (33, 1));
    }
}

#[test]
fn a_directory_of_an_image_is_a_volume() {
    for method in methods() {
        let root = tempfile::tempdir().unwrap();
        let overlay = Overlay::open_with(root.path(), method).unwrap();
        let layers = [
            layer(&overlay, 1, &[("a/b/one", "1"), ("a/b/hidden", "")]),
            layer(&overlay, 2, &[("a/b/two", "2")]),
        ];
        let links = overlay.layer_dir(&layers[1]);
        std::os::unix::fs::symlink("/a/b", links.join("inside")).unwrap();
        std::os::unix::fs::symlink("../../../../tmp", links.join("outside")).unwrap();
        let before = mounts();
        for sub_path in ["a/b", "inside", "./a//b"] {
            let volume = overlay.volume(&layers, sub_path, None, None).unwrap();
            assert_eq!(read(&volume, "one").as_deref(), Some("1"));
            assert_eq!(read(&volume, "two").as_deref(), Some("2"));
            assert_eq!(write(&volume, "x", ""), Err(Errno::ROFS));
        }
        let whole = overlay.volume(&layers, "", None, None).unwrap();
        assert_eq!(read(&whole, "a/b/one").as_deref(), Some("1"));
        for refused in ["none", "a/b/one", "outside"] {
            let error = overlay.volume(&layers, refused, None, None).unwrap_err();
            assert!(error.to_string().contains(refused), "{error}");
        }
        assert_eq!(mounts(), before);
    }
}
