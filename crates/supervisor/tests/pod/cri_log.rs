/// A CRI log, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Log(pub(crate) Vec<Entry>);

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) stream: String,
    pub(crate) tag: char,
    pub(crate) content: String,
}

impl Log {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "torn: {text:?}");
        let mut last = String::new();
        let entries = text.split_terminator('\n').map(|line| {
            let (time, rest) = line.split_once(' ').unwrap();
            assert_eq!(time.len(), "2026-11-21T08:00:00.123456789Z".len(), "{line}");
            assert!(time >= last.as_str(), "{time} after {last}");
            last = time.to_owned();
            let (stream, rest) = rest.split_once(' ').unwrap();
            let (tag, content) = rest.split_once(' ').unwrap();
            Entry {
                stream: stream.to_owned(),
                tag: tag.parse().unwrap(),
                content: content.to_owned(),
            }
        });
        Self(entries.collect())
    }

    /// What `kubectl logs` prints of one stream.
    pub(crate) fn shown(&self, stream: &str) -> String {
        let mut text = String::new();
        for entry in self.0.iter().filter(|entry| entry.stream == stream) {
            text.push_str(&entry.content);
            if entry.tag == 'F' {
                text.push('\n');
            }
        }
        text
    }
}
