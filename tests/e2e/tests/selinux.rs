//! SELinux: what is written where, and where a machine has it, what comes of it.

use std::{fs, io::Write, path::Path};

use anyhow::Context;
use cri::v1::{ContainerConfig, LinuxContainerSecurityContext, Mount, NamespaceMode};
use e2e::{ContainerSettings, Host, PodSettings, scenario};
use tonic::Code;

const POLICY: &str = include_str!("selinux/policy.cil");

/// The policy's words for containers.
const CONTEXTS: &str = "process = \"system_u:system_r:container_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\n";

/// Where the kernel has SELinux's files.
const KERNEL: &str = "/sys/fs/selinux";

/// The categories of a pod, as its record has them.
fn level_of(host: &Host, pod: &str) -> anyhow::Result<String> {
    let record = format!("/run/longshore/pods/{pod}/pod.json");
    let record = fs::read_to_string(host.sandbox.view(record))?;
    let record: serde_json::Value = serde_json::from_str(&record)?;
    let files = record["labels"]["files"].as_str().context("labels.files")?;
    let level = files.strip_prefix("system_u:object_r:container_file_t:");
    Ok(level.context("the files' type")?.to_owned())
}

/// A node that says that it has SELinux, with a kernel that has not: what is written is seen, and that nothing runs without its label.
#[test]
fn labels_are_written_and_a_kernel_that_takes_none_runs_nothing() {
    scenario(async |host| {
        if Path::new(KERNEL).exists() {
            anyhow::bail!(
                "this kernel has SELinux, and the test pretends: run it where there is none"
            );
        }
        let fake = format!(
            "
            mkdir -p /run/fake/upper /run/fake/work /run/fake/fs/selinux
            mount -t overlay -o lowerdir=/etc,upperdir=/run/fake/upper,workdir=/run/fake/work overlay /etc
            mkdir -p /etc/selinux/test/contexts
            echo SELINUXTYPE=test > /etc/selinux/config
            printf '{CONTEXTS}' > /etc/selinux/test/contexts/lxc_contexts
            cd /sys/fs
            for one in *; do
                mkdir -p /run/fake/fs/$one
                mount --rbind $one /run/fake/fs/$one
                mount --make-rslave /run/fake/fs/$one
            done
            echo 1 > /run/fake/fs/selinux/enforce
            touch /run/fake/fs/selinux/context
            mount --rbind /run/fake/fs /sys/fs
            mount --make-rslave /sys/fs"
        );
        host.sandbox.sh(&fake)?;
        host.restart_daemon().await?;
        let info = host.cri.status(true).await?.info["info"].clone();
        let info: serde_json::Value = serde_json::from_str(&info)?;
        assert_eq!(info["security"]["selinuxLabels"], true, "{info}");

        let own = PodSettings::new("own");
        let refusal = format!("{:#}", host.run_pod(&own).await.unwrap_err());
        assert!(
            refusal.contains("/dev/shm") && refusal.contains("context"),
            "{refusal}"
        );

        let shared = |name: &str| {
            PodSettings::edited(name, |config| {
                let linux = config.linux.get_or_insert_default();
                let security = linux.security_context.get_or_insert_default();
                let namespaces = security.namespace_options.get_or_insert_default();
                namespaces.ipc = NamespaceMode::Node.into();
            })
        };
        let (one, two) = (shared("one"), shared("two"));
        let (one_id, two_id) = (host.run_pod(&one).await?, host.run_pod(&two).await?);
        let levels = [level_of(host, &one_id)?, level_of(host, &two_id)?];
        assert!(
            levels[0].starts_with("s0:c") && levels[0] != levels[1],
            "{levels:?}"
        );
        for file in ["hosts", "hostname", "resolv.conf"] {
            let path = format!("/run/longshore/pods/{one_id}/{file}");
            let mut label = [0_u8; 256];
            let path = host.sandbox.view(path);
            let length = rustix::fs::lgetxattr(&path, "security.selinux", &mut label)?;
            let label = String::from_utf8_lossy(&label[..length]);
            let expected = format!("system_u:object_r:container_file_t:{}", levels[0]);
            assert_eq!(label, expected, "{file}");
        }
        let settings = ContainerSettings::sleeper("labelled");
        let refusal = host.create(&one_id, &one, &settings).await.unwrap_err();
        let refusal = refusal.message();
        assert!(
            refusal.contains("overlay") && refusal.contains("context"),
            "{refusal}"
        );

        // The daemon that comes after knows whose they are.
        host.restart_daemon().await?;
        assert_eq!(level_of(host, &one_id)?, levels[0]);
        host.remove_all_pods().await?;
        host.sandbox.sh("
            umount -R -l /sys/fs
            umount -l /etc
            for one in /run/fake/fs/*; do
                ! mountpoint -q $one || umount -R -l $one
            done
            rm -r --one-file-system /run/fake")?;
        Ok(())
    });
}

/// Makes this machine one with SELinux. There is no way back before its next boot.
fn load_the_policy() -> anyhow::Result<()> {
    let own = fs::read_to_string("/proc/self/attr/current")?;
    let own = own.trim_end_matches(['\0', '\n']);
    anyhow::ensure!(own == "kernel", "this machine has a policy already: {own}");
    let directory = tempfile::tempdir()?;
    let (source, binary) = (
        directory.path().join("policy.cil"),
        directory.path().join("policy"),
    );
    let categories: Vec<_> = (0..1024).map(|number| format!("c{number}")).collect();
    let declared: Vec<_> = categories
        .iter()
        .map(|category| format!("(category {category})\n"))
        .collect();
    let order = format!("(categoryorder ({}))\n", categories.join(" "));
    fs::write(&source, [POLICY, &declared.concat(), &order].concat())?;
    let compiled = std::process::Command::new("secilc")
        .args(["--policyvers=33", "--mls=true", "--filecontexts=/dev/null"])
        .arg("--output")
        .args([&binary, &source])
        .output()
        .context("run secilc (package secilc)")?;
    let said = String::from_utf8_lossy(&compiled.stderr);
    anyhow::ensure!(compiled.status.success(), "secilc: {said}");
    let kernels = |name: &str| {
        let path = format!("{KERNEL}/{name}");
        fs::File::options().write(true).open(path)
    };
    // In one write, as the kernel wants it.
    let policy = fs::read(&binary)?;
    let written = kernels("load")?.write(&policy).context("load the policy")?;
    anyhow::ensure!(written == policy.len(), "the policy was cut off");
    fs::create_dir_all("/etc/selinux/test/contexts")?;
    fs::write("/etc/selinux/config", "SELINUXTYPE=test\n")?;
    fs::write("/etc/selinux/test/contexts/lxc_contexts", CONTEXTS)?;
    kernels("enforce")?.write_all(b"1")?;
    Ok(())
}

/// A script that says its label, and stays.
const TELLS: &str = "cat /proc/self/attr/current | tr '\\000' '\\n'; echo told; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";

/// A container with a volume that is relabelled if `relabels`, and one that is the node's.
fn with_volumes(
    name: &str,
    relabels: bool,
    security: impl Fn(&mut LinuxContainerSecurityContext) + Send + Sync + 'static,
) -> ContainerSettings {
    ContainerSettings::sh(name, TELLS).edited(move |config| {
        let linux = config.linux.get_or_insert_default();
        security(linux.security_context.get_or_insert_default());
        for (name, selinux_relabel) in [("private", relabels), ("node", false)] {
            let path = format!("/run/volumes/{name}");
            mount(config, name, &path, selinux_relabel);
        }
    })
}

fn mount(config: &mut ContainerConfig, name: &str, host_path: &str, selinux_relabel: bool) {
    config.mounts.push(Mount {
        container_path: format!("/{name}"),
        host_path: host_path.to_owned(),
        selinux_relabel,
        ..Mount::default()
    });
}

/// In the container.
async fn denied(host: &Host, id: &str, command: &str) -> anyhow::Result<()> {
    let error = host.cri.sh(id, command).await;
    let error = format!("{:#}", error.err().context("it is allowed")?);
    anyhow::ensure!(error.contains("Permission denied"), "{command}: {error}");
    Ok(())
}

#[test]
#[ignore = "wants a kernel with SELinux and no policy yet, as one of the virtual machines has"]
fn containers_are_confined_by_labels_and_categories() {
    load_the_policy().unwrap();
    scenario(async |host| {
        let (one, two) = (PodSettings::new("one"), PodSettings::new("two"));
        let (one_id, two_id) = (host.run_pod(&one).await?, host.run_pod(&two).await?);
        let levels = [level_of(host, &one_id)?, level_of(host, &two_id)?];
        assert_ne!(levels[0], levels[1]);
        host.sandbox
            .sh("mkdir -p /run/volumes/private /run/volumes/node")?;
        let first = with_volumes("first", true, |_| {});
        let id = host.run(&one_id, &one, &first).await?;
        host.until_logged(&one, &first, "told\n").await?;
        let expected = format!("system_u:system_r:container_t:{}", levels[0]);
        let init = host.output(&one, &first)?;
        assert!(init.contains(&expected), "{init}");
        let exec = host.cri.sh(&id, "cat /proc/self/attr/current").await?;
        assert_eq!(exec.trim_end_matches(['\0', '\n']), expected);

        // Its own: the root, what every container has, and the volume that is relabelled. Not the node's.
        let own = "for d in / /dev /dev/shm /private; do echo x > $d/file && cat $d/file || exit 1; done
            cat /etc/hosts /etc/hostname /etc/resolv.conf > /dev/null && ls /dev/mqueue /dev/pts > /dev/null && echo all";
        assert_eq!(host.cri.sh(&id, own).await?, "x\nx\nx\nx\nall\n");
        denied(host, &id, "echo x > /node/file").await?;

        // Another of the pod may use it, one of another pod not, and one that asks for the level may.
        let beside = with_volumes("beside", true, |_| {});
        let id = host.run(&one_id, &one, &beside).await?;
        let both = host.cri.sh(&id, "cat /private/file /dev/shm/file").await?;
        assert_eq!(both, "x\nx\n");
        let other = with_volumes("other", false, |_| {});
        let id = host.run(&two_id, &two, &other).await?;
        denied(host, &id, "cat /private/file").await?;
        let level = levels[0].clone();
        let asking = with_volumes("asking", false, move |security| {
            security.selinux_options.get_or_insert_default().level = level.clone();
        });
        let id = host.run(&two_id, &two, &asking).await?;
        assert_eq!(host.cri.sh(&id, "cat /private/file").await?, "x\n");

        // What the policy does not know is refused by name, and the node's own directories keep their labels.
        let unknown = with_volumes("unknown", false, |security| {
            security.selinux_options.get_or_insert_default().r#type = "no_such_t".into();
        });
        let all =
            ContainerSettings::sleeper("all").edited(|config| mount(config, "all", "/etc", true));
        for (refused, why) in [
            (
                unknown,
                "selinux_options: the policy of this node has no label system_u:system_r:no_such_t",
            ),
            (all, "selinux_relabel: /etc is the node's"),
        ] {
            let refusal = host.create(&one_id, &one, &refused).await.unwrap_err();
            assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
            assert!(refusal.message().contains(why), "{refusal}");
        }

        // What is privileged is not confined.
        let pod = PodSettings::edited("privileged", |config| {
            let linux = config.linux.get_or_insert_default();
            let security = linux.security_context.get_or_insert_default();
            security.privileged = true;
        });
        let pod_id = host.run_pod(&pod).await?;
        let free = with_volumes("free", false, |security| security.privileged = true);
        let id = host.run(&pod_id, &pod, &free).await?;
        let command = "cat /proc/self/attr/current | tr '\\000' '\\n'; cat /private/file; echo x > /node/file";
        let told = host.cri.sh(&id, command).await?;
        assert!(
            told.starts_with("system_u:system_r:spc_t:s0") && told.ends_with("x\n"),
            "{told}"
        );
        host.remove_all_pods().await?;
        host.sandbox.sh("rm -r /run/volumes")?;
        Ok(())
    });
}
