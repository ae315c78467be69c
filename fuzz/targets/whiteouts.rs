//! A layer of small entries, extracted for good: whatever their names, links and whiteouts, nothing happens beside the layer's directory.
//! Each line is an entry: a letter for its kind, its name, and behind a space what it links to.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use rustix::fs::{CWD, Mode, OFlags};
use tar::{EntryType, Header};

const MOST_ENTRIES: usize = 24;

fuzz_target!(|input: &[u8]| {
    let mut archive = Vec::new();
    for line in input.split(|&byte| byte == b'\n').take(MOST_ENTRIES) {
        let Some((&kind, rest)) = line.split_first() else {
            continue;
        };
        let (name, link) = match rest.iter().position(|&byte| byte == b' ') {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, &[][..]),
        };
        let mut header = Header::new_ustar();
        header.set_entry_type(match kind % 6 {
            0 => EntryType::Directory,
            1 => EntryType::Symlink,
            2 => EntryType::Link,
            3 => EntryType::Fifo,
            _ => EntryType::Regular,
        });
        let old = header.as_old_mut();
        for (field, text) in [(&mut old.name, name), (&mut old.linkname, link)] {
            let length = text.len().min(field.len());
            field[..length].copy_from_slice(&text[..length]);
        }
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(0);
        header.set_cksum();
        archive.extend_from_slice(header.as_bytes());
    }
    // In memory: each input makes and removes files, which a disk's journal would make slow.
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let (root, canary) = (scratch.path().join("root"), scratch.path().join("canary"));
    fs::create_dir(&root).unwrap();
    fs::write(&canary, "sings").unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, &root, flags, Mode::empty()).unwrap();
    image::fuzzing::extract(directory, &*archive);
    image::fuzzing::remove(&root);
    assert_eq!(fs::read_to_string(&canary).unwrap(), "sings");
    let left: Vec<_> = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["canary"]);
});
