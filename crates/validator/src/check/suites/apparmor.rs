use cri::v1::{SecurityProfile, security_profile::ProfileType};

use crate::check::{
    case::{Case, Verdict, case, ensure, ensure_eq, skip},
    scene::{Scene, security},
};

pub(super) const CASES: &[Case] = &[
    case!("apparmor", "the default profile confines", default_profile),
    case!("apparmor", "unconfined does not", unconfined),
    case!(
        "apparmor",
        "a profile that is not loaded is refused",
        not_loaded
    ),
    case!(
        "apparmor",
        "a profile is refused where the kernel has none",
        no_kernel
    ),
];

fn kernel_has_it() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|it| it.starts_with('Y'))
}

fn needed() -> Verdict {
    match kernel_has_it() {
        true => Ok(()),
        false => skip!("this kernel has no AppArmor, or it is off"),
    }
}

async fn confinement(scene: &Scene<'_>, kind: ProfileType) -> Verdict<String> {
    needed()?;
    let pod = scene.any_pod().await?;
    let mut config = scene.script(
        &pod,
        "one",
        "cat /proc/self/attr/apparmor/current 2>/dev/null || cat /proc/self/attr/current",
    );
    security(&mut config).apparmor = Some(SecurityProfile {
        profile_type: kind.into(),
        ..Default::default()
    });
    Ok(scene.written_by(&pod, config).await?.trim().to_owned())
}

async fn default_profile(scene: &Scene<'_>) -> Verdict {
    let seen = confinement(scene, ProfileType::RuntimeDefault).await?;
    ensure!(seen.ends_with("(enforce)"), "its confinement is {seen:?}");
    Ok(())
}

async fn unconfined(scene: &Scene<'_>) -> Verdict {
    ensure_eq!(
        confinement(scene, ProfileType::Unconfined).await?,
        "unconfined",
        "its confinement"
    );
    Ok(())
}

async fn refused(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let mut config = scene.sleeper(&pod, "one");
    security(&mut config).apparmor = Some(SecurityProfile {
        profile_type: ProfileType::Localhost.into(),
        localhost_ref: "a-profile-of-nobody".to_owned(),
    });
    let Ok(id) = scene.try_create(&pod, config).await else {
        return Ok(());
    };
    ensure!(scene.start(&id).await.is_err(), "it runs unconfined");
    Ok(())
}

async fn not_loaded(scene: &Scene<'_>) -> Verdict {
    needed()?;
    refused(scene).await
}

async fn no_kernel(scene: &Scene<'_>) -> Verdict {
    if kernel_has_it() {
        skip!("this kernel has AppArmor");
    }
    refused(scene).await
}
