use std::collections::BTreeMap;
use std::io;

/// The records of pax extended headers (POSIX.1-2001, pax, "pax Extended Header").
#[derive(Debug, Default)]
pub(super) struct Extensions {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The pairs of sparse format 0.0, whose keys repeat.
    pub(super) sparse_pairs: Vec<(u64, u64)>,
}

const XATTR: &[u8] = b"SCHILY.xattr.";

pub(super) fn malformed(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

impl Extensions {
    /// Adds records, `length key=value\n` each; a later one replaces an earlier one.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let bad = || malformed("a pax record is malformed");
        // Some writers pad with zeros.
        while bytes.first().is_some_and(|&byte| byte != 0) {
            let space = bytes
                .iter()
                .position(|&byte| byte == b' ')
                .ok_or_else(bad)?;
            let length = usize::try_from(number(&bytes[..space])?).map_err(|_| bad())?;
            if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &bytes[space + 1..length - 1];
            let equals = record
                .iter()
                .position(|&byte| byte == b'=')
                .ok_or_else(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"GNU.sparse.offset" => self.sparse_pairs.push((number(value)?, 0)),
                b"GNU.sparse.numbytes" => {
                    self.sparse_pairs.last_mut().ok_or_else(bad)?.1 = number(value)?;
                }
                _ => {
                    self.records.insert(key.to_vec(), value.to_vec());
                }
            }
            bytes = &bytes[length..];
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.sparse_pairs.is_empty()
    }

    /// An empty value withdraws the record.
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        let value = self.records.get(key.as_bytes())?;
        (!value.is_empty()).then_some(value)
    }

    pub(super) fn xattrs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        (self.records.iter())
            .filter_map(|(key, value)| Some((key.strip_prefix(XATTR)?.to_vec(), value.clone())))
            .collect()
    }
}

/// Decimal digits.
pub(super) fn number(text: &[u8]) -> io::Result<u64> {
    let bad = || malformed("a number is malformed");
    if text.first().is_none_or(|first| !first.is_ascii_digit()) {
        return Err(bad());
    }
    let text = std::str::from_utf8(text).map_err(|_| bad())?;
    text.parse().map_err(|_| bad())
}

/// `-12.5` and the like: seconds with a fraction of which nine digits count.
pub(super) fn timestamp(text: &[u8]) -> io::Result<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let point = text.iter().position(|&byte| byte == b'.');
    let seconds = number(&text[..point.unwrap_or(text.len())])?;
    let seconds = i64::try_from(seconds).map_err(|_| malformed("a time is out of range"))?;
    let fraction = point.map_or(&b""[..], |point| &text[point + 1..]);
    let mut nanoseconds = 0;
    for index in 0..9 {
        let digit = match fraction.get(index) {
            Some(digit @ b'0'..=b'9') => u32::from(digit - b'0'),
            None => 0,
            Some(_) => return Err(malformed("a time is malformed")),
        };
        nanoseconds = nanoseconds * 10 + digit;
    }
    Ok(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        // The kernel counts nanoseconds forward.
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_anything() {
        let mut extensions = Extensions::default();
        extensions
            .read(b"28 SCHILY.xattr.user.a=\n=\0b\n9 path=\n13 path=a\nb\n")
            .unwrap_err();
        let mut extensions = Extensions::default();
        extensions
            .read(b"27 SCHILY.xattr.user.a=\n=\0\n12 path=a\nb\n\0\0")
            .unwrap();
        assert_eq!(extensions.get("path").unwrap(), b"a\nb");
        assert_eq!(
            extensions.xattrs(),
            [(b"user.a".to_vec(), b"\n=\0".to_vec())]
        );
    }

    #[test]
    fn malformed_records_are_refused() {
        for bytes in [
            &b"5"[..],
            b"x a=b\n",
            b"0 a=b\n",
            b"99 a=b\n",
            b"6 a=bX",
            b"5 ab\n",
            b"2 \n",
            b"-6 a=b\n",
            b"18446744073709551616 a=b\n",
        ] {
            assert!(Extensions::default().read(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn times_before_the_epoch() {
        assert_eq!(timestamp(b"12.5").unwrap(), (12, 500_000_000));
        assert_eq!(timestamp(b"12").unwrap(), (12, 0));
        assert_eq!(timestamp(b"-1.25").unwrap(), (-2, 750_000_000));
        assert_eq!(timestamp(b"0.1234567899").unwrap(), (0, 123_456_789));
        for text in [&b""[..], b".5", b"1.x", b"--1", b"99999999999999999999"] {
            assert!(timestamp(text).is_err());
        }
    }
}
