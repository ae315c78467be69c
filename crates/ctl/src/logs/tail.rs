use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::record::Record;

const BLOCK: u64 = 64 * 1024;

/// Enough of a record's beginning to see its tag.
const HEAD: usize = 80;

/// Where the last `lines` lines begin, looking backwards from `end`: just after the record that ends the line before them.
pub(super) fn start(file: &File, end: u64, lines: u64) -> io::Result<u64> {
    if lines == 0 {
        return Ok(end);
    }
    // Lines seen, counting one that has begun but not ended; each earlier record that ends a line makes one more.
    let mut seen = 0;
    let mut record_end = end;
    let mut block_start = end;
    while block_start > 0 {
        let size = block_start.min(BLOCK);
        block_start -= size;
        let mut block = vec![0; size as usize];
        file.read_exact_at(&mut block, block_start)?;
        for at in (0..block.len()).rev().filter(|&at| block[at] == b'\n') {
            let begin = block_start + at as u64 + 1;
            if begin == record_end {
                continue;
            }
            if seen == 0 {
                seen = 1;
            } else if ends_line(file, begin, record_end)? {
                if seen == lines {
                    return Ok(record_end);
                }
                seen += 1;
            }
            record_end = begin;
        }
    }
    let first_is_before = seen == lines && record_end > 0 && ends_line(file, 0, record_end)?;
    Ok(if first_is_before { record_end } else { 0 })
}

/// Whether the record from `begin` to `end` ends its line. What is no record is a line of its own.
fn ends_line(file: &File, begin: u64, end: u64) -> io::Result<bool> {
    let mut head = [0; HEAD];
    let size = usize::try_from(end - begin).unwrap_or(HEAD).min(HEAD);
    let head = &mut head[..size];
    file.read_exact_at(head, begin)?;
    let line = head.strip_suffix(b"\n").unwrap_or(head);
    Ok(Record::parse(line).is_none_or(|record| record.ends))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn tail(log: &str, lines: u64) -> String {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(log.as_bytes()).unwrap();
        let end = log.len() as u64;
        log[start(&file, end, lines).unwrap() as usize..].to_owned()
    }

    #[test]
    fn lines_are_counted_not_records() {
        let log = "t stdout F a\nt stdout P b1\nt stdout P b2\nt stdout F b3\nt stderr F c\n";
        assert_eq!(tail(log, 0), "");
        assert_eq!(tail(log, 1), "t stderr F c\n");
        assert_eq!(
            tail(log, 2),
            "t stdout P b1\nt stdout P b2\nt stdout F b3\nt stderr F c\n"
        );
        assert_eq!(tail(log, 3), log);
        assert_eq!(tail(log, 99), log);
        assert_eq!(tail("", 3), "");
    }

    #[test]
    fn an_unfinished_line_is_one_of_them() {
        let log = "t stdout F a\nt stdout F b\nt stdout P c1\nt stdout P c2\n";
        assert_eq!(tail(log, 1), "t stdout P c1\nt stdout P c2\n");
        assert_eq!(tail(log, 2), "t stdout F b\nt stdout P c1\nt stdout P c2\n");
        // A record that is being written.
        assert_eq!(tail("t stdout F a\nt stdout F b", 1), "t stdout F b");
    }

    #[test]
    fn blocks_do_not_matter() {
        let log: String = (0..20_000)
            .map(|i| format!("t stdout F line {i}\n"))
            .collect();
        let expected: String = (13_000..20_000)
            .map(|i| format!("t stdout F line {i}\n"))
            .collect();
        assert_eq!(tail(&log, 7_000), expected);
        assert_eq!(tail(&log, 20_000), log);
    }
}
