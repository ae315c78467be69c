//! A pod on the work-bench: what every case starts from.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use cgroup::Cgroup;
use oci_plan::{
    Capabilities, ContainerPlan, FdSlot, IdMap, IdMappings, Mount, MountFlags, MountSource,
    NamespaceSource, Namespaces, PodNamespaces, Process, Propagation, Resources, Rootfs,
    SandboxPlan,
};
use oci_runtime::{ChildStdio, Error, ExecPlan, Host, Launch, Placement, PodHandles, Progress};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsmount, fsopen,
    open_tree,
};
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions};

/// Nothing here takes a fraction of it; it turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs a case in a mount namespace of its own, and looks for what it left.
pub(crate) fn isolated(case: fn()) {
    sys::unshare(sys::CloneFlags::NEWNS).unwrap();
    let private =
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    let before = ledger();
    case();
    let after = ledger();
    assert_eq!(before, after, "mounts or descriptors were left");
    let child = rustix::process::wait(WaitOptions::NOHANG);
    assert_eq!(
        child.err(),
        Some(rustix::io::Errno::CHILD),
        "a child was left"
    );
}

fn ledger() -> (Vec<String>, usize, bool) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let ours = format!("/sys/fs/cgroup/memory/{}", cgroup_path());
    (
        mounts.lines().map(str::to_owned).collect(),
        descriptors,
        std::path::Path::new(&ours).exists(),
    )
}

fn cgroup_path() -> String {
    format!("longshore-core-{}", std::process::id())
}

/// A host, a pod and a cgroup, with no container yet.
pub(crate) struct Bench {
    pub(crate) host: Host,
    pub(crate) pod: PodHandles,
    cgroup: Option<Cgroup>,
    execs: std::cell::Cell<u32>,
}

/// What a program wrote, and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) output: String,
    pub(crate) errors: String,
    pub(crate) code: i32,
}

/// A container whose program runs.
pub(crate) struct Running {
    pub(crate) launch: Launch,
    pub(crate) stdout: File,
    pub(crate) stderr: File,
    pub(crate) console: Option<File>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(PodHandles::default())
    }

    pub(crate) fn with(pod: PodHandles) -> Self {
        Self {
            host: Host::open().unwrap(),
            pod,
            cgroup: None,
            execs: std::cell::Cell::new(0),
        }
    }

    /// A pod with the namespaces that are asked for, and `/dev/shm` on the host's.
    pub(crate) fn pod(namespaces: PodNamespaces, user: Option<IdMappings>) -> Self {
        let mut bench = Self::new();
        let plan = sandbox_plan(namespaces, user);
        bench.pod = bench.make_pod(&plan).unwrap();
        bench
    }

    pub(crate) fn make_pod(&self, plan: &SandboxPlan) -> Result<PodHandles, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::open("/dev/shm", flags, Mode::empty()).unwrap();
        PodHandles::create(&self.host, plan, place.as_fd())
    }

    /// Containers get cgroups.
    pub(crate) fn with_cgroup(mut self) -> Self {
        let created = self
            .host
            .hierarchies()
            .create(&cgroup_path(), &Resources::default());
        self.cgroup = Some(created.unwrap());
        self
    }

    pub(crate) fn launch(&self, plan: &ContainerPlan, fds: &[OwnedFd]) -> Result<Running, Error> {
        self.launch_beside(plan, fds, &|_| None)
    }

    /// Creates and starts.
    pub(crate) fn launch_beside<'a>(
        &self,
        plan: &ContainerPlan,
        fds: &[OwnedFd],
        targets: &dyn Fn(&str) -> Option<BorrowedFd<'a>>,
    ) -> Result<Running, Error> {
        let (mut launch, stdout, stderr) = self.begin(plan, fds, targets)?;
        let result = finish(&mut launch, true);
        match result {
            Ok(console) => Ok(Running {
                launch,
                stdout,
                stderr,
                console,
            }),
            Err(error) => {
                reap(launch.pidfd());
                Err(error)
            }
        }
    }

    /// Only clones.
    pub(crate) fn begin<'a>(
        &self,
        plan: &ContainerPlan,
        fds: &[OwnedFd],
        targets: &dyn Fn(&str) -> Option<BorrowedFd<'a>>,
    ) -> Result<(Launch, File, File), Error> {
        let (stdout, theirs_out) = pipe();
        let (stderr, theirs_err) = pipe();
        let stdio = ChildStdio {
            stdin: None,
            stdout: Some(theirs_out.as_fd()),
            stderr: Some(theirs_err.as_fd()),
        };
        let cgroup = self.cgroup.as_ref();
        let tasks = cgroup.map_or_else(Vec::new, |cgroup| cgroup.attach_fds().unwrap());
        let unified = cgroup.and_then(|cgroup| cgroup.unified_dir().unwrap());
        let placement = Placement {
            tasks: &tasks,
            unified: unified.as_ref().map(AsFd::as_fd),
        };
        let launch = Launch::container(
            &self.host, plan, fds, &self.pod, targets, placement, stdio, None,
        )?;
        Ok((launch, stdout, stderr))
    }

    /// Runs a container to its end.
    pub(crate) fn run(&self, plan: &ContainerPlan, fds: &[OwnedFd]) -> Result<Outcome, Error> {
        Ok(self.launch(plan, fds)?.wait())
    }

    /// Runs a shell script in a container with the default root.
    pub(crate) fn shell(&self, script: &str, change: impl FnOnce(&mut ContainerPlan)) -> Outcome {
        let mut plan = plan(&["/bin/sh", "-c", script]);
        change(&mut plan);
        self.run(&plan, &[rootfs()]).unwrap()
    }

    /// Runs a further process in a container, to its end.
    pub(crate) fn exec(
        &self,
        container: BorrowedFd<'_>,
        process: &Process,
    ) -> Result<Outcome, Error> {
        Ok(self.begin_exec(container, process)?.wait())
    }

    pub(crate) fn begin_exec(
        &self,
        container: BorrowedFd<'_>,
        process: &Process,
    ) -> Result<Running, Error> {
        let (stdout, theirs_out) = pipe();
        let (stderr, theirs_err) = pipe();
        let stdio = ChildStdio {
            stdin: None,
            stdout: Some(theirs_out.as_fd()),
            stderr: Some(theirs_err.as_fd()),
        };
        self.execs.set(self.execs.get() + 1);
        let name = format!("exec-{}", self.execs.get());
        let cgroup = self
            .cgroup
            .as_ref()
            .map(|cgroup| cgroup.create_exec(&name).unwrap());
        let tasks = cgroup
            .as_ref()
            .map_or_else(Vec::new, |cgroup| cgroup.attach_fds().unwrap());
        let unified = cgroup
            .as_ref()
            .and_then(|cgroup| cgroup.unified_dir().unwrap());
        let placement = Placement {
            tasks: &tasks,
            unified: unified.as_ref().map(AsFd::as_fd),
        };
        let plan = ExecPlan { process, container };
        let mut launch = Launch::exec(&self.host, plan, placement, stdio)?;
        let result = finish(&mut launch, false);
        match result {
            Ok(console) => Ok(Running {
                launch,
                stdout,
                stderr,
                console,
            }),
            Err(error) => {
                reap(launch.pidfd());
                Err(error)
            }
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(init) = &self.pod.init {
            let _ = rustix::process::pidfd_send_signal(&init.pidfd, Signal::KILL);
            reap(init.pidfd.as_fd());
        }
        if self.pod.shm.is_some() {
            let _ = rustix::mount::unmount("/dev/shm", rustix::mount::UnmountFlags::DETACH);
        }
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.kill_all();
            if let Err(error) = cgroup.remove() {
                assert!(std::thread::panicking(), "{error}");
            }
        }
    }
}

impl Running {
    /// Its output to the end, and its exit.
    pub(crate) fn wait(mut self) -> Outcome {
        let (mut output, mut errors) = (String::new(), String::new());
        if let Some(console) = &mut self.console {
            output = read_console(console);
        }
        let _ = self.stdout.read_to_string(&mut output);
        let _ = self.stderr.read_to_string(&mut errors);
        let code = exit_code(self.launch.pidfd());
        Outcome {
            output,
            errors,
            code,
        }
    }

    /// Waits for its first line of output.
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    pub(crate) fn kill(self) -> Outcome {
        rustix::process::pidfd_send_signal(self.launch.pidfd(), Signal::KILL).unwrap();
        self.wait()
    }
}

impl Outcome {
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<&str> {
        assert_eq!(self.code, 0, "{self:?}");
        self.output.lines().collect()
    }
}

/// Until `Started`, starting a container when it is created.
fn finish(launch: &mut Launch, container: bool) -> Result<Option<File>, Error> {
    let mut kept = None;
    loop {
        match step(launch)? {
            Progress::Pending => {}
            Progress::Paused => panic!("nothing asked it to wait"),
            Progress::Listening(_) => panic!("nothing asked for its denied calls"),
            Progress::Created { console } => {
                assert!(container, "an exec is not created");
                kept = console.map(File::from);
                launch.start()?;
            }
            Progress::Started { console } => return Ok(console.map(File::from).or(kept)),
        }
    }
}

/// Waits for news, and takes them.
pub(crate) fn step(launch: &mut Launch) -> Result<Progress, Error> {
    wait_for(launch.handshake(), "the handshake");
    launch.advance()
}

fn wait_for(fd: BorrowedFd<'_>, what: &str) {
    let patience = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let ready = rustix::event::poll(&mut fds, Some(&patience)).unwrap();
    assert_eq!(ready, 1, "{what} says nothing");
}

pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> WaitIdStatus {
    wait_for(pidfd, "a process that should end");
    rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED)
        .unwrap()
        .unwrap()
}

fn exit_code(pidfd: BorrowedFd<'_>) -> i32 {
    let status = reap(pidfd);
    status
        .exit_status()
        .unwrap_or_else(|| 128 + status.terminating_signal().unwrap())
}

/// The master side is non-blocking; its end is EIO.
fn read_console(console: &mut File) -> String {
    let begun = Instant::now();
    let mut output = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        assert!(begun.elapsed() < PATIENCE, "the terminal does not end");
        match console.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => output.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                wait_for(console.as_fd(), "the terminal");
            }
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&output).replace("\r\n", "\n")
}

fn pipe() -> (File, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (File::from(read), write)
}

/// A detached tmpfs with busybox and little else.
pub(crate) fn rootfs() -> OwnedFd {
    let root = tmpfs();
    for directory in ["bin", "etc", "tmp", "data"] {
        rustix::fs::mkdirat(&root, directory, Mode::from_bits_truncate(0o755)).unwrap();
    }
    let busybox = std::fs::read("/bin/busybox").unwrap();
    write_file(&root, "bin/busybox", &busybox, 0o755);
    for name in [
        "sh", "cat", "ls", "id", "stat", "touch", "mkdir", "readlink", "sleep", "hostname", "tty",
        "stty", "uname", "mount", "umount", "kill", "grep", "wc", "echo", "test", "pwd", "env",
        "head", "dd", "sort", "mknod", "cut", "tr", "find", "chown", "true", "rm",
    ] {
        rustix::fs::symlinkat("busybox", &root, format!("bin/{name}")).unwrap();
    }
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
    write_file(&root, "etc/passwd", passwd, 0o644);
    root
}

pub(crate) fn tmpfs() -> OwnedFd {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_create(context.as_fd()).unwrap();
    fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .unwrap()
}

pub(crate) fn write_file(directory: &OwnedFd, path: &str, bytes: &[u8], mode: u32) {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, path, flags, Mode::from_bits_truncate(mode)).unwrap();
    rustix::fs::fchmod(&file, Mode::from_bits_truncate(mode)).unwrap();
    File::from(file).write_all(bytes).unwrap();
}

pub(crate) fn chown(directory: &OwnedFd, path: &str, id: u32) {
    let (uid, gid) = (rustix::fs::Uid::from_raw(id), rustix::fs::Gid::from_raw(id));
    rustix::fs::chownat(
        directory,
        path,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
}

/// A detached copy of a path of the host's.
pub(crate) fn tree(path: &str) -> OwnedFd {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags).unwrap()
}

/// What containers usually get.
pub(crate) fn plan(args: &[&str]) -> ContainerPlan {
    ContainerPlan {
        id: "one".to_owned(),
        namespaces: Namespaces {
            pid: NamespaceSource::New,
            net: NamespaceSource::New,
            ipc: NamespaceSource::New,
            uts: NamespaceSource::New,
            user: NamespaceSource::Host,
            cgroup: NamespaceSource::New,
            mappings: None,
        },
        hostname: None,
        rootfs: Rootfs {
            mount: FdSlot(0),
            readonly: false,
            propagation: Propagation::Private,
        },
        mounts: vec![
            filesystem("proc", "/proc", &[]),
            filesystem("tmpfs", "/dev", &[("mode", "755"), ("size", "65536k")]),
            filesystem(
                "devpts",
                "/dev/pts",
                &[("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")],
            ),
            filesystem("tmpfs", "/dev/shm", &[("mode", "1777"), ("size", "65536k")]),
            filesystem("mqueue", "/dev/mqueue", &[]),
            Mount {
                flags: MountFlags {
                    readonly: true,
                    nosuid: true,
                    nodev: true,
                    noexec: true,
                    ..MountFlags::default()
                },
                ..filesystem("sysfs", "/sys", &[])
            },
        ],
        devices: Vec::new(),
        masked_paths: Vec::new(),
        readonly_paths: Vec::new(),
        sysctls: Vec::new(),
        cgroup: String::new(),
        resources: Resources::default(),
        process: process(args),
        alone: oci_plan::Alone::default(),
    }
}

/// The capabilities that containers usually get.
pub(crate) const USUAL: u64 = 0xa804_25fb;

pub(crate) fn process(args: &[&str]) -> Process {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let env = vec!["PATH=/usr/bin:/bin".to_owned()];
    Process {
        no_new_privileges: true,
        ..Process::of_root(args, env, "/", Capabilities::of_root(USUAL))
    }
}

pub(crate) fn filesystem(fs_type: &str, target: &str, data: &[(&str, &str)]) -> Mount {
    Mount {
        target: target.to_owned(),
        source: MountSource::Filesystem {
            fs_type: fs_type.to_owned(),
            source: fs_type.to_owned(),
            data: data
                .iter()
                .map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned())))
                .collect(),
        },
        flags: MountFlags {
            nosuid: true,
            ..MountFlags::default()
        },
        propagation: None,
        idmap: None,
    }
}

pub(crate) fn bind(slot: u16, target: &str) -> Mount {
    Mount {
        target: target.to_owned(),
        source: MountSource::Tree(FdSlot(slot)),
        flags: MountFlags::default(),
        propagation: Some(Propagation::Private),
        idmap: None,
    }
}

/// 65,536 ids from 100,000.
pub(crate) fn mappings() -> IdMappings {
    let map = IdMap {
        container_id: 0,
        host_id: 100_000,
        length: 65_536,
    };
    IdMappings {
        uids: vec![map],
        gids: vec![map],
    }
}

/// A pod with the namespaces that are asked for, which forwards packets if it has a network.
pub(crate) fn sandbox_plan(namespaces: PodNamespaces, user: Option<IdMappings>) -> SandboxPlan {
    SandboxPlan {
        id: "pod".to_owned(),
        hostname: "pod-host".to_owned(),
        namespaces,
        user,
        sysctls: match namespaces.net {
            true => vec![("net.ipv4.ip_forward".to_owned(), "1".to_owned())],
            false => Vec::new(),
        },
        cgroup: String::new(),
        resources: Resources::default(),
        shm_bytes: Some(1 << 20),
        shm_label: None,
    }
}
