use serde::Deserialize;

/// The most of a server's words that is repeated.
const MAX_BYTES: usize = 1024;

#[derive(Deserialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

/// What a server says of an error, in one line of at most 1 KiB, beginning with `: `; empty if it says nothing. The errors of
/// distribution-spec ("Error Codes") are read; anything else is repeated as it is. No secret survives, wherever the server has it from.
pub(super) fn said(body: &[u8], secrets: &[String]) -> String {
    let text = match serde_json::from_slice::<Errors>(body) {
        Ok(Errors { errors }) => {
            let mut lines: Vec<String> = (errors.into_iter())
                .map(|error| match (error.code, error.message) {
                    (Some(code), Some(message)) => format!("{code}: {message}"),
                    (code, message) => code.or(message).unwrap_or_default(),
                })
                .collect();
            lines.retain(|line| !line.is_empty());
            lines.join("; ")
        }
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let mut text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(&**secret, "[redacted]");
    }
    let text = text.trim();
    if text.is_empty() {
        return String::new();
    }
    let mut end = text.len().min(MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!(": {}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_bounded_and_hold_no_secret() {
        let body =
            br#"{"errors":[{"code":"DENIED","message":"no","detail":{}},{"message":"really"},{}]}"#;
        assert_eq!(said(body, &[]), ": DENIED: no; really");
        assert_eq!(said(b"  \n", &[]), "");
        let echoed = said(
            b"you sent hunter2\r\nand aHVudGVyMg==",
            &["hunter2".into(), "aHVudGVyMg==".into()],
        );
        assert_eq!(echoed, ": you sent [redacted]  and [redacted]");
        assert!(said("é".repeat(9999).as_bytes(), &[]).len() <= MAX_BYTES + 2);
    }
}
