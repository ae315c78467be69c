use std::{fs, path::PathBuf};

use cri::v1::{SecurityProfile, security_profile::ProfileType};

use crate::check::{
    case::{Case, Verdict, case, ensure, ensure_eq, skip},
    scene::{Scene, pod_security, security},
};

pub(super) const CASES: &[Case] = &[
    case!("seccomp", "the default profile filters", default_profile),
    case!("seccomp", "unconfined does not", unconfined),
    case!("seccomp", "none at all does not", none),
    case!(
        "seccomp",
        "a profile of the node's filters what it says",
        localhost
    ),
    case!("seccomp", "a profile that is not there is refused", missing),
    case!(
        "seccomp",
        "one that is privileged is not filtered",
        privileged
    ),
];

/// `Seccomp` of proc(5): 0 is none, 2 a filter.
async fn mode(
    scene: &Scene<'_>,
    profile: Option<SecurityProfile>,
    is_privileged: bool,
) -> Verdict<String> {
    available()?;
    let mut pod = scene.host_pod("pod");
    pod_security(&mut pod).privileged = is_privileged;
    let pod = scene.pod(pod).await?;
    let mut config = scene.script(
        &pod,
        "one",
        "grep Seccomp: /proc/self/status; chmod 777 /tmp 2>&1 || echo refused",
    );
    security(&mut config).seccomp = profile;
    security(&mut config).privileged = is_privileged;
    let output = scene.written_by(&pod, config).await?;
    Ok(output
        .split_whitespace()
        .skip(1)
        .collect::<Vec<_>>()
        .join(" "))
}

/// A kernel without it has no such line.
fn available() -> Verdict {
    let status = fs::read_to_string("/proc/self/status")?;
    if !status.contains("Seccomp:") {
        skip!("the kernel has no seccomp");
    }
    Ok(())
}

fn profile(kind: ProfileType, localhost_ref: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: localhost_ref.to_owned(),
    })
}

async fn default_profile(scene: &Scene<'_>) -> Verdict {
    let profile = profile(ProfileType::RuntimeDefault, "");
    ensure_eq!(mode(scene, profile, false).await?, "2", "Seccomp");
    Ok(())
}

/// Where the runtime's own process is filtered, so is everything below it.
async fn not_filtered(
    scene: &Scene<'_>,
    profile: Option<SecurityProfile>,
    is_privileged: bool,
) -> Verdict {
    let own = fs::read_to_string("/proc/self/status")?;
    if !own.contains("Seccomp:\t0") {
        skip!("this process is filtered, and so may be the runtime");
    }
    ensure_eq!(mode(scene, profile, is_privileged).await?, "0", "Seccomp");
    Ok(())
}

async fn unconfined(scene: &Scene<'_>) -> Verdict {
    not_filtered(scene, profile(ProfileType::Unconfined, ""), false).await
}

async fn none(scene: &Scene<'_>) -> Verdict {
    not_filtered(scene, None, false).await
}

/// A profile that allows everything but changing modes, where the runtime looks for profiles.
struct NoChmod(PathBuf);

impl NoChmod {
    fn write(scene: &Scene<'_>) -> Verdict<Self> {
        let directory = &scene.bed.settings.seccomp_directory;
        fs::create_dir_all(directory)?;
        let name = format!("longshore-check-{}-{}.json", scene.bed.run, scene.name);
        let profile = Self(directory.join(name));
        let document = serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO" }],
        });
        fs::write(&profile.0, document.to_string())?;
        Ok(profile)
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for NoChmod {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        // Where there was none, and nobody else has put something there.
        if let Some(directory) = self.0.parent() {
            let _ = fs::remove_dir(directory);
        }
    }
}

async fn localhost(scene: &Scene<'_>) -> Verdict {
    let file = NoChmod::write(scene)?;
    let profile = profile(ProfileType::Localhost, &file.path());
    let seen = mode(scene, profile, false).await?;
    ensure!(
        seen.starts_with('2') && seen.ends_with("refused"),
        "Seccomp, and what chmod says: {seen}"
    );
    Ok(())
}

async fn missing(scene: &Scene<'_>) -> Verdict {
    available()?;
    let pod = scene.any_pod().await?;
    let mut config = scene.sleeper(&pod, "one");
    security(&mut config).seccomp = profile(ProfileType::Localhost, "/proc/no/such/profile.json");
    let Ok(id) = scene.try_create(&pod, config).await else {
        return Ok(());
    };
    ensure!(scene.start(&id).await.is_err(), "it runs unfiltered");
    Ok(())
}

async fn privileged(scene: &Scene<'_>) -> Verdict {
    let file = NoChmod::write(scene)?;
    let profile = profile(ProfileType::Localhost, &file.path());
    not_filtered(scene, profile, true).await
}
