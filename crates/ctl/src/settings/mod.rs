pub(crate) mod file;

use std::path::{Path, PathBuf};
use std::time::Duration;

use cri::client::Endpoint;

use crate::cli::GlobalFlags;
use crate::error::Error;
use file::FileSettings;

/// Where crictl keeps its configuration.
const CRICTL_CONFIG: &str = "/etc/crictl.yaml";

/// How often crictl tries an endpoint that was named again.
const CRICTL_RETRIES: i64 = 3;

/// Bound on connecting and on calls that only ask.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Bound on calls that do something; that of the kubelet's slowest.
const WORK_TIMEOUT: Duration = Duration::from_secs(240);

/// Flags, environment and configuration file, resolved once: a flag wins over the environment, that over the file.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// `longshore` or `crictl`.
    pub(crate) program: &'static str,
    pub(crate) runtime_endpoint: Endpoint,
    pub(crate) image_endpoint: Endpoint,
    /// Bound on connecting, and on calls that only ask.
    pub(crate) query_timeout: Duration,
    /// Bound on calls that do something, beside their own grace periods. Only a flag shortens it: a file's `timeout: 2` is meant
    /// for connecting.
    pub(crate) work_timeout: Duration,
    pub(crate) pull_on_create: bool,
    pub(crate) pull_on_run: bool,
    /// How often a connection is tried again; none is without end.
    pub(crate) max_retries: Option<u64>,
}

impl Settings {
    /// Only where it is called crictl is its own file read; [`config_path`] says which.
    pub(crate) fn resolve(
        program: &'static str,
        flags: &GlobalFlags,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
        let file = match config_path(program, flags, environment) {
            // Only crictl's own place may be empty: a file that somebody named has to be there.
            Some(path) if path == Path::new(CRICTL_CONFIG) && !path.exists() => {
                FileSettings::default()
            }
            Some(path) => file::read(&path)?,
            None => FileSettings::default(),
        };

        let runtime = flags
            .runtime_endpoint
            .clone()
            .or_else(|| environment("CONTAINER_RUNTIME_ENDPOINT"))
            .or(file.runtime_endpoint);
        let image = flags
            .image_endpoint
            .clone()
            .or_else(|| environment("IMAGE_SERVICE_ENDPOINT"))
            .or(file.image_endpoint);
        let usual = match program {
            "crictl" if runtime.is_some() => CRICTL_RETRIES,
            _ => 0,
        };
        let max_retries = flags.max_retries.or(file.max_retries).unwrap_or(usual);
        let runtime_endpoint = match runtime {
            Some(text) => parse_endpoint("runtime", &text)?,
            None => Endpoint::default(),
        };
        let image_endpoint = match image {
            Some(text) => parse_endpoint("image", &text)?,
            None => runtime_endpoint.clone(),
        };
        let flag_timeout = flags.timeout.filter(|timeout| !timeout.is_zero());
        Ok(Self {
            program,
            runtime_endpoint,
            image_endpoint,
            query_timeout: flag_timeout.or(file.timeout).unwrap_or(QUERY_TIMEOUT),
            work_timeout: flag_timeout.unwrap_or(WORK_TIMEOUT),
            pull_on_create: file.pull_on_create.unwrap_or(false),
            pull_on_run: file.pull_on_run.unwrap_or(true),
            max_retries: u64::try_from(max_retries).ok(),
        })
    }
}

/// The configuration file: `--config`, `CRI_CONFIG_FILE`, or, for crictl, `/etc/crictl.yaml`.
pub(crate) fn config_path(
    program: &'static str,
    flags: &GlobalFlags,
    environment: impl Fn(&str) -> Option<String>,
) -> Option<PathBuf> {
    let named = environment("CRI_CONFIG_FILE").filter(|value| !value.is_empty());
    flags
        .config
        .clone()
        .or(named.map(PathBuf::from))
        .or((program == "crictl").then(|| PathBuf::from(CRICTL_CONFIG)))
}

fn parse_endpoint(what: &'static str, text: &str) -> Result<Endpoint, Error> {
    text.parse()
        .map_err(|source| Error::Endpoint { what, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(runtime: Option<&str>, config: Option<&Path>) -> GlobalFlags {
        GlobalFlags {
            config: config.map(Path::to_owned),
            runtime_endpoint: runtime.map(str::to_owned),
            ..GlobalFlags::default()
        }
    }

    #[test]
    fn connections_are_tried_again_as_the_flag_the_file_or_crictl_says() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("crictl.yaml");
        std::fs::write(&file, "max-retries: 7\n").unwrap();
        let retries = |program, flags: GlobalFlags| {
            let settings = Settings::resolve(program, &flags, |_| None).unwrap();
            settings.max_retries
        };
        let named = flags(Some("/named.sock"), None);
        assert_eq!(retries("longshore", named.clone()), Some(0));
        assert_eq!(retries("crictl", flags(None, Some(&file))), Some(7));
        let given = GlobalFlags {
            max_retries: Some(-1),
            ..flags(Some("/named.sock"), Some(&file))
        };
        assert_eq!(retries("longshore", given), None);
        std::fs::write(&file, "").unwrap();
        assert_eq!(retries("crictl", flags(None, Some(&file))), Some(0));
        assert_eq!(
            retries("crictl", flags(Some("/named.sock"), Some(&file))),
            Some(3)
        );
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("crictl.yaml");
        let text = "runtime-endpoint: unix:///file.sock\ntimeout: 3\ndebug: false\n";
        std::fs::write(&file, text).unwrap();
        let environment = |name: &str| {
            (name == "CONTAINER_RUNTIME_ENDPOINT").then(|| "unix:///env.sock".to_owned())
        };

        let socket = |settings: Settings| settings.runtime_endpoint.to_string();
        let all = Settings::resolve(
            "crictl",
            &flags(Some("/flag.sock"), Some(&file)),
            environment,
        );
        assert_eq!(socket(all.unwrap()), "unix:///flag.sock");
        let two = Settings::resolve("crictl", &flags(None, Some(&file)), environment);
        assert_eq!(socket(two.unwrap()), "unix:///env.sock");
        let one = Settings::resolve("crictl", &flags(None, Some(&file)), |_| None).unwrap();
        assert_eq!(one.query_timeout, Duration::from_secs(3));
        assert_eq!(one.work_timeout, WORK_TIMEOUT);
        assert_eq!(one.image_endpoint, one.runtime_endpoint);
        assert_eq!(socket(one), "unix:///file.sock");
        let none = Settings::resolve("longshore", &flags(None, None), |_| None).unwrap();
        assert_eq!(socket(none), "unix:///run/longshore/longshore.sock");
    }
}
