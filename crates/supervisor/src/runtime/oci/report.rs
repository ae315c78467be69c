//! What a runtime has said, in one line.

/// The last lines of a log.
const LINES: usize = 3;

/// Bytes of all of them.
const BYTES: usize = 1500;

/// The last lines of what a command has written. A line of a JSON log becomes its message; the same message twice is one. What is told of how
/// things go is left out where something else is told: youki undoes at length what has failed.
pub(super) fn last_lines(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    let all = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let (chatter, words): (Vec<&str>, Vec<&str>) = all.partition(|line| is_chatter(line));
    let mut lines: Vec<String> = Vec::new();
    for line in if words.is_empty() { chatter } else { words } {
        let line: String = message(line)
            .unwrap_or_else(|| line.to_owned())
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if lines.last() != Some(&line) {
            lines.push(line);
        }
    }
    let first = lines.len().saturating_sub(LINES);
    let mut text = lines[first..].join("; ");
    if text.len() > BYTES {
        let mut cut = text.len() - BYTES;
        while !text.is_char_boundary(cut) {
            cut += 1;
        }
        text.replace_range(..cut, "…");
    }
    text
}

/// What `wait` prints: `{"id":"…","exitStatus":7}`.
pub(super) fn exit_status(tail: &[u8]) -> Option<i32> {
    let text = String::from_utf8_lossy(tail);
    let (_, rest) = text.rsplit_once("\"exitStatus\":")?;
    let digits = rest.trim_start().split(|c: char| !c.is_ascii_digit());
    digits.into_iter().next()?.parse().ok()
}

/// A line of a JSON log below a warning.
fn is_chatter(line: &str) -> bool {
    let level = line
        .starts_with('{')
        .then(|| value(line, "level"))
        .flatten();
    let chatter = ["trace", "debug", "info"];
    level.is_some_and(|level| chatter.iter().any(|one| level.eq_ignore_ascii_case(one)))
}

/// The message of a JSON object in a line: runc, crun and gVisor call it `msg`, youki `message`.
fn message(line: &str) -> Option<String> {
    let inner = line.strip_prefix('{')?;
    value(inner, "msg").or_else(|| value(inner, "message"))
}

/// A text in the JSON object of a line, by its key.
fn value(line: &str, key: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!("\"{key}\""))?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start();
    let mut characters = rest.strip_prefix('"')?.chars();
    let mut text = String::new();
    loop {
        match characters.next()? {
            '"' => return Some(text),
            '\\' => match characters.next()? {
                'n' | 'r' | 't' => text.push(' '),
                'u' => {
                    let digits: String = characters.by_ref().take(4).collect();
                    let code = u32::from_str_radix(&digits, 16).ok()?;
                    text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_out_of_json() {
        let log = br#"{"level":"warning","msg":"first","time":"t"}
{"level":"error","msg":"runc create failed: exec: \"/no\": stat\u0020/no:\nno such file","time":"t"}
runc create failed: exec: "/no": stat /no: no such file
"#;
        assert_eq!(
            last_lines(log),
            "first; runc create failed: exec: \"/no\": stat /no: no such file"
        );
    }

    #[test]
    fn chatter_hides_no_error() {
        let log = br#"{"timestamp":"t","level":"ERROR","message":"failed to join","target":"x"}
{"timestamp":"t","level":"DEBUG","message":"remove cgroup a","target":"x"}
{"timestamp":"t","level":"DEBUG","message":"remove cgroup b","target":"x"}
{"timestamp":"t","level":"INFO","message":"done","target":"x"}
"#;
        assert_eq!(last_lines(log), "failed to join");
        let chatter = &log[log.iter().position(|byte| *byte == b'\n').unwrap()..];
        assert_eq!(
            last_lines(chatter),
            "remove cgroup a; remove cgroup b; done"
        );
    }

    #[test]
    fn an_exit_status_is_read_from_what_wait_prints() {
        assert_eq!(
            exit_status(b"{\"id\":\"c\",\"exitStatus\":137}\n"),
            Some(137)
        );
        assert_eq!(exit_status(b"{\"exitStatus\": 7 }"), Some(7));
        for other in [&b""[..], b"{\"exitStatus\":null}", b"waiting on container"] {
            assert_eq!(exit_status(other), None);
        }
    }

    #[test]
    fn garbage_is_cut_and_printable() {
        let mut garbage = vec![0x1b, 0xff, b'{', b'"'];
        garbage.extend([b'x'; 5000]);
        let text = last_lines(&garbage);
        assert!(text.len() < 1600, "{}", text.len());
        assert!(!text.chars().any(char::is_control));
        assert_eq!(last_lines(b"\n \n"), "");
        assert_eq!(last_lines(b"a\nb\nc\nd"), "b; c; d");
        assert_eq!(
            last_lines(br#"{"msg":"unfinished"#),
            r#"{"msg":"unfinished"#
        );
    }
}
