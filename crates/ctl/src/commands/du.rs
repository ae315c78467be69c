use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;
use cri::progress::{DiskPart, DiskPartKind};

use crate::error::Error;
use crate::output::Output;
use crate::output::size::human;
use crate::session::Session;

/// Show what images and containers take on disk
#[derive(Debug, Args)]
pub(crate) struct Du {
    /// Every file and directory of the store: whose it is, and with whom it is shared
    #[arg(long)]
    explain: bool,
    /// Bytes instead of rounded sizes
    #[arg(long, short)]
    bytes: bool,
}

impl Du {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let parts = session.disk_usage().await?;
        match self.explain {
            true => self.parts(out, &parts),
            false => self.owners(out, &parts),
        }
    }

    /// Each part with its owners, and the sum.
    fn parts(&self, out: &mut impl Write, parts: &[DiskPart]) -> Result<(), Error> {
        for part in parts {
            let path = match &*part.path {
                "" => ".",
                path => path,
            };
            let shared = match part.owners.len() {
                0 | 1 => "",
                _ => "shared by ",
            };
            writeln!(
                out,
                "{:>12} {:>8}  {:<14} {path}{}{shared}{}",
                self.size(part.bytes),
                part.inodes,
                word(part.kind()),
                if part.owners.is_empty() { "" } else { "  " },
                part.owners.join(", "),
            )?;
        }
        self.total(out, parts)
    }

    /// What each image and container has alone, and what images share.
    fn owners(&self, out: &mut impl Write, parts: &[DiskPart]) -> Result<(), Error> {
        let mut rows: BTreeMap<(u8, String), (u64, u64)> = BTreeMap::new();
        let mut shared: BTreeMap<String, u64> = BTreeMap::new();
        for part in parts {
            let kind = part.kind();
            let key = match (&*part.owners, kind) {
                ([owner], DiskPartKind::Layer | DiskPartKind::Index | DiskPartKind::Blob) => {
                    (0, format!("image {owner}"))
                }
                ([_, _, ..], DiskPartKind::Layer | DiskPartKind::Index | DiskPartKind::Blob) => {
                    for owner in &part.owners {
                        *shared.entry(owner.clone()).or_default() += part.bytes;
                        rows.entry((0, format!("image {owner}"))).or_default();
                    }
                    (1, "shared by images".to_owned())
                }
                ([], _) => (3, word(kind).to_owned()),
                (owners, _) => (2, format!("container {}", owners.join(", "))),
            };
            let row = rows.entry(key).or_default();
            row.0 += part.bytes;
            row.1 += part.inodes;
        }
        for ((_, name), (bytes, inodes)) in &rows {
            let size = self.size(*bytes);
            let image = name.strip_prefix("image ").unwrap_or_default();
            let more = match shared.get(image) {
                Some(shared) => format!("  and {} shared", self.size(*shared)),
                None => String::new(),
            };
            writeln!(out, "{size:>12} {inodes:>8}  {name}{more}")?;
        }
        self.total(out, parts)
    }

    fn total(&self, out: &mut impl Write, parts: &[DiskPart]) -> Result<(), Error> {
        let bytes = self.size(parts.iter().map(|part| part.bytes).sum());
        let inodes: u64 = parts.iter().map(|part| part.inodes).sum();
        writeln!(out, "{bytes:>12} {inodes:>8}  total")?;
        Ok(())
    }

    fn size(&self, bytes: u64) -> String {
        match self.bytes {
            true => bytes.to_string(),
            false => human(bytes, 3),
        }
    }
}

fn word(kind: DiskPartKind) -> &'static str {
    match kind {
        DiskPartKind::Layer => "layer",
        DiskPartKind::Index => "index",
        DiskPartKind::Blob => "compressed",
        DiskPartKind::Retired => "replaced layer",
        DiskPartKind::Making => "being made",
        DiskPartKind::WritableLayer => "writable layer",
        DiskPartKind::Volume => "volumes",
        DiskPartKind::Own => "own",
        DiskPartKind::Garbage => "garbage",
        DiskPartKind::Foreign => "foreign",
        DiskPartKind::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_under_their_owners() {
        let part = |kind: DiskPartKind, path: &str, bytes, owners: &[&str]| DiskPart {
            kind: kind.into(),
            path: path.into(),
            bytes,
            inodes: 1,
            owners: owners.iter().map(|&owner| owner.to_owned()).collect(),
        };
        let parts = [
            part(DiskPartKind::Layer, "layers/a", 10, &["one", "two"]),
            part(DiskPartKind::Layer, "layers/b", 20, &["one"]),
            part(
                DiskPartKind::WritableLayer,
                "containers/c",
                30,
                &["ns/pod/c"],
            ),
            part(DiskPartKind::Garbage, "trash/x", 40, &[]),
            part(DiskPartKind::Own, "", 50, &[]),
        ];
        let du = |explain| Du {
            explain,
            bytes: true,
        };
        let mut text = Vec::new();
        du(false).owners(&mut text, &parts).unwrap();
        du(true).parts(&mut text, &parts[..1]).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<String> = (text.lines())
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "20 1 image one and 10 shared",
                "0 0 image two and 10 shared",
                "10 1 shared by images",
                "30 1 container ns/pod/c",
                "40 1 garbage",
                "50 1 own",
                "150 5 total",
                "10 1 layer layers/a shared by one, two",
                "10 1 total",
            ]
        );
    }
}
