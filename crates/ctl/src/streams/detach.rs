/// Ctrl-P, Ctrl-Q: as crictl has them.
const KEYS: [u8; 2] = [0x10, 0x11];

/// Looks for the keys that detach in what is typed.
#[derive(Debug, Default)]
pub(super) struct DetachKeys {
    /// How many have been typed.
    seen: usize,
}

impl DetachKeys {
    /// Takes the keys out of what was typed; whether they are complete. What only began like them is let through once that shows.
    pub(super) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for &byte in typed {
            if byte == KEYS[self.seen] {
                self.seen += 1;
                if self.seen == KEYS.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&KEYS[..self.seen]);
            self.seen = usize::from(byte == KEYS[0]);
            if self.seen == 0 {
                passed.push(byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_detach_wherever_reads_split_them() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.filter(b"ls\n\x10"), (b"ls\n".to_vec(), false));
        assert_eq!(keys.filter(b"\x11rest"), (vec![], true));
        let mut keys = DetachKeys::default();
        assert_eq!(keys.filter(b"a\x10\x11b"), (b"a".to_vec(), true));
    }

    #[test]
    fn what_only_begins_like_them_goes_through() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.filter(b"\x10"), (vec![], false));
        assert_eq!(keys.filter(b"x"), (b"\x10x".to_vec(), false));
        assert_eq!(keys.filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.filter(b"\x11"), (vec![], true));
        assert_eq!(
            DetachKeys::default().filter(b"\x11\x10y"),
            (b"\x11\x10y".to_vec(), false)
        );
    }
}
