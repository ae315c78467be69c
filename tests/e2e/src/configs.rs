use std::{fmt, path::Path, sync::Arc};

use cri::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata,
};

/// Changes a request before it is sent.
type Edit<T> = Arc<dyn Fn(&mut T) + Send + Sync>;

/// A pod as a kubelet asks for it: containers with PID namespaces of their own.
#[derive(Clone)]
pub struct PodSettings {
    pub name: String,
    edit: Edit<PodSandboxConfig>,
}

impl fmt::Debug for PodSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("PodSettings");
        fields.field("name", &self.name).finish_non_exhaustive()
    }
}

impl PodSettings {
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::edited(name, |_| {})
    }

    #[must_use]
    pub fn edited(
        name: &str,
        edit: impl Fn(&mut PodSandboxConfig) + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            edit: Arc::new(edit),
        }
    }

    /// The request, with logs below that directory.
    #[must_use]
    pub fn config(&self, log_directory: &Path) -> PodSandboxConfig {
        let namespaces = NamespaceOption {
            pid: NamespaceMode::Container.into(),
            ..Default::default()
        };
        let mut config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: self.name.clone(),
                uid: format!("uid-of-{}", self.name),
                namespace: "e2e".into(),
                attempt: 0,
            }),
            hostname: self.name.clone(),
            log_directory: log_directory.display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        (self.edit)(&mut config);
        config
    }
}

/// A container that runs a command of the host's image.
#[derive(Clone)]
pub struct ContainerSettings {
    pub name: String,
    pub command: Vec<String>,
    /// In place of the host's image.
    pub image: Option<String>,
    pub attempt: u32,
    edit: Edit<ContainerConfig>,
}

impl fmt::Debug for ContainerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("ContainerSettings");
        fields
            .field("name", &self.name)
            .field("command", &self.command);
        fields.finish_non_exhaustive()
    }
}

impl ContainerSettings {
    pub fn new<S: Into<String>>(name: &str, command: impl IntoIterator<Item = S>) -> Self {
        Self {
            name: name.to_owned(),
            command: command.into_iter().map(Into::into).collect(),
            image: None,
            attempt: 0,
            edit: Arc::new(|_| {}),
        }
    }

    /// Runs a shell script.
    #[must_use]
    pub fn sh(name: &str, script: &str) -> Self {
        Self::new(name, ["sh", "-c", script])
    }

    /// Runs until it is stopped, and ends at once when it is.
    #[must_use]
    pub fn sleeper(name: &str) -> Self {
        Self::sh(
            name,
            "trap 'exit 0' TERM; echo up; while :; do sleep 1 & wait $!; done",
        )
    }

    #[must_use]
    pub fn edited(mut self, edit: impl Fn(&mut ContainerConfig) + Send + Sync + 'static) -> Self {
        self.edit = Arc::new(edit);
        self
    }

    #[must_use]
    pub fn image(mut self, reference: &str) -> Self {
        self.image = Some(reference.to_owned());
        self
    }

    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    pub(crate) fn log_path(&self) -> String {
        format!("{}_{}.log", self.name, self.attempt)
    }

    /// The CRI request.
    #[must_use]
    pub fn config(&self, image: &str) -> ContainerConfig {
        let mut config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: self.name.clone(),
                attempt: self.attempt,
            }),
            image: Some(ImageSpec {
                image: self.image.clone().unwrap_or_else(|| image.to_owned()),
                user_specified_image: image.to_owned(),
                ..Default::default()
            }),
            command: self.command.clone(),
            log_path: self.log_path(),
            ..Default::default()
        };
        own_pid_namespace(&mut config);
        (self.edit)(&mut config);
        own_pid_namespace(&mut config);
        config
    }
}

/// As the kubelet asks for it; whoever wants other namespaces sets them.
fn own_pid_namespace(config: &mut ContainerConfig) {
    let linux = config.linux.get_or_insert_default();
    let context = linux.security_context.get_or_insert_default();
    context.namespace_options.get_or_insert(NamespaceOption {
        pid: NamespaceMode::Container.into(),
        ..Default::default()
    });
}
