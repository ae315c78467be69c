//! How a session ended, as the error stream tells it: `metav1.Status` of Kubernetes for the protocols from v4 on, words before.

use serde::{Deserialize, Serialize};

use crate::session::{ExitStatus, SessionError};

/// What the protocol that was agreed on has for telling it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Words,
    Json,
}

/// How a session ended, as far as its client can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    Success,
    /// The command ran, and failed.
    Exit(ExitStatus),
    /// It could not be run, or could not be followed to its end.
    Error(String),
}

impl Ending {
    pub(crate) fn of(outcome: Result<Option<ExitStatus>, SessionError>) -> Self {
        match outcome {
            Ok(Some(status)) if !status.success() => Self::Exit(status),
            Ok(_) => Self::Success,
            Err(error) => Self::Error(error.chain()),
        }
    }

    /// The bytes for the error stream.
    pub(crate) fn encode(&self, language: Language) -> Vec<u8> {
        match (language, self) {
            (Language::Words, Self::Success) => Vec::new(),
            (Language::Words, Self::Exit(status)) => said(*status).into_bytes(),
            (Language::Words, Self::Error(text)) => text.clone().into_bytes(),
            // A status has strings and a number: nothing that JSON cannot hold.
            (Language::Json, _) => serde_json::to_vec(&self.status()).unwrap_or_default(),
        }
    }

    fn status(&self) -> Status {
        match self {
            Self::Success => Status {
                status: "Success".to_owned(),
                ..Status::default()
            },
            Self::Exit(status) => Status {
                status: "Failure".to_owned(),
                message: said(*status),
                reason: "NonZeroExitCode".to_owned(),
                details: Some(Details {
                    causes: vec![Cause {
                        reason: "ExitCode".to_owned(),
                        message: status.0.to_string(),
                    }],
                }),
                ..Status::default()
            },
            Self::Error(text) => Status {
                status: "Failure".to_owned(),
                message: format!("Internal error occurred: {text}"),
                reason: "InternalError".to_owned(),
                details: Some(Details {
                    causes: vec![Cause {
                        reason: String::new(),
                        message: text.clone(),
                    }],
                }),
                code: 500,
                ..Status::default()
            },
        }
    }

    /// What a server's error stream said. Nothing at all is success to the protocols before v4, and what is no status is words.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::Success;
        }
        let status = serde_json::from_slice::<Status>(bytes).ok();
        let Some(status) = status.filter(|status| !status.status.is_empty()) else {
            return Self::Error(String::from_utf8_lossy(bytes).trim().to_owned());
        };
        let code = status.details.iter().flat_map(|details| &details.causes);
        let code = code
            .filter(|cause| cause.reason == "ExitCode")
            .find_map(|cause| cause.message.parse().ok());
        match (status.status.as_str(), status.reason.as_str(), code) {
            ("Success", ..) => Self::Success,
            (_, "NonZeroExitCode", Some(code)) => Self::Exit(ExitStatus(code)),
            _ => Self::Error(status.message),
        }
    }
}

fn said(status: ExitStatus) -> String {
    format!("command terminated with non-zero exit code: {}", status.0)
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Status {
    // Some servers leave out what is empty, containerd 2.4's among them.
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(default, skip_serializing_if = "is_zero")]
    code: i32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(code: &i32) -> bool {
    *code == 0
}

/// Always empty.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Metadata {}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Cause {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default)]
    message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_s_own_words() {
        let exit = Ending::Exit(ExitStatus(3));
        let text = String::from_utf8(exit.encode(Language::Json)).unwrap();
        assert_eq!(
            text,
            r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#
        );
        assert_eq!(
            Ending::Success.encode(Language::Json),
            br#"{"metadata":{},"status":"Success"}"#
        );
        assert_eq!(Ending::Success.encode(Language::Words), b"");
        assert!(exit.encode(Language::Words).ends_with(b": 3"));
    }

    #[test]
    fn what_is_said_is_understood() {
        for ending in [Ending::Success, Ending::Exit(ExitStatus(137))] {
            assert_eq!(Ending::decode(&ending.encode(Language::Json)), ending);
        }
        let error = Ending::Error("no such container".to_owned());
        assert_eq!(
            Ending::decode(&error.encode(Language::Json)),
            Ending::Error("Internal error occurred: no such container".to_owned())
        );
        assert_eq!(Ending::decode(&error.encode(Language::Words)), error);
        assert_eq!(Ending::decode(b""), Ending::Success);
        // As containerd 2.4 says it; words in braces are words.
        let bare = br#"{"status":"Success"}"#;
        assert_eq!(Ending::decode(bare), Ending::Success);
        assert_eq!(Ending::decode(b"{}"), Ending::Error("{}".to_owned()));
    }
}
