//! ExecSync.

use cri::v1::{Capability, Int64Value, LinuxContainerSecurityContext};
use e2e::{ContainerSettings, PodSettings, scenario};
use tonic::Code;

#[test]
fn output_streams_and_exit_code_come_back() {
    scenario(async |host| {
        let pod = PodSettings::new("exec");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        let reply = host
            .cri
            .exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 3"], 10)
            .await?;
        assert_eq!(reply.stdout, b"out\n");
        assert_eq!(reply.stderr, b"err\n");
        assert_eq!(reply.exit_code, 3);
        // More than a pipe holds.
        let big = host
            .cri
            .exec(&id, &["sh", "-c", "head -c 1000000 /dev/zero"], 10)
            .await?;
        assert_eq!(big.stdout.len(), 1_000_000);
        Ok(())
    });
}

#[test]
fn output_that_no_message_holds_is_cut_and_says_so() {
    scenario(async |host| {
        let pod = PodSettings::new("loud");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        let script = "head -c 20000000 /dev/zero; echo last >&2; exit 4";
        let reply = host.cri.exec(&id, &["sh", "-c", script], 60).await?;
        assert_eq!(reply.exit_code, 4);
        let (out, err) = (reply.stdout.len(), reply.stderr.len());
        assert!((15_000_000..16 << 20).contains(&(out + err)), "{out} {err}");
        // Those of both streams that did not fit.
        let dropped = 20_000_000 + "last\n".len() - out;
        let words = format!("\nlongshore: {dropped} bytes of output were dropped\n");
        assert_eq!(String::from_utf8_lossy(&reply.stderr), words);
        Ok(())
    });
}

#[test]
fn a_timeout_kills_the_whole_tree() {
    scenario(async |host| {
        let pod = PodSettings::new("slow");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        let script =
            "(trap '' TERM; sleep 5432 </dev/null >/dev/null 2>&1 &); echo nearly; sleep 5433";
        // The OCI runtime's own start counts: on a slow machine a second may end before the first word.
        let mut late = String::new();
        for seconds in [1, 5, 25] {
            let status = host
                .cri
                .exec(&id, &["sh", "-c", script], seconds)
                .await
                .unwrap_err();
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
            late = status.to_string();
            if late.contains("nearly") {
                break;
            }
        }
        assert!(late.contains("nearly"), "{late}");
        let left = host.sandbox.processes();
        let of_exec = |args: &[String]| {
            args.iter()
                .any(|arg| ["5432", "5433"].contains(&arg.as_str()))
        };
        assert!(
            left.iter().all(|process| !of_exec(&process.args)),
            "{left:?}"
        );
        assert_eq!(host.cri.sh(&id, "echo fine").await?, "fine\n");
        Ok(())
    });
}

/// As systemd and docker do it: init leaves the cgroup it was given for one below, in every hierarchy. (`node` has the rest of what they do on v2.)
const MOVES: &str = r"
    while IFS=: read -r number names path; do
        case $names in
            '') set -- /sys/fs/cgroup /sys/fs/cgroup/unified ;;
            name=*) set -- /sys/fs/cgroup/${names#name=} ;;
            *) set -- /sys/fs/cgroup/$names ;;
        esac
        for root; do
            base=$root$path
            [ -e $base/cgroup.procs ] || continue
            mkdir $base/init.scope || exit 3
            for file in cpuset.cpus cpuset.mems; do
                [ -z $names ] || [ ! -e $base/$file ] || cat $base/$file > $base/init.scope/$file
            done
            echo 1 > $base/init.scope/cgroup.procs || exit 4
        done
    done < /proc/1/cgroup
    echo moved
    while :; do sleep 1; done
";

#[test]
fn a_container_whose_init_moved_its_cgroups_is_executed_in() {
    scenario(async |host| {
        let pod = PodSettings::edited("nested", |config| {
            let linux = config.linux.get_or_insert_default();
            linux.security_context.get_or_insert_default().privileged = true;
        });
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh("main", MOVES).edited(|config| {
            let linux = config.linux.get_or_insert_default();
            linux.security_context.get_or_insert_default().privileged = true;
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "moved").await?;
        let of_init = host.cri.sh(&id, "cat /proc/1/cgroup").await?;
        assert!(
            of_init.lines().all(|line| line.ends_with("/init.scope")),
            "{of_init}"
        );

        // The container's limits hold for an exec, wherever init is.
        let of_exec = host.cri.sh(&id, "cat /proc/self/cgroup").await?;
        for (init, exec) in of_init.lines().zip(of_exec.lines()) {
            let container = init.strip_suffix("/init.scope").unwrap();
            assert!(exec.starts_with(container), "{exec}: {init}");
        }
        let script = "(trap '' TERM; sleep 6543 </dev/null >/dev/null 2>&1 &); sleep 6544";
        let late = host.cri.exec(&id, &["sh", "-c", script], 1).await;
        assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
        let left = host.sandbox.processes();
        let of_exec = |args: &[String]| {
            args.iter()
                .any(|arg| ["6543", "6544"].contains(&arg.as_str()))
        };
        assert!(
            left.iter().all(|process| !of_exec(&process.args)),
            "{left:?}"
        );
        // What it made goes with it.
        host.cri.stop(&id, 0).await?;
        host.cri.remove(&id).await?;
        Ok(())
    });
}

#[test]
fn a_background_process_does_not_hold_the_reply() {
    scenario(async |host| {
        let pod = PodSettings::new("background");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        // It inherits standard output and keeps it open.
        let reply = host
            .cri
            .exec(&id, &["sh", "-c", "echo done; sleep 600 &"], 0)
            .await?;
        assert_eq!((reply.stdout, reply.exit_code), (b"done\n".to_vec(), 0));
        Ok(())
    });
}

#[test]
fn what_cannot_run_says_why() {
    scenario(async |host| {
        let pod = PodSettings::new("wrong");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        let missing = host.cri.exec(&id, &["/no/such/program"], 5).await;
        match missing {
            // As shells have it, or as an error that names the path.
            Ok(reply) => assert_eq!(reply.exit_code, 127),
            Err(status) => assert!(status.message().contains("/no/such/program"), "{status}"),
        }
        let empty = host.cri.exec(&id, &[], 5).await.unwrap_err();
        assert_eq!(empty.code(), Code::InvalidArgument, "{empty}");
        host.cri.stop(&id, 0).await?;
        let exited = host.cri.exec(&id, &["true"], 5).await.unwrap_err();
        assert_eq!(exited.code(), Code::FailedPrecondition, "{exited}");
        Ok(())
    });
}

#[test]
fn an_exec_is_confined_as_its_container_is() {
    scenario(async |host| {
        let pod = PodSettings::new("confined");
        let pod_id = host.run_pod(&pod).await?;
        let script = "cat /proc/self/status; while :; do sleep 1; done";
        let settings = ContainerSettings::sh("main", script).edited(|config| {
            config.linux.get_or_insert_default().security_context =
                Some(LinuxContainerSecurityContext {
                    run_as_user: Some(Int64Value { value: 33 }),
                    supplemental_groups: vec![4242],
                    no_new_privs: true,
                    capabilities: Some(Capability {
                        drop_capabilities: vec!["CHOWN".into()],
                        ..Default::default()
                    }),
                    ..Default::default()
                });
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "nonvoluntary_ctxt_switches")
            .await?;
        let of_init = host.output(&pod, &settings)?;
        let of_exec = host.cri.sh(&id, "cat /proc/self/status").await?;
        for field in [
            "Uid",
            "Gid",
            "Groups",
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp",
        ] {
            let find = |text: &str| {
                let line = text
                    .lines()
                    .find(|line| line.starts_with(&format!("{field}:")));
                line.map(str::to_owned)
            };
            assert!(find(&of_init).is_some(), "{field}");
            assert_eq!(find(&of_init), find(&of_exec));
        }
        let namespaces =
            "for n in mnt pid net ipc uts cgroup user; do readlink /proc/$P/ns/$n; done";
        let init = host.cri.sh(&id, &namespaces.replace("$P", "1")).await?;
        let own = host.cri.sh(&id, &namespaces.replace("$P", "self")).await?;
        assert_eq!(init, own);
        Ok(())
    });
}
