/// Whether `text` is what `pattern` says, where `*` stands for any run of characters, also none.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let Some((beginning, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(beginning) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        // The first place will do: what follows may begin anywhere behind it.
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// Whether a repository is the named one or below it, at a slash; `*` is any.
pub(super) fn is_below(prefix: &str, repository: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    match repository.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => prefix == "*",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, fit) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*", "a", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*@corp.example", "me@corp.example", true),
            ("*@corp.example", "me@corp.example.evil", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(fits(pattern, text), fit, "{pattern} {text}");
        }
    }

    #[test]
    fn repositories_are_below_at_slashes_only() {
        for (prefix, repository, below) in [
            ("r.io", "r.io/a", true),
            ("r.io/", "r.io/a/b", true),
            ("r.io/a", "r.io/a", true),
            ("r.io/a", "r.io/ab", false),
            ("r.io", "r.io.evil/a", false),
            ("r.io", "r.io:5000/a", false),
            ("*", "anything/at/all", true),
        ] {
            assert_eq!(is_below(prefix, repository), below, "{prefix} {repository}");
        }
    }
}
