use std::ffi::{CStr, c_void};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::clone::{CloneArgs, CloneFlags, check, exit_process};
use crate::exec::{CStrings, execute};
use crate::share::clone_sharing_memory;
use crate::signals::{Signals, replace_mask, reset_signals};
use crate::stdio::place_descriptor;

/// A program that begins its life in a cgroup, so that not a page of it is charged to the caller's.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    pub path: &'a CStr,
    pub args: &'a CStrings,
    pub env: &'a CStrings,
    /// Standard input, output and error. Everything else that is not close-on-exec is inherited too.
    pub stdio: [BorrowedFd<'a>; 3],
    /// A directory of a cgroup2 file system: the process is born there.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// `tasks` files of v1 cgroups: the process enters them before it runs the program.
    pub tasks: &'a [OwnedFd],
}

/// A child of the caller.
#[derive(Debug)]
pub struct Spawned {
    pub pid: i32,
    /// Readable once the process has ended. Whoever spawned it reaps it (`waitid(2)`).
    pub pidfd: OwnedFd,
}

/// Which step of [`spawn`] failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpawnStep {
    Clone,
    EnterCgroup,
    Prepare,
    Execute,
}

/// What the child needs of its parent's memory.
struct Errand<'a> {
    program: &'a Program<'a>,
    saying: BorrowedFd<'a>,
}

/// Starts a program in `/`, with default signals. Unlike the standard library's `Command` it can be born in a cgroup; unlike
/// [`clone_process`](crate::clone_process) it may be called by a process with threads, and costs the same however much memory the caller has:
/// the child only makes system calls before the program takes its place, and borrows the caller's memory for them. The calling thread waits for
/// that.
///
/// # Errors
///
/// The step, and what the kernel says. There is no child then. ENODEV of [`SpawnStep::Clone`] or [`SpawnStep::EnterCgroup`] means that
/// the cgroup has been removed.
pub fn spawn(program: &Program<'_>) -> Result<Spawned, (SpawnStep, Errno)> {
    let at = |step| move |error| (step, error);
    // Ends without a word when the program runs.
    let (said, saying) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(at(SpawnStep::Prepare))?;
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs::new(CloneFlags::empty(), &mut pidfd, program.cgroup);
    let errand = Errand {
        program,
        saying: saying.as_fd(),
    };
    // A handler of the parent's must not run in the child: it may write to what both have open, and to the memory that they share.
    let mask = replace_mask(Signals::all()).map_err(at(SpawnStep::Prepare))?;
    // SAFETY: signals are blocked. `run_errand` takes no lock, allocates and drops nothing, and only makes system calls up to `execve(2)` or
    // `exit_group(2)`; descriptors, directory and actions of signals are the child's own copies. `errand` is what it expects.
    let cloned = unsafe { clone_sharing_memory(&mut args, run_errand, (&raw const errand).cast()) };
    // The mask was good before.
    let _restored = replace_mask(mask);
    let pid = cloned.map_err(at(SpawnStep::Clone))?;
    // SAFETY: the kernel has stored a new descriptor, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    drop(saying);
    let mut words = [0_u8; 5];
    let count = rustix::io::retry_on_intr(|| rustix::io::read(&said, &mut words));
    if count == Ok(words.len()) {
        reap(&pidfd);
        let error = i32::from_ne_bytes([words[1], words[2], words[3], words[4]]);
        return Err((step(words[0]), Errno::from_raw_os_error(error)));
    }
    Ok(Spawned { pid, pidfd })
}

/// The child. A pipe carries its last words, not the memory that both share: so it is the same whether it fails or is killed.
extern "C" fn run_errand(errand: *const c_void) -> ! {
    // SAFETY: `spawn` passes a pointer to an `Errand`, and waits until this process is done with it.
    let errand = unsafe { &*errand.cast::<Errand<'_>>() };
    let (step, error) = run(errand.program);
    let mut words = [0_u8; 5];
    words[0] = step as u8;
    words[1..].copy_from_slice(&error.raw_os_error().to_ne_bytes());
    // The parent takes silence for success only if the pipe closed at `execve(2)`, and then reaps status 127.
    let _unheard = rustix::io::write(errand.saying, &words);
    exit_process(127);
}

/// The child's way to its program; returns only if it fails.
fn run(program: &Program<'_>) -> (SpawnStep, Errno) {
    for tasks in program.tasks {
        if let Err(error) = rustix::io::pwrite(tasks, b"0", 0) {
            return (SpawnStep::EnterCgroup, error);
        }
    }
    for (number, descriptor) in (0..).zip(program.stdio) {
        if let Err(error) = place_descriptor(descriptor, number, true) {
            return (SpawnStep::Prepare, error);
        }
    }
    let root = c"/".as_ptr();
    // SAFETY: the path is a C string.
    if let Err(error) = check(unsafe { libc::syscall(libc::SYS_chdir, root) }) {
        return (SpawnStep::Prepare, error);
    }
    if let Err(error) = reset_signals() {
        return (SpawnStep::Prepare, error);
    }
    let error = execute(program.path, program.args, program.env);
    (SpawnStep::Execute, error)
}

fn step(number: u8) -> SpawnStep {
    [
        SpawnStep::Clone,
        SpawnStep::EnterCgroup,
        SpawnStep::Prepare,
        SpawnStep::Execute,
    ]
    .into_iter()
    .find(|step| *step as u8 == number)
    .unwrap_or(SpawnStep::Prepare)
}

fn reap(pidfd: &OwnedFd) {
    let id = rustix::process::WaitId::PidFd(pidfd.as_fd());
    // It has said its last word: it ends at once.
    let _status = rustix::io::retry_on_intr(|| {
        rustix::process::waitid(id.clone(), rustix::process::WaitIdOptions::EXITED)
    });
}
