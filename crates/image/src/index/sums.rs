use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

/// The first half of a BLAKE3 hash: to make another file of the same sum is as hard as with the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sum([u8; 16]);

/// A sum in the making.
#[derive(Debug, Default)]
pub(crate) struct SumHasher(blake3::Hasher);

impl SumHasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(&self) -> Sum {
        let mut sum = [0; 16];
        self.0.finalize_xof().fill(&mut sum);
        Sum(sum)
    }
}

/// What is remembered for the walk that writes the index; beyond that, files are read again, from the kernel's cache.
const REMEMBERED: usize = 32 << 10;

/// Sums of files that a layer has brought, by inode, from when they were written.
#[derive(Debug, Default)]
pub(crate) struct Sums(HashMap<u64, Sum>);

impl Sums {
    pub(crate) fn note(&mut self, inode: u64, sum: Sum) {
        if self.0.len() < REMEMBERED || self.0.contains_key(&inode) {
            self.0.insert(inode, sum);
        }
    }

    /// The inode may have been another file's, which has been replaced.
    pub(crate) fn forget(&mut self, inode: u64) {
        self.0.remove(&inode);
    }

    pub(super) fn get(&self, inode: u64) -> Option<Sum> {
        self.0.get(&inode).copied()
    }
}

const BLOCK_BYTES: usize = 64 << 10;

pub(super) fn dense(mut file: File) -> io::Result<Sum> {
    let mut hasher = SumHasher::default();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(length) => hasher.update(&block[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Of the blocks that are not all zero, each with its place; where the file system has holes makes no difference.
pub(super) fn sparse(file: &File, size: u64) -> io::Result<Sum> {
    let mut hasher = SumHasher::default();
    let mut block = vec![0; BLOCK_BYTES];
    let mut offset = 0;
    while let Some(data) = next_data(file, offset)? {
        let start = data - data % BLOCK_BYTES as u64;
        let length = read_at(file, &mut block, start)?;
        if length == 0 {
            break;
        }
        if block[..length].iter().any(|&byte| byte != 0) {
            hasher.update(&start.to_le_bytes());
            hasher.update(&block[..length]);
        }
        offset = start + BLOCK_BYTES as u64;
    }
    hasher.update(&size.to_le_bytes());
    Ok(hasher.finish())
}

fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(data) => Ok(Some(data)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        // A file system that knows no holes.
        Err(rustix::io::Errno::INVAL) => Ok(Some(offset)),
        Err(errno) => Err(errno.into()),
    }
}

fn read_at(file: &File, block: &mut [u8], start: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read_at(&mut block[filled..], start + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
