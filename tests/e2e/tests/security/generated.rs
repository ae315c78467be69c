//! Security contexts by chance, and what each must look like in /proc: written from CRI's and the kernel's words, not from ours.

use std::time::{SystemTime, UNIX_EPOCH};

use cri::v1::{
    Capability, IdMapping, Int64Value, LinuxContainerResources, LinuxContainerSecurityContext,
    NamespaceMode, NamespaceOption, SecurityProfile, SupplementalGroupsPolicy, UserNamespace,
    security_profile::ProfileType,
};
use e2e::PodSettings;

use super::Told;

/// A small generator of numbers (xorshift64*).
#[derive(Debug)]
pub(super) struct Dice {
    pub(super) seed: u64,
    state: u64,
}

impl Dice {
    /// Of the seed in `SECURITY_SEED`, else of the clock.
    pub(super) fn new() -> Self {
        let given = std::env::var("SECURITY_SEED").ok();
        let clock = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.unwrap_or_default().as_nanos() as u64
        };
        let seed = given
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(clock);
        Self {
            seed,
            state: seed | 1,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn once_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    fn some<T: Clone>(&mut self, from: &[T]) -> Vec<T> {
        from.iter().filter(|_| self.once_in(4)).cloned().collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PodKind {
    Plain,
    SharedProcesses,
    Mapped,
    OfTheNode,
    Privileged,
}

impl PodKind {
    pub(super) const ALL: [Self; 5] = [
        Self::Plain,
        Self::SharedProcesses,
        Self::Mapped,
        Self::OfTheNode,
        Self::Privileged,
    ];

    pub(super) fn pod(self) -> PodSettings {
        PodSettings::edited(&format!("{self:?}").to_lowercase(), move |config| {
            let linux = config.linux.get_or_insert_default();
            let security = linux.security_context.get_or_insert_default();
            security.privileged = self == Self::Privileged;
            security.namespace_options = Some(self.namespaces());
        })
    }

    fn namespaces(self) -> NamespaceOption {
        let node = NamespaceMode::Node;
        let mut options = NamespaceOption::default();
        match self {
            Self::Plain | Self::Mapped | Self::Privileged => {
                options.set_pid(NamespaceMode::Container);
            }
            Self::SharedProcesses => options.set_pid(NamespaceMode::Pod),
            Self::OfTheNode => {
                options.set_pid(node);
                options.set_ipc(node);
                options.set_network(node);
            }
        }
        if self == Self::Mapped {
            let mapping = IdMapping {
                container_id: 0,
                host_id: 200_000,
                length: 65_536,
            };
            options.userns_options = Some(UserNamespace {
                mode: NamespaceMode::Pod.into(),
                uids: vec![mapping],
                gids: vec![mapping],
            });
        }
        options
    }
}

/// Names of capabilities at the places of their numbers.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const EVERY: u64 = (1 << CAPABILITIES.len()) - 1;

/// What a container has that asks for nothing, on every runtime of the field.
const ORDINARY: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Users of the image: how they are asked for, uid, gid, and what /etc/group adds.
const USERS: [(&str, i64, i64, &[i64]); 6] = [
    ("", 0, 0, &[]),
    ("0", 0, 0, &[]),
    ("33", 33, 33, &[29, 50]),
    ("www-data", 33, 33, &[29, 50]),
    ("65534", 65_534, 65_534, &[]),
    ("12345", 12_345, 0, &[]),
];

/// Paths of every container that may be masked: files under a node without content, directories under an empty one.
const MASKABLE: [&str; 4] = ["/proc/version", "/proc/uptime", "/etc/group", "/sys/kernel"];

/// Paths of every container that may be made read-only.
const LOCKABLE: [&str; 3] = ["/proc/sys", "/bin", "/etc/passwd"];

/// The processes that the kernel kills first have 1000; less than the daemon's own is not everywhere to be had.
const SCORES: [i64; 3] = [0, 250, 1000];

#[derive(Debug)]
pub(super) struct Asked {
    pod: PodKind,
    user: (&'static str, i64, i64, &'static [i64]),
    group: Option<i64>,
    supplemental: Vec<i64>,
    strict: bool,
    add: Vec<String>,
    drop: Vec<String>,
    ambient: Vec<String>,
    no_new_privs: bool,
    readonly: bool,
    privileged: bool,
    seccomp: Option<ProfileType>,
    masked: Vec<&'static str>,
    locked: Vec<&'static str>,
    oom_score: i64,
    /// The node's own capabilities: nothing else can be given.
    available: u64,
}

impl Asked {
    pub(super) fn roll(dice: &mut Dice, pod: PodKind, available: u64) -> Self {
        let user = *dice.pick(&USERS);
        let here: Vec<_> = (0..CAPABILITIES.len())
            .filter(|number| available & (1 << number) != 0)
            .map(|number| CAPABILITIES[number])
            .collect();
        let names = |dice: &mut Dice, count: u64| {
            let mut names = Vec::new();
            for _ in 0..dice.below(count) {
                let name = *dice.pick(&here);
                names.push(match dice.below(3) {
                    0 => format!("CAP_{name}"),
                    1 => name.to_lowercase(),
                    _ => name.to_owned(),
                });
            }
            if dice.once_in(6) {
                names.push("ALL".to_owned());
            }
            names
        };
        Self {
            pod,
            user,
            group: (!user.0.is_empty() && dice.once_in(2)).then_some(777),
            supplemental: dice.some(&[4000, 50, 4001]),
            strict: dice.once_in(2),
            add: names(dice, 4),
            drop: names(dice, 4),
            ambient: if dice.once_in(2) {
                names(dice, 3)
            } else {
                Vec::new()
            },
            no_new_privs: dice.once_in(2),
            readonly: dice.once_in(2),
            privileged: pod == PodKind::Privileged && !dice.once_in(3),
            seccomp: *dice.pick(&[
                None,
                Some(ProfileType::Unconfined),
                Some(ProfileType::RuntimeDefault),
            ]),
            masked: dice.some(&MASKABLE),
            locked: dice.some(&LOCKABLE),
            oom_score: *dice.pick(&SCORES),
            available,
        }
    }

    pub(super) fn context(&self) -> LinuxContainerSecurityContext {
        let id = |value: i64| Some(Int64Value { value });
        let number = self.user.0.parse().ok();
        LinuxContainerSecurityContext {
            run_as_user: number.and_then(id),
            run_as_username: match number {
                Some(_) => String::new(),
                None => self.user.0.to_owned(),
            },
            run_as_group: self.group.and_then(id),
            supplemental_groups: self.supplemental.clone(),
            supplemental_groups_policy: match self.strict {
                true => SupplementalGroupsPolicy::Strict.into(),
                false => SupplementalGroupsPolicy::Merge.into(),
            },
            capabilities: Some(Capability {
                add_capabilities: self.add.clone(),
                drop_capabilities: self.drop.clone(),
                add_ambient_capabilities: self.ambient.clone(),
            }),
            no_new_privs: self.no_new_privs,
            readonly_rootfs: self.readonly,
            privileged: self.privileged,
            seccomp: self.seccomp.map(|kind| SecurityProfile {
                profile_type: kind.into(),
                localhost_ref: String::new(),
            }),
            namespace_options: Some(self.pod.namespaces()),
            masked_paths: self.masked.iter().map(ToString::to_string).collect(),
            readonly_paths: self.locked.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }
    }

    pub(super) fn resources(&self) -> LinuxContainerResources {
        LinuxContainerResources {
            oom_score_adj: self.oom_score,
            ..LinuxContainerResources::default()
        }
    }

    pub(super) fn uid(&self) -> i64 {
        self.user.1
    }

    pub(super) fn gid(&self) -> i64 {
        self.group.unwrap_or(self.user.2)
    }

    /// All of them, the first one included.
    pub(super) fn groups(&self) -> Vec<i64> {
        let mut groups = self.supplemental.clone();
        groups.push(self.gid());
        if !self.strict {
            groups.extend(self.user.3);
        }
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    fn bounding(&self) -> u64 {
        let all = |names: &[String]| names.iter().any(|name| name == "ALL");
        if self.privileged {
            return self.available & EVERY;
        }
        let base = match (all(&self.add), all(&self.drop)) {
            (_, true) => 0,
            (true, false) => EVERY,
            (false, false) => bits(ORDINARY),
        };
        let ambient = if all(&self.ambient) { EVERY } else { 0 };
        let given = base | ambient | bits(&self.add) | bits(&self.ambient);
        given & !bits(&self.drop) & self.available
    }

    fn ambient(&self) -> u64 {
        let every = self.ambient.iter().any(|name| name == "ALL");
        let asked = if every { EVERY } else { bits(&self.ambient) };
        match self.privileged {
            true => 0,
            false => asked & self.bounding(),
        }
    }

    /// Where /proc says something else.
    pub(super) fn wrong(&self, told: &Told, node: &Told) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut same = |what: &str, expected: String, found: String| {
            if expected != found {
                wrong.push(format!("{what}: {found}, not {expected}"));
            }
        };
        let four = |id: i64| format!("{:?}", [id; 4]);
        same(
            "Uid",
            four(self.uid()),
            format!("{:?}", told.numbers("Uid")),
        );
        same(
            "Gid",
            four(self.gid()),
            format!("{:?}", told.numbers("Gid")),
        );
        let mut groups = told.numbers("Groups");
        groups.sort_unstable();
        same(
            "Groups",
            format!("{:?}", self.groups()),
            format!("{groups:?}"),
        );

        // execve(2) gives root all that it may have, and others what is ambient.
        let (bounding, ambient) = (self.bounding(), self.ambient());
        let effective = if self.uid() == 0 { bounding } else { ambient };
        for (set, expected) in [
            ("CapBnd", bounding),
            ("CapPrm", effective),
            ("CapEff", effective),
            ("CapInh", ambient),
            ("CapAmb", ambient),
        ] {
            same(
                set,
                format!("{expected:x}"),
                format!("{:x}", told.bits(set)),
            );
        }
        same(
            "NoNewPrivs",
            u8::from(self.no_new_privs).to_string(),
            told.get("NoNewPrivs").to_owned(),
        );
        let filtered = self.seccomp == Some(ProfileType::RuntimeDefault) && !self.privileged;
        same(
            "Seccomp",
            if filtered { "2" } else { node.get("Seccomp") }.to_owned(),
            told.get("Seccomp").to_owned(),
        );
        let root = told.get("root").split(',').next().unwrap_or("");
        let access = if self.readonly { "ro" } else { "rw" };
        same("root", access.to_owned(), root.to_owned());

        same(
            "oom_score_adj",
            self.oom_score.to_string(),
            told.get("oom_score_adj").to_owned(),
        );
        // Mounts over those paths, and no others: the kernel's null device or an empty tmpfs, or the path itself without leave to write.
        for path in MASKABLE {
            let masked = self.masked.contains(&path) && !self.privileged;
            let over = told.mount(path);
            let found = over.is_some_and(|over| over.ends_with("/null") || over == "ro tmpfs /");
            same(
                path,
                format!("masked: {masked}"),
                format!("masked: {found}"),
            );
        }
        for path in LOCKABLE {
            let locked = self.locked.contains(&path) && !self.privileged;
            let over = told.mount(path);
            let found = over.is_some_and(|over| over.starts_with("ro "));
            same(
                path,
                format!("locked: {locked}"),
                format!("locked: {found}"),
            );
        }

        let mapped = self.pod == PodKind::Mapped;
        for map in ["uid_map", "gid_map"] {
            let expected = match mapped {
                true => vec![0, 200_000, 65_536],
                false => node.numbers(map),
            };
            same(
                map,
                format!("{expected:?}"),
                format!("{:?}", told.numbers(map)),
            );
        }
        let of_node = self.pod == PodKind::OfTheNode;
        for (namespace, own) in [
            ("mnt", true),
            ("pid", !of_node),
            ("net", !of_node),
            ("ipc", !of_node),
            ("uts", !of_node),
            ("cgroup", !self.privileged),
            ("user", mapped),
        ] {
            let differs = told.get(namespace) != node.get(namespace);
            same(namespace, format!("own: {own}"), format!("own: {differs}"));
        }
        wrong
    }
}

/// Of names in any form; `ALL` is none.
fn bits<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> u64 {
    let number = |name: &str| {
        let upper = name.to_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        CAPABILITIES.iter().position(|known| *known == short)
    };
    let numbers = names.into_iter().filter_map(|name| number(name.as_ref()));
    numbers.fold(0, |bits, number| bits | 1 << number)
}
