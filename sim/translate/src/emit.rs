//! Writing host code: iced-x86's encoder for everything but jumps, which are written as bytes so that they can be patched.

use crate::frame;
use crate::tlb::{ADDEND, ENTRIES, READ, WRITE};
use iced_x86::{Code, Encoder, IcedError, Instruction, MemoryOperand, Register};

/// Scratch registers; the guest's own RCX and R11 live elsewhere.
pub(crate) const S1: Register = Register::RCX;
pub(crate) const S2: Register = Register::R11;
/// Base of the fast tags' view, and the negative budget.
pub(crate) const TAGS: Register = Register::R12;
pub(crate) const BUDGET: Register = Register::R13;

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// A jump whose target comes later: position of its 4-byte field.
pub(crate) struct Later(usize);

pub(crate) struct Emit {
    encoder: Encoder,
    position: usize,
}

/// `[base + displacement]`.
pub(crate) fn at(base: Register, displacement: i64) -> MemoryOperand {
    MemoryOperand::with_base_displ(base, displacement)
}

/// `[base + index * scale + displacement]`.
pub(crate) fn at_index(base: Register, index: Register, scale: u32, displacement: i64) -> MemoryOperand {
    MemoryOperand::with_base_index_scale_displ_size(base, index, scale, displacement, if displacement == 0 { 0 } else { 1 })
}

/// A field of the frame.
pub(crate) fn field(offset: i64) -> MemoryOperand {
    at(Register::RSP, offset)
}

impl Emit {
    pub fn new() -> Emit {
        Emit { encoder: Encoder::new(64), position: 0 }
    }

    pub fn position(&self) -> usize {
        self.position
    }

    /// The code, with every later jump resolved.
    pub fn take(&mut self) -> Vec<u8> {
        self.position = 0;
        self.encoder.take_buffer()
    }

    /// Forgets what was written from `position` on.
    pub fn rewind(&mut self, position: usize) {
        let mut code = self.encoder.take_buffer();
        code.truncate(position);
        self.encoder.set_buffer(code);
        self.position = position;
    }

    pub fn put(&mut self, instruction: &Instruction) -> Result<(), IcedError> {
        self.position += self.encoder.encode(instruction, self.position as u64)?;
        Ok(())
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.encoder.write_u8(byte);
        }
        self.position += bytes.len();
    }

    /// `mov to, [from]`, 64 bits.
    pub fn load(&mut self, to: Register, from: MemoryOperand) -> Result<(), IcedError> {
        self.put(&Instruction::with2(Code::Mov_r64_rm64, to, from)?)
    }

    /// `mov [to], from`, 64 bits.
    pub fn store(&mut self, to: MemoryOperand, from: Register) -> Result<(), IcedError> {
        self.put(&Instruction::with2(Code::Mov_rm64_r64, to, from)?)
    }

    pub fn mov(&mut self, to: Register, from: Register) -> Result<(), IcedError> {
        self.put(&Instruction::with2(Code::Mov_r64_rm64, to, from)?)
    }

    /// A constant, in the shortest form that leaves flags alone.
    pub fn constant(&mut self, to: Register, value: u64) -> Result<(), IcedError> {
        if let Ok(value) = u32::try_from(value) {
            return self.put(&Instruction::with2(Code::Mov_r32_imm32, to.full_register32(), value)?);
        }
        if let Ok(value) = i32::try_from(value as i64) {
            return self.put(&Instruction::with2(Code::Mov_rm64_imm32, to, value)?);
        }
        self.put(&Instruction::with2(Code::Mov_r64_imm64, to, value)?)
    }

    pub fn lea(&mut self, to: Register, from: MemoryOperand) -> Result<(), IcedError> {
        self.put(&Instruction::with2(Code::Lea_r64_m, to, from)?)
    }

    /// `jmp rel32`.
    pub fn jmp(&mut self) -> Later {
        self.bytes(&[0xe9, 0, 0, 0, 0]);
        Later(self.position - 4)
    }

    /// `jcc rel32`.
    pub fn jcc(&mut self, condition: u8) -> Later {
        self.bytes(&[0x0f, 0x80 | condition, 0, 0, 0, 0]);
        Later(self.position - 4)
    }

    /// Jumps `later` unless RCX is zero.
    pub fn jmp_unless_zero(&mut self) -> Later {
        self.bytes(&[0xe3, 5]);
        self.jmp()
    }

    /// Index of the page of `address` into RCX.
    fn page_index(&mut self, address: Register) -> Result<(), IcedError> {
        self.put(&Instruction::with3(Code::VEX_Rorx_r32_rm32_imm8, Register::ECX, address.full_register32(), 12)?)?;
        self.put(&Instruction::with2(Code::Movzx_r32_rm16, Register::ECX, Register::CX)?)
    }

    /// Turns the guest address in R11 into `[R11 + RCX]`; flags stay. Jumps to the returned place, nothing changed but scratch, where the fast tags do not
    /// admit the access.
    pub fn translate(&mut self, kind: Kind, size: usize, aligned: bool) -> Result<Later, IcedError> {
        let kind = if kind == Kind::Read { READ } else { WRITE };
        self.page_index(S2)?;
        self.load(S1, at_index(TAGS, S1, 8, (kind * ENTRIES * 8) as i64))?;
        // With the tag added, an address on the page is its offset: bits beyond are set by a miss or by crossing.
        self.lea(S1, at_index(S1, S2, 1, if aligned { 0 } else { size as i64 - 1 }))?;
        let mask = if aligned { frame::BEYOND_ALIGNED } else { frame::BEYOND_PAGE };
        self.put(&Instruction::with3(Code::VEX_Pext_r64_r64_rm64, S1, S1, field(mask))?)?;
        let miss = self.jmp_unless_zero();
        self.page_index(S2)?;
        self.load(S1, at_index(TAGS, S1, 8, (ADDEND * ENTRIES * 8) as i64))?;
        self.lea(S2, at_index(S2, S1, 1, 0))?;
        self.load(S1, field(frame::RAM))?;
        Ok(miss)
    }

    /// Looks the guest address in R11 up in the indirect-branch cache; the host address goes to R11. Flags stay.
    pub fn look_up(&mut self) -> Result<Later, IcedError> {
        self.load(S1, field(frame::SALT))?;
        self.lea(S2, at_index(S2, S1, 1, 0))?;
        self.put(&Instruction::with2(Code::Movzx_r32_rm16, Register::ECX, Register::R11W)?)?;
        self.load(S1, at_index(Register::RSP, S1, 8, frame::JUMP_KEYS))?;
        self.lea(S1, at_index(S1, S2, 1, 0))?;
        let miss = self.jmp_unless_zero();
        self.put(&Instruction::with2(Code::Movzx_r32_rm16, Register::ECX, Register::R11W)?)?;
        self.load(S2, at_index(Register::RSP, S1, 8, frame::JUMP_HOSTS))?;
        Ok(miss)
    }
}

/// Points a later jump to `target`; both count from the start of `code`.
pub(crate) fn resolve(code: &mut [u8], later: &Later, target: i64) {
    let relative = target - (later.0 as i64 + 4);
    code[later.0..later.0 + 4].copy_from_slice(&(relative as i32).to_le_bytes());
}

impl Later {
    /// Position of the field.
    pub fn field(&self) -> usize {
        self.0
    }
}
