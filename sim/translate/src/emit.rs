//! Writing host code: iced-x86's encoder for everything but jumps, which are written as bytes so that they can be patched, and what comes with every
//! access: moves and sums of 64 bits ([`Emit::plain_form`]) and whole sequences, encoded once ([`Emit::repeat`]). Encoding is most of what a translation costs.

use crate::frame;
use crate::tlb::{ADDEND, ENTRIES, READ, WRITE};
use crate::registers::number;
use iced_x86::{Code, Encoder, IcedError, Instruction, MemoryOperand, Register};
use std::sync::OnceLock;

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
    code: Vec<u8>,
}

/// A sequence that is the same wherever it stands, with the places of its jumps' fields.
struct Sequence {
    code: Vec<u8>,
    miss: usize,
}

/// Accesses by kind, log of the size and alignment; then the look-up of an indirect branch.
static SEQUENCES: [OnceLock<Option<Sequence>>; 21] = [const { OnceLock::new() }; 21];
const LOOK_UP: usize = 20;

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
        Emit { encoder: Encoder::new(64), code: Vec::with_capacity(2048) }
    }

    pub fn position(&self) -> usize {
        self.code.len()
    }

    /// The code, with every later jump resolved.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.code)
    }

    /// Forgets what was written from `position` on.
    pub fn rewind(&mut self, position: usize) {
        self.code.truncate(position);
    }

    pub fn put(&mut self, instruction: &Instruction) -> Result<(), IcedError> {
        let written = self.encoder.encode(instruction, self.code.len() as u64);
        // Taken also after a failure, which may leave the beginning of an instruction.
        let mut bytes = self.encoder.take_buffer();
        if written.is_ok() {
            self.code.extend_from_slice(&bytes);
        }
        bytes.clear();
        self.encoder.set_buffer(bytes);
        written.map(drop)
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    /// An instruction of 64 bits with an opcode of one byte, a register and a memory operand (SDM vol. 2 section 2.1): the shortest form, as the encoder finds it.
    /// False, and nothing is written, for an operand of another kind.
    fn plain_form(&mut self, opcode: u8, register: Register, operand: &MemoryOperand) -> bool {
        let Ok(displacement) = i32::try_from(operand.displacement) else { return false };
        if operand.base == Register::None {
            return false;
        }
        let (reg, base) = (number(register) as u8, number(operand.base) as u8);
        let index = if operand.index == Register::None { None } else { Some(number(operand.index) as u8) };
        let rex = 0x48 | (reg >> 3) << 2 | index.map_or(0, |index| (index >> 3) << 1) | base >> 3;
        let short = i8::try_from(displacement);
        let form = match short {
            // RBP and R13 have no form without displacement.
            Ok(0) if base & 7 != 5 => 0,
            Ok(_) => 0x40,
            Err(_) => 0x80,
        };
        self.bytes(&[rex, opcode]);
        match index {
            Some(index) => self.bytes(&[form | (reg & 7) << 3 | 4, (operand.scale.trailing_zeros() as u8) << 6 | (index & 7) << 3 | base & 7]),
            // RSP and R12 as bases need the second byte.
            None if base & 7 == 4 => self.bytes(&[form | (reg & 7) << 3 | 4, 0x20 | base & 7]),
            None => self.bytes(&[form | (reg & 7) << 3 | base & 7]),
        }
        match (form, short) {
            (0, _) => {}
            (0x40, Ok(short)) => self.bytes(&[short as u8]),
            _ => self.bytes(&displacement.to_le_bytes()),
        }
        true
    }

    /// `mov to, [from]`, 64 bits.
    pub fn load(&mut self, to: Register, from: MemoryOperand) -> Result<(), IcedError> {
        if self.plain_form(0x8b, to, &from) { Ok(()) } else { self.put(&Instruction::with2(Code::Mov_r64_rm64, to, from)?) }
    }

    /// `mov [to], from`, 64 bits.
    pub fn store(&mut self, to: MemoryOperand, from: Register) -> Result<(), IcedError> {
        if self.plain_form(0x89, from, &to) { Ok(()) } else { self.put(&Instruction::with2(Code::Mov_rm64_r64, to, from)?) }
    }

    pub fn mov(&mut self, to: Register, from: Register) -> Result<(), IcedError> {
        let (to, from) = (number(to) as u8, number(from) as u8);
        self.bytes(&[0x48 | (to >> 3) << 2 | from >> 3, 0x8b, 0xc0 | (to & 7) << 3 | from & 7]);
        Ok(())
    }

    /// A constant, in the shortest form that leaves flags alone.
    pub fn constant(&mut self, to: Register, value: u64) -> Result<(), IcedError> {
        if let Ok(value) = u32::try_from(value) {
            let to = number(to) as u8;
            if to >= 8 {
                self.bytes(&[0x41]);
            }
            self.bytes(&[0xb8 | to & 7]);
            self.bytes(&value.to_le_bytes());
            return Ok(());
        }
        if let Ok(value) = i32::try_from(value as i64) {
            return self.put(&Instruction::with2(Code::Mov_rm64_imm32, to, value)?);
        }
        self.put(&Instruction::with2(Code::Mov_r64_imm64, to, value)?)
    }

    pub fn lea(&mut self, to: Register, from: MemoryOperand) -> Result<(), IcedError> {
        if self.plain_form(0x8d, to, &from) { Ok(()) } else { self.put(&Instruction::with2(Code::Lea_r64_m, to, from)?) }
    }

    /// `jmp rel32`.
    pub fn jmp(&mut self) -> Later {
        self.bytes(&[0xe9, 0, 0, 0, 0]);
        Later(self.code.len() - 4)
    }

    /// `jcc rel32`.
    pub fn jcc(&mut self, condition: u8) -> Later {
        self.bytes(&[0x0f, 0x80 | condition, 0, 0, 0, 0]);
        Later(self.code.len() - 4)
    }

    /// Jumps `later` unless RCX is zero.
    pub fn jmp_unless_zero(&mut self) -> Later {
        self.bytes(&[0xe3, 5]);
        self.jmp()
    }

    /// `jrcxz` to where [`Emit::land`] is called, not far.
    pub fn jrcxz(&mut self) -> Later {
        self.bytes(&[0xe3, 0]);
        Later(self.code.len() - 1)
    }

    /// `lea rcx, [rip + distance]` to where [`Emit::resolve_here`] is called.
    pub fn lea_ahead(&mut self) -> Later {
        self.bytes(&[0x48, 0x8d, 0x0d, 0, 0, 0, 0]);
        Later(self.code.len() - 4)
    }

    /// Points a [`Emit::lea_ahead`] here.
    pub fn resolve_here(&mut self, later: &Later) {
        let here = self.code.len() as i64;
        resolve(&mut self.code, later, here);
    }

    /// Points a [`Emit::jrcxz`] here.
    pub fn land(&mut self, later: &Later) {
        let distance = self.code.len() - (later.0 + 1);
        self.code[later.0] = i8::try_from(distance).expect("it is not far") as u8;
    }

    /// `jrcxz` back to `target`, not far.
    pub fn jrcxz_back(&mut self, target: usize) {
        let distance = self.code.len() + 2 - target;
        self.bytes(&[0xe3, i8::try_from(distance).expect("it is not far").wrapping_neg() as u8]);
    }

    /// Index of the page of `address` into RCX.
    fn page_index(&mut self, address: Register) -> Result<(), IcedError> {
        self.put(&Instruction::with3(Code::VEX_Rorx_r32_rm32_imm8, Register::ECX, address.full_register32(), 12)?)?;
        self.put(&Instruction::with2(Code::Movzx_r32_rm16, Register::ECX, Register::CX)?)
    }

    /// Writes sequence `which`, which `write` makes the first time; it gives the jump for when it fails.
    fn repeat(&mut self, which: usize, write: impl FnOnce(&mut Emit) -> Result<Later, IcedError>) -> Result<Later, IcedError> {
        let made = SEQUENCES[which].get_or_init(|| {
            let mut aside = Emit::new();
            let Later(miss) = write(&mut aside).ok()?;
            Some(Sequence { code: aside.take(), miss })
        });
        // None of them refers to where it stands but by its jump.
        let Some(Sequence { code, miss }) = made else { unreachable!("the sequences are encodable") };
        let start = self.position();
        self.bytes(code);
        Ok(Later(start + miss))
    }

    /// Turns the guest address in R11 into `[R11 + RCX]`; flags stay. Jumps to the returned place, nothing changed but scratch, where the fast tags do not
    /// admit the access. `size` is a power of two up to 16.
    pub fn translate(&mut self, kind: Kind, size: usize, aligned: bool) -> Result<Later, IcedError> {
        let which = (size.trailing_zeros() as usize * 2 + usize::from(kind == Kind::Write)) * 2 + usize::from(aligned);
        self.repeat(which, |e| {
            let kind = if kind == Kind::Read { READ } else { WRITE };
            e.page_index(S2)?;
            e.load(S1, at_index(TAGS, S1, 8, (kind * ENTRIES * 8) as i64))?;
            // With the tag added, an address on the page is its offset: bits beyond are set by a miss or by crossing.
            e.lea(S1, at_index(S1, S2, 1, if aligned { 0 } else { size as i64 - 1 }))?;
            let mask = if aligned { frame::BEYOND_ALIGNED } else { frame::BEYOND_PAGE };
            e.put(&Instruction::with3(Code::VEX_Pext_r64_r64_rm64, S1, S1, field(mask))?)?;
            let miss = e.jmp_unless_zero();
            e.page_index(S2)?;
            e.load(S1, at_index(TAGS, S1, 8, (ADDEND * ENTRIES * 8) as i64))?;
            Ok(miss)
        })
    }

    /// Looks the guest address in R11 up in the indirect-branch cache; the host address goes to R11. Flags stay. The whole address is compared, and the slot then says
    /// the salt: no other address, canonical or not, is taken for it in any context.
    pub fn look_up(&mut self) -> Result<Later, IcedError> {
        self.repeat(LOOK_UP, |e| {
            e.jump_slot()?;
            e.load(S1, at_index(Register::RSP, S1, 8, frame::JUMP_KEYS))?;
            e.lea(S1, at_index(S1, S2, 1, 0))?;
            let miss = e.jmp_unless_zero();
            e.jump_slot()?;
            e.load(S2, at_index(Register::RSP, S1, 8, frame::JUMP_HOSTS))?;
            Ok(miss)
        })
    }

    /// The slot of the address in R11 into RCX: the low half-word of address plus salt.
    fn jump_slot(&mut self) -> Result<(), IcedError> {
        self.load(S1, field(frame::SALT))?;
        self.lea(S1, at_index(S1, S2, 1, 0))?;
        self.put(&Instruction::with2(Code::Movzx_r32_rm16, Register::ECX, Register::CX)?)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registers::sized;
    use iced_x86::{Decoder, DecoderOptions};

    #[test]
    fn plain_forms_are_what_the_encoder_writes() {
        for (n, base, index) in (0..16).flat_map(|n| (0..16).flat_map(move |base| (0..17).map(move |index| (n, base, index)))) {
            for displacement in [0, 1, -128, 127, 128, -129, 0x7fff_ffff] {
                let operand = match index {
                    4 => continue,
                    16 => at(sized(base, 8), displacement),
                    _ => at_index(sized(base, 8), sized(index, 8), 1 << (n & 3), displacement),
                };
                let register = sized(n, 8);
                let (mut ours, mut theirs) = (Emit::new(), Emit::new());
                ours.load(register, operand).expect("encodable");
                ours.lea(register, operand).expect("encodable");
                ours.mov(register, sized(base, 8)).expect("encodable");
                theirs.put(&Instruction::with2(Code::Mov_r64_rm64, register, operand).expect("valid")).expect("encodable");
                theirs.put(&Instruction::with2(Code::Lea_r64_m, register, operand).expect("valid")).expect("encodable");
                theirs.put(&Instruction::with2(Code::Mov_r64_rm64, register, sized(base, 8)).expect("valid")).expect("encodable");
                let read = |code: &[u8]| Decoder::new(64, code, DecoderOptions::NONE).iter().map(|i| format!("{i}")).collect::<Vec<_>>();
                let (ours, theirs) = (ours.take(), theirs.take());
                assert_eq!(read(&ours), read(&theirs), "{ours:x?}");
                assert!(ours.len() <= theirs.len());
            }
        }
        let mut e = Emit::new();
        e.store(field(0x1234), Register::R15).expect("encodable");
        e.constant(Register::R11, 5).expect("encodable");
        assert_eq!(e.take(), [0x4c, 0x89, 0xbc, 0x24, 0x34, 0x12, 0, 0, 0x41, 0xbb, 5, 0, 0, 0]);
    }
}
