use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::arguments::{Ps, TableFormat};
use crate::log;
use crate::store::Store;

/// Lists the processes of a container, by their numbers here.
pub(crate) fn ps(store: &Store, given: &Ps) -> anyhow::Result<u8> {
    let place = store.find(&given.id)?;
    let processes = place.made()?.cgroup()?.processes(true)?;
    let pids: Vec<i32> = processes
        .iter()
        .map(|pid| pid.as_raw_nonzero().get())
        .collect();
    if given.format == TableFormat::Json {
        log::print(&serde_json::to_string(&pids)?);
        return Ok(0);
    }
    let options = match given.options.as_slice() {
        [] => vec!["-ef".to_owned()],
        options => options.to_vec(),
    };
    let output = Command::new("ps")
        .args(&options)
        .output()
        .context("run ps")?;
    ensure!(
        output.status.success(),
        "ps {}: {}",
        options.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column = header
        .split_ascii_whitespace()
        .position(|name| name == "PID")
        .context("ps prints no column PID")?;
    log::print(header);
    for line in lines {
        let pid = line.split_ascii_whitespace().nth(column);
        if pid
            .and_then(|pid| pid.parse().ok())
            .is_some_and(|pid| pids.contains(&pid))
        {
            log::print(line);
        }
    }
    Ok(0)
}
