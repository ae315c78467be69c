/// What a `WWW-Authenticate` header asks for (RFC 9110, 11.6.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    /// The token protocol of distribution.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// All challenges of the schemes we know, in order; what is malformed is skipped.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut rest = header;
    while let Some((scheme, parameters, after)) = next(rest) {
        rest = after;
        let parameter = |name: &str| {
            parameters
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("basic") {
            challenges.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = parameter("realm")
        {
            challenges.push(Challenge::Bearer {
                realm,
                service: parameter("service"),
                scope: parameter("scope"),
            });
        }
    }
    challenges
}

type Parameters = Vec<(String, String)>;

/// One scheme with its parameters, and what follows them.
fn next(text: &str) -> Option<(&str, Parameters, &str)> {
    let (scheme, mut rest) = token(text.trim_start_matches([' ', ',', '\t']))?;
    let mut parameters = Vec::new();
    loop {
        let at = rest.trim_start_matches([' ', ',', '\t']);
        let Some((name, after)) = token(at) else {
            // Neither a parameter nor a scheme: skip a character, so that the end is reached.
            let mut characters = at.chars();
            characters.next();
            return Some((scheme, parameters, characters.as_str()));
        };
        let Some(value) = after.trim_start().strip_prefix('=') else {
            return Some((scheme, parameters, at));
        };
        let (value, after) = quoted_or_token(value.trim_start());
        parameters.push((name.to_owned(), value));
        rest = after;
    }
}

fn token(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && !"!#$%&'*+-.^_`|~".contains(c))
        .unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn quoted_or_token(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[index + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn what_registries_send() {
        assert_eq!(
            parse(
                r#"Bearer realm="https://auth.io/token",service="r.io",scope="repository:a/b:pull,push""#
            ),
            [bearer(
                "https://auth.io/token",
                Some("r.io"),
                Some("repository:a/b:pull,push")
            )]
        );
        assert_eq!(parse(r#"basic realm="x""#), [Challenge::Basic]);
        assert_eq!(
            parse(r#"Negotiate, Basic realm="a, b", BEARER Realm = "u" , error="x\"y""#),
            [Challenge::Basic, bearer("u", None, None)]
        );
        assert_eq!(
            parse("Bearer realm=http://x"),
            [bearer("http://x", None, None)]
        );
    }

    #[test]
    fn what_is_malformed_ends() {
        for text in [
            "",
            ",,,",
            "Bearer",
            "Bearer realm",
            "Bearer =",
            "\"\"\"",
            "é é",
            "Bearer realm=\"x",
        ] {
            parse(text);
        }
        assert_eq!(parse("Bearer service=x"), []);
    }
}
