//! Why a container cannot be specified. Each is the client's to mend: INVALID_ARGUMENT.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpecError {
    #[error("{field}: {value}: {remedy}")]
    Field {
        field: String,
        value: String,
        remedy: String,
    },
    #[error(
        "image {image:?} has neither an entrypoint nor a cmd, and the request has neither a command nor args: set config.command"
    )]
    NoCommand { image: String },
    #[error(
        "{origin}: user {name:?} is not in the image's /etc/passwd: name one that is, or use a number"
    )]
    UnknownUser { origin: &'static str, name: String },
    #[error(
        "{origin}: group {name:?} is not in the image's /etc/group: name one that is, or use a number"
    )]
    UnknownGroup { origin: &'static str, name: String },
    #[error(
        "config.linux.security_context.privileged: the pod is not privileged: make it so as well"
    )]
    PrivilegedInPlainPod,
}

impl SpecError {
    pub(super) fn field(
        field: impl Into<String>,
        value: impl std::fmt::Display,
        remedy: impl Into<String>,
    ) -> Self {
        SpecError::Field {
            field: field.into(),
            value: value.to_string(),
            remedy: remedy.into(),
        }
    }
}
