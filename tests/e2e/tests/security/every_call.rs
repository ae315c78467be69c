//! The default seccomp profile as the kernel applies it, against libseccomp's word on it: every system call, in init and in exec.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, ensure};
use cri::v1::{Mount, security_profile::ProfileType};
use e2e::{ContainerSettings, Host, PodSettings, scenario};
use testkit::seccomp::{
    LinuxSeccomp, Oracle,
    bpf::{Call, X86_64, run},
    compile, rules,
};

use super::{profile, security};

const ALLOWED: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_THREAD: u32 = 0;

/// `uretprobe` and `uprobe`, which the kernel calls for itself: since 6.14 it lets them by every filter.
const BESIDE_FILTERS: [u32; 2] = [335, 336];

/// What came of each call, by its number.
type Answers = BTreeMap<u32, String>;

#[test]
fn every_system_call_is_as_libseccomp_says() {
    scenario(async |host| {
        let tools = tempfile::tempdir()?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/security/every_call.c");
        compile(
            &source,
            &tools.path().join("every_call"),
            &["-static", "-O1"],
        );
        let pod = PodSettings::new("calls");
        let pod_id = host.run_pod(&pod).await?;
        let script = "/tools/every_call; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";
        let with = |name: &str, kind: ProfileType| {
            let tools = tools.path().display().to_string();
            ContainerSettings::sh(name, script).edited(move |config| {
                security(config).seccomp = profile(kind, "");
                config.mounts.push(Mount {
                    container_path: "/tools".into(),
                    host_path: tools.clone(),
                    readonly: true,
                    ..Mount::default()
                });
            })
        };
        let (free, ..) = told(host, &pod_id, &pod, &with("free", ProfileType::Unconfined)).await?;
        let confined = with("confined", ProfileType::RuntimeDefault);
        let (init, exec, id) = told(host, &pod_id, &pod, &confined).await?;
        ensure!(init.len() > 500, "{} calls were made", init.len());
        let differ: Vec<_> = (init.iter().zip(&exec))
            .filter(|(init, exec)| init != exec)
            .collect();
        ensure!(differ.is_empty(), "init and exec differ: {differ:?}");

        let spec = format!("/run/longshore/pods/{pod_id}/containers/{id}/spec.json");
        let spec: serde_json::Value = serde_json::from_slice(&fs::read(host.sandbox.view(spec))?)?;
        let filter: LinuxSeccomp = serde_json::from_value(spec["linux"]["seccomp"].clone())?;
        let oracle = Oracle::compile(tools.path(), "every_call");
        let program = oracle.ask(&["filter"], &rules(&filter));
        let newest = newest_known(&oracle, &filter)?;
        let mut wrong = Vec::new();
        let mut denied = 0;
        for (number, answer) in &init {
            let call = Call {
                arch: X86_64,
                number: *number,
                args: [u64::MAX; 6],
            };
            // Of what this libseccomp has not heard of, its program says nothing.
            let unknown = number & !X32 > newest && number & X32 == 0;
            if unknown || BESIDE_FILTERS.contains(number) {
                continue;
            }
            let verdict = run(&program, &call);
            let expected = match verdict {
                ALLOWED => free.get(number).cloned().unwrap_or_default(),
                denied if denied & 0xffff_0000 == ERRNO => format!("errno {}", denied & 0xffff),
                // SIGSYS.
                KILL_THREAD => "signal 31".to_owned(),
                other => format!("{other:#x}"),
            };
            denied += usize::from(verdict != ALLOWED);
            if *answer != expected {
                wrong.push(format!("{number}: {answer}, not {expected}"));
            }
        }
        ensure!(wrong.is_empty(), "{wrong:#?}");
        ensure!(denied > 50, "{denied} of {} calls are denied", init.len());
        println!("{} calls, {denied} of them denied", init.len());
        Ok(())
    });
}

const X32: u32 = 0x4000_0000;

/// What init and an exec of a container were told, and the container.
async fn told(
    host: &Host,
    pod_id: &str,
    pod: &PodSettings,
    settings: &ContainerSettings,
) -> anyhow::Result<(Answers, Answers, String)> {
    let id = host.run(pod_id, pod, settings).await?;
    host.until_logged(pod, settings, "end\n").await?;
    let init = answers(&host.output(pod, settings)?)?;
    let exec = answers(&host.cri.sh(&id, "/tools/every_call").await?)?;
    Ok((init, exec, id))
}

fn answers(text: &str) -> anyhow::Result<Answers> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .map(|(number, answer)| Ok((number.parse()?, answer.to_owned())))
        .collect()
}

/// The highest number among the profile's calls that this libseccomp has a name for.
fn newest_known(oracle: &Oracle, filter: &LinuxSeccomp) -> anyhow::Result<u32> {
    let names = filter.syscalls().iter().flatten();
    let names: Vec<_> = names.flat_map(|rule| rule.names().clone()).collect();
    let numbers = String::from_utf8(oracle.ask(&["numbers"], &names.join("\n")))?;
    let numbers = numbers.lines().filter_map(|line| line.split(' ').nth(1));
    let newest = numbers.filter_map(|number| number.parse().ok()).max();
    newest.context("libseccomp knows some call")
}
