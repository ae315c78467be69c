use serde::{Deserialize, Serialize};

use crate::Habits;

/// A process to run in a container: its init, or an exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// `args[0]` is looked up in `PATH` of `env` unless it has a slash.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute; created, with the user's ownership, if missing; entered as the user.
    pub cwd: String,
    pub user: User,
    pub capabilities: Capabilities,
    pub no_new_privileges: bool,
    pub rlimits: Vec<Rlimit>,
    pub oom_score_adj: Option<OomScoreAdj>,
    pub seccomp: Option<Seccomp>,
    /// Some: the process gets a pseudo-terminal of this size as its controlling terminal.
    pub terminal: Option<TerminalSize>,
    /// Travel at the end of the request that the process is in, and are put in here by who gets it.
    #[serde(skip)]
    pub labels: Labels,
    /// Only of a plan that is executed where it was made, but for the memory policy, which travels as labels do.
    #[serde(skip)]
    pub habits: Habits,
}

impl Process {
    /// One of root's with nothing else asked for: no limits, filter, terminal or labels, and free to gain privileges.
    pub fn of_root(
        args: Vec<String>,
        env: Vec<String>,
        cwd: impl Into<String>,
        capabilities: Capabilities,
    ) -> Self {
        Self {
            args,
            env,
            cwd: cwd.into(),
            user: User {
                uid: 0,
                gid: 0,
                additional_gids: Vec::new(),
                umask: None,
            },
            capabilities,
            no_new_privileges: false,
            rlimits: Vec::new(),
            oom_score_adj: None,
            seccomp: None,
            terminal: None,
            labels: Labels::default(),
            habits: Habits::default(),
        }
    }
}

/// What security modules are to know a process as, from its first program on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// The name of an AppArmor profile, which the kernel has.
    pub apparmor: Option<String>,
    /// SELinux: `user:role:type:level`, of the process and of keys that it makes.
    pub selinux: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    /// `None`: 0o022.
    pub umask: Option<u32>,
}

/// Bit `n` is capability number `n` (`capabilities(7)`), within the daemon's bounding set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

impl Capabilities {
    /// What a program of root's has after its exec: `set`, and nothing handed on to other users.
    pub fn of_root(set: u64) -> Self {
        Self {
            bounding: set,
            effective: set,
            permitted: set,
            inheritable: 0,
            ambient: 0,
        }
    }
}

/// `resource` is the kernel's number (`RLIMIT_NOFILE` is 7); `u64::MAX` is unlimited. Raising a hard limit without
/// CAP_SYS_RESOURCE is clamped to what is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// −1000 to 1000; clamped to the supervisor's own value where lowering is not permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomScoreAdj(pub i16);

/// A compiled filter: an array of `struct sock_filter` in native byte order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seccomp {
    pub program: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_*.
    pub flags: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub rows: u16,
    pub columns: u16,
}
