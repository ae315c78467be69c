use std::io::Write;

use tar::{EntryType, Header};

/// How a layer travels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    None,
    #[default]
    Gzip,
    #[cfg(feature = "zstd")]
    Zstd,
}

impl Compression {
    pub(crate) fn apply(self, tar: &[u8]) -> Vec<u8> {
        match self {
            Self::None => tar.to_vec(),
            Self::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(tar).expect("writing to memory");
                encoder.finish().expect("writing to memory")
            }
            #[cfg(feature = "zstd")]
            Self::Zstd => zstd::encode_all(tar, 3).expect("writing to memory"),
        }
    }
}

/// One layer: a list of archive entries, in the order given. Names are taken as they are, also hostile ones
/// (`../escape`, `/absolute`).
#[derive(Debug, Clone, Default)]
pub struct Layer {
    entries: Vec<Entry>,
    compression: Compression,
}

#[derive(Debug, Clone)]
struct Entry {
    name: String,
    kind: EntryType,
    mode: u32,
    owner: (u32, u32),
    link: Option<String>,
    device: Option<(u32, u32)>,
    xattrs: Vec<(String, Vec<u8>)>,
    contents: Vec<u8>,
}

impl Layer {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    pub(crate) fn compressed_with(&self) -> Compression {
        self.compression
    }

    #[must_use]
    pub fn directory(self, name: &str, mode: u32) -> Self {
        self.push(name, EntryType::Directory, mode)
    }

    #[must_use]
    pub fn file(self, name: &str, mode: u32, contents: impl AsRef<[u8]>) -> Self {
        let mut layer = self.push(name, EntryType::Regular, mode);
        layer.last().contents = contents.as_ref().to_vec();
        layer
    }

    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        let mut layer = self.push(name, EntryType::Symlink, 0o777);
        layer.last().link = Some(target.to_owned());
        layer
    }

    /// `target` is a name in the archive. The link repeats its mode, as tar writes it: some runtimes apply what a link says to the file.
    #[must_use]
    pub fn hard_link(self, name: &str, target: &str) -> Self {
        let file = self.entries.iter().rev().find(|entry| entry.name == target);
        let mode = file.map_or(0o644, |file| file.mode);
        let mut layer = self.push(name, EntryType::Link, mode);
        layer.last().link = Some(target.to_owned());
        layer
    }

    #[must_use]
    pub fn fifo(self, name: &str, mode: u32) -> Self {
        self.push(name, EntryType::Fifo, mode)
    }

    #[must_use]
    pub fn char_device(self, name: &str, mode: u32, major: u32, minor: u32) -> Self {
        let mut layer = self.push(name, EntryType::Char, mode);
        layer.last().device = Some((major, minor));
        layer
    }

    /// Removes `name` of the layers below (image-spec, "Whiteouts").
    #[must_use]
    pub fn whiteout(self, name: &str) -> Self {
        let marker = match name.rsplit_once('/') {
            Some((parent, leaf)) => format!("{parent}/.wh.{leaf}"),
            None => format!(".wh.{name}"),
        };
        self.push(&marker, EntryType::Regular, 0o644)
    }

    /// Hides everything that the layers below have in `directory`.
    #[must_use]
    pub fn opaque(self, directory: &str) -> Self {
        self.push(
            &format!("{directory}/.wh..wh..opq"),
            EntryType::Regular,
            0o644,
        )
    }

    /// Owner of the entry added last.
    #[must_use]
    pub fn owned_by(mut self, uid: u32, gid: u32) -> Self {
        self.last().owner = (uid, gid);
        self
    }

    /// Extended attribute of the entry added last (a `SCHILY.xattr.` record).
    #[must_use]
    pub fn xattr(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref().to_vec();
        self.last().xattrs.push((name.to_owned(), value));
        self
    }

    /// The uncompressed archive.
    #[must_use]
    pub fn tar(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for entry in &self.entries {
            entry.append(&mut archive);
        }
        archive.into_inner().expect("writing to memory")
    }

    fn push(mut self, name: &str, kind: EntryType, mode: u32) -> Self {
        self.entries.push(Entry {
            name: name.to_owned(),
            kind,
            mode,
            owner: (0, 0),
            link: None,
            device: None,
            xattrs: Vec::new(),
            contents: Vec::new(),
        });
        self
    }

    fn last(&mut self) -> &mut Entry {
        self.entries.last_mut().expect("an entry was added before")
    }
}

impl Entry {
    fn append(&self, archive: &mut tar::Builder<Vec<u8>>) {
        let mut pax: Vec<(String, Vec<u8>)> = self
            .xattrs
            .iter()
            .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.clone()))
            .collect();
        let mut header = Header::new_ustar();
        // The header's own setters refuse `..` and absolute names; tests want them.
        place(&mut header.as_old_mut().name, &self.name, "path", &mut pax);
        if let Some(link) = &self.link {
            place(
                &mut header.as_old_mut().linkname,
                link,
                "linkpath",
                &mut pax,
            );
        }
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(self.owner.0.into());
        header.set_gid(self.owner.1.into());
        header.set_mtime(1_577_836_800);
        header.set_size(self.contents.len() as u64);
        if let Some((major, minor)) = self.device {
            header.set_device_major(major).expect("a ustar header");
            header.set_device_minor(minor).expect("a ustar header");
        }
        header.set_cksum();
        if !pax.is_empty() {
            archive
                .append_pax_extensions(pax.iter().map(|(key, value)| (&**key, &**value)))
                .expect("writing to memory");
        }
        archive
            .append(&header, &*self.contents)
            .expect("writing to memory");
    }
}

/// Writes `text` into a header field, or a PAX record called `key` where it does not fit.
fn place(field: &mut [u8], text: &str, key: &str, pax: &mut Vec<(String, Vec<u8>)>) {
    let fits = text.len() <= field.len();
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
    if !fits {
        pax.push((key.to_owned(), text.as_bytes().to_vec()));
    }
}
