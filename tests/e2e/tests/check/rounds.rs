//! Which cases run, how often, in what order and for how long.

use e2e::scenario;
use serde_json::Value;
use testkit::daemon::SOCKET;

use super::{cases, check, check_at, passed, proxy, proxy::Spoil};

/// `suite: name` and round of each case, in the order in which they ended.
fn ended(report: &Value) -> Vec<String> {
    let all = report["cases"].as_array().into_iter().flatten();
    all.map(|it| format!("{} {} {}", it["suite"], it["name"], it["round"]))
        .collect()
}

#[test]
fn rounds_are_made_in_the_seeds_order() {
    scenario(async |host| {
        let run = |seed: &str| {
            let arguments = [
                "--output=json",
                "--parallel=1",
                "--repeat=2",
                "--focus=^runtime: ",
                "--skip=v1alpha2",
                seed,
            ];
            passed(&check(host, &arguments)?)
        };
        let (first, again, other) = (run("--seed=7")?, run("--seed=7")?, run("--seed=8")?);
        assert_eq!(first["seed"], 7);
        let order = ended(&first);
        assert_eq!(order.len(), 14, "seven cases, twice: {order:#?}");
        assert!(order[..7].iter().all(|it| it.ends_with(" 1")));
        assert!(order[7..].iter().all(|it| it.ends_with(" 2")));
        assert_eq!(ended(&again), order, "the same seed");
        assert_ne!(ended(&other), order, "another seed");
        Ok(())
    });
}

#[test]
fn until_failure_ends_with_the_first() {
    scenario(async |host| {
        let spoil = Spoil::edited::<cri::v1::VersionResponse>(|it| it.runtime_name.clear());
        let socket = host.sandbox.directory().join("spoiled.sock");
        let proxy = proxy::serve(&socket, host.cri.client.channel(), "Version", spoil)?;
        let arguments = [
            "--output=json",
            "--parallel=1",
            "--until-failure",
            "--focus=^runtime: it says (its name|whether)",
        ];
        let output = check_at(host, &socket.display().to_string(), &arguments)?;
        proxy.abort();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let verdicts = report["cases"].as_array().into_iter().flatten();
        let last = verdicts.last().map(|it| it["verdict"].clone());
        assert_eq!(last, Some("failed".into()), "{report}");
        assert_eq!(cases(&report, "failed").len(), 1, "{report}");
        Ok(())
    });
}

/// The case that lets a deaf process live for ten seconds cannot pass in two.
#[test]
fn a_case_that_takes_too_long_fails_and_leaves_nothing() {
    scenario(async |host| {
        let arguments = [
            "--output=json",
            "--case-timeout=2s",
            "--focus=^signals: one that does not listen",
        ];
        let output = check_at(host, SOCKET, &arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let failed = cases(&report, "failed");
        let why = failed[0]["message"].as_str().unwrap_or_default();
        assert!(why.contains("not over after 2s"), "{why}");
        // Where even that was too slow.
        host.remove_all_pods().await
    });
}
