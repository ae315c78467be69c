//! Programs that the kernel takes and refuses. (What they do once attached is tested by the crate that limits cgroups.)

#![allow(clippy::unwrap_used)] // the lint's exemption ends at the helpers of tests

use std::os::fd::AsFd;

use longshore_sys::{Instruction, load_device_program, program_name};
use rustix::io::Errno;

/// `r0 = 1; exit`
const ALLOW: [Instruction; 2] = [
    Instruction::new(0xb7, 0, 0, 0, 1),
    Instruction::new(0x95, 0, 0, 0, 0),
];

#[test]
fn a_loaded_program_has_its_name() {
    let program = load_device_program(c"longshore_test", &ALLOW).unwrap();
    assert_eq!(program_name(program.as_fd()).unwrap(), b"longshore_test");
    let flags = rustix::io::fcntl_getfd(&program).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn a_refused_program_says_why() {
    let error = load_device_program(c"longshore_test", &ALLOW[1..]).unwrap_err();
    assert_eq!(error.source, Errno::ACCESS);
    assert!(error.to_string().contains("R0 !read_ok"), "{error}");
    let error = load_device_program(c"", &[]).unwrap_err();
    assert!(error.to_string().contains("0 instructions"), "{error}");
    let error = load_device_program(c"longer than 15 bytes", &ALLOW).unwrap_err();
    assert_eq!(error.source, Errno::NAMETOOLONG);
}

#[test]
fn registers_keep_their_sides() {
    let instruction = Instruction::new(0, 3, 10, 0, 0);
    assert_eq!(instruction.registers(), (3, 10));
}
