//! Classic BPF: the few instructions that seccomp needs, and a decision tree over numbers.

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) if_true: u8,
    pub(crate) if_false: u8,
    pub(crate) operand: u32,
}

pub(crate) const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(crate) const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub(crate) const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub(crate) const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub(crate) const IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
pub(crate) const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub(crate) const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in `struct seccomp_data`.
pub(crate) const NUMBER: u32 = 0;
pub(crate) const ARCH: u32 = 4;

/// Low or high half of an argument, on a little-endian machine.
pub(crate) fn argument(index: u32, high: bool) -> u32 {
    16 + 8 * index + if high { 4 } else { 0 }
}

pub(crate) fn plain(code: u16, operand: u32) -> Instruction {
    branch(code, operand, 0, 0)
}

/// Skips so many of the following instructions.
pub(crate) fn branch(code: u16, operand: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction {
        code,
        if_true,
        if_false,
        operand,
    }
}

/// A test whose branches may be too far apart for its own offsets, which are bytes: `false` falls through.
pub(crate) fn choose(
    code: u16,
    operand: u32,
    if_true: Vec<Instruction>,
    if_false: Vec<Instruction>,
) -> Vec<Instruction> {
    let mut program = Vec::with_capacity(if_true.len() + if_false.len() + 2);
    match u8::try_from(if_false.len()) {
        Ok(skip) => program.push(branch(code, operand, skip, 0)),
        Err(_) => {
            program.push(branch(code, operand, 0, 1));
            // No program is longer than 4096 instructions; the caller checks.
            program.push(plain(JUMP, if_false.len() as u32));
        }
    }
    program.extend(if_false);
    program.extend(if_true);
    program
}

/// Ranges of numbers, each from its start to the next one's, the first from 0: a balanced tree of comparisons of the accumulator.
pub(crate) fn search<'a, T>(
    ranges: &'a [(u32, T)],
    leaf: &impl Fn(&'a T) -> Vec<Instruction>,
) -> Vec<Instruction> {
    match ranges {
        [] => Vec::new(),
        [(_, only)] => leaf(only),
        several => {
            let (below, above) = several.split_at(several.len() / 2);
            choose(
                IF_AT_LEAST,
                above[0].0,
                search(above, leaf),
                search(below, leaf),
            )
        }
    }
}

pub(crate) fn bytes(program: &[Instruction]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.if_true, instruction.if_false]);
        bytes.extend(instruction.operand.to_ne_bytes());
    }
    bytes
}
