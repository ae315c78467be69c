//! `bpf(2)`, as far as programs that decide over a cgroup's devices need it.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::clone::last_error;

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;

/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
const TYPE_CGROUP_DEVICE: u32 = 15;
/// `BPF_CGROUP_DEVICE`.
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// `BPF_F_ALLOW_MULTI`: the programs of the cgroups below are asked as well as this one, and so are others of this cgroup.
const ALLOW_MULTI: u32 = 1 << 1;
/// `BPF_F_REPLACE`, since Linux 5.6.
const REPLACE: u32 = 1 << 2;

/// `BPF_CGROUP_MAX_PROGS`: a cgroup has no more programs of one kind.
const MOST_PROGRAMS: usize = 64;
/// `BPF_OBJ_NAME_LEN`, with its NUL.
const NAME_BYTES: usize = 16;

const LOG_BYTES: usize = 64 * 1024;
/// What is kept of the verifier's log: it ends with what is wrong.
const LOG_LINES: usize = 8;

/// A signal that arrives while the verifier works makes it give up with EAGAIN.
const LOAD_ATTEMPTS: usize = 5;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u8,
    /// Two bit fields, whose order is the machine's byte order.
    registers: u8,
    /// Of a jump, in instructions from the next one; of a memory access, in bytes.
    pub offset: i16,
    pub immediate: i32,
}

impl Instruction {
    /// Registers are 0 to 10.
    #[must_use]
    pub const fn new(code: u8, target: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
        let (low, high) = match cfg!(target_endian = "little") {
            true => (target, source),
            false => (source, target),
        };
        Instruction {
            code,
            registers: (low & 0xf) | (high << 4),
            offset,
            immediate,
        }
    }

    /// The registers, target and source.
    #[must_use]
    pub const fn registers(self) -> (u8, u8) {
        let (low, high) = (self.registers & 0xf, self.registers >> 4);
        match cfg!(target_endian = "little") {
            true => (low, high),
            false => (high, low),
        }
    }
}

/// Why the kernel did not take a program.
#[derive(Debug, thiserror::Error)]
#[error("load an eBPF program of {instructions} instructions{}", said(log))]
pub struct LoadError {
    pub instructions: usize,
    /// The last lines of the verifier's log; empty where it was not asked, because the caller may not load programs at all.
    pub log: String,
    #[source]
    pub source: Errno,
}

fn said(log: &str) -> String {
    match log {
        "" => String::new(),
        _ => format!(" (the verifier says: {log})"),
    }
}

/// Loads a program of type BPF_PROG_TYPE_CGROUP_DEVICE. `name` is what lists of programs show: at most 15 letters, digits, `_` and `.`.
/// The program lives as long as its descriptor or an attachment. Needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN.
pub fn load_device_program(
    name: &CStr,
    instructions: &[Instruction],
) -> Result<OwnedFd, LoadError> {
    let failed = |log: &[u8], source| LoadError {
        instructions: instructions.len(),
        log: last_lines(log),
        source,
    };
    // A log costs the kernel time, so it is asked for only once there is something to tell.
    match load(name, instructions, &mut []) {
        Ok(program) => Ok(program),
        Err(error @ (Errno::PERM | Errno::NOSYS)) => Err(failed(&[], error)),
        Err(error) => {
            let mut log = vec![0; LOG_BYTES];
            // With a log that is too small for the verifier the error is another: the first one counts.
            load(name, instructions, &mut log).map_err(|_| failed(&log, error))
        }
    }
}

#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; NAME_BYTES],
}

fn load(name: &CStr, instructions: &[Instruction], log: &mut [u8]) -> Result<OwnedFd, Errno> {
    let mut prog_name = [0; NAME_BYTES];
    let name = name.to_bytes_with_nul();
    prog_name
        .get_mut(..name.len())
        .ok_or(Errno::NAMETOOLONG)?
        .copy_from_slice(name);
    let attributes = Load {
        prog_type: TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?,
        insns: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).map_err(|_| Errno::INVAL)?,
        // The kernel refuses a buffer without a size.
        log_buf: match log.is_empty() {
            true => 0,
            false => log.as_mut_ptr() as u64,
        },
        kern_version: 0,
        prog_flags: 0,
        prog_name,
    };
    let mut attempts = 0;
    loop {
        attempts += 1;
        // SAFETY: the attributes are those of BPF_PROG_LOAD; their pointers are to as many instructions as they say, to a C string, and to
        // an exclusively borrowed log of the size given, all of which outlive the call.
        match unsafe { bpf(PROG_LOAD, (&raw const attributes).cast_mut()) } {
            Err(Errno::AGAIN) if attempts < LOAD_ATTEMPTS => {}
            Err(error) => return Err(error),
            Ok(descriptor) => {
                // SAFETY: the kernel has made this descriptor for the caller alone (close-on-exec, as all of bpf(2)).
                return Ok(unsafe { OwnedFd::from_raw_fd(descriptor) });
            }
        }
    }
}

fn last_lines(log: &[u8]) -> String {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let mut lines: Vec<_> = text.lines().rev().take(LOG_LINES).map(str::trim).collect();
    lines.reverse();
    lines.join("; ")
}

#[repr(C)]
struct Attach {
    target_fd: i32,
    attach_bpf_fd: i32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: i32,
}

/// Lets a program decide over the devices of the processes in `cgroup` (a directory of a cgroup2 file system) and below, besides the programs
/// that are there: each must agree. In place of `replaced`, which must be attached, in one step.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let attributes = Attach {
        target_fd: cgroup.as_raw_fd(),
        attach_bpf_fd: program.as_raw_fd(),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: match replaced {
            Some(_) => ALLOW_MULTI | REPLACE,
            None => ALLOW_MULTI,
        },
        replace_bpf_fd: replaced.map_or(0, |replaced| replaced.as_raw_fd()),
    };
    // SAFETY: the attributes are those of BPF_PROG_ATTACH, without a pointer.
    unsafe { bpf(PROG_ATTACH, (&raw const attributes).cast_mut()) }.map(|_| ())
}

/// Undoes [`attach_device_program`]. `ENOENT` where the program is not attached to this cgroup.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let attributes = Attach {
        target_fd: cgroup.as_raw_fd(),
        attach_bpf_fd: program.as_raw_fd(),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: 0,
        replace_bpf_fd: 0,
    };
    // SAFETY: the attributes are those of BPF_PROG_DETACH, without a pointer.
    unsafe { bpf(PROG_DETACH, (&raw const attributes).cast_mut()) }.map(|_| ())
}

/// As long as Linux 6.17 has it, which writes the last field whatever length it is given.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: i32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    reserved: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The ids of the device programs that are attached to this very cgroup, in the order in which they are asked. Needs CAP_NET_ADMIN.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut ids = [0u32; MOST_PROGRAMS];
    let mut attributes = Query {
        target_fd: cgroup.as_raw_fd(),
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MOST_PROGRAMS as u32,
        ..Query::default()
    };
    // SAFETY: the attributes are those of BPF_PROG_QUERY and ours to be written; they point to room for `prog_cnt` ids.
    unsafe { bpf(PROG_QUERY, &raw mut attributes) }?;
    let count = MOST_PROGRAMS.min(attributes.prog_cnt as usize);
    Ok(ids[..count].to_vec())
}

#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// A loaded program by its id. `ENOENT` once it is gone. Needs CAP_SYS_ADMIN.
pub fn open_program(id: u32) -> Result<OwnedFd, Errno> {
    let attributes = ById {
        id,
        next_id: 0,
        open_flags: 0,
    };
    // SAFETY: the attributes are those of BPF_PROG_GET_FD_BY_ID, without a pointer.
    let descriptor = unsafe { bpf(PROG_GET_FD_BY_ID, (&raw const attributes).cast_mut()) }?;
    // SAFETY: the kernel has made this descriptor for the caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The start of `struct bpf_prog_info`, up to the name. All zero asks for no copy of the code.
#[repr(C)]
#[derive(Default)]
struct Info {
    program_type: u32,
    id: u32,
    tag: [u8; 8],
    jited_prog_len: u32,
    xlated_prog_len: u32,
    jited_prog_insns: u64,
    xlated_prog_insns: u64,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; NAME_BYTES],
}

#[repr(C)]
struct InfoByFd {
    bpf_fd: i32,
    info_len: u32,
    info: u64,
}

/// The name a program was loaded with; empty without one.
pub fn program_name(program: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let mut info = Info::default();
    let mut attributes = InfoByFd {
        bpf_fd: program.as_raw_fd(),
        info_len: size_of::<Info>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the attributes are those of BPF_OBJ_GET_INFO_BY_FD and ours to be written; they point to room for `info_len` bytes of
    // `struct bpf_prog_info`, and its own pointers are null with length 0.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &raw mut attributes) }?;
    let name = info.name.split(|byte| *byte == 0).next();
    Ok(name.unwrap_or_default().to_vec())
}

/// # Safety
///
/// `attributes` points to what this command reads and writes of `union bpf_attr`, and what it points to is as long as it says.
unsafe fn bpf<T>(command: libc::c_long, attributes: *mut T) -> Result<i32, Errno> {
    let length = size_of::<T>() as libc::c_ulong;
    // SAFETY: the caller's promise. The kernel copies `length` bytes and takes those that it knows of but is not given as zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, length) };
    match result {
        -1 => Err(last_error()),
        result => i32::try_from(result).map_err(|_| Errno::OVERFLOW),
    }
}
