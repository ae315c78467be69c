//! Archives of images: OCI layouts and what `docker save` writes.
//!
//! Documents name each other by digest, which no fuzzer guesses. So the input is a recipe: files that are separated by NUL, each a name, a line
//! feed, and contents in which `@3` stands for the hexadecimal digest of the file before that has the number 3, counted from 0, and `#3` for its size.
//! The name `blob` is replaced by the one that a layout gives its contents; `>from to` is a symbolic link. What begins with NUL is no recipe but
//! the archive itself.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tar::{Builder, EntryType, Header};

fuzz_target!(|input: &[u8]| {
    let (name, archive) = match input.split_first() {
        Some((0, bytes)) => {
            let mut bytes = bytes.to_vec();
            image::fuzzing::add_up(&mut bytes);
            ("", bytes)
        }
        _ => match input.iter().position(|&byte| byte == b'\n') {
            // The first line is the name that the image is to have.
            Some(end) => {
                let name = std::str::from_utf8(&input[..end]).unwrap_or_default();
                (name, made(&input[end + 1..]))
            }
            None => return,
        },
    };
    let parent = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    image::fuzzing::load(parent.path(), &archive, name);
});

fn made(recipe: &[u8]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    let mut files: Vec<Vec<u8>> = Vec::new();
    for file in recipe.split(|&byte| byte == 0) {
        let (name, contents) = match file.iter().position(|&byte| byte == b'\n') {
            Some(end) => (&file[..end], &file[end + 1..]),
            None => (file, &[][..]),
        };
        let contents = filled_in(contents, &files);
        let blob = format!("blobs/sha256/{}", image::fuzzing::sha256(&contents));
        let mut header = Header::new_ustar();
        header.set_mode(0o644);
        header.set_entry_type(EntryType::Regular);
        let mut size = contents.len();
        match name.strip_prefix(b">") {
            Some(link) => {
                let at = link.iter().position(|&byte| byte == b' ');
                let (from, to) = link.split_at(at.unwrap_or(link.len()));
                header.set_entry_type(EntryType::Symlink);
                size = 0;
                put(&mut header.as_old_mut().name, from);
                put(&mut header.as_old_mut().linkname, to.trim_ascii());
            }
            None if name == b"blob" => put(&mut header.as_old_mut().name, blob.as_bytes()),
            None => put(&mut header.as_old_mut().name, name),
        }
        header.set_size(size as u64);
        header.set_cksum();
        archive
            .append(&header, &contents[..size])
            .expect("it is written to memory");
        files.push(contents);
    }
    archive.into_inner().expect("it is written to memory")
}

/// As far as it fits; names are taken as they are, also hostile ones.
fn put(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

fn filled_in(contents: &[u8], files: &[Vec<u8>]) -> Vec<u8> {
    let mut filled = Vec::with_capacity(contents.len());
    let mut rest = contents.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        let number = rest.peek().filter(|next| next.is_ascii_digit());
        let named = number.and_then(|&digit| files.get(usize::from(digit - b'0')));
        match (byte, named) {
            (b'@', Some(file)) => filled.extend(image::fuzzing::sha256(file).bytes()),
            (b'#', Some(file)) => filled.extend(file.len().to_string().bytes()),
            _ => {
                filled.push(byte);
                continue;
            }
        }
        rest.next();
    }
    filled
}
