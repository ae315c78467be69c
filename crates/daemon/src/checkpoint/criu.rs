//! The program: where it is, and whether it works on this kernel.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, sync::Mutex};

use crate::config::Config;

/// How long it may take to look at the kernel. An emulated machine needs a while.
const CHECK: Duration = Duration::from_secs(60);

/// Where programs of the node are.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The first that can be told not to lock the network.
const SKIPS_LOCK: (u32, u32) = (3, 19);

#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CriuError {
    #[error(
        "there is no criu in {PATH}: install it, or name its path in the configuration (`criu`)"
    )]
    Missing,
    #[error("the configuration's criu, {}, is not there or no program", .0.display())]
    NoProgram(PathBuf),
    #[error("{} {argument} cannot be run: {why}", program.display())]
    Run {
        program: PathBuf,
        argument: &'static str,
        why: String,
    },
    #[error("{} check: this kernel, or what the daemon is permitted, does not do for it: {said}", program.display())]
    Check { program: PathBuf, said: String },
}

/// A CRIU that works here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Criu {
    pub(super) program: PathBuf,
    /// Knows `--network-lock skip`.
    pub(super) skips_lock: bool,
}

/// The one that was seen to work. One that did not is looked at again by the next request: somebody may have mended it.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Option<Criu>>);

impl Known {
    pub(super) async fn get(&self, config: &Config) -> Result<Criu, CriuError> {
        let mut known = self.0.lock().await;
        let program = find(config.criu.as_deref())?;
        if let Some(criu) = known.as_ref().filter(|criu| criu.program == program) {
            return Ok(criu.clone());
        }
        let version = run(&program, "--version").await?;
        let checked = run(&program, "check").await?;
        if !checked.success {
            return Err(CriuError::Check {
                program,
                said: errors(&checked.text),
            });
        }
        let criu = Criu {
            skips_lock: parse_version(&version.text).is_some_and(|one| one >= SKIPS_LOCK),
            program,
        };
        *known = Some(criu.clone());
        Ok(criu)
    }
}

fn find(configured: Option<&Path>) -> Result<PathBuf, CriuError> {
    if let Some(path) = configured {
        return match is_program(path) {
            true => Ok(path.to_owned()),
            false => Err(CriuError::NoProgram(path.to_owned())),
        };
    }
    PATH.split(':')
        .map(|directory| Path::new(directory).join("criu"))
        .find(|path| is_program(path))
        .ok_or(CriuError::Missing)
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

struct Said {
    success: bool,
    text: String,
}

async fn run(program: &Path, argument: &'static str) -> Result<Said, CriuError> {
    let failed = |why: String| CriuError::Run {
        program: program.to_owned(),
        argument,
        why,
    };
    let mut command = Command::new(program);
    command
        .arg(argument)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(CHECK, command.output())
        .await
        .map_err(|_elapsed| failed(format!("it did not end within {} s", CHECK.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(Said {
        success: output.status.success(),
        text,
    })
}

/// Of `Version: 3.17.1`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("Version:"))?;
    let mut numbers = version.trim().split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// How many of its errors are worth telling.
const MOST_ERRORS: usize = 6;

/// The errors in what CRIU printed or logged, or the last line where it calls nothing an error.
pub(super) fn errors(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let told: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| line.contains("Error (") || line.contains("Error:"))
        // It always tries, and goes on without.
        .filter(|line| !line.contains("Can't setup RLIMIT_NOFILE for self"))
        .take(MOST_ERRORS)
        .collect();
    match (told.is_empty(), lines.last()) {
        (false, _) => told.join("; "),
        (true, Some(last)) => (*last).to_owned(),
        (true, None) => "it says nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("Version: 3.17.1\nGitID: x"), Some((3, 17)));
        assert_eq!(parse_version("Version: 4.2\n"), Some((4, 2)));
        assert_eq!(parse_version("criu 4"), None);
        assert!((3, 17) < SKIPS_LOCK && (4, 2) >= SKIPS_LOCK);
    }

    #[test]
    fn its_errors_are_told() {
        let log = "(00.01) Warn  (a.c:1): no\n(00.02) Error (criu/vdso.c:381): vdso: bounds\n\
                   (00.02) Error (criu/util.c:1): rlimit: Can't setup RLIMIT_NOFILE for self: no\n";
        assert_eq!(errors(log), "(00.02) Error (criu/vdso.c:381): vdso: bounds");
        assert_eq!(errors("first\nlast\n\n"), "last");
        assert_eq!(errors(""), "it says nothing");
    }
}
