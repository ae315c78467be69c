//! The framing of tar archives: POSIX ustar and pax, GNU long names, both kinds of sparse files.
//!
//! The tar crate decodes the header blocks. What surrounds them is done here, because there it keeps extended headers of any size
//! in memory, and splits their records at line feeds that binary values may contain.

use std::io::{self, BufRead};

use tar::{EntryType, Header};

use super::pax::{Extensions, malformed};
use super::sparse;

const BLOCK: usize = 512;

/// The most that the extended headers of one entry may take: names and extended attributes.
const MAX_EXTENDED_BYTES: u64 = 1 << 20;

/// One entry, without its contents.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission, set-id and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the epoch, and nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Contents follow: `size` is that of the file, `regions` are what of it the archive has.
    File {
        size: u64,
        regions: Vec<Region>,
    },
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// A part of a file that is no hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

#[derive(Debug)]
pub(crate) struct Archive<R> {
    reader: R,
    /// Of the current entry: contents not read yet.
    contents: u64,
    /// And what fills up its last block.
    padding: u64,
    global: Extensions,
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            contents: 0,
            padding: 0,
            global: Extensions::default(),
        }
    }

    /// The next entry, after skipping what is left of the one before; `None` at the end of the archive. What follows the end is
    /// not looked at.
    pub(crate) fn next(&mut self) -> io::Result<Option<Member>> {
        let mut local = Extensions::default();
        let mut long_name = None;
        let mut long_link = None;
        let mut budget = MAX_EXTENDED_BYTES;
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                if local.is_empty() && long_name.is_none() && long_link.is_none() {
                    return Ok(None);
                }
                return Err(malformed("an extended header at its end describes nothing"));
            };
            self.frame(or_blank(&header.as_old().size, header.entry_size())?)?;
            match header.entry_type() {
                EntryType::GNULongName => long_name = Some(self.text(&mut budget)?),
                EntryType::GNULongLink => long_link = Some(self.text(&mut budget)?),
                EntryType::XHeader => local.read(&self.extension(&mut budget)?)?,
                EntryType::XGlobalHeader => {
                    let records = self.extension(&mut budget)?;
                    self.global.read(&records)?;
                }
                _ => {
                    let names = (long_name.take(), long_link.take());
                    if let Some(member) = self.member(&header, &local, names)? {
                        return Ok(Some(member));
                    }
                    local = Extensions::default();
                }
            }
        }
    }

    /// Hands the contents of the current entry's next region over, piece by piece.
    pub(crate) fn contents<E: From<io::Error>>(
        &mut self,
        length: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut left = length;
        if left > self.contents {
            return Err(malformed("a region lies outside of its entry").into());
        }
        while left > 0 {
            let piece = self.reader.fill_buf()?;
            if piece.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let used = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            take(&piece[..used])?;
            self.reader.consume(used);
            left -= used as u64;
            self.contents -= used as u64;
        }
        Ok(())
    }

    pub(super) fn into_reader(self) -> R {
        self.reader
    }

    fn member(
        &mut self,
        header: &Header,
        local: &Extensions,
        (long_name, long_link): (Option<Vec<u8>>, Option<Vec<u8>>),
    ) -> io::Result<Option<Member>> {
        let pax = |key: &str| local.get(key).or_else(|| self.global.get(key));
        let number = |key: &str, field: io::Result<u64>| match pax(key) {
            Some(text) => super::pax::number(text),
            None => field,
        };
        let entry_type = header.entry_type();
        let fields = header.as_old();
        let size = number("size", or_blank(&fields.size, header.entry_size()))?;
        let mtime = match pax("mtime") {
            Some(text) => super::pax::timestamp(text)?,
            None => (or_blank(&fields.mtime, header.mtime())? as i64, 0),
        };
        let id =
            |value: u64| u32::try_from(value).map_err(|_| malformed("an owner is no 32-bit id"));
        let uid = id(number("uid", or_blank(&fields.uid, header.uid()))?)?;
        let gid = id(number("gid", or_blank(&fields.gid, header.gid()))?)?;
        let name = local.get("GNU.sparse.name").or_else(|| pax("path"));
        let path = long_name
            .or_else(|| name.map(<[u8]>::to_vec))
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = long_link
            .or_else(|| pax("linkpath").map(<[u8]>::to_vec))
            .or_else(|| header.link_name_bytes().map(|link| link.into_owned()))
            .unwrap_or_default();
        let xattrs = local.xattrs();
        // Of these types none has contents, whatever the size says: Go's and GNU's readers agree.
        let without_contents = matches!(
            entry_type,
            EntryType::Link
                | EntryType::Symlink
                | EntryType::Char
                | EntryType::Block
                | EntryType::Fifo
                | EntryType::Directory
        );
        self.frame(if without_contents { 0 } else { size })?;
        let device = || -> io::Result<(u32, u32)> {
            let numbers = (header.device_major()?, header.device_minor()?);
            Ok((numbers.0.unwrap_or(0), numbers.1.unwrap_or(0)))
        };
        let kind = match entry_type {
            // Before POSIX a directory was a file whose name ends in a slash.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => self.file(local, size)?,
            EntryType::GNUSparse => {
                let file = sparse::gnu_map(header, size, || self.block())?;
                // The map's further blocks are not part of the size.
                self.frame(size)?;
                file
            }
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(link),
            EntryType::Link => Kind::HardLink(link),
            EntryType::Char => device().map(|(major, minor)| Kind::Character(major, minor))?,
            EntryType::Block => device().map(|(major, minor)| Kind::Block(major, minor))?,
            EntryType::Fifo => Kind::Fifo,
            // Volume labels, multi-volume parts and vendors' own kinds are skipped, as by other readers.
            _ => return Ok(None),
        };
        Ok(Some(Member {
            path,
            kind,
            mode: or_blank(&fields.mode, header.mode())? & 0o7777,
            uid,
            gid,
            mtime,
            xattrs,
        }))
    }

    fn file(&mut self, local: &Extensions, size: u64) -> io::Result<Kind> {
        let mut taken = 0;
        let kind = sparse::pax_map(local, size, || {
            taken += BLOCK as u64;
            self.block()
        })?;
        // A map in the contents is part of the size.
        self.contents = self
            .contents
            .checked_sub(taken)
            .ok_or_else(|| malformed("a sparse map is larger than its entry"))?;
        Ok(kind)
    }

    fn frame(&mut self, size: u64) -> io::Result<()> {
        // So that no sum of sizes overflows.
        if size > i64::MAX as u64 {
            return Err(malformed("an entry is larger than a file can be"));
        }
        self.contents = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn skip(&mut self) -> io::Result<()> {
        let padding = self.padding;
        let mut left = self.contents + padding;
        (self.contents, self.padding) = (0, 0);
        while left > 0 {
            let available = self.reader.fill_buf()?.len();
            if available == 0 {
                // Writers leave the last padding out, with the end's zeros (umoci insert), and Go's reader lets them.
                return match left <= padding {
                    true => Ok(()),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            let used = available.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.reader.consume(used);
            left -= used as u64;
        }
        Ok(())
    }

    /// `None` at a proper end: two blocks of zeros, or nothing more where a header might be.
    fn header(&mut self) -> io::Result<Option<Header>> {
        if self.reader.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let block = self.block()?;
        if block == [0; BLOCK] {
            if self.reader.fill_buf()?.is_empty() || self.block()? == [0; BLOCK] {
                return Ok(None);
            }
            return Err(malformed("entries follow its end"));
        }
        let mut header = Header::new_old();
        *header.as_mut_bytes() = block;
        let sum: u32 = (block.iter().enumerate())
            .map(|(index, &byte)| match index {
                148..156 => u32::from(b' '),
                _ => u32::from(byte),
            })
            .sum();
        if header.cksum()? != sum {
            return Err(malformed("a header has a wrong checksum"));
        }
        Ok(Some(header))
    }

    fn block(&mut self) -> io::Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        self.reader.read_exact(&mut block)?;
        Ok(block)
    }

    fn text(&mut self, budget: &mut u64) -> io::Result<Vec<u8>> {
        let mut text = self.extension(budget)?;
        let end = text.iter().position(|&byte| byte == 0);
        text.truncate(end.unwrap_or(text.len()));
        Ok(text)
    }

    fn extension(&mut self, budget: &mut u64) -> io::Result<Vec<u8>> {
        let size = self.contents;
        *budget = budget
            .checked_sub(size.max(BLOCK as u64))
            .ok_or_else(|| malformed("an entry has more than 1 MiB of extended headers"))?;
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        self.contents(size, |piece| {
            bytes.extend_from_slice(piece);
            io::Result::Ok(())
        })?;
        Ok(bytes)
    }
}

/// A field that its writer has left blank is 0.
fn or_blank<T: Default>(field: &[u8], value: io::Result<T>) -> io::Result<T> {
    let blank = field.iter().all(|byte| matches!(byte, 0 | b' '));
    if blank { Ok(T::default()) } else { value }
}
