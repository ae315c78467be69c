//! System calls that a filter denies, told to whoever watches, and denied all the same.
//!
//! The watched process has the filter of its profile with one change: what would fail with an error number asks here first. The answer is that of
//! the profile itself, which is run for it, so that the process sees no difference but in time. Calls that would end it do, and are not told.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_plan::Seccomp;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::error::Error;

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER` in [`Seccomp::flags`]: denied calls are told.
pub const TELL: u32 = 1 << 3;

const ERRNO: u32 = 0x0005_0000;
const USER_NOTIF: u32 = 0x7fc0_0000;
const ACTION: u32 = 0xffff_0000;
const RETURN: u16 = 0x06;

/// `AUDIT_ARCH_X86_64`, and calls that pass the listener on.
const NATIVE: u32 = 0xc000_003e;
const READ: u32 = 0;
const WRITE: u32 = 1;

/// What the kernel shows a filter of a call: `struct seccomp_data`.
type Data = [u32; 16];

/// Where the denied calls of one process, and of those that it forks, are told.
#[derive(Debug)]
pub struct Listener {
    descriptor: OwnedFd,
    profile: Vec<u8>,
}

/// A call that was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeniedCall {
    /// `AUDIT_ARCH_*`.
    pub architecture: u32,
    pub number: u32,
}

/// What there is to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    Denied(DeniedCall),
    /// Nothing now.
    Nothing,
    /// No process has the filter any more.
    End,
}

impl Listener {
    pub(crate) fn new(descriptor: OwnedFd, profile: Vec<u8>) -> Self {
        Self {
            descriptor,
            profile,
        }
    }

    /// Denies the next call that waits. Does not block.
    ///
    /// # Errors
    ///
    /// The kernel's. Whoever gives up then drops the listener: denied calls fail with ENOSYS.
    pub fn hear(&self) -> Result<Heard, Errno> {
        let mut ready = [PollFd::new(&self.descriptor, PollFlags::IN)];
        rustix::event::poll(&mut ready, Some(&Timespec::default()))?;
        let ready = ready[0].revents();
        if !ready.contains(PollFlags::IN) {
            return Ok(match ready.contains(PollFlags::HUP) {
                true => Heard::End,
                false => Heard::Nothing,
            });
        }
        let call = match sys::receive_notification(self.descriptor.as_fd()) {
            Ok(call) => call,
            // It was killed while it waited.
            Err(Errno::NOENT | Errno::INTR) => return Ok(Heard::Nothing),
            Err(error) => return Err(error),
        };
        let error = match run(&self.profile, &call.data) {
            Some(verdict) if verdict & ACTION == ERRNO => verdict as u16,
            // It was asked because the profile denies it; a profile that does not is none that asked.
            Some(_) | None => Errno::PERM.raw_os_error() as u16,
        };
        match sys::refuse_call(self.descriptor.as_fd(), call.id, error) {
            Ok(()) | Err(Errno::NOENT) => Ok(Heard::Denied(DeniedCall {
                architecture: call.data[1],
                number: call.data[0],
            })),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Refuses a profile under which no process could pass its listener on.
pub(crate) fn check(filter: &Seccomp) -> Result<(), Error> {
    if filter.flags & TELL == 0 {
        return Ok(());
    }
    for (name, number) in [("read(2)", READ), ("write(2)", WRITE)] {
        let mut call = Data::default();
        (call[0], call[1]) = (number, NATIVE);
        let verdict = run(&filter.program, &call);
        if verdict.is_none_or(|verdict| verdict & ACTION == ERRNO) {
            let reason = format!("denies {name}: it cannot be watched by a notifier");
            return Err(Error::refused("process.seccomp", reason));
        }
    }
    Ok(())
}

/// The profile's program for who is watched.
pub(crate) fn watched(profile: &[u8]) -> Vec<u8> {
    let mut program = profile.to_vec();
    for instruction in program.chunks_exact_mut(8) {
        let (code, operand) = (code(instruction), operand(instruction));
        if code == RETURN && operand & ACTION == ERRNO {
            instruction[4..].copy_from_slice(&USER_NOTIF.to_ne_bytes());
        }
    }
    program
}

/// What a program of classic BPF returns. `None`: it has an instruction that profiles are not compiled to, or no end.
fn run(program: &[u8], data: &Data) -> Option<u32> {
    let instructions: Vec<&[u8]> = program.chunks_exact(8).collect();
    let mut accumulator = 0;
    let mut next = 0;
    // Jumps lead forward only: it ends.
    loop {
        let instruction = instructions.get(next)?;
        let operand = operand(instruction);
        let (if_true, if_false) = (usize::from(instruction[2]), usize::from(instruction[3]));
        let branch = |holds: bool| if holds { if_true } else { if_false };
        next += 1 + match code(instruction) {
            0x20 => {
                accumulator = *data.get(usize::try_from(operand / 4).ok()?)?;
                0
            }
            0x54 => {
                accumulator &= operand;
                0
            }
            0x05 => usize::try_from(operand).ok()?,
            0x15 => branch(accumulator == operand),
            0x25 => branch(accumulator > operand),
            0x35 => branch(accumulator >= operand),
            RETURN => return Some(operand),
            _ => return None,
        };
    }
}

fn code(instruction: &[u8]) -> u16 {
    u16::from_ne_bytes([instruction[0], instruction[1]])
}

fn operand(instruction: &[u8]) -> u32 {
    u32::from_ne_bytes([
        instruction[4],
        instruction[5],
        instruction[6],
        instruction[7],
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(instructions: &[(u16, u8, u8, u32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (code, if_true, if_false, operand) in instructions {
            bytes.extend(code.to_ne_bytes());
            bytes.extend([*if_true, *if_false]);
            bytes.extend(operand.to_ne_bytes());
        }
        bytes
    }

    /// Denies `number` with ENOSYS, kills at 7, allows the rest.
    fn profile(number: u32) -> Vec<u8> {
        program(&[
            (0x20, 0, 0, 0),
            (0x15, 0, 1, number),
            (RETURN, 0, 0, ERRNO | 38),
            (0x15, 0, 1, 7),
            (RETURN, 0, 0, 0x8000_0000),
            (RETURN, 0, 0, 0x7fff_0000),
        ])
    }

    fn call(number: u32) -> Data {
        let mut data = Data::default();
        (data[0], data[1]) = (number, NATIVE);
        data
    }

    #[test]
    fn only_denied_calls_are_told() {
        let watched = watched(&profile(5));
        for (number, verdict) in [(5, USER_NOTIF), (7, 0x8000_0000), (9, 0x7fff_0000)] {
            assert_eq!(run(&watched, &call(number)), Some(verdict), "{number}");
        }
        assert_eq!(run(&profile(5), &call(5)), Some(ERRNO | 38));
        assert_eq!(run(&program(&[(0x07, 0, 0, 0)]), &call(5)), None);
        assert_eq!(run(&program(&[(0x20, 0, 0, 0)]), &call(5)), None);
    }

    #[test]
    fn a_profile_must_let_the_listener_pass() {
        for (number, flags, fine) in [(5, TELL, true), (WRITE, TELL, false), (WRITE, 0, true)] {
            let filter = Seccomp {
                program: profile(number),
                flags,
            };
            assert_eq!(check(&filter).is_ok(), fine, "{number} {flags}");
        }
    }
}
