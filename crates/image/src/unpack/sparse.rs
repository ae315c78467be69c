use std::io;

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::archive::{Kind, Region};
use super::pax::{Extensions, malformed, number};

const BLOCK: usize = 512;

/// More than any file system makes of a file; bounds memory.
const MAX_REGIONS: usize = 64 * 1024;

/// The map of GNU tar's old format: four regions in the header, more in blocks that follow it.
pub(super) fn gnu_map(
    header: &Header,
    archived: u64,
    mut block: impl FnMut() -> io::Result<[u8; BLOCK]>,
) -> io::Result<Kind> {
    let gnu = (header.as_gnu()).ok_or_else(|| malformed("a sparse entry has no GNU header"))?;
    let mut map = Map::default();
    map.add_all(&gnu.sparse)?;
    let mut extended = gnu.is_extended();
    while extended {
        let mut more = GnuExtSparseHeader::new();
        *more.as_mut_bytes() = block()?;
        map.add_all(more.sparse())?;
        extended = more.is_extended();
    }
    map.finish(gnu.real_size()?, archived)
}

/// A regular file, or one of the three sparse formats that GNU tar has put into pax records.
pub(super) fn pax_map(
    records: &Extensions,
    archived: u64,
    block: impl FnMut() -> io::Result<[u8; BLOCK]>,
) -> io::Result<Kind> {
    let mut map = Map::default();
    if records.get("GNU.sparse.major") == Some(b"1") {
        let size = records.get("GNU.sparse.realsize");
        let size = number(size.ok_or_else(|| malformed("a sparse entry has no size"))?)?;
        let map_bytes = map.read_contents(block)?;
        let archived = (archived.checked_sub(map_bytes))
            .ok_or_else(|| malformed("a sparse map is larger than its entry"))?;
        return map.finish(size, archived);
    }
    let Some(size) = records.get("GNU.sparse.size") else {
        let regions = match archived {
            0 => Vec::new(),
            length => vec![Region { offset: 0, length }],
        };
        return Ok(Kind::File {
            size: archived,
            regions,
        });
    };
    if let Some(list) = records.get("GNU.sparse.map") {
        let mut numbers = list.split(|&byte| byte == b',');
        while let Some(offset) = numbers.next() {
            let length = (numbers.next()).ok_or_else(|| malformed("a sparse map is cut short"))?;
            map.add(number(offset)?, number(length)?)?;
        }
    } else {
        for &(offset, length) in &records.sparse_pairs {
            map.add(offset, length)?;
        }
    }
    map.finish(number(size)?, archived)
}

#[derive(Default)]
struct Map {
    regions: Vec<Region>,
    end: u64,
}

impl Map {
    fn add_all(&mut self, headers: &[GnuSparseHeader]) -> io::Result<()> {
        for header in headers.iter().filter(|header| !header.is_empty()) {
            self.add(header.offset()?, header.length()?)?;
        }
        Ok(())
    }

    fn add(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset
            .checked_add(length)
            .filter(|&end| end <= i64::MAX as u64 && offset >= self.end)
            .ok_or_else(|| malformed("the regions of a sparse file overlap"))?;
        if self.regions.len() == MAX_REGIONS {
            return Err(malformed("a sparse file has too many regions"));
        }
        self.end = end;
        if length > 0 {
            self.regions.push(Region { offset, length });
        }
        Ok(())
    }

    /// Format 1.0: decimal lines at the beginning of the contents, a count and then pairs, filled up to a block. Returns how
    /// many bytes they took.
    fn read_contents(
        &mut self,
        mut block: impl FnMut() -> io::Result<[u8; BLOCK]>,
    ) -> io::Result<u64> {
        let mut taken = 0;
        let mut current = [0; BLOCK];
        let mut position = BLOCK;
        let mut line = || -> io::Result<u64> {
            let mut digits = Vec::with_capacity(20);
            loop {
                if position == BLOCK {
                    current = block()?;
                    position = 0;
                    taken += BLOCK as u64;
                }
                let byte = current[position];
                position += 1;
                match byte {
                    b'\n' => return number(&digits),
                    _ if digits.len() == 20 => {
                        return Err(malformed("a sparse map is malformed"));
                    }
                    _ => digits.push(byte),
                }
            }
        };
        for _ in 0..line()? {
            let (offset, length) = (line()?, line()?);
            self.add(offset, length)?;
        }
        Ok(taken)
    }

    fn finish(self, size: u64, archived: u64) -> io::Result<Kind> {
        let present: u64 = self.regions.iter().map(|region| region.length).sum();
        if self.end > size || present != archived || size > i64::MAX as u64 {
            return Err(malformed("a sparse map does not fit its file"));
        }
        Ok(Kind::File {
            size,
            regions: self.regions,
        })
    }
}
