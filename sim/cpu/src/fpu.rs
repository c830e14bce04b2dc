//! x87 instructions: lowering and the glue to [`sim_fp::x87`].
//!
//! # Structures
//! One decoded [`Insn`] per opcode is kept in [`SLOTS`], filled as opcodes are first met; an operation holds its slot and its stack
//! registers. The table is a pure function of the opcode: nothing of a run shows in it.
//!
//! # Failure
//! #NM with CR0.EM or CR0.TS (WAIT: only with MP and TS), #MF for a pending exception at a waiting instruction. CR0.NE = 0 (FERR# and
//! IRQ 13) is not modelled: the exception is #MF.
//!
//! # Limits
//! The last-instruction and last-operand pointers are kept; FOP reads as zero.

use std::sync::OnceLock;

use iced_x86::{Code, Instruction, Mnemonic};
use sim_bus::CpuBus;
use sim_fp::x87::{self, Effect, Insn, Memory};
use sim_mem::GuestMemory;

use crate::core::{Core, Fault, mode, vector};
use crate::op::{Flow, Handler, Op};
use crate::state::RAX;

/// Opcodes from FADD m32 to the last x87 one, and WAIT.
const FIRST: usize = Code::Fadd_m32fp as usize;
const COUNT: usize = 256;
const WAIT: usize = COUNT - 1;

static SLOTS: [OnceLock<Insn>; COUNT] = [const { OnceLock::new() }; COUNT];

/// Chooses the handler of an x87 instruction; `None` if it is none.
pub(crate) fn lower(insn: &Instruction, op: &mut Op, bits: u32) -> Option<Handler> {
    let decoded = x87::decode(insn)?;
    let wait = insn.mnemonic() == Mnemonic::Wait;
    let slot = if wait { WAIT } else { (insn.code() as usize).wrapping_sub(FIRST) };
    let template = *SLOTS.get(slot)?.get_or_init(|| decoded.with_registers(0, 0));
    debug_assert_eq!(template, decoded.with_registers(0, 0));
    if decoded.memory() != Memory::None {
        crate::lower::memory_operand(insn, op, bits);
    }
    let (dst, src) = decoded.registers();
    op.imm = slot as u64;
    op.a = dst;
    op.b = src;
    let not_available = if wait { bits & mode::TS != 0 && bits & mode::MP != 0 } else { bits & (mode::EM | mode::TS) != 0 };
    Some(if not_available { raise_nm } else { run })
}

fn raise_nm(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, _: &Op) -> Flow {
    c.raise(vector::NM);
    Flow::Fault
}

fn run(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    execute(c, m, b, op).unwrap_or(Flow::Fault)
}

fn execute(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Result<Flow, Fault> {
    let template = SLOTS[op.imm as usize % COUNT].get().copied();
    let insn = template.expect("lowering filled the slot").with_registers(op.a, op.b);
    if insn.waits && c.x87.pending() {
        return Err(c.raise(vector::MF));
    }
    let eflags = c.arith() as u32;
    match insn.memory() {
        Memory::None => {
            let effect = x87::exec(&mut c.x87, &insn, 0, eflags);
            note_pointers(c, op, &insn, false);
            match effect {
                Effect::Flags(flags) => c.set_arith(u64::from(flags)),
                Effect::Ax(value) => c.r[RAX] = c.r[RAX] & !0xffff | u64::from(value),
                Effect::None | Effect::Store(_) => {}
            }
            Ok(Flow::Next)
        }
        Memory::Load(bytes) => {
            let at = c.linear(op, u64::from(bytes), false)?;
            let mut value = [0; 16];
            let value = match bytes {
                2 => u128::from(c.load::<2>(m, b, op, at)?),
                4 => u128::from(c.load::<4>(m, b, op, at)?),
                8 => u128::from(c.load::<8>(m, b, op, at)?),
                _ => {
                    c.read_bytes(m, b, op, at, &mut value[..usize::from(bytes)])?;
                    u128::from_le_bytes(value)
                }
            };
            x87::exec(&mut c.x87, &insn, value, eflags);
            note_pointers(c, op, &insn, true);
            Ok(c.brk)
        }
        Memory::Store(bytes) => {
            let at = c.linear(op, u64::from(bytes), true)?;
            let mut next = c.x87;
            let effect = x87::exec(&mut next, &insn, 0, eflags);
            if effect == Effect::None {
                // An unmasked exception stores nothing, but the place is checked all the same.
                c.check_write(m, b, op, at, u64::from(bytes))?;
            }
            if let Effect::Store(value) = effect {
                match bytes {
                    2 => c.store::<2>(m, b, op, at, value as u64)?,
                    4 => c.store::<4>(m, b, op, at, value as u64)?,
                    8 => c.store::<8>(m, b, op, at, value as u64)?,
                    _ => c.write_bytes(m, b, op, at, &value.to_le_bytes()[..usize::from(bytes)])?,
                }
            }
            c.x87 = next;
            note_pointers(c, op, &insn, true);
            Ok(c.brk)
        }
        Memory::LoadImage(bytes) => {
            let at = c.linear(op, u64::from(bytes), false)?;
            let mut image = [0; 108];
            let image = &mut image[..usize::from(bytes)];
            c.read_bytes(m, b, op, at, image)?;
            c.x87.load_image(image);
            Ok(c.brk)
        }
        Memory::StoreImage(bytes) => {
            let at = c.linear(op, u64::from(bytes), true)?;
            let image = c.x87.image(bytes);
            c.write_bytes(m, b, op, at, &image[..usize::from(bytes)])?;
            x87::exec(&mut c.x87, &insn, 0, eflags);
            Ok(c.brk)
        }
    }
}

fn note_pointers(c: &mut Core, op: &Op, insn: &Insn, memory: bool) {
    if insn.is_control() {
        return;
    }
    c.x87.ip = c.rip_of(op);
    if memory {
        c.x87.dp = c.offset(op);
    }
}
