//! Who is in the process table, and what of it a run has added.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
};

use serde::{Deserialize, Serialize};

use super::{
    BenchError,
    record::{Class, ClassMemory},
    workload::MARK,
};

/// Memory of a process or of several, bytes; from `smaps_rollup` (proc(5)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident: with what it shares counted whole.
    pub resident: u64,
    /// Proportional: of what `n` processes share, an `n`th.
    pub proportional: u64,
    /// What would come free if it ended.
    pub private: u64,
}

/// Processes of one program that a run has added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessClass {
    /// The program's name (`comm`).
    pub name: String,
    /// How many.
    pub count: usize,
    /// Of all of them together.
    pub memory: Memory,
}

/// The process table at one moment.
#[derive(Debug)]
pub(crate) struct Census {
    pub(crate) daemon: Memory,
    daemon_pid: i32,
    /// By pid and start time, so that a pid used again is another process.
    processes: BTreeMap<(i32, u64), Process>,
}

#[derive(Debug)]
struct Process {
    name: String,
    parent: i32,
    memory: Memory,
    workload: bool,
}

impl Census {
    /// Processes that end while they are looked at are left out.
    pub(crate) fn take(daemon: i32) -> Result<Self, BenchError> {
        let mut processes = BTreeMap::new();
        let entries = fs::read_dir("/proc").map_err(|source| io_error("list /proc", source))?;
        for entry in entries.flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            if let Some((start, process)) = Process::read(pid) {
                processes.insert((pid, start), process);
            }
        }
        let memory = processes.iter().find(|((pid, _), _)| *pid == daemon);
        Ok(Self {
            daemon: memory
                .map(|(_, process)| process.memory)
                .unwrap_or_default(),
            daemon_pid: daemon,
            processes,
        })
    }

    /// What is here and was not there, by program, the workload's aside.
    pub(crate) fn added_since(&self, earlier: &Self) -> Vec<ProcessClass> {
        let workload = self.workload();
        let mut classes: HashMap<&str, (usize, Memory)> = HashMap::new();
        for (key, process) in &self.processes {
            if earlier.processes.contains_key(key) || workload.contains(&key.0) {
                continue;
            }
            let (count, memory) = classes.entry(&process.name).or_default();
            *count += 1;
            memory.add(process.memory);
        }
        let mut classes: Vec<ProcessClass> = classes
            .into_iter()
            .map(|(name, (count, memory))| ProcessClass {
                name: name.to_owned(),
                count,
                memory,
            })
            .collect();
        classes.sort_by(|a, b| {
            b.memory
                .private
                .cmp(&a.memory.private)
                .then(a.name.cmp(&b.name))
        });
        classes
    }

    /// The daemon, and what is here and was not there, by what it is for. Every class has its row.
    pub(crate) fn classes_since(&self, earlier: &Self) -> Vec<ClassMemory> {
        let workload = self.workload();
        let mut classes = Class::ALL.map(|class| ClassMemory {
            class,
            count: 0,
            memory: Memory::default(),
        });
        for (key, process) in &self.processes {
            let class = match key.0 {
                pid if pid == self.daemon_pid => Class::Daemon,
                _ if earlier.processes.contains_key(key) => continue,
                pid if workload.contains(&pid) => Class::Workload,
                _ => class_of(&process.name),
            };
            if let Some(row) = classes.iter_mut().find(|row| row.class == class) {
                row.count += 1;
                row.memory.add(process.memory);
            }
        }
        classes.to_vec()
    }

    /// The marked processes and their children.
    fn workload(&self) -> HashSet<i32> {
        let marked = self
            .processes
            .iter()
            .filter(|(_, process)| process.workload);
        let marked: HashSet<i32> = marked.map(|((pid, _), _)| *pid).collect();
        let children = self.processes.iter();
        let children = children.filter(|(_, process)| marked.contains(&process.parent));
        children
            .map(|((pid, _), _)| *pid)
            .chain(marked.iter().copied())
            .collect()
    }
}

/// What a process is for, by its name, which the kernel cuts after 15 bytes: ours, containerd's, CRI-O's.
fn class_of(name: &str) -> Class {
    match name {
        "longshore-pod" | "longshore-scope" | "longshore-path" => Class::Supervisor,
        "longshore-log" => Class::Log,
        "pause" => Class::Pause,
        name if name.starts_with("containerd-shim") || name.starts_with("conmon") => {
            Class::Supervisor
        }
        _ => Class::Other,
    }
}

impl Memory {
    fn add(&mut self, other: Self) {
        self.resident += other.resident;
        self.proportional += other.proportional;
        self.private += other.private;
    }
}

impl Process {
    fn read(pid: i32) -> Option<(u64, Self)> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, parent, start) = parse_stat(&stat)?;
        // Kernel threads have none of these.
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let process = Self {
            name: name.to_owned(),
            parent,
            memory: parse_rollup(&rollup),
            workload: command
                .split(|&byte| byte == 0)
                .any(|word| word == MARK.as_bytes()),
        };
        Some((start, process))
    }
}

/// Name, parent and start time of `/proc/PID/stat`. The name stands in parentheses and may contain any character.
fn parse_stat(stat: &str) -> Option<(&str, i32, u64)> {
    let (head, tail) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = tail.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    // Field 22 of the line; the state was field 3.
    let start = fields.nth(17)?.parse().ok()?;
    Some((name, parent, start))
}

fn parse_rollup(rollup: &str) -> Memory {
    let mut memory = Memory::default();
    for line in rollup.lines() {
        let Some((key, rest)) = line.split_once(':') else {
            continue;
        };
        let kib: u64 = match rest.trim().strip_suffix(" kB").map(str::parse) {
            Some(Ok(kib)) => kib,
            _ => continue,
        };
        match key {
            "Rss" => memory.resident = kib * 1024,
            "Pss" => memory.proportional = kib * 1024,
            "Private_Clean" | "Private_Dirty" => memory.private += kib * 1024,
            _ => {}
        }
    }
    memory
}

/// USER_HZ, which proc(5) counts in: 100 on every architecture that Linux has in common use, whatever the kernel's own tick.
pub(super) const TICKS_A_SECOND: f64 = 100.0;

/// Processor time of the machine, this process's own aside.
#[derive(Debug)]
pub(crate) struct Cpu {
    busy_ticks: u64,
}

impl Cpu {
    pub(crate) fn now() -> Result<Self, BenchError> {
        let stat = fs::read_to_string("/proc/stat")
            .map_err(|source| io_error("read /proc/stat", source))?;
        let own = fs::read_to_string("/proc/self/stat")
            .map_err(|source| io_error("read /proc/self/stat", source))?;
        let busy = busy_ticks(&stat).zip(own_ticks(&own));
        let busy = busy.ok_or_else(|| {
            io_error(
                "read the processor times in /proc/stat",
                io::ErrorKind::InvalidData.into(),
            )
        })?;
        Ok(Self {
            busy_ticks: busy.0.saturating_sub(busy.1),
        })
    }

    pub(crate) fn seconds_since(&self) -> Result<f64, BenchError> {
        let ticks = Self::now()?.busy_ticks.saturating_sub(self.busy_ticks);
        Ok(ticks as f64 / TICKS_A_SECOND)
    }
}

/// user, nice, system, irq, softirq and steal of the first line; idle and iowait are not work, guest is in user already.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line
        .split_ascii_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let at = |index: usize| fields.get(index).copied();
    Some(at(0)? + at(1)? + at(2)? + at(5)? + at(6)? + at(7).unwrap_or(0))
}

/// utime and stime of `/proc/self/stat`.
fn own_ticks(stat: &str) -> Option<u64> {
    let (_, tail) = stat.rsplit_once(')')?;
    let mut fields = tail.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn io_error(operation: &str, source: io::Error) -> BenchError {
    BenchError::Io {
        operation: operation.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_contain_parentheses_and_spaces() {
        let stat = "42 (a) b) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 991 1 1";
        assert_eq!(parse_stat(stat), Some(("a) b", 7, 991)));
        assert_eq!(own_ticks(stat), Some(11));
        assert_eq!(parse_stat("42 (cut"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let rollup = "5570-7fff ---p 00000000 00:00 0 [rollup]\nRss: 2048 kB\nPss: 1024 kB\nPss_Dirty: 7 kB\n\
                      Private_Clean: 1 kB\nPrivate_Dirty: 2 kB\n";
        let memory = parse_rollup(rollup);
        assert_eq!(memory.resident, 2 << 20);
        assert_eq!(memory.proportional, 1 << 20);
        assert_eq!(memory.private, 3 << 10);
    }

    #[test]
    fn waiting_is_not_work() {
        assert_eq!(
            busy_ticks("cpu  10 1 20 1000 500 2 3 4 0 0\ncpu0 1"),
            Some(40)
        );
    }

    #[test]
    fn processes_are_told_apart_by_what_they_are_for() {
        let process = |name: &str, parent, workload| Process {
            name: name.to_owned(),
            parent,
            memory: Memory {
                resident: 3,
                proportional: 2,
                private: 1,
            },
            workload,
        };
        let census = |processes: Vec<(i32, Process)>| Census {
            daemon: Memory::default(),
            daemon_pid: 1,
            processes: (processes.into_iter())
                .map(|(pid, process)| ((pid, 7), process))
                .collect(),
        };
        let before = census(vec![
            (1, process("longshored", 0, false)),
            (2, process("pause", 0, false)),
        ]);
        let after = census(vec![
            (1, process("longshored", 0, false)),
            (2, process("pause", 0, false)),
            (3, process("containerd-shim", 0, false)),
            (4, process("longshore-pod", 0, false)),
            (5, process("longshore-log", 4, false)),
            (6, process("pause", 3, false)),
            (7, process("sh", 4, true)),
            (8, process("sleep", 7, false)),
            (9, process("cron", 0, false)),
        ]);
        let classes = after.classes_since(&before);
        let counts: Vec<(Class, usize)> = classes.iter().map(|it| (it.class, it.count)).collect();
        let expected = Class::ALL.into_iter().zip([1, 2, 1, 1, 2, 1]);
        assert_eq!(counts, expected.collect::<Vec<_>>());
        assert_eq!(classes[1].memory.resident, 6);
    }

    #[test]
    fn this_process_is_in_its_own_census() {
        let pid = std::process::id() as i32;
        let census = Census::take(pid).unwrap();
        assert!(census.daemon.resident > 0 && census.daemon.private > 0);
        assert!(census.added_since(&census).is_empty());
    }
}
