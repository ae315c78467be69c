use rustix::fs::{Mode, OFlags};

use crate::error::{Context, Error, Stage};
use crate::host::Host;

/// A namespace that a kernel parameter may belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    Net,
    Ipc,
    Uts,
}

/// Refuses a parameter that belongs to no namespace of the container's or pod's own: it would be the host's.
pub(crate) fn check(
    sysctls: &[(String, String)],
    net: bool,
    ipc: bool,
    uts: bool,
) -> Result<(), Error> {
    for (name, _) in sysctls {
        let (own, namespace) = match home(name) {
            Some(Home::Net) => (net, "network"),
            Some(Home::Ipc) => (ipc, "IPC"),
            Some(Home::Uts) => (uts, "UTS"),
            None => {
                let reason = "is not a parameter of a namespace: it would be the host's";
                return Err(Error::refused(format!("sysctls.{name}"), reason));
            }
        };
        if !own {
            let reason = format!("needs an own {namespace} namespace: here it would be another's");
            return Err(Error::refused(format!("sysctls.{name}"), reason));
        }
    }
    Ok(())
}

/// In a process that is in the namespaces: the host's `/proc` shows each process its own.
pub(crate) fn write(host: &Host, sysctls: &[(String, String)]) -> Result<(), Error> {
    for (name, value) in sysctls {
        let path = format!("sys/{}", path_of(name));
        rustix::fs::openat(
            host.proc(),
            path.as_str(),
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .and_then(|file| rustix::io::write(&file, value.as_bytes()))
        .at(Stage::Sysctl, format_args!("{name}={value}"))?;
    }
    Ok(())
}

fn home(name: &str) -> Option<Home> {
    // Both spellings of sysctl(8); where the first separator is a slash, dots are part of names (`net/ipv4/conf/eth0.1/…`).
    let path = path_of(name);
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return None;
    }
    match path.as_str() {
        "kernel/msgmax"
        | "kernel/msgmnb"
        | "kernel/msgmni"
        | "kernel/sem"
        | "kernel/shmall"
        | "kernel/shmmax"
        | "kernel/shmmni"
        | "kernel/shm_rmid_forced" => Some(Home::Ipc),
        "kernel/domainname" | "kernel/hostname" => Some(Home::Uts),
        path if path.starts_with("fs/mqueue/") => Some(Home::Ipc),
        path if path.starts_with("net/") => Some(Home::Net),
        _ => None,
    }
}

fn path_of(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'.') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Home, check, home, path_of};

    #[test]
    fn parameters_have_homes() {
        assert_eq!(home("net.ipv4.ip_forward"), Some(Home::Net));
        assert_eq!(home("net/ipv4/conf/eth0.1/rp_filter"), Some(Home::Net));
        assert_eq!(home("kernel.shmmax"), Some(Home::Ipc));
        assert_eq!(home("fs.mqueue.msg_max"), Some(Home::Ipc));
        assert_eq!(home("vm.swappiness"), None);
        assert_eq!(home("kernel.core_pattern"), None);
        assert_eq!(home("net.//.//kernel.core_pattern"), None);
        assert_eq!(home("net/../kernel/core_pattern"), None);
    }

    #[test]
    fn dots_and_slashes_change_places() {
        assert_eq!(
            path_of("net.ipv4.conf.eth0/1.rp_filter"),
            "net/ipv4/conf/eth0.1/rp_filter"
        );
    }

    #[test]
    fn the_hosts_parameters_are_refused() {
        let forward = [("net.ipv4.ip_forward".to_owned(), "1".to_owned())];
        assert!(check(&forward, true, false, false).is_ok());
        let error = check(&forward, false, true, true).expect_err("the host's network");
        assert!(error.to_string().contains("net.ipv4.ip_forward"), "{error}");
    }
}
