use std::io::BufRead;
use std::os::fd::OwnedFd;

use super::archive::{Archive, Kind};
use super::extract::Extractor;
use super::place::{Below, components};

/// What an archive is said to hold, entry by entry, and how it ends.
pub(crate) fn members<R: BufRead>(reader: R) -> Vec<String> {
    let mut archive = Archive::new(reader);
    let mut told = Vec::new();
    loop {
        let member = match archive.next() {
            Ok(Some(member)) => member,
            Ok(None) => return told,
            Err(error) => {
                told.push(error.to_string());
                return told;
            }
        };
        if let Ok(components) = components(&member.path) {
            let plain = |component: &&[u8]| !matches!(*component, b"" | b"." | b"..");
            assert!(components.iter().all(plain), "{member:?}");
        }
        told.push(format!("{member:?}"));
        let Kind::File { size, regions } = &member.kind else {
            continue;
        };
        let mut end = 0;
        for region in regions {
            assert!(region.offset >= end, "{member:?}");
            end = region.offset + region.length;
            assert!(end <= *size, "{member:?}");
            let mut sum = 0_u64;
            let read = archive.contents(region.length, |piece| {
                sum = piece
                    .iter()
                    .fold(sum, |sum, &byte| sum.wrapping_mul(31) + u64::from(byte));
                std::io::Result::Ok(())
            });
            match read {
                Ok(()) => told.push(sum.to_string()),
                Err(error) => {
                    told.push(error.to_string());
                    return told;
                }
            }
        }
    }
}

/// Ends as it may; what it must not do, its caller sees.
pub(crate) fn extract<R: BufRead>(root: OwnedFd, reader: R) {
    let extractor = Extractor::new(root, Below::Unknown, 1 << 20, false);
    let _ = extractor.run(&mut Archive::new(reader));
}
