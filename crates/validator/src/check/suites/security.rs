use cri::v1::*;

use crate::check::{
    case::{Case, Verdict, case, ensure, ensure_eq},
    scene::{Scene, pod_security, security},
};

pub(super) const CASES: &[Case] = &[
    case!(
        "security",
        "the root file system is read-only where that is asked for, and else not",
        read_only_root
    ),
    case!(
        "security",
        "one that is privileged may what others may not",
        privileged
    ),
    case!("security", "a capability is added", adds),
    case!("security", "a capability is dropped", drops),
    case!("security", "all capabilities are added", adds_all),
    case!("security", "all capabilities are dropped", drops_all),
    case!(
        "security",
        "a capability of no name is refused",
        unknown_capability
    ),
    case!("security", "masked paths are empty", masked),
    case!(
        "security",
        "read-only paths cannot be written",
        read_only_paths
    ),
    case!(
        "security",
        "no new privileges are had where that is asked for, and else they are",
        no_new_privileges
    ),
];

async fn read_only_root(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    for (name, read_only, wanted) in [("ro", true, "refused"), ("rw", false, "written")] {
        let mut config = scene.script(
            &pod,
            name,
            "(echo x >/file) 2>/dev/null && echo written || echo refused",
        );
        security(&mut config).readonly_rootfs = read_only;
        ensure_eq!(
            scene.written_by(&pod, config).await?.trim(),
            wanted,
            "with readonly_rootfs {read_only}"
        );
    }
    Ok(())
}

async fn privileged(scene: &Scene<'_>) -> Verdict {
    let mut pod = scene.host_pod("pod");
    pod_security(&mut pod).privileged = true;
    let pod = scene.pod(pod).await?;
    let script = "mount -t tmpfs none /tmp 2>/dev/null && echo yes || echo no";
    for (name, privileged, wanted) in [("may", true, "yes"), ("may-not", false, "no")] {
        let mut config = scene.script(&pod, name, script);
        security(&mut config).privileged = privileged;
        ensure_eq!(
            scene.written_by(&pod, config).await?.trim(),
            wanted,
            "whether it may mount with privileged {privileged}"
        );
    }
    Ok(())
}

/// Of the container's first process: `CapEff`, as a number.
async fn effective(scene: &Scene<'_>, edit: impl FnOnce(&mut Capability)) -> Verdict<u64> {
    let pod = scene.any_pod().await?;
    let mut config = scene.script(&pod, "one", "grep CapEff /proc/self/status");
    edit(security(&mut config).capabilities.get_or_insert_default());
    let output = scene.written_by(&pod, config).await?;
    let digits = output.split_whitespace().nth(1).unwrap_or_default();
    let number = u64::from_str_radix(digits, 16);
    ensure!(number.is_ok(), "no capabilities: {output:?}");
    Ok(number.unwrap_or_default())
}

const CHOWN: u64 = 1;
const NET_ADMIN: u64 = 1 << 12;

async fn adds(scene: &Scene<'_>) -> Verdict {
    let caps = effective(scene, |caps| {
        caps.add_capabilities = vec!["NET_ADMIN".to_owned()]
    })
    .await?;
    ensure!(
        caps & NET_ADMIN != 0 && caps & CHOWN != 0,
        "{caps:016x} with NET_ADMIN added"
    );
    Ok(())
}

async fn drops(scene: &Scene<'_>) -> Verdict {
    let caps = effective(scene, |caps| {
        caps.drop_capabilities = vec!["CHOWN".to_owned()]
    })
    .await?;
    ensure!(
        caps & CHOWN == 0 && caps != 0,
        "{caps:016x} with CHOWN dropped"
    );
    ensure!(
        caps & NET_ADMIN == 0,
        "NET_ADMIN is there by default: {caps:016x}"
    );
    Ok(())
}

/// What the runtime itself is bounded to is not known from here: at least all that this process has.
async fn adds_all(scene: &Scene<'_>) -> Verdict {
    let caps = effective(scene, |caps| caps.add_capabilities = vec!["ALL".to_owned()]).await?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let own = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let own = own
        .and_then(|it| u64::from_str_radix(it.trim(), 16).ok())
        .unwrap_or_default();
    ensure_eq!(
        caps & own,
        own,
        "what it has of this process's bounding set"
    );
    Ok(())
}

async fn drops_all(scene: &Scene<'_>) -> Verdict {
    let caps = effective(scene, |caps| {
        caps.drop_capabilities = vec!["ALL".to_owned()]
    })
    .await?;
    ensure_eq!(caps, 0, "what is left");
    Ok(())
}

async fn unknown_capability(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let mut config = scene.sleeper(&pod, "one");
    let caps = security(&mut config).capabilities.get_or_insert_default();
    caps.add_capabilities = vec!["FLY".to_owned()];
    let Ok(id) = scene.try_create(&pod, config).await else {
        return Ok(());
    };
    ensure!(scene.start(&id).await.is_err(), "it runs, as if it could");
    Ok(())
}

async fn masked(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let mut config = scene.script(&pod, "one", "cat /etc/passwd | wc -c; ls -A /var | wc -l");
    security(&mut config).masked_paths = vec!["/etc/passwd".to_owned(), "/var".to_owned()];
    let output = scene.written_by(&pod, config).await?;
    let words: Vec<_> = output.split_whitespace().collect();
    ensure_eq!(
        words,
        ["0", "0"],
        "bytes of a masked file, entries of a masked directory"
    );
    Ok(())
}

async fn read_only_paths(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let mut config = scene.script(
        &pod,
        "one",
        "(echo x >/tmp/file) 2>/dev/null && echo written || echo refused; ls -d /tmp",
    );
    security(&mut config).readonly_paths = vec!["/tmp".to_owned()];
    let output = scene.written_by(&pod, config).await?;
    ensure_eq!(output, "refused\n/tmp\n", "a write to a read-only path");
    Ok(())
}

async fn no_new_privileges(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    for wanted in [true, false] {
        let mut config = scene.script(
            &pod,
            &format!("nnp-{wanted}"),
            "grep NoNewPrivs /proc/self/status",
        );
        security(&mut config).no_new_privs = wanted;
        let output = scene.written_by(&pod, config).await?;
        ensure_eq!(
            output.split_whitespace().nth(1),
            Some(if wanted { "1" } else { "0" }),
            "with no_new_privs {wanted}"
        );
    }
    Ok(())
}
