//! Trials: what Status promises of a handler is what it was seen to do.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use cri::v1::RuntimeHandler;
use e2e::{Host, scenario_with};
use testkit::daemon::program;

use crate::handlers::{reload, script};

/// What became of the trial of a handler, once it is over, and what Status promises then: user namespaces, recursive read-only mounts.
async fn tried(host: &Host, name: &str) -> anyhow::Result<(String, [bool; 2])> {
    let end = tokio::time::Instant::now() + Duration::from_secs(120);
    loop {
        let status = host.cri.status(true).await?;
        let described: serde_json::Value = serde_json::from_str(&status.info["info"])?;
        let mut all = described["handlers"].as_array().into_iter().flatten();
        let told = all.find(|one| one["name"] == name).context("no handler")?;
        let promised = |one: &RuntimeHandler| {
            let features = one.features.unwrap_or_default();
            [
                features.user_namespaces,
                features.recursive_read_only_mounts,
            ]
        };
        let mut listed = status.runtime_handlers.iter();
        let promised = listed.find(|one| one.name == name).map(promised);
        let promised = promised.context("not listed")?;
        match told["trial"].as_str() {
            // Until then nothing is.
            None | Some("under way") => ensure!(promised == [false; 2], "{promised:?}"),
            Some(over) => return Ok((over.to_owned(), promised)),
        }
        ensure!(tokio::time::Instant::now() < end, "no end of {told}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn what_a_handler_was_seen_to_do_is_what_status_promises() {
    let crun = program("crun").expect("crun is installed: run cargo xtask install-deps");
    // It is tried before the ledger is taken: wherever its state is, crun makes /run/crun, which stays.
    let settings = format!("runtimes.crun = {{ path = {crun:?} }}");
    scenario_with(&settings, async |host| {
        let runc = program("runc").context("runc: cargo xtask install-deps")?;
        let outside = script(
            host,
            "outside",
            &OUTSIDE.replace("RUNC", &runc.to_string_lossy()),
        )?;
        let mapless = script(
            host,
            "mapless",
            &MAPLESS.replace("RUNC", &runc.to_string_lossy()),
        )?;
        let boasts = script(host, "boasts", BOASTS)?;
        let all = [
            ("boasts", &boasts),
            ("mapless", &mapless),
            ("outside", &outside),
            ("runc", &runc),
        ];
        let text: String = all
            .iter()
            .map(|(name, path)| format!("[runtimes.{name}]\npath = {path:?}\n"))
            .collect();
        let names = ["", "native", "boasts", "crun", "mapless", "outside", "runc"];
        reload(host, &text, &names).await?;
        for (name, trial, promised) in [
            ("runc", "passed", [true, true]),
            // It has no `features` to tell of them.
            ("crun", "passed", [true, true]),
            ("boasts", "create exited with status 1", [false, false]),
            ("mapless", "no maps today", [false, true]),
            (
                "outside",
                "an exec is outside its container's user namespace",
                [false, true],
            ),
        ] {
            let (over, seen) = tried(host, name).await?;
            ensure!(over.contains(trial), "{name}: {over}");
            ensure!(seen == promised, "{name}: {seen:?}");
        }
        // Nothing of the trials is listed, or left.
        ensure!(host.cri.pods(None).await?.is_empty());
        host.settles()?;

        // Another program of the same name is another matter.
        fs::write(
            &mapless,
            format!("#!/bin/sh\nexec {} \"$@\"\n", runc.display()),
        )?;
        let end = tokio::time::Instant::now() + Duration::from_secs(120);
        while tried(host, "mapless").await?.1 != [true, true] {
            ensure!(tokio::time::Instant::now() < end, "it is not tried again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        host.settles()
    });
}

/// Says that it knows everything, and makes nothing.
const BOASTS: &str = "case \"$*\" in *--version*) echo fake 1.0;; features) echo '{\"mountOptions\":[\"rro\"],\"linux\":{\"namespaces\":[\"user\"],\"seccomp\":{\"enabled\":true}}}';; *' delete '*) ;; *) exit 1;; esac";

/// runc, but for containers in a user namespace.
const MAPLESS: &str = "case \"$*\" in *' create '*) for word in \"$@\"; do case $last in --bundle) bundle=$word;; --log) log=$word;; esac; last=$word; done
grep -q '\"type\":\"user\"' \"$bundle/config.json\" && { echo no maps today > $log; exit 1; };; esac
exec RUNC \"$@\"";

/// runc, but that what it executes in a container stays in the node's user namespace.
const OUTSIDE: &str = "case \"$*\" in *' exec '*) ;; *) exec RUNC \"$@\";; esac
for word in \"$@\"; do case $last in --pid-file) pid_file=$word;; --process) process=$word;; --root) root=$word;; esac; last=$word; done
pid=$(sed 's/.*\"init_process_pid\":\\([0-9]*\\).*/\\1/' \"$root/$last/state.json\")
map=$(sed 's/.*\"--proof\",*\\(\"[0-9]*\"\\)*.*/\\1/; s/\"//g' \"$process\")
setsid nsenter --target \"$pid\" --mount --pid /trial --proof $map & echo $! > \"$pid_file\"";
