//! Rules as an eBPF program, which the kernel asks with the type and numbers of a device and what is wanted of it.
//!
//! Each wanted access (read, write, mknod) is decided by the last rule that is about it, as if it had been asked for alone; all must be
//! allowed. So the rules are tried from the last to the first: an allowance takes its accesses off the wanted ones and ends with yes once
//! none is left, a denial ends with no if it is about any that is left. What no rule is about the default decides; without one the
//! program agrees and leaves it to those of the parent cgroups.
//!
//! ```text
//!           load type, wanted, major, minor; number = major << 20 | minor
//!           if type != c goto blocks
//! chars:    difference = number ^ 1:3         allow c 1:3 r
//!           if difference != 0 goto +2
//!           wanted &= !r
//!           if wanted == 0 goto allow
//!           if number == 1:5 goto allow       allow c 1:5 rwm
//!           difference = major ^ 10           deny c 10:* w
//!           if difference != 0 goto +1
//!           if wanted & w goto deny
//!           goto default
//! blocks:   …
//! deny:     return 0
//! allow:    return 1
//! ```
//!
//! The verifier follows each path with all that it knows of the registers, and merges paths that know the same. So a path that goes on must
//! not have learnt a number: hence the difference, a value of the moment. (Compared directly, 1,000 rules take half a second to verify, and
//! 4,000 are refused.)

use sys::Instruction;

use super::FIELD;
use super::rule::{EVERYTHING, Rule, Rules};
use crate::error::Error;

/// `BPF_DEVCG_DEV_CHAR`; the only other type is BPF_DEVCG_DEV_BLOCK.
const CHARACTER: i32 = 2;

/// Of the kernel's device numbers.
const MINOR_BITS: u32 = 20;
const MAJOR_BITS: u32 = 12;

// Registers: the result, the context given (`struct bpf_cgroup_dev_ctx`), and what is made of it.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const NUMBER: u8 = 6;
const DIFFERENCE: u8 = 7;

// Operations on 32 bits, with an immediate operand (K) or a register (X).
const LOAD_WORD: u8 = 0x61;
const MOVE_K: u8 = 0xb4;
const MOVE_X: u8 = 0xbc;
const AND_K: u8 = 0x54;
const OR_X: u8 = 0x4c;
const XOR_K: u8 = 0xa4;
const SHIFT_LEFT_K: u8 = 0x64;
const SHIFT_RIGHT_K: u8 = 0x74;
const GOTO: u8 = 0x05;
const IF_EQUAL_K: u8 = 0x16;
const IF_NOT_EQUAL_K: u8 = 0x56;
const IF_ANY_BIT_K: u8 = 0x46;
const EXIT: u8 = 0x95;

/// Fails where jumps would be longer than 32,767 instructions.
pub(super) fn compile(rules: &Rules) -> Result<Vec<Instruction>, Error> {
    Program::of(rules).ok_or_else(|| Error::Unsupported {
        field: FIELD,
        value: format!("{} rules", rules.given),
        reason: "too many for one eBPF program".to_owned(),
    })
}

#[derive(Debug, Default)]
struct Program {
    code: Vec<Instruction>,
    /// Jumps to the ends, which are not written yet.
    to_allow: Vec<usize>,
    to_deny: Vec<usize>,
}

impl Program {
    /// `None` where a jump is too long.
    fn of(rules: &Rules) -> Option<Vec<Instruction>> {
        let default = rules.default.unwrap_or(true);
        let mut program = Program::default();
        program.load();
        let to_blocks = program.jump(IF_NOT_EQUAL_K, TYPE, CHARACTER);
        program.section(rules, 'c', default);
        program.land(to_blocks)?;
        program.section(rules, 'b', default);
        let (to_deny, to_allow) = (program.to_deny.clone(), program.to_allow.clone());
        program.end(&to_deny, 0)?;
        program.end(&to_allow, 1)?;
        Some(program.code)
    }

    fn load(&mut self) {
        // `access_type`: what is wanted in the upper half, the type in the lower.
        self.push(LOAD_WORD, TYPE, CONTEXT, 0, 0);
        self.push(LOAD_WORD, MAJOR, CONTEXT, 4, 0);
        self.push(LOAD_WORD, MINOR, CONTEXT, 8, 0);
        self.push(MOVE_X, WANTED, TYPE, 0, 0);
        self.push(SHIFT_RIGHT_K, WANTED, 0, 0, 16);
        self.push(AND_K, TYPE, 0, 0, 0xffff);
        self.push(MOVE_X, NUMBER, MAJOR, 0, 0);
        self.push(SHIFT_LEFT_K, NUMBER, 0, 0, MINOR_BITS as i32);
        self.push(OR_X, NUMBER, MINOR, 0, 0);
    }

    fn section(&mut self, rules: &Rules, node_type: char, default: bool) {
        let about = |rule: &&Rule| rule.node_type == node_type && rule.can_match();
        let rules: Vec<_> = rules.exceptions.iter().filter(about).collect();
        // The first ones change nothing if they say the same as the default.
        let idle = rules.iter().take_while(|rule| rule.allow == default);
        let mut rest = default;
        for rule in rules[idle.count()..].iter().rev() {
            // The kernel refuses instructions that nothing leads to, so the section ends here.
            if rule.allows_all() {
                rest = true;
                break;
            }
            self.rule(rule);
        }
        let end = self.jump(GOTO, 0, 0);
        self.ends(rest).push(end);
    }

    fn rule(&mut self, rule: &Rule) {
        let device = match (rule.major, rule.minor) {
            (Some(major), Some(minor)) => Some((NUMBER, (major << MINOR_BITS) | minor)),
            (Some(major), None) => Some((MAJOR, major)),
            (None, Some(minor)) => Some((MINOR, minor)),
            (None, None) => None,
        };
        // Comparisons are of 32 bits: as in C, the immediate operand's sign means nothing to them.
        let device = device.map(|(register, number)| (register, number as i32));
        if let Some((register, number)) = device
            && rule.allow
            && rule.access == EVERYTHING
        {
            let end = self.jump(IF_EQUAL_K, register, number);
            self.to_allow.push(end);
            return;
        }
        let other = device.map(|(register, number)| {
            self.push(MOVE_X, DIFFERENCE, register, 0, 0);
            self.push(XOR_K, DIFFERENCE, 0, 0, number);
            self.jump(IF_NOT_EQUAL_K, DIFFERENCE, 0)
        });
        let access = i32::from(rule.access);
        if rule.allow {
            self.push(AND_K, WANTED, 0, 0, !access);
        }
        let end = match rule.allow {
            true => self.jump(IF_EQUAL_K, WANTED, 0),
            false => self.jump(IF_ANY_BIT_K, WANTED, access),
        };
        self.ends(rule.allow).push(end);
        if let Some(other) = other {
            // Over two instructions at most.
            self.code[other].offset = (self.code.len() - other - 1) as i16;
        }
    }

    fn ends(&mut self, allow: bool) -> &mut Vec<usize> {
        match allow {
            true => &mut self.to_allow,
            false => &mut self.to_deny,
        }
    }

    /// Nothing, if no jump leads there.
    fn end(&mut self, jumps: &[usize], answer: i32) -> Option<()> {
        if jumps.is_empty() {
            return Some(());
        }
        for jump in jumps {
            self.land(*jump)?;
        }
        self.push(MOVE_K, RESULT, 0, 0, answer);
        self.push(EXIT, 0, 0, 0, 0);
        Some(())
    }

    /// A jump to a place that is not known yet.
    fn jump(&mut self, code: u8, register: u8, operand: i32) -> usize {
        self.push(code, register, 0, 0, operand);
        self.code.len() - 1
    }

    /// Makes the jump go to the next instruction written; `None` where that is too far.
    fn land(&mut self, jump: usize) -> Option<()> {
        let distance = self.code.len() - jump - 1;
        self.code[jump].offset = i16::try_from(distance).ok()?;
        Some(())
    }

    fn push(&mut self, code: u8, target: u8, source: u8, offset: i16, immediate: i32) {
        self.code
            .push(Instruction::new(code, target, source, offset, immediate));
    }
}

impl Rule {
    fn allows_all(&self) -> bool {
        self.allow && self.access == EVERYTHING && self.major.is_none() && self.minor.is_none()
    }

    /// Whether a device can have these numbers.
    fn can_match(&self) -> bool {
        let fits = |number: Option<u32>, bits| number.is_none_or(|number| number >> bits == 0);
        fits(self.major, MAJOR_BITS) && fits(self.minor, MINOR_BITS)
    }
}

#[cfg(test)]
mod tests;
