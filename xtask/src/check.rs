//! What a change must satisfy before anyone reads it.

mod dependencies;
mod house;
mod licences;

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::{
    fuzz,
    step::{self, Steps},
    workspace,
};

const LIMIT: Duration = Duration::from_secs(40 * 60);

pub(crate) fn run() -> anyhow::Result<()> {
    let mut steps = Steps::default();
    // Every check runs, so that one pass shows all that is wrong.
    let results = [
        steps.time("format", || {
            step::run(workspace::cargo().args(["fmt", "--all", "--check"]), LIMIT)
        }),
        steps.time("house rules", house::check),
        steps.time("dependency direction", dependencies::check),
        steps.time("licences", || licences::check(&workspace::metadata()?)),
        steps.time("clippy", || {
            let mut clippy = workspace::cargo();
            clippy.args([
                "clippy",
                "--locked",
                "--workspace",
                "--all-targets",
                "--quiet",
            ]);
            step::run(clippy.args(["--", "--deny=warnings"]), LIMIT)
        }),
        steps.time("documentation", || {
            let mut doc = workspace::cargo();
            doc.args(["doc", "--locked", "--workspace", "--no-deps", "--quiet"])
                .env("RUSTDOCFLAGS", "--deny=warnings");
            step::run(&mut doc, LIMIT)
        }),
        // A workspace of its own, which none of the above looks into.
        steps.time("fuzz targets", fuzz::check),
    ];
    steps.print();
    let failures: Vec<String> = results
        .into_iter()
        .filter_map(|result| Some(format!("{:#}", result.err()?)))
        .collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    println!("check: all is well");
    Ok(())
}

/// An error that lists what was found, one a line.
fn none_of(found: &[String]) -> anyhow::Result<()> {
    ensure!(found.is_empty(), "\n  {}", found.join("\n  "));
    Ok(())
}

/// A string in cargo's metadata.
fn text<'a>(value: &'a serde_json::Value, key: &str) -> anyhow::Result<&'a str> {
    value[key]
        .as_str()
        .with_context(|| format!("cargo metadata has no {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_keeps_its_rules() {
        let metadata = workspace::metadata().unwrap();
        dependencies::check().unwrap();
        licences::check(&metadata).unwrap();
        house::check().unwrap();
    }
}
