//! What was asked of a container's confinement, and what /proc says of it: for init and for exec.

mod every_call;
mod generated;
mod notifier;

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::Context;
use cri::v1::{
    ContainerConfig, Int64Value, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy,
    security_profile::ProfileType,
};
use e2e::{ContainerSettings, Host, PodSettings, scenario, scenario_with};
use generated::{Asked, Dice, PodKind};
use tonic::Code;

/// How long the generated contexts go on; it says nothing of how many there are.
const GENERATED_FOR: Duration = Duration::from_secs(12);

/// Everything that a security context decides, as the kernel says it.
const CONFINEMENT: &str = "
    grep -E '^(Uid|Gid|Groups|Cap[A-Za-z]+|NoNewPrivs|Seccomp):' /proc/self/status
    for map in uid gid; do echo ${map}_map: $(cat /proc/self/${map}_map); done
    for n in mnt pid net ipc uts cgroup user; do echo $n: $(readlink /proc/self/ns/$n); done
    echo root: $(awk '$5 == \"/\" { print $6 }' /proc/self/mountinfo)
    echo oom_score_adj: $(cat /proc/self/oom_score_adj)
    awk '{ path = $5; source = $4; access = substr($6, 1, 2); sub(/.* - /, \"\");
        print \"mount \" path \": \" access \" \" $1 \" \" source }' /proc/self/mountinfo
    echo end";

#[test]
fn generated_contexts_are_as_asked() {
    scenario(async |host| {
        let mut dice = Dice::new();
        let told = told_by(&host.sandbox.sh(CONFINEMENT)?);
        let mut pods = Vec::new();
        for kind in PodKind::ALL {
            let pod = kind.pod();
            pods.push((kind, host.run_pod(&pod).await?, pod));
        }
        let end = Instant::now() + GENERATED_FOR;
        let mut round = 0;
        while round < 8 || Instant::now() < end {
            let (kind, pod_id, pod) = &pods[round % pods.len()];
            let asked = Asked::roll(&mut dice, *kind, told.bits("CapBnd"));
            let result = compare(host, pod_id, pod, round, &asked, &told).await;
            result.map_err(|error| {
                error.context(format!("seed {}, round {round}: {asked:#?}", dice.seed))
            })?;
            round += 1;
        }
        println!("{round} contexts of seed {}", dice.seed);
        Ok(())
    });
}

/// Runs a container of this context, and compares.
async fn compare(
    host: &Host,
    pod_id: &str,
    pod: &PodSettings,
    round: usize,
    asked: &Asked,
    node: &Told,
) -> anyhow::Result<()> {
    let (context, resources) = (asked.context(), asked.resources());
    let script =
        format!("({CONFINEMENT}); trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done");
    let settings = ContainerSettings::sh(&format!("c{round}"), &script).edited(move |config| {
        let linux = config.linux.get_or_insert_default();
        linux.security_context = Some(context.clone());
        linux.resources = Some(resources.clone());
    });
    let id = host.run(pod_id, pod, &settings).await?;
    host.until_logged(pod, &settings, "end\n").await?;
    let init = told_by(&host.output(pod, &settings)?);
    let exec = told_by(&host.cri.sh(&id, CONFINEMENT).await?);
    anyhow::ensure!(init == exec, "exec is not as init: {exec:#?}\n{init:#?}");
    let wrong = asked.wrong(&init, node);
    anyhow::ensure!(wrong.is_empty(), "{}\n{init:#?}", wrong.join("\n"));
    in_its_cgroup(host, &id).await?;
    let user = host.cri.container_status(&id).await?.user;
    let user = user.and_then(|user| user.linux).unwrap_or_default();
    let mut groups = user.supplemental_groups.clone();
    groups.sort_unstable();
    let reported = format!("{} {} {groups:?}", user.uid, user.gid);
    let expected = format!("{} {} {:?}", asked.uid(), asked.gid(), asked.groups());
    anyhow::ensure!(reported == expected, "reported: {reported}, not {expected}");
    host.cri.remove(&id).await?;
    Ok(())
}

/// Init, as the node sees it, and an exec, as it sees itself, are in the container's cgroup or below it: no limit is passed by.
async fn in_its_cgroup(host: &Host, id: &str) -> anyhow::Result<()> {
    let info = &host.cri.container_status_with(id, true).await?.info["info"];
    let info: serde_json::Value = serde_json::from_str(info)?;
    let pid = info["pid"].as_u64().context("its pid")?;
    let init = host.sandbox.sh(&format!("cat /proc/{pid}/cgroup"))?;
    let exec = host.cri.sh(id, "cat /proc/self/cgroup").await?;
    // `NUMBER:CONTROLLERS:PATH`. From a cgroup namespace of its own, what lies beside or above begins with `/..`.
    let path = |line: &str| line.splitn(3, ':').last().unwrap_or_default().to_owned();
    let outside = |line: &&str| !path(line).contains(id);
    let beyond = |line: &&str| outside(line) && path(line).starts_with("/..");
    let left_out: Vec<_> = init.lines().filter(outside).collect();
    anyhow::ensure!(left_out.is_empty(), "init is elsewhere: {left_out:?}");
    let left_out: Vec<_> = exec.lines().filter(beyond).collect();
    anyhow::ensure!(left_out.is_empty(), "an exec is elsewhere: {left_out:?}");
    Ok(())
}

/// Lines `name: value`.
#[derive(Debug, PartialEq, Eq)]
struct Told(std::collections::BTreeMap<String, String>);

impl Told {
    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn bits(&self, name: &str) -> u64 {
        u64::from_str_radix(self.get(name), 16).unwrap_or_default()
    }

    /// `ACCESS TYPE ROOT` of what is mounted there last.
    fn mount(&self, path: &str) -> Option<&str> {
        self.0.get(&format!("mount {path}")).map(String::as_str)
    }

    fn numbers(&self, name: &str) -> Vec<i64> {
        let words = self.get(name).split_whitespace();
        words.filter_map(|word| word.parse().ok()).collect()
    }
}

fn told_by(text: &str) -> Told {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    Told(
        lines
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect(),
    )
}

fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

fn profile(profile_type: ProfileType, localhost_ref: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile {
        profile_type: profile_type.into(),
        localhost_ref: localhost_ref.to_owned(),
    })
}

#[test]
fn groups_come_by_either_policy() {
    scenario(async |host| {
        let pod = PodSettings::new("groups");
        let pod_id = host.run_pod(&pod).await?;
        // The image's /etc/group puts www-data (33) into audio (29) and staff (50).
        for (name, policy, expected) in [
            (
                "merge",
                SupplementalGroupsPolicy::Merge,
                vec![29, 33, 50, 4000],
            ),
            ("strict", SupplementalGroupsPolicy::Strict, vec![33, 4000]),
        ] {
            let settings = ContainerSettings::sleeper(name).edited(move |config| {
                let security = security(config);
                security.run_as_user = Some(Int64Value { value: 33 });
                security.supplemental_groups = vec![4000];
                security.supplemental_groups_policy = policy.into();
            });
            let id = host.run(&pod_id, &pod, &settings).await?;
            let init = "sed -n 's/^Groups:\\s*//p' /proc/1/status";
            for groups in [
                host.cri.sh(&id, "id -G").await?,
                host.cri.sh(&id, init).await?,
            ] {
                let words = groups.split_whitespace();
                let mut groups: Vec<i64> = words.map(|word| word.parse().unwrap()).collect();
                groups.sort_unstable();
                assert_eq!(groups, expected, "{name}");
            }
            let user = host.cri.container_status(&id).await?.user.unwrap();
            let mut reported = user.linux.unwrap().supplemental_groups;
            reported.sort_unstable();
            assert_eq!(reported, expected, "{name}");
        }
        Ok(())
    });
}

#[test]
fn seccomp_profiles_of_the_node_are_applied_and_missing_ones_refused() {
    // The test's own: a directory of the machine's would be shared with other suites.
    let directory = tempfile::tempdir().unwrap();
    let no_mkdir = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
        [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    fs::write(directory.path().join("no-mkdir.json"), no_mkdir).unwrap();
    fs::write(directory.path().join("broken.json"), "{").unwrap();
    let settings = format!("seccomp_directory = {:?}", directory.path());
    let path = directory.path().join("no-mkdir.json").display().to_string();
    scenario_with(&settings, async |host| {
        let pod = PodSettings::edited("profiled", |config| {
            pod_security(config).seccomp = profile(ProfileType::Localhost, "no-mkdir.json");
        });
        let pod_id = host.run_pod(&pod).await?;
        let deprecated = format!("localhost/{path}");
        let named = ContainerSettings::sleeper("field").edited(|config| {
            security(config).seccomp = profile(ProfileType::Localhost, "no-mkdir.json");
        });
        #[allow(deprecated)]
        let by_path = ContainerSettings::sleeper("path").edited(move |config| {
            security(config)
                .seccomp_profile_path
                .clone_from(&deprecated);
        });
        #[allow(deprecated)]
        let default = ContainerSettings::sleeper("default").edited(|config| {
            security(config).seccomp_profile_path = "runtime/default".to_owned();
        });
        for (settings, makes) in [(named, false), (by_path, false), (default, true)] {
            let id = host.run(&pod_id, &pod, &settings).await?;
            let mode = host.cri.sh(&id, "grep Seccomp: /proc/1/status").await?;
            assert_eq!(mode, "Seccomp:\t2\n", "{}", settings.name);
            let made = host.cri.sh(&id, "mkdir /made").await;
            assert_eq!(made.is_ok(), makes, "{}: {made:?}", settings.name);
        }

        for missing in ["no-such.json", "broken.json"] {
            let bad = PodSettings::edited("missing", move |config| {
                pod_security(config).seccomp = profile(ProfileType::Localhost, missing);
            });
            let of_pod = host.cri.run_pod(host.pod_config(&bad)).await.map(drop);
            let settings = ContainerSettings::sleeper("missing").edited(move |config| {
                security(config).seccomp = profile(ProfileType::Localhost, missing);
            });
            let of_container = host.create(&pod_id, &pod, &settings).await.map(drop);
            for refusal in [of_pod, of_container] {
                let refusal = refusal.unwrap_err();
                assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
                for word in ["security_context.seccomp", missing] {
                    assert!(refusal.message().contains(word), "{refusal}");
                }
            }
        }
        Ok(())
    });
}

#[test]
fn without_apparmor_and_selinux_nothing_is_lost() {
    scenario(async |host| {
        let info = &host.cri.status(true).await?.info["info"];
        let info: serde_json::Value = serde_json::from_str(info)?;
        let here = |module: &str| info["security"][module].as_bool().unwrap();
        let pod = PodSettings::new("labels");
        let pod_id = host.run_pod(&pod).await?;
        let labelled = ContainerSettings::sleeper("labelled").edited(|config| {
            security(config).selinux_options = Some(SeLinuxOption {
                r#type: "spc_t".into(),
                level: "s0:c1,c2".into(),
                ..Default::default()
            });
        });
        let default = ContainerSettings::sleeper("default").edited(|config| {
            security(config).apparmor = profile(ProfileType::RuntimeDefault, "");
        });
        // Where the module is there, and a policy with labels for containers, they are what is asked for.
        let answer = host.create(&pod_id, &pod, &labelled).await;
        assert_eq!(
            answer.is_err(),
            here("selinux") && !here("selinuxLabels"),
            "{answer:?}"
        );
        let id = host.run(&pod_id, &pod, &default).await?;
        let missing = ContainerSettings::sleeper("missing").edited(|config| {
            security(config).apparmor = profile(ProfileType::Localhost, "no-such-profile");
        });
        let refusal = host.create(&pod_id, &pod, &missing).await.unwrap_err();
        let refusal = format!("{refusal:#}");
        // On a node with AppArmor init and exec are confined, and a profile is to be loaded; on one without, it says that it is without.
        let reason = match here("apparmor") {
            true => {
                let label = "cat /proc/1/attr/apparmor/current /proc/self/attr/apparmor/current";
                let labels = host.cri.sh(&id, label).await?;
                assert_eq!(labels, "longshore-default (enforce)\n".repeat(2));
                "is not loaded"
            }
            false => "AppArmor is not enabled",
        };
        assert!(
            refusal.contains(reason) && refusal.contains("no-such-profile"),
            "{refusal}"
        );
        Ok(())
    });
}

/// What the refusal names, and a change of a good request.
type Bad<T> = (&'static str, fn(&mut T));

#[test]
fn what_would_be_less_than_asked_is_refused() {
    scenario(async |host| {
        let pods: [Bad<PodSandboxConfig>; 3] = [
            ("io.kubernetes.cri-o.userns-mode", |config| {
                annotate(config, "io.kubernetes.cri-o.userns-mode", "auto");
            }),
            ("io.kubernetes.cri-o.seccompNotifierAction", |config| {
                annotate(config, "io.kubernetes.cri-o.seccompNotifierAction", "kill");
            }),
            ("run_as_group", |config| {
                pod_security(config).run_as_group = Some(Int64Value { value: 5 });
            }),
        ];
        for (word, edit) in pods {
            let mut config = host.pod_config(&PodSettings::new("bad"));
            edit(&mut config);
            let refusal = host.cri.run_pod(config).await.unwrap_err();
            assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
            assert!(refusal.message().contains(word), "{refusal}");
        }
        let pod = PodSettings::new("plain");
        let pod_id = host.run_pod(&pod).await?;
        let containers: [Bad<NamespaceOption>; 3] = [
            ("namespace_options.network", |it| {
                it.set_network(NamespaceMode::Node);
            }),
            ("namespace_options.pid", |it| {
                it.set_pid(NamespaceMode::Node)
            }),
            ("namespace_options.ipc", |it| {
                it.set_ipc(NamespaceMode::Node)
            }),
        ];
        for (word, edit) in containers {
            let settings = ContainerSettings::sleeper("bad").edited(move |config| {
                edit(security(config).namespace_options.get_or_insert_default())
            });
            let refusal = host.create(&pod_id, &pod, &settings).await.unwrap_err();
            assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
            assert!(refusal.message().contains(word), "{refusal}");
        }
        Ok(())
    });
}

fn annotate(config: &mut PodSandboxConfig, name: &str, value: &str) {
    config.annotations.insert(name.to_owned(), value.to_owned());
}

fn pod_security(config: &mut PodSandboxConfig) -> &mut cri::v1::LinuxSandboxSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}
