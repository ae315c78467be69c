//! Writable layers with limits, on file systems that have project quotas, where the kernel has any; and what is said where it has none.
#![allow(clippy::unwrap_used)] // Helpers are no tests to clippy.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use longshore_snapshot::{ContainerError, NoLimits, Overlay};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

const MEBIBYTE: u64 = 1 << 20;

/// How a file system is made and mounted, with project quotas and without.
struct Kind {
    with: [&'static str; 2],
    without: [&'static str; 2],
}

const EXT4: Kind = Kind {
    with: [
        "mkfs.ext4 -q -F -O quota,project -E quotatype=prjquota",
        "prjquota",
    ],
    without: ["mkfs.ext4 -q -F", "defaults"],
};

const XFS: Kind = Kind {
    with: ["mkfs.xfs -q -f", "pquota"],
    without: ["mkfs.xfs -q -f", "noquota"],
};

fn done(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output
        .unwrap_or_else(|error| panic!("{program}: {error}"))
        .status
        .success()
}

/// Mounts a new file system where only this thread sees it, and says whether it has quotas.
fn mount(kind: &Kind, desk: &Path) -> bool {
    sys::unshare(sys::CloneFlags::NEWNS).unwrap();
    assert!(done("mount", &["--make-rprivate", "/"]));
    let (image, place) = (desk.join("image"), desk.join("mounted"));
    fs::create_dir(&place).unwrap();
    let (image, place) = (image.to_str().unwrap(), place.to_str().unwrap());
    for (quotas, [make, options]) in [(true, kind.with), (false, kind.without)] {
        fs::File::create(image).unwrap().set_len(512 << 20).unwrap();
        assert!(done("sh", &["-c", &format!("{make} {image}")]), "{make}");
        let options = format!("loop,{options}");
        if done("mount", &["-o", &options, image, place]) {
            return quotas;
        }
    }
    panic!("{:?} cannot be mounted", kind.without);
}

/// Writes to a file until that fails or `most` bytes are written.
fn write(mount: &OwnedFd, name: &str, most: u64) -> Result<u64, (u64, Errno)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let file = openat(mount, name, flags, Mode::from_raw_mode(0o644)).unwrap();
    let chunk = [7; 16 << 10];
    let mut written = 0;
    while written < most {
        match rustix::io::write(&file, &chunk) {
            Ok(length) => written += length as u64,
            Err(errno) => return Err((written, errno)),
        }
    }
    Ok(written)
}

fn project(overlay: &Overlay, container: &str) -> u32 {
    let directory = fs::File::open(overlay.container_dir(container)).unwrap();
    sys::project_of(directory.as_fd()).unwrap()
}

fn until_trash_is_gone(root: &Path) {
    for _ in 0..2000 {
        if fs::read_dir(root.join("trash")).unwrap().count() == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("trash stays");
}

fn limited(root: &Path) {
    let overlay = Overlay::open(root).unwrap();
    assert_eq!(overlay.limits(), Ok(()));
    overlay
        .create_limited("small", &[], None, Some(MEBIBYTE))
        .unwrap();
    overlay.create("free", &[], None).unwrap();
    let (small, free) = (project(&overlay, "small"), project(&overlay, "free"));
    assert_ne!(small, free);
    {
        let mount = overlay.mount("small", &[], None, None).unwrap();
        let (written, errno) = write(&mount, "file", 4 * MEBIBYTE).unwrap_err();
        assert!(matches!(errno, Errno::DQUOT | Errno::NOSPC), "{errno}");
        assert!(written <= MEBIBYTE, "{written}");
        let usage = overlay.usage("small").unwrap();
        assert!(usage.bytes <= MEBIBYTE && usage.bytes > MEBIBYTE - (128 << 10));
        // What `df` says in the container.
        let room = rustix::fs::fstatvfs(&mount).unwrap();
        assert_eq!(room.f_blocks * room.f_frsize, MEBIBYTE);

        // Whoever has no limit is not held up, and what is deleted may be written again.
        let unlimited = overlay.mount("free", &[], None, None).unwrap();
        write(&unlimited, "file", 3 * MEBIBYTE).unwrap();
        assert!(overlay.usage("free").unwrap().bytes >= 3 * MEBIBYTE);
        rustix::fs::unlinkat(&mount, "file", rustix::fs::AtFlags::empty()).unwrap();
        write(&mount, "again", MEBIBYTE / 2).unwrap();
    }

    // A number is free once its files are gone, and its limit with it.
    overlay.remove("small").unwrap();
    until_trash_is_gone(root);
    until_free(root, small);
    overlay
        .create_limited("next", &[], None, Some(2 * MEBIBYTE))
        .unwrap();
    assert_eq!(project(&overlay, "next"), small);
    let mount = overlay.mount("next", &[], None, None).unwrap();
    write(&mount, "file", MEBIBYTE * 3 / 2).unwrap();
    write(&mount, "more", MEBIBYTE).unwrap_err();
    drop(overlay);

    // Another daemon: what runs keeps its number and its limit, and what was left half done is put right.
    let overlay = Overlay::open(root).unwrap();
    overlay
        .create_limited("later", &[], None, Some(MEBIBYTE))
        .unwrap();
    let later = project(&overlay, "later");
    assert!(later != small && later != free);
    write(&mount, "more", MEBIBYTE).unwrap_err();
    drop((mount, overlay));
    fs::remove_dir_all(root.join("containers/later")).unwrap();
    let directory = fs::File::open(root).unwrap();
    let limit = |project| {
        let usage = sys::project_usage(directory.as_fd(), project);
        usage.unwrap().limit_bytes
    };
    assert_eq!(limit(later), MEBIBYTE);
    let overlay = Overlay::open(root).unwrap();
    assert_eq!((limit(later), limit(small)), (0, 2 * MEBIBYTE));
    for container in overlay.containers().unwrap() {
        overlay.remove(&container).unwrap();
    }
    until_trash_is_gone(root);
    until_free(root, small);
}

/// The thread that empties the trash lifts the limit after that, and xfs forgets files behind everybody's back.
fn until_free(root: &Path, project: u32) {
    let directory = fs::File::open(root).unwrap();
    for _ in 0..2000 {
        let usage = sys::project_usage(directory.as_fd(), project).unwrap();
        if usage == sys::ProjectUsage::default() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("project {project} stays");
}

fn refused(root: &Path) {
    let overlay = Overlay::open(root).unwrap();
    let why = overlay.limits().unwrap_err();
    assert!(matches!(why, NoLimits::Absent { .. }), "{why}");
    assert!(why.to_string().contains("prjquota"), "{why}");
    let result = overlay.create_limited("small", &[], None, Some(MEBIBYTE));
    assert!(matches!(result, Err(ContainerError::NoLimits { .. })));
    assert!(!overlay.container_dir("small").exists());
    // Without a limit all is as ever, and what is written is walked.
    overlay.create("free", &[], None).unwrap();
    let mount = overlay.mount("free", &[], None, None).unwrap();
    write(&mount, "file", MEBIBYTE).unwrap();
    assert!(overlay.usage("free").unwrap().bytes >= MEBIBYTE);
}

fn on(kind: &'static Kind) {
    let checked = std::thread::spawn(move || {
        let desk = tempfile::tempdir().unwrap();
        let root = desk.path().join("mounted/root");
        match mount(kind, desk.path()) {
            true => limited(&root),
            false => refused(&root),
        }
        let _lazily = done(
            "umount",
            &["-l", desk.path().join("mounted").to_str().unwrap()],
        );
    });
    checked.join().unwrap();
}

#[test]
fn writable_layers_on_ext4() {
    on(&EXT4);
}

#[test]
fn writable_layers_on_xfs() {
    on(&XFS);
}
