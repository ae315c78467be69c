use std::{fs, io, path::Path};

use serde_json::json;

use super::{Report, Verdict, junit, text};

/// Writes what TestGrid reads of a build: `started.json`, `finished.json`, `build-log.txt`, `artifacts/junit_check.xml`.
///
/// # Errors
/// A file cannot be written; its text names the file.
pub fn testgrid(report: &Report, directory: &Path) -> io::Result<()> {
    let passed = report.count(Verdict::Failed) == 0;
    let finished = report.began + report.took_seconds.ceil() as u64;
    let started = json!({ "timestamp": report.began });
    let finished = json!({
        "timestamp": finished,
        "passed": passed,
        "result": if passed { "SUCCESS" } else { "FAILURE" },
        "metadata": {
            "runtime": report.runtime,
            "kernel": report.machine.kernel,
            "seed": report.seed.to_string(),
        },
    });
    let artifacts = directory.join("artifacts");
    fs::create_dir_all(&artifacts).map_err(|error| named(&artifacts, error))?;
    for (path, contents) in [
        (directory.join("started.json"), format!("{started}\n")),
        (artifacts.join("junit_check.xml"), junit(report)),
        (directory.join("build-log.txt"), text(report)),
        // Last: it says that all is there.
        (directory.join("finished.json"), format!("{finished}\n")),
    ] {
        fs::write(&path, contents).map_err(|error| named(&path, error))?;
    }
    Ok(())
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_build_has_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let report = super::super::example();
        testgrid(&report, directory.path()).unwrap();
        let read = |name: &str| -> Value {
            let text = fs::read_to_string(directory.path().join(name)).unwrap();
            serde_json::from_str(&text).unwrap()
        };
        assert_eq!(read("started.json")["timestamp"], 1_700_000_000);
        let finished = read("finished.json");
        assert_eq!(
            (&finished["passed"], &finished["result"]),
            (&false.into(), &"FAILURE".into())
        );
        assert_eq!(finished["timestamp"], 1_700_000_004);
        let xml = fs::read_to_string(directory.path().join("artifacts/junit_check.xml")).unwrap();
        assert_eq!(xml, junit(&report));
    }
}
