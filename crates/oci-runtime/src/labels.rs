//! What security modules are to know the next program of a process as: written before, into files of its own in `/proc`.

use std::os::fd::BorrowedFd;

use oci_plan::Labels;
use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Stage};
use crate::host::Host;

/// Where AppArmor takes its orders; `attr/exec` is the first module's, whichever that is.
const APPARMOR: &str = "self/attr/apparmor/exec";
const EXEC: &str = "self/attr/exec";
const KEYS: &str = "self/attr/keycreate";

/// Asks for the labels at the next `execve(2)`, and for those of keys at once: before there is a session keyring. In the process itself,
/// with its parent's rights.
pub(crate) fn ask(host: &Host, labels: &Labels) -> Result<(), Error> {
    ask_in(host.proc(), labels)
}

fn ask_in(proc: BorrowedFd<'_>, labels: &Labels) -> Result<(), Error> {
    if let Some(profile) = &labels.apparmor {
        let order = format!("exec {profile}");
        // ENOENT is the profile, too: then the second try says the same, or EINVAL where the file is another module's.
        let subject = format_args!("AppArmor profile {profile}");
        match write(proc, APPARMOR, &order) {
            Err(Errno::NOENT) if !exists(proc, APPARMOR) => write(proc, EXEC, &order),
            other => other,
        }
        .at(Stage::Label, subject)?;
    }
    if let Some(label) = &labels.selinux {
        let subject = format_args!("SELinux label {label}");
        write(proc, KEYS, label).at(Stage::Label, subject)?;
        write(proc, EXEC, label).at(Stage::Label, subject)?;
    }
    Ok(())
}

/// Gives a directory a label of SELinux.
pub(crate) fn label(directory: BorrowedFd<'_>, label: &str) -> Result<(), Errno> {
    // A detached mount's descriptor only names its root.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    let flags = XattrFlags::empty();
    rustix::fs::fsetxattr(&directory, "security.selinux", label.as_bytes(), flags)
}

fn exists(proc: BorrowedFd<'_>, path: &str) -> bool {
    rustix::fs::accessat(
        proc,
        path,
        rustix::fs::Access::EXISTS,
        rustix::fs::AtFlags::empty(),
    )
    .is_ok()
}

/// In one write, as the kernel wants it.
fn write(proc: BorrowedFd<'_>, path: &str, order: &str) -> Result<(), Errno> {
    let file = rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::io::write(&file, order.as_bytes())? {
        all if all == order.len() => Ok(()),
        _ => Err(Errno::IO),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use super::*;

    /// Files where the kernel has them.
    fn proc(files: &[&str]) -> (tempfile::TempDir, fs::File) {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let opened = fs::File::open(directory.path()).unwrap();
        (directory, opened)
    }

    fn labels(apparmor: Option<&str>, selinux: Option<&str>) -> Labels {
        Labels {
            apparmor: apparmor.map(str::to_owned),
            selinux: selinux.map(str::to_owned),
        }
    }

    #[test]
    fn orders_are_in_the_modules_language() {
        let (directory, proc) = proc(&[APPARMOR, EXEC, KEYS]);
        let said = |file: &str| fs::read_to_string(directory.path().join(file)).unwrap();
        ask_in(proc.as_fd(), &labels(None, None)).unwrap();
        assert_eq!((said(APPARMOR), said(EXEC)), (String::new(), String::new()));
        ask_in(proc.as_fd(), &labels(Some("longshore-default"), None)).unwrap();
        assert_eq!(said(APPARMOR), "exec longshore-default");
        assert_eq!(said(EXEC), "");
        let label = "system_u:system_r:container_t:s0:c1,c2";
        ask_in(proc.as_fd(), &labels(None, Some(label))).unwrap();
        assert_eq!(
            (said(EXEC), said(KEYS)),
            (label.to_owned(), label.to_owned())
        );
    }

    #[test]
    fn a_kernel_without_a_place_for_apparmor_alone_has_the_common_one() {
        let (directory, proc) = proc(&[EXEC]);
        ask_in(proc.as_fd(), &labels(Some("p"), None)).unwrap();
        assert_eq!(
            fs::read_to_string(directory.path().join(EXEC)).unwrap(),
            "exec p"
        );
    }

    #[test]
    fn what_the_kernel_does_not_take_is_named() {
        let (_directory, proc) = proc(&["self/status"]);
        let error = ask_in(proc.as_fd(), &labels(Some("p"), None)).unwrap_err();
        assert_eq!(error.to_string(), "take the AppArmor profile p");
        assert_eq!(error.kind(), crate::Kind::FailedPrecondition);
        let error = ask_in(proc.as_fd(), &labels(None, Some("u:r:t:s0"))).unwrap_err();
        assert_eq!(error.to_string(), "take the SELinux label u:r:t:s0");
    }
}
