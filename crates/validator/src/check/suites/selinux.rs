use cri::v1::SeLinuxOption;

use crate::check::{
    case::{Case, Verdict, case, ensure, ensure_eq, skip},
    scene::{Scene, security},
};

pub(super) const CASES: &[Case] = &[
    case!(
        "selinux",
        "a process has the level that is asked for",
        level
    ),
    case!(
        "selinux",
        "a process without one has one of its pod's own",
        own_level
    ),
    case!(
        "selinux",
        "a label is refused, or left out, where the kernel has none",
        no_kernel
    ),
];

fn kernel_has_it() -> bool {
    std::fs::exists("/sys/fs/selinux/enforce").unwrap_or(false)
}

fn needed() -> Verdict {
    match kernel_has_it() {
        true => Ok(()),
        false => skip!("this kernel has no SELinux, or it is off"),
    }
}

async fn label(scene: &Scene<'_>, name: &str, options: Option<SeLinuxOption>) -> Verdict<String> {
    let pod = scene.pod(scene.host_pod(name)).await?;
    let mut config = scene.script(&pod, "one", "cat /proc/self/attr/current");
    security(&mut config).selinux_options = options;
    Ok(scene
        .written_by(&pod, config)
        .await?
        .trim_matches(['\0', '\n'])
        .to_owned())
}

fn options(level: &str) -> Option<SeLinuxOption> {
    Some(SeLinuxOption {
        level: level.to_owned(),
        ..Default::default()
    })
}

async fn level(scene: &Scene<'_>) -> Verdict {
    needed()?;
    let seen = label(scene, "pod", options("s0:c4,c5")).await?;
    ensure!(
        seen.ends_with(":s0:c4,c5") && seen.contains("container"),
        "its label is {seen:?}"
    );
    Ok(())
}

async fn own_level(scene: &Scene<'_>) -> Verdict {
    needed()?;
    let (one, two) = (
        label(scene, "one", None).await?,
        label(scene, "two", None).await?,
    );
    ensure!(
        one.contains(":c") && one != two,
        "two pods' labels are {one:?} and {two:?}"
    );
    Ok(())
}

async fn no_kernel(scene: &Scene<'_>) -> Verdict {
    if kernel_has_it() {
        skip!("this kernel has SELinux");
    }
    let pod = scene.any_pod().await?;
    let mut config = scene.script(&pod, "one", "echo ran");
    security(&mut config).selinux_options = options("s0:c4,c5");
    let Ok(id) = scene.try_create(&pod, config.clone()).await else {
        return Ok(());
    };
    if scene.start(&id).await.is_ok() {
        scene.until_exited(&id).await?;
        ensure_eq!(scene.output(&pod, &config)?, "ran\n", "what it writes");
    }
    Ok(())
}
