//! VEX-encoded moves, and what has its SSE handler.

use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};
use sim_bus::CpuBus;
use sim_mem::GuestMemory;

use super::{address, field, get, is_register, is_wide, load, number, set, store, vvvv};
use crate::core::{Core, mode};
use crate::op::{Flow, Op, Run};
use crate::ops::{run, tri};
use crate::simd;

const LOW: u128 = u64::MAX as u128;

/// Register to register.
#[inline(always)]
fn copy(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    let [low, high] = get(c, op.b);
    set(c, op.a, [low, if is_wide(op) { high } else { 0 }]);
    Flow::Next
}

/// `BYTES` from memory (4 to 32), aligned if it must be.
#[inline(always)]
fn from_memory<const F: bool, const BYTES: u8, const ALIGNED: bool>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let at = tri!(address::<F>(c, op, BYTES, false));
    if ALIGNED && at & u64::from(BYTES - 1) != 0 {
        c.gp0();
        return Flow::Fault;
    }
    let value = tri!(load::<F>(c, m, b, op, at, BYTES));
    set(c, op.a, value);
    if F { Flow::Next } else { c.brk }
}

#[inline(always)]
fn to_memory<const F: bool, const BYTES: u8, const ALIGNED: bool>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let at = tri!(address::<F>(c, op, BYTES, true));
    if ALIGNED && at & u64::from(BYTES - 1) != 0 {
        c.gp0();
        return Flow::Fault;
    }
    let value = get(c, op.b);
    tri!(store::<F>(c, m, b, op, at, BYTES, value));
    if F { Flow::Next } else { c.brk }
}

/// Moves of whole registers.
fn whole(op: &mut Op, to_or_from: Place, aligned: bool) -> Run {
    match (to_or_from, is_wide(op), aligned) {
        (Place::Registers, ..) => run!(copy),
        (Place::From, false, false) => run!(from_memory[16, false]),
        (Place::From, false, true) => run!(from_memory[16, true]),
        (Place::From, true, false) => run!(from_memory[32, false]),
        (Place::From, true, true) => run!(from_memory[32, true]),
        (Place::To, false, false) => run!(to_memory[16, false]),
        (Place::To, false, true) => run!(to_memory[16, true]),
        (Place::To, true, false) => run!(to_memory[32, false]),
        (Place::To, true, true) => run!(to_memory[32, true]),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Registers,
    From,
    To,
}

/// VMOVSS, VMOVSD between registers: lane 0 of `b`, the rest of VVVV.
fn merge_low<const BITS: u32>(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    let mask = u128::MAX >> (128 - BITS);
    let value = get(c, vvvv(op))[0] & !mask | get(c, op.b)[0] & mask;
    set(c, op.a, [value, 0]);
    Flow::Next
}

/// VMOVLHPS.
fn low_to_high(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = get(c, vvvv(op))[0] & LOW | get(c, op.b)[0] << 64;
    set(c, op.a, [value, 0]);
    Flow::Next
}

/// VMOVHLPS.
fn high_to_low(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = get(c, vvvv(op))[0] & !LOW | get(c, op.b)[0] >> 64;
    set(c, op.a, [value, 0]);
    Flow::Next
}

/// VMOVLPx (`HIGH` false) and VMOVHPx from memory.
fn half_from_memory<const HIGH: bool>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let at = tri!(c.linear(op, 8, false));
    let value = u128::from(tri!(c.load::<8>(m, b, op, at)));
    let old = get(c, vvvv(op))[0];
    set(c, op.a, [if HIGH { old & LOW | value << 64 } else { old & !LOW | value }, 0]);
    c.brk
}

/// VMOVHPx to memory.
fn high_to_memory(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let at = tri!(c.linear(op, 8, true));
    let value = (get(c, op.b)[0] >> 64) as u64;
    tri!(c.store::<8>(m, b, op, at, value));
    c.brk
}

/// VMOVQ between vector registers.
fn quad(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = get(c, op.b)[0] & LOW;
    set(c, op.a, [value, 0]);
    Flow::Next
}

#[inline(always)]
fn from_gpr<const BITS: u32>(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = u128::from(c.r[usize::from(op.b & 15)] & u64::MAX >> (64 - BITS));
    set(c, op.a, [value, 0]);
    Flow::Next
}

#[inline(always)]
fn to_gpr<const BITS: u32>(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    c.r[usize::from(op.a & 15)] = get(c, op.b)[0] as u64 & u64::MAX >> (64 - BITS);
    Flow::Next
}

/// VZEROUPPER, VZEROALL: the registers that the mode has.
fn zero<const ALL: bool>(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, _: &Op) -> Flow {
    let count = c.vector_registers();
    c.ymm_high[..count].fill(0);
    if ALL {
        c.xmm[..count].fill(0);
    }
    Flow::Next
}

/// VPCMPxSTRx: as the SSE forms, but a mask result clears the upper half of YMM0.
fn strings<const MEMORY: bool, const MASK: bool>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let flow = if MEMORY { simd::strings_mem(c, m, b, op) } else { simd::strings_reg(c, m, b, op) };
    if MASK && flow != Flow::Fault {
        c.ymm_high[0] = 0;
    }
    flow
}

/// `None`: not a move.
pub(super) fn lower(insn: &Instruction, op: &mut Op, bits: u32) -> Option<Run> {
    let is_memory = |operand: u32| operand < insn.op_count() && insn.op_kind(operand) == OpKind::Memory;
    let place = if is_memory(0) {
        Place::To
    } else if (1..insn.op_count()).any(is_memory) {
        Place::From
    } else {
        Place::Registers
    };
    // Registers, in the order of the operands: destination, VVVV if there are three, source.
    let source = insn.op_count().saturating_sub(1);
    let registers = |op: &mut Op| {
        if insn.op_count() > 0 && insn.op0_kind() == OpKind::Register {
            op.a = number(insn, 0);
        }
        if insn.op_count() > 1 && insn.op_kind(source) == OpKind::Register {
            op.b = number(insn, source);
        }
        if insn.op_count() == 3 && insn.op1_kind() == OpKind::Register {
            op.imm |= u64::from(number(insn, 1) & 15) << field::VVVV;
        }
    };
    let gpr = |operand: u32| is_register(insn, operand, Register::is_gpr);
    let run = match insn.mnemonic() {
        M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa => whole(op, place, true),
        M::Vmovups | M::Vmovupd | M::Vmovdqu | M::Vlddqu => whole(op, place, false),
        M::Vmovss => match place {
            Place::Registers => Run::plain(merge_low::<32>),
            Place::From => run!(from_memory[4, false]),
            Place::To => run!(to_memory[4, false]),
        },
        M::Vmovsd => match place {
            Place::Registers => Run::plain(merge_low::<64>),
            Place::From => run!(from_memory[8, false]),
            Place::To => run!(to_memory[8, false]),
        },
        M::Vmovd => match place {
            Place::From => run!(from_memory[4, false]),
            Place::To => run!(to_memory[4, false]),
            Place::Registers if gpr(0) => run!(to_gpr::<32>),
            Place::Registers => run!(from_gpr::<32>),
        },
        M::Vmovq => match place {
            Place::From => run!(from_memory[8, false]),
            Place::To => run!(to_memory[8, false]),
            Place::Registers if gpr(0) => run!(to_gpr::<64>),
            Place::Registers if gpr(1) => run!(from_gpr::<64>),
            Place::Registers => Run::plain(quad),
        },
        M::Vmovlps | M::Vmovlpd => if place == Place::To { run!(to_memory[8, false]) } else { Run::plain(half_from_memory::<false>) },
        M::Vmovhps | M::Vmovhpd => Run::plain(if place == Place::To { high_to_memory } else { half_from_memory::<true> }),
        M::Vmovlhps => Run::plain(low_to_high),
        M::Vmovhlps => Run::plain(high_to_low),
        M::Vzeroupper => run!(zero::<false>),
        M::Vzeroall => Run::plain(zero::<true>),
        M::Vldmxcsr => Run::plain(simd::ldmxcsr),
        M::Vstmxcsr => Run::plain(simd::stmxcsr),
        M::Vmaskmovdqu => {
            simd::implicit_destination(insn, op);
            return Some(Run::plain(simd::maskmovdqu));
        }
        M::Vpcmpestri | M::Vpcmpestrm | M::Vpcmpistri | M::Vpcmpistrm | M::Vpcmpestri64 | M::Vpcmpestrm64 => {
            let mask = matches!(insn.mnemonic(), M::Vpcmpestrm | M::Vpcmpistrm | M::Vpcmpestrm64);
            op.imm = u64::from(insn.immediate8())
                | simd::string_form(
                    !matches!(insn.mnemonic(), M::Vpcmpistri | M::Vpcmpistrm),
                    matches!(insn.mnemonic(), M::Vpcmpestri64 | M::Vpcmpestrm64) && bits & mode::SIZE == mode::CODE64,
                    mask,
                );
            op.a = number(insn, 0);
            if place == Place::Registers {
                op.b = number(insn, 1);
            }
            return Some(Run::plain(match (place == Place::From, mask) {
                (false, false) => strings::<false, false>,
                (false, true) => strings::<false, true>,
                (true, false) => strings::<true, false>,
                (true, true) => strings::<true, true>,
            }));
        }
        _ => return None,
    };
    registers(op);
    Some(run)
}
