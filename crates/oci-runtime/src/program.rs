use std::ffi::CString;

use oci_plan::Process;
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use sys::CStrings;

use crate::error::{Context, Error, Stage};

/// Where programs are looked for if the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most of `/etc/passwd` that is read for a home directory, bytes.
const PASSWD_BYTES: usize = 1 << 20;

/// A program as `execve(2)` wants it, made before there is a child.
#[derive(Debug)]
pub(crate) struct Program {
    /// In order.
    candidates: Vec<CString>,
    args: CStrings,
    env: CStrings,
    /// HOME is the child's to find, in the container's `/etc/passwd`.
    lacks_home: bool,
}

impl Program {
    pub(crate) fn new(process: &Process) -> Result<Self, Error> {
        let name = match process.args.first() {
            Some(name) if !name.is_empty() => name,
            Some(_) => return Err(Error::refused("process.args[0]", "is empty")),
            None => return Err(Error::refused("process.args", "is empty")),
        };
        let path = process
            .env
            .iter()
            .find_map(|entry| entry.strip_prefix("PATH="))
            .unwrap_or(DEFAULT_PATH);
        let candidates = match name.contains('/') {
            true => vec![c_string(name.clone(), "process.args[0]")?],
            false => path
                .split(':')
                .map(|directory| match directory {
                    // POSIX: an empty entry is the working directory.
                    "" => c_string(format!("./{name}"), "process.args[0]"),
                    directory => c_string(format!("{directory}/{name}"), "process.env (PATH)"),
                })
                .collect::<Result<_, _>>()?,
        };
        Ok(Self {
            candidates,
            args: c_strings(&process.args, "process.args")?,
            env: c_strings(&process.env, "process.env")?,
            lacks_home: !process.env.iter().any(|entry| entry.starts_with("HOME=")),
        })
    }

    /// In the child: HOME, from the container's `/etc/passwd`, else `/`.
    pub(crate) fn complete_env(&mut self, uid: u32) {
        if self.lacks_home {
            let home = home_directory(uid).unwrap_or_else(|| "/".to_owned());
            if let Ok(entry) = CString::new(format!("HOME={home}")) {
                self.env.push(entry);
            }
        }
    }

    /// In the child, as the user and in the working directory: the first candidate that may be executed. A filter may forbid to look later.
    pub(crate) fn look_up(&self, process: &Process) -> Result<usize, Error> {
        let mut failure = Errno::NOENT;
        for (index, candidate) in self.candidates.iter().enumerate() {
            match rustix::fs::accessat(CWD, candidate, Access::EXEC_OK, AtFlags::empty()) {
                Ok(()) => return Ok(index),
                // As execvp(3): a refusal outweighs an absence.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => failure = error,
            }
        }
        let name = process.args.first().map_or("", String::as_str);
        match name.contains('/') {
            true => Err(failure).at(Stage::Execute, name),
            false => Err(failure).at(
                Stage::Execute,
                format_args!("{name} (not in the container's PATH)"),
            ),
        }
    }

    /// Becomes the program. Returns only if that fails.
    pub(crate) fn execute(&self, index: usize) -> Error {
        let candidate = &self.candidates[index];
        let source = sys::execute(candidate, &self.args, &self.env);
        let path = candidate.to_string_lossy();
        let subject = match source {
            // The look-up has just found it.
            Errno::NOENT => format!("{path} (the interpreter or loader that it names is missing)"),
            _ => path.into_owned(),
        };
        Error::Step {
            stage: Stage::Execute,
            subject,
            source,
        }
    }
}

fn c_strings(strings: &[String], field: &str) -> Result<CStrings, Error> {
    strings
        .iter()
        .map(|string| c_string(string.clone(), field))
        .collect::<Result<Vec<_>, _>>()
        .map(CStrings::new)
}

fn c_string(string: String, field: &str) -> Result<CString, Error> {
    CString::new(string).map_err(|_| Error::refused(field, "has a NUL byte"))
}

/// `None` for whatever reason: an image need not have users.
fn home_directory(uid: u32) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open("/etc/passwd", flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut text = vec![0; usize::try_from(stat.st_size).ok()?.min(PASSWD_BYTES)];
    let mut filled = 0;
    while filled < text.len() {
        match rustix::io::read(&file, &mut text[filled..]) {
            Ok(0) | Err(_) => break,
            Ok(count) => filled += count,
        }
    }
    find_home(&String::from_utf8_lossy(&text[..filled]), uid)
}

/// `name:password:uid:gid:gecos:home:shell`
fn find_home(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let of_user = fields.nth(2)?.parse() == Ok(uid);
        let home = fields.nth(2)?;
        (of_user && home.starts_with('/')).then(|| home.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::find_home;

    #[test]
    fn homes_are_found_by_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\n\nbroken\nweb:x:33:33:Web:/srv/www:/bin/false\nnone:x:34:34:::\n";
        assert_eq!(find_home(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(find_home(passwd, 33).as_deref(), Some("/srv/www"));
        assert_eq!(find_home(passwd, 34), None);
        assert_eq!(find_home(passwd, 1), None);
    }
}
