//! Conditions on arguments. All seven operators compare unsigned 64-bit numbers, in two halves.

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator};

use crate::{
    Arch,
    bpf::{AND, IF_AT_LEAST, IF_EQUAL, IF_GREATER, Instruction, LOAD, argument, branch, plain},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    /// 0 to 5.
    pub(crate) index: u32,
    pub(crate) operator: Operator,
    pub(crate) value: u64,
    /// Which bits of the argument count; all of them but for "masked equal".
    pub(crate) mask: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    GreaterOrEqual,
    Greater,
}

impl Condition {
    /// `None` for an argument that no system call has.
    pub(crate) fn new(arg: &LinuxSeccompArg) -> Option<Self> {
        let index = u32::try_from(arg.index()).ok().filter(|index| *index < 6)?;
        let plain = |operator| Condition {
            index,
            operator,
            value: arg.value(),
            mask: u64::MAX,
        };
        Some(match arg.op() {
            LinuxSeccompOperator::ScmpCmpEq => plain(Operator::Equal),
            LinuxSeccompOperator::ScmpCmpNe => plain(Operator::NotEqual),
            LinuxSeccompOperator::ScmpCmpLt => plain(Operator::Less),
            LinuxSeccompOperator::ScmpCmpLe => plain(Operator::LessOrEqual),
            LinuxSeccompOperator::ScmpCmpGe => plain(Operator::GreaterOrEqual),
            LinuxSeccompOperator::ScmpCmpGt => plain(Operator::Greater),
            // `value` is the mask here, and what is outside it does not count on either side.
            LinuxSeccompOperator::ScmpCmpMaskedEq => Condition {
                index,
                operator: Operator::Equal,
                value: arg.value_two().unwrap_or(0) & arg.value(),
                mask: arg.value(),
            },
        })
    }
}

/// `outcome` where all conditions hold; otherwise what follows.
pub(crate) fn guarded(
    arch: Arch,
    conditions: &[Condition],
    outcome: Instruction,
) -> Vec<Instruction> {
    let mut program = vec![outcome];
    // Backwards, so that each test knows how far it is to the end.
    for condition in conditions.iter().rev() {
        let mut tested = test(arch, *condition, program.len() as u8);
        tested.append(&mut program);
        program = tested;
    }
    program
}

/// Falls through to the next instruction after the test where it holds, and skips `rest` more where not. With at most six
/// conditions of eight instructions, no distance needs more than a byte.
fn test(arch: Arch, condition: Condition, rest: u8) -> Vec<Instruction> {
    let (high, low) = halves(condition.value);
    let (high_mask, low_mask) = halves(condition.mask);
    let mut lower = load(condition.index, false, low_mask);
    // The last test; `rest` is counted from behind it.
    lower.push(match condition.operator {
        Operator::Equal => branch(IF_EQUAL, low, 0, rest),
        Operator::NotEqual => branch(IF_EQUAL, low, rest, 0),
        Operator::Less => branch(IF_AT_LEAST, low, rest, 0),
        Operator::LessOrEqual => branch(IF_GREATER, low, rest, 0),
        Operator::GreaterOrEqual => branch(IF_AT_LEAST, low, 0, rest),
        Operator::Greater => branch(IF_GREATER, low, 0, rest),
    });
    if !arch.wide() {
        return lower;
    }
    let holds = lower.len() as u8;
    let fails = holds + rest;
    let mut program = load(condition.index, true, high_mask);
    match condition.operator {
        Operator::Equal => program.push(branch(IF_EQUAL, high, 0, fails)),
        Operator::NotEqual => program.push(branch(IF_EQUAL, high, 0, holds)),
        Operator::Less | Operator::LessOrEqual => {
            program.push(branch(IF_GREATER, high, fails + 1, 0));
            program.push(branch(IF_EQUAL, high, 0, holds));
        }
        Operator::GreaterOrEqual | Operator::Greater => {
            program.push(branch(IF_GREATER, high, holds + 1, 0));
            program.push(branch(IF_EQUAL, high, 0, fails));
        }
    }
    program.extend(lower);
    program
}

fn load(index: u32, high: bool, mask: u32) -> Vec<Instruction> {
    let mut program = vec![plain(LOAD, argument(index, high))];
    if mask != u32::MAX {
        program.push(plain(AND, mask));
    }
    program
}

fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}
