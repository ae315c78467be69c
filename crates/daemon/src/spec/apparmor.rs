//! Which AppArmor profile a container has, and whether the kernel has that profile.
//!
//! | asked | AppArmor is enabled | it is not |
//! |---|---|---|
//! | nothing, `RuntimeDefault` | [`DEFAULT`], made and loaded when it is first needed | nothing is lost |
//! | `Unconfined`, privileged | none | none |
//! | `Localhost` | that profile, which must be loaded | refused: its author relies on it |

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{io::AsyncWriteExt, process::Command, sync::Mutex};

use super::{Host, SpecError};
use crate::pod::config::{ProfileType, SecurityProfile};

/// The profile of containers that ask for no other.
pub(crate) const DEFAULT: &str = "longshore-default";

const FIELD: &str = "config.linux.security_context.apparmor";

/// How long the node's own program may take to compile and load a profile.
const LOADED_WITHIN: Duration = Duration::from_secs(30);

/// The profile's name, from the checked request. `None`: the process keeps what its parent has.
pub(super) fn name(
    profile: Option<&SecurityProfile>,
    privileged: bool,
    host: &Host,
) -> Result<Option<String>, SpecError> {
    if privileged {
        return Ok(None);
    }
    let asked = profile.map(|profile| (profile.profile_type, &profile.localhost_ref));
    match (asked, host.apparmor) {
        (Some((ProfileType::Unconfined, _)), _) => Ok(None),
        (None | Some((ProfileType::RuntimeDefault, _)), enabled) => {
            Ok(enabled.then(|| DEFAULT.to_owned()))
        }
        (Some((ProfileType::Localhost, name)), true) => Ok(Some(name.clone())),
        (Some((ProfileType::Localhost, name)), false) => Err(SpecError::field(
            FIELD,
            format_args!("localhost profile {name:?}"),
            "AppArmor is not enabled on this node: run the pod elsewhere, or use RuntimeDefault, which asks for nothing here",
        )),
    }
}

/// The profiles that the kernel has.
#[derive(Debug)]
pub(crate) struct AppArmor {
    /// The kernel's list: `NAME (MODE)` a line.
    list: PathBuf,
    /// Compiles and loads.
    parser: Vec<PathBuf>,
    /// One at a time.
    loading: Mutex<()>,
}

impl Default for AppArmor {
    fn default() -> Self {
        Self {
            list: PathBuf::from("/sys/kernel/security/apparmor/profiles"),
            parser: ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"]
                .map(PathBuf::from)
                .to_vec(),
            loading: Mutex::default(),
        }
    }
}

/// Why a container cannot have its profile. FAILED_PRECONDITION: it is the node's to have.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppArmorError {
    #[error(
        "{FIELD}: profile {name:?} is not loaded on this node: load it with apparmor_parser -r, or name another"
    )]
    NotLoaded { name: String },
    #[error(
        "{FIELD}: AppArmor is enabled, and apparmor_parser is not there to load the profile {DEFAULT}: install it (package apparmor), or use Unconfined"
    )]
    NoParser,
    #[error("{FIELD}: load the profile {DEFAULT}: run {}", parser.display())]
    Run {
        parser: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{FIELD}: load the profile {DEFAULT}: {} is not done after {} s", parser.display(), LOADED_WITHIN.as_secs())]
    Late { parser: PathBuf },
    #[error("{FIELD}: load the profile {DEFAULT}: {} says: {said}", parser.display())]
    Refused { parser: PathBuf, said: String },
}

impl AppArmor {
    /// Sees to it that the kernel has a profile of [`name`]. Ours is loaded if it is not there; others are the node's.
    pub(crate) async fn ready(&self, name: &str) -> Result<(), AppArmorError> {
        if self.has(name).await {
            return Ok(());
        }
        if name != DEFAULT {
            return Err(AppArmorError::NotLoaded {
                name: name.to_owned(),
            });
        }
        let _turn = self.loading.lock().await;
        match self.has(name).await {
            true => Ok(()),
            false => self.load().await,
        }
    }

    /// The kernel answers from memory.
    async fn has(&self, name: &str) -> bool {
        let list = tokio::fs::read_to_string(&self.list).await;
        let list = list.unwrap_or_default();
        list.lines().any(|line| {
            line.rsplit_once(" (")
                .is_some_and(|(known, _)| known == name)
        })
    }

    async fn load(&self) -> Result<(), AppArmorError> {
        let parser = self.parser.iter().find(|parser| parser.exists());
        let parser = parser.ok_or(AppArmorError::NoParser)?;
        let own = std::fs::read_to_string("/proc/self/attr/apparmor/current");
        let profile = profile(own.as_deref().unwrap_or_default());
        let run = run(parser, &profile);
        match tokio::time::timeout(LOADED_WITHIN, run).await {
            Ok(result) => result?,
            // Dropped, it is killed.
            Err(_) => {
                return Err(AppArmorError::Late {
                    parser: parser.clone(),
                });
            }
        }
        tracing::info!(profile = DEFAULT, "AppArmor profile loaded");
        Ok(())
    }
}

async fn run(parser: &Path, profile: &str) -> Result<(), AppArmorError> {
    let failed = |source| AppArmorError::Run {
        parser: parser.to_owned(),
        source,
    };
    let mut child = Command::new(parser)
        // Add or replace; no cache of something that is written to no file.
        .args(["--replace", "--skip-cache"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends early says why.
        let _unread = input.write_all(profile.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(AppArmorError::Refused {
            parser: parser.to_owned(),
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
    }
}

/// The default profile's text. A container may do with its own files, network and processes what its capabilities allow; it mounts nothing,
/// changes no setting of the kernel but those of its namespaces, and traces and signals nobody outside. `own` is what the daemon and its
/// supervisors are confined by: they signal containers.
fn profile(own: &str) -> String {
    let own = own.trim_end_matches(['\n', '\0']);
    let own = own.rsplit_once(" (").map_or(own, |(name, _)| name);
    let own = match own {
        "" | "unconfined" => String::new(),
        own => format!("  signal (receive) peer={own:?},\n"),
    };
    format!(
        "profile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{
  capability,
  file,
  network,
  umount,

  # From those who run it, and among its own.
  signal (receive) peer=unconfined,
{own}  signal (send,receive) peer={DEFAULT},
  ptrace (trace,read,tracedby,readby) peer={DEFAULT},
  unix peer=(label={DEFAULT}),
  unix peer=(label=unconfined),

  # The view of the file system is the runtime's to make.
  deny mount,

  # Settings of the kernel: those of the network, of messages and of shared memory are the container's.
  deny /proc/* w,
  deny /proc/acpi/** rwklx,
  deny /proc/bus/** w,
  deny /proc/fs/** w,
  deny /proc/irq/** w,
  deny /proc/kcore rwklx,
  deny /proc/mem rwklx,
  deny /proc/kmem rwklx,
  deny /proc/scsi/** rwklx,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/sys/[^kn]** wklx,
  deny /proc/sys/kernel/[^sm]* wklx,
  deny /proc/sys/kernel/s[^eh]* wklx,
  deny /proc/sys/kernel/m[^s]* wklx,

  # Devices and modules; cgroups are writable where they are mounted so.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"
    )
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn asked(profile_type: ProfileType, name: &str) -> Option<SecurityProfile> {
        Some(SecurityProfile {
            profile_type,
            localhost_ref: name.to_owned(),
        })
    }

    #[test]
    fn a_name_for_what_is_asked() {
        let host = |apparmor| Host {
            apparmor,
            ..Host::default()
        };
        let of = |profile: Option<SecurityProfile>, privileged, enabled| {
            name(profile.as_ref(), privileged, &host(enabled)).map_err(|error| error.to_string())
        };
        let default = || Ok(Some(DEFAULT.to_owned()));
        let localhost = || asked(ProfileType::Localhost, "k8s-nginx");
        assert_eq!(of(None, false, true), default());
        assert_eq!(
            of(asked(ProfileType::RuntimeDefault, ""), false, true),
            default()
        );
        assert_eq!(
            of(asked(ProfileType::Unconfined, ""), false, true),
            Ok(None)
        );
        assert_eq!(
            of(localhost(), false, true),
            Ok(Some("k8s-nginx".to_owned()))
        );
        assert_eq!(of(localhost(), true, true), Ok(None));
        assert_eq!(of(None, false, false), Ok(None));
        assert_eq!(
            of(asked(ProfileType::RuntimeDefault, ""), false, false),
            Ok(None)
        );
        let error = of(localhost(), false, false).unwrap_err();
        assert!(
            error.contains("apparmor") && error.contains("k8s-nginx"),
            "{error}"
        );
        assert!(error.contains("not enabled"), "{error}");
    }

    fn node(directory: &Path, parser: &str) -> AppArmor {
        let program = directory.join("apparmor_parser");
        fs::write(
            &program,
            format!("#!/bin/sh\ncd {}\n{parser}", directory.display()),
        )
        .unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let list = directory.join("profiles");
        fs::write(&list, "k8s nginx (enforce)\n/usr/bin/man (complain)\n").unwrap();
        AppArmor {
            list,
            parser: vec![directory.join("nowhere"), program],
            loading: Mutex::default(),
        }
    }

    #[tokio::test]
    async fn the_default_is_loaded_once_and_others_must_be() {
        let directory = tempfile::tempdir().unwrap();
        let loads =
            "echo \"$@\" >> calls; cat > text; echo 'longshore-default (enforce)' >> profiles";
        let node = node(directory.path(), loads);
        node.ready("k8s nginx").await.unwrap();
        let error = node.ready("k8s").await.unwrap_err().to_string();
        assert!(error.contains("\"k8s\" is not loaded"), "{error}");
        let both = tokio::join!(node.ready(DEFAULT), node.ready(DEFAULT));
        both.0.unwrap();
        both.1.unwrap();
        let calls = fs::read_to_string(directory.path().join("calls")).unwrap();
        assert_eq!(calls, "--replace --skip-cache\n");
        let text = fs::read_to_string(directory.path().join("text")).unwrap();
        assert!(text.starts_with("profile longshore-default "), "{text}");
    }

    #[tokio::test]
    async fn who_cannot_load_it_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let mut node = node(
            directory.path(),
            "cat > /dev/null; echo 'syntax error' >&2; exit 1",
        );
        let error = node.ready(DEFAULT).await.unwrap_err().to_string();
        assert!(error.contains("syntax error"), "{error}");
        node.parser.pop();
        let error = node.ready(DEFAULT).await.unwrap_err().to_string();
        assert!(error.contains("package apparmor"), "{error}");
    }

    #[test]
    fn the_daemons_own_profile_may_signal() {
        assert!(!profile("unconfined\n").contains("peer=\"unconfined\""));
        assert!(
            profile("/usr/bin/longshored (enforce)\n").contains("peer=\"/usr/bin/longshored\"")
        );
    }
}
