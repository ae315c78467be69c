//! A pod process under test, and the smallest daemon that can talk to it.

#![allow(
    dead_code,
    reason = "the tests and the measurement use a part of it each"
)]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "cri_log.rs"]
mod cri_log;
#[path = "output.rs"]
mod output;

use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use oci_plan::*;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use supervisor_api::*;

pub(crate) use cri_log::Log;
pub(crate) use output::{Attached, Output};

/// Longer than anything takes; nothing is measured by it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

static PODS: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Pod {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) id: String,
    pub(crate) cgroup: String,
    pub(crate) process: Child,
    pub(crate) client: Client,
    rootfs: PathBuf,
}

pub(crate) struct Client {
    pub(crate) socket: OwnedFd,
    sequence: u64,
    replies: VecDeque<(u64, Result<ReplyBody, WireError>, Vec<OwnedFd>)>,
    pub(crate) events: VecDeque<Event>,
}

impl Pod {
    /// Starts the real binary as the daemon does, and says Hello.
    pub(crate) fn bare() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let address = SocketAddrUnix::new(directory.path().join(SOCKET_NAME)).unwrap();
        rustix::net::bind(&listener, &address).unwrap();
        rustix::net::listen(&listener, 16).unwrap();
        // Before the supervisor runs: there is nothing to wait for.
        let client = Client::connect(directory.path());

        let number = PODS.fetch_add(1, Ordering::Relaxed);
        let id = format!("t{}-{number}", std::process::id());
        let diagnostics = fs::File::create(directory.path().join("diagnostics")).unwrap();
        let binary = std::env::var_os("LONGSHORE_POD");
        let binary = binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_longshore-pod").into());
        let process = Command::new(binary)
            .arg("--dir")
            .arg(directory.path())
            .args(["--id", &id])
            .env_clear()
            .stdin(listener)
            .stdout(diagnostics.try_clone().unwrap())
            .stderr(diagnostics)
            .spawn()
            .unwrap();

        let rootfs = directory.path().join("rootfs");
        for name in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
            fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "echo", "sleep", "seq", "stty", "head", "tr", "tail", "ip", "ps", "dd",
            "true", "setsid", "id", "printf", "kill", "hostname", "grep", "wc", "usleep", "ls",
            "touch",
        ] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }

        let mut pod = Self {
            cgroup: format!("longshore-supervisor-test/{id}"),
            directory,
            id,
            process,
            client,
            rootfs,
        };
        pod.client.greet();
        pod
    }

    /// With a sandbox of its own namespaces, but for the PID namespace.
    pub(crate) fn ready() -> Self {
        let mut pod = Self::bare();
        let plan = pod.sandbox_plan();
        pod.client
            .call(RequestBody::CreateSandbox(plan), vec![])
            .unwrap();
        pod
    }

    pub(crate) fn sandbox_plan(&self) -> SandboxPlan {
        SandboxPlan {
            id: self.id.clone(),
            hostname: "the-pod".to_owned(),
            namespaces: PodNamespaces {
                net: true,
                ipc: true,
                uts: true,
                pid: false,
            },
            user: None,
            sysctls: vec![(
                "net.ipv4.ip_unprivileged_port_start".to_owned(),
                "80".to_owned(),
            )],
            cgroup: self.cgroup.clone(),
            resources: Resources::default(),
            shm_bytes: Some(1 << 20),
            shm_label: None,
        }
    }

    pub(crate) fn plan(&self, id: &str, script: &str) -> ContainerPlan {
        let mount = |target: &str, fs_type: &str, data: &[(&str, &str)]| Mount {
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
        };
        ContainerPlan {
            id: id.to_owned(),
            namespaces: Namespaces {
                pid: NamespaceSource::New,
                net: NamespaceSource::Pod,
                ipc: NamespaceSource::Pod,
                uts: NamespaceSource::Pod,
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
                mount("/proc", "proc", &[]),
                mount("/dev", "tmpfs", &[("mode", "755"), ("size", "64k")]),
                mount(
                    "/dev/pts",
                    "devpts",
                    &[("ptmxmode", "0666"), ("mode", "0620")],
                ),
                Mount {
                    source: MountSource::PodShm,
                    ..mount("/dev/shm", "", &[])
                },
            ],
            devices: vec![],
            masked_paths: vec![],
            readonly_paths: vec![],
            sysctls: vec![],
            cgroup: format!("{}/{id}", self.cgroup),
            resources: Resources::default(),
            process: process(&["/bin/sh", "-c", script]),
            alone: oci_plan::Alone::default(),
        }
    }

    /// A detached mount of the root file system.
    pub(crate) fn root(&self) -> OwnedFd {
        rustix::mount::open_tree(
            rustix::fs::CWD,
            &self.rootfs,
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
        )
        .unwrap()
    }

    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.log"))
    }

    pub(crate) fn log_file(&self, name: &str) -> OwnedFd {
        append(&self.log_path(name))
    }

    pub(crate) fn log(&self, name: &str) -> Log {
        Log::parse(&fs::read(self.log_path(name)).unwrap())
    }

    pub(crate) fn create(&mut self, plan: ContainerPlan) -> Result<i32, WireError> {
        let log = self.log_file(&plan.id);
        self.create_with(plan, log, false)
    }

    pub(crate) fn create_with(
        &mut self,
        plan: ContainerPlan,
        log: OwnedFd,
        stdin: bool,
    ) -> Result<i32, WireError> {
        self.create_with_stdin(plan, log, stdin, false)
    }

    pub(crate) fn create_with_stdin(
        &mut self,
        plan: ContainerPlan,
        log: OwnedFd,
        stdin: bool,
        stdin_once: bool,
    ) -> Result<i32, WireError> {
        let request = CreateContainer {
            plan,
            stdio: Stdio {
                log: Some(FdSlot(1)),
                stdin,
                stdin_once,
            },
        };
        let body = RequestBody::CreateContainer(Box::new(request));
        match self.client.call(body, vec![self.root(), log])? {
            (ReplyBody::Created { pid }, _) => Ok(pid),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn start(&mut self, id: &str) -> Result<i32, WireError> {
        let body = RequestBody::StartContainer { id: id.to_owned() };
        match self.client.call(body, vec![])? {
            (ReplyBody::Started { pid, .. }, _) => Ok(pid),
            other => panic!("{other:?}"),
        }
    }

    /// Creates and starts.
    pub(crate) fn run(&mut self, id: &str, script: &str) -> i32 {
        let plan = self.plan(id, script);
        let pid = self.create(plan).unwrap();
        assert_eq!(self.start(id).unwrap(), pid);
        pid
    }

    /// Creates, starts, and waits for the end.
    pub(crate) fn run_to_end(&mut self, id: &str, script: &str) -> ExitRecord {
        self.run(id, script);
        self.client.exit(id)
    }

    pub(crate) fn exec(
        &mut self,
        container: &str,
        exec_id: &str,
        script: &str,
    ) -> (ExecRequest, Output) {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let exec = Exec {
            container_id: container.to_owned(),
            exec_id: exec_id.to_owned(),
            process: process(&["/bin/sh", "-c", script]),
            stdin: None,
            stdout: Some(FdSlot(0)),
            stderr: Some(FdSlot(0)),
            timeout_ms: None,
            bound_to_connection: false,
        };
        (
            ExecRequest {
                exec,
                descriptors: vec![write],
            },
            Output(read),
        )
    }

    /// Attaches to both streams, through pipes that hold `capacity` bytes.
    pub(crate) fn attach(&mut self, id: &str, attach_id: &str, capacity: usize) -> Attached {
        let pipe = || {
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
            rustix::pipe::fcntl_setpipe_size(&read, capacity).unwrap();
            (read, write)
        };
        let ((stdout, to_stdout), (stderr, to_stderr)) = (pipe(), pipe());
        let request = RequestBody::Attach(Attach {
            container_id: id.to_owned(),
            attach_id: attach_id.to_owned(),
            stdin: true,
            stdout: Some(FdSlot(0)),
            stderr: Some(FdSlot(1)),
        });
        match self.client.call(request, vec![to_stdout, to_stderr]) {
            Ok((ReplyBody::Attached { terminal, input }, descriptors)) => Attached {
                stdout: Output(stdout),
                stderr: Output(stderr),
                terminal,
                input,
                descriptor: descriptors.into_iter().next(),
            },
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn order(&mut self, body: RequestBody) {
        match self.client.call(body, vec![]) {
            Ok((ReplyBody::Done, _)) => {}
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn state(&mut self) -> PodState {
        match self.client.call(RequestBody::State, vec![]) {
            Ok((ReplyBody::State(state), _)) => state,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn record(&self, id: &str) -> Option<ExitRecord> {
        let path = self.directory.path().join(EXITS_DIRECTORY).join(id);
        let bytes = fs::read(path).ok()?;
        Some(postcard::from_bytes(&bytes).unwrap())
    }

    pub(crate) fn diagnostics(&self) -> String {
        fs::read_to_string(self.directory.path().join("diagnostics")).unwrap()
    }

    /// Stops and shuts down, and looks that nothing is left.
    pub(crate) fn finish(mut self) {
        self.order(RequestBody::StopSandbox);
        self.order(RequestBody::Shutdown);
        let ended = within(|| self.process.try_wait().unwrap());
        assert!(ended.success(), "{ended}: {}", self.diagnostics());
        assert_eq!(cgroup_directories(&self.cgroup), Vec::<PathBuf>::new());
        assert_eq!(children(self.process.id() as i32), Vec::<i32>::new());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let directory = self.directory.path().to_str().unwrap();
        assert!(!mounts.contains(directory), "{mounts}");
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("diagnostics: {}", self.diagnostics());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        // What a daemon does after a supervisor has died.
        let mut directories = cgroup_directories(&self.cgroup);
        directories.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        let until = Instant::now() + Duration::from_secs(60);
        for directory in directories {
            while fs::remove_dir(&directory).is_err() && directory.exists() {
                let procs = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
                for pid in procs.lines().filter_map(|pid| pid.parse().ok()) {
                    kill(pid);
                }
                if Instant::now() > until {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

pub(crate) struct ExecRequest {
    pub(crate) exec: Exec,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Client {
    pub(crate) fn connect(directory: &Path) -> Self {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let address = SocketAddrUnix::new(directory.join(SOCKET_NAME)).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(PATIENCE),
        )
        .unwrap();
        Self {
            socket,
            sequence: 0,
            replies: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    pub(crate) fn greet(&mut self) -> i32 {
        match self.call(RequestBody::Hello, vec![]) {
            Ok((ReplyBody::Hello { pid, .. }, _)) => pid,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn send(&mut self, body: RequestBody, descriptors: Vec<OwnedFd>) -> u64 {
        self.sequence += 1;
        let sequence = self.sequence;
        let outgoing = Outgoing::new(&Request { sequence, body }, descriptors).unwrap();
        outgoing.send(self.socket.as_fd()).unwrap();
        sequence
    }

    /// `None`: closed by the supervisor.
    pub(crate) fn message(&mut self) -> Option<(Message, Vec<OwnedFd>)> {
        receive(self.socket.as_fd()).unwrap()
    }

    fn pump(&mut self) {
        match self.message().expect("the supervisor has hung up") {
            (Message::Event(event), _) => self.events.push_back(event),
            (Message::Reply { sequence, result }, descriptors) => {
                self.replies.push_back((sequence, result, descriptors));
            }
        }
    }

    pub(crate) fn reply(&mut self, sequence: u64) -> Result<(ReplyBody, Vec<OwnedFd>), WireError> {
        loop {
            if let Some(index) = self.replies.iter().position(|one| one.0 == sequence) {
                let (_, result, descriptors) = self.replies.remove(index).unwrap();
                return result.map(|body| (body, descriptors));
            }
            self.pump();
        }
    }

    pub(crate) fn call(
        &mut self,
        body: RequestBody,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(ReplyBody, Vec<OwnedFd>), WireError> {
        let sequence = self.send(body, descriptors);
        self.reply(sequence)
    }

    pub(crate) fn error(&mut self, body: RequestBody) -> WireError {
        self.call(body, vec![]).map(|(body, _)| body).unwrap_err()
    }

    pub(crate) fn event<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            for index in 0..self.events.len() {
                if let Some(found) = wanted(&self.events[index]) {
                    self.events.remove(index);
                    return found;
                }
            }
            self.pump();
        }
    }

    pub(crate) fn exit(&mut self, wanted: &str) -> ExitRecord {
        self.event(|event| match event {
            Event::Exited { id, exit } if id == wanted => Some(exit.clone()),
            _ => None,
        })
    }

    pub(crate) fn exec_exit(&mut self, wanted: &str) -> (i32, Option<ExecKilled>) {
        self.event(|event| match event {
            Event::ExecExited {
                exec_id,
                exit_code,
                killed,
            } if exec_id == wanted => Some((*exit_code, *killed)),
            _ => None,
        })
    }

    pub(crate) fn attach_end(&mut self, wanted: &str) -> AttachEnd {
        self.event(|event| match event {
            Event::AttachEnded { attach_id, reason } if attach_id == wanted => Some(*reason),
            _ => None,
        })
    }

    pub(crate) fn sandbox_end(&mut self) -> String {
        self.event(|event| match event {
            Event::SandboxEnded { reason } => Some(reason.clone()),
            _ => None,
        })
    }

    pub(crate) fn start_exec(&mut self, request: ExecRequest) -> Result<i32, WireError> {
        Ok(self.start_exec_on_terminal(request)?.0)
    }

    /// Also the terminal's master, if there is one.
    pub(crate) fn start_exec_on_terminal(
        &mut self,
        request: ExecRequest,
    ) -> Result<(i32, Option<OwnedFd>), WireError> {
        let body = RequestBody::Exec(Box::new(request.exec));
        match self.call(body, request.descriptors)? {
            (ReplyBody::Started { pid, .. }, descriptors) => {
                Ok((pid, descriptors.into_iter().next()))
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn process(args: &[&str]) -> Process {
    let capabilities = Capabilities::of_root(0x0000_0000_a80c_25fb);
    let args = args.iter().map(|&arg| arg.to_owned()).collect();
    Process::of_root(args, vec!["PATH=/bin".to_owned()], "/", capabilities)
}

pub(crate) fn append(path: &Path) -> OwnedFd {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o640)).unwrap()
}

/// A file on a file system of its own, of that many KiB.
pub(crate) fn small_file(kib: u32) -> (OwnedFd, OwnedFd) {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    rustix::mount::fsconfig_set_string(context.as_fd(), "size", format!("{kib}k")).unwrap();
    rustix::mount::fsconfig_create(context.as_fd()).unwrap();
    let mount = rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .unwrap();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&mount, "log", flags, Mode::from_raw_mode(0o640)).unwrap();
    (file, mount)
}

pub(crate) fn read_all(file: BorrowedFd<'_>) -> Vec<u8> {
    let size = rustix::fs::fstat(file).unwrap().st_size as usize;
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        let count = rustix::io::pread(file, &mut bytes[filled..], filled as u64).unwrap();
        assert_ne!(count, 0);
        filled += count;
    }
    bytes
}

/// Polls for what has no event, bounded.
pub(crate) fn within<T>(look: impl FnMut() -> Option<T>) -> T {
    let mut look = look;
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn alive(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.contains(") Z "),
        Err(_) => false,
    }
}

pub(crate) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

pub(crate) fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

pub(crate) fn name_of(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Every directory of a cgroup, in every hierarchy.
pub(crate) fn cgroup_directories(path: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
        walk(&hierarchy.unwrap().path().join(path), &mut found);
    }
    walk(&Path::new("/sys/fs/cgroup").join(path), &mut found);
    found
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    found.push(directory.to_owned());
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        }
    }
}
