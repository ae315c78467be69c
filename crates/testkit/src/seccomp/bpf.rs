//! The kernel's interpreter, as far as seccomp programs need it.

/// A system call, as a filter gets to see it.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub arch: u32,
    pub number: u32,
    pub args: [u64; 6],
}

pub const X86_64: u32 = 0xc000_003e;
pub const I386: u32 = 0x4000_0003;

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16..64 => {
                let arg = self.args[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) {
                    arg as u32
                } else {
                    (arg >> 32) as u32
                }
            }
            _ => panic!("load from {offset}"),
        }
    }
}

/// What a program returns for a call.
///
/// # Panics
/// The kernel would not have taken the program.
#[must_use]
pub fn run(program: &[u8], call: &Call) -> u32 {
    assert_eq!(program.len() % 8, 0);
    let mut accumulator = 0;
    let mut next = 0;
    // No jump goes backwards, so this ends.
    loop {
        let instruction = &program[next * 8..next * 8 + 8];
        let code = u16::from_ne_bytes([instruction[0], instruction[1]]);
        let (if_true, if_false) = (instruction[2] as usize, instruction[3] as usize);
        let operand = u32::from_ne_bytes([
            instruction[4],
            instruction[5],
            instruction[6],
            instruction[7],
        ]);
        next += 1;
        let holds = match code {
            0x20 => {
                accumulator = call.word(operand);
                continue;
            }
            0x54 => {
                accumulator &= operand;
                continue;
            }
            0x05 => {
                next += operand as usize;
                continue;
            }
            0x06 => return operand,
            0x15 => accumulator == operand,
            0x25 => accumulator > operand,
            0x35 => accumulator >= operand,
            0x45 => accumulator & operand != 0,
            other => panic!("instruction {other:#x}"),
        };
        next += if holds { if_true } else { if_false };
    }
}
