//! Container logs in CRI's format.

use std::fs;

use e2e::{ContainerSettings, PodSettings, scenario};
use tonic::Code;

#[test]
fn streams_tags_and_every_byte() {
    scenario(async |host| {
        let pod = PodSettings::new("lines");
        let pod_id = host.run_pod(&pod).await?;
        let settings =
            ContainerSettings::sh("lines", "echo out; echo err >&2; echo; printf 'no newline'");
        host.run_to_end(&pod_id, &pod, &settings).await?;
        let lines = host.log(&pod, &settings)?;
        let of = |stream: &str| -> Vec<(String, bool)> {
            let lines = lines.iter().filter(|line| line.stream == stream);
            lines
                .map(|line| (line.message.clone(), line.partial))
                .collect()
        };
        assert_eq!(of("stderr"), [("err".to_owned(), false)]);
        let expected = [("out", false), ("", false), ("no newline", true)];
        let out = of("stdout");
        assert_eq!(out.len(), 3, "{out:?}");
        for ((message, partial), (text, open)) in out.iter().zip(expected) {
            assert_eq!(message, text);
            // Peers tag an unfinished last line P; F is tolerable.
            assert!(!*partial || open, "{out:?}");
        }
        Ok(())
    });
}

#[test]
fn long_lines_are_split_and_whole_again() {
    scenario(async |host| {
        let pod = PodSettings::new("long");
        let pod_id = host.run_pod(&pod).await?;
        let script = "head -c 100000 /dev/zero | tr '\\0' x; echo; seq 1 20000";
        let settings = ContainerSettings::sh("long", script);
        let (_, output) = host.run_to_end(&pod_id, &pod, &settings).await?;
        let lines = host.log(&pod, &settings)?;
        assert!(lines.iter().all(|line| line.message.len() <= 16 * 1024));
        assert!(lines[0].partial);
        let mut expected = format!("{}\n", "x".repeat(100_000));
        (1..=20_000).for_each(|number| expected.push_str(&format!("{number}\n")));
        assert_eq!(output.len(), expected.len());
        assert!(output == expected);
        Ok(())
    });
}

#[test]
fn a_rotated_log_goes_on_in_a_new_file() {
    scenario(async |host| {
        let pod = PodSettings::new("rotated");
        let pod_id = host.run_pod(&pod).await?;
        let script = "n=0; while :; do echo $n; n=$((n+1)); sleep 0.01; done";
        let settings = ContainerSettings::sh("counter", script);
        let id = host.run(&pod_id, &pod, &settings).await?;
        let path = host.log_path(&pod, &settings);
        let mut whole = String::new();
        for round in 0..3 {
            host.until_logged(&pod, &settings, "\n").await?;
            // As the kubelet does it: rename, then ask.
            let old = path.with_extension(format!("{round}"));
            fs::rename(&path, &old)?;
            host.cri.reopen_log(&id).await?;
            assert!(path.exists());
            whole.push_str(&fs::read_to_string(&old)?);
        }
        host.until_logged(&pod, &settings, "\n").await?;
        host.cri.stop(&id, 0).await?;
        whole.push_str(&fs::read_to_string(&path)?);
        let numbers: Vec<usize> = whole
            .lines()
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>());

        let exited = host.cri.reopen_log(&id).await.unwrap_err();
        assert_eq!(exited.code(), Code::FailedPrecondition, "{exited}");
        Ok(())
    });
}

#[test]
fn a_grandchild_that_keeps_the_pipe_delays_nothing_for_ever() {
    scenario(async |host| {
        let pod = PodSettings::edited("drain", |config| {
            // One PID namespace for the pod: the grandchild survives its container's init.
            let context = config.linux.get_or_insert_default();
            let options = context.security_context.get_or_insert_default();
            options.namespace_options.get_or_insert_default().pid =
                cri::v1::NamespaceMode::Pod.into();
        });
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh("drain", "sleep 3000 & echo last").edited(|config| {
            let context = config.linux.get_or_insert_default();
            let options = context.security_context.get_or_insert_default();
            options.namespace_options.get_or_insert_default().pid =
                cri::v1::NamespaceMode::Pod.into();
        });
        let (status, output) = host.run_to_end(&pod_id, &pod, &settings).await?;
        assert_eq!((status.exit_code, &*output), (0, "last\n"));
        Ok(())
    });
}

#[test]
fn output_without_a_log_path_is_dropped() {
    scenario(async |host| {
        let pod = PodSettings::new("quiet");
        let pod_id = host.run_pod(&pod).await?;
        let settings =
            ContainerSettings::sh("quiet", "seq 1 100000").edited(|config| config.log_path.clear());
        let id = host.run(&pod_id, &pod, &settings).await?;
        assert_eq!(host.until_exited(&id).await?.exit_code, 0);
        Ok(())
    });
}
