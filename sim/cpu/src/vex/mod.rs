//! AVX, AVX2, FMA and F16C: lowering to handlers, moves, and the glue to [`sim_fp::vex`].
//!
//! # Theory
//! An instruction that computes is a row of [`sim_fp::vex::TABLE`]; how its operands are found follows from their kinds, so a new row needs nothing here.
//! Moves are in `moves.rs`; what leaves out elements (masked moves, gathers) is in `masked.rs`.
//!
//! A VEX-encoded instruction writes whole registers: the bits above its own length become zero. No memory operand has to be aligned but those of
//! the aligned and the non-temporal moves.
//!
//! # Failure
//! In this order (SDM vol. 2 §2.4): #UD in real and virtual-8086 mode, for a feature that CPUID does not have, or unless CR4.OSXSAVE
//! is set and XCR0 enables both SSE and AVX state; #NM with CR0.TS; then the operand's own faults; then #XM (or #UD without CR4.OSXMMEXCPT).
//! CR0.EM and CR4.OSFXSR play no part.

mod masked;
mod moves;

use iced_x86::{CpuidFeature, Instruction, Mnemonic, OpKind, Register};
use sim_bus::CpuBus;
use sim_fp::avx::Wide;
use sim_fp::vex::{self, Given, Op as Row, Sources};
use sim_mem::GuestMemory;

use crate::core::{Core, Fault, mode};
use crate::op::{Flow, Handler, Op, Run};
use crate::ops::{run, tri};
use crate::simd::{self, simd_fault};

/// Where `Op::imm` has what: the immediate itself in its low byte, then flags and fields.
mod field {
    /// A general register or integer in memory has 64 bits.
    pub const WIDE_INTEGER: u64 = 1 << 8;
    /// The 256-bit form.
    pub const L256: u64 = 1 << 9;
    /// The register of VEX.vvvv.
    pub const VVVV: u32 = 12;
    /// A further register: the mask of a blend, the index of a gather; else the destination.
    pub const THIRD: u32 = 16;
    /// Bytes of the memory operand.
    pub const BYTES: u32 = 20;
    /// Row of the table.
    pub const ROW: u32 = 32;
}

fn get(c: &Core, n: u8) -> Wide {
    let n = usize::from(n & 15);
    [c.xmm[n], c.ymm_high[n]]
}

fn set(c: &mut Core, n: u8, [low, high]: Wide) {
    let n = usize::from(n & 15);
    c.xmm[n] = low;
    c.ymm_high[n] = high;
}

fn vvvv(op: &Op) -> u8 {
    (op.imm >> field::VVVV & 15) as u8
}

fn third(op: &Op) -> u8 {
    (op.imm >> field::THIRD & 15) as u8
}

fn bytes(op: &Op) -> u8 {
    (op.imm >> field::BYTES & 63) as u8
}

fn is_wide(op: &Op) -> bool {
    op.imm & field::L256 != 0
}

/// Address of a memory operand; with `F` only without segment checks.
#[inline(always)]
fn address<const F: bool>(c: &mut Core, op: &Op, bytes: u8, write: bool) -> Result<u64, Fault> {
    if F { c.linear64(op) } else { c.linear(op, u64::from(bytes), write) }
}

/// Loads `bytes` (1 to 32, a power of two), zero-extended; with `F` only if the fast tags have it.
#[inline(always)]
fn load<const F: bool>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, at: u64, bytes: u8) -> Result<Wide, Fault> {
    if bytes == 32 {
        let low = c.try_load128::<F>(m, b, op, at)?;
        return Ok([low, c.try_load128::<F>(m, b, op, at.wrapping_add(16))?]);
    }
    Ok([simd::try_load::<F>(c, m, b, op, at, bytes)?, 0])
}

/// Stores `bytes` (1 to 32, a power of two), all or nothing; with `F` only if the fast tags have it.
#[inline(always)]
fn store<const F: bool>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, at: u64, bytes: u8, [low, high]: Wide) -> Result<(), Fault> {
    match bytes {
        1 => c.try_store::<F, 1>(m, b, op, at, low as u64),
        2 => c.try_store::<F, 2>(m, b, op, at, low as u64),
        4 => c.try_store::<F, 4>(m, b, op, at, low as u64),
        8 => c.try_store::<F, 8>(m, b, op, at, low as u64),
        16 => c.try_store128::<F>(m, b, op, at, low),
        // On one page what holds for the first byte holds for all.
        _ if at & 0xfff <= 4096 - 32 => {
            c.try_store128::<F>(m, b, op, at, low)?;
            c.try_store128::<F>(m, b, op, at.wrapping_add(16), high)
        }
        _ if F => Err(Fault),
        _ => {
            let mut image = [0; 32];
            image[..16].copy_from_slice(&low.to_le_bytes());
            image[16..].copy_from_slice(&high.to_le_bytes());
            c.write_bytes(m, b, op, at, &image)
        }
    }
}

/// Runs the row on its operands.
#[inline(always)]
fn compute(c: &mut Core, op: &Op, src: Wide) -> Result<Given, Fault> {
    let row = vex::row((op.imm >> field::ROW) as usize);
    let sources = Sources { a: get(c, vvvv(op)), b: src, third: get(c, third(op)), imm: op.imm as u8, wide: is_wide(op) };
    row.run(&sources, &mut c.mxcsr).map_err(|_| simd_fault(c))
}

#[inline(always)]
fn give(c: &mut Core, op: &Op, given: Given) {
    match given {
        Given::Vector(value) => set(c, op.a, value),
        Given::Gpr(value) => c.r[usize::from(op.a & 15)] = value,
        Given::Flags(flags) => c.set_arith(u64::from(flags)),
    }
}

/// Second source in a vector register.
#[inline(always)]
fn from_register(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    let src = get(c, op.b);
    let given = tri!(compute(c, op, src));
    give(c, op, given);
    Flow::Next
}

/// In memory.
#[inline(always)]
fn from_memory<const F: bool>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let at = tri!(address::<F>(c, op, bytes(op), false));
    let src = tri!(load::<F>(c, m, b, op, at, bytes(op)));
    let given = tri!(compute(c, op, src));
    give(c, op, given);
    if F { Flow::Next } else { c.brk }
}

fn integer(op: &Op, value: u64) -> Wide {
    [u128::from(if op.imm & field::WIDE_INTEGER != 0 { value } else { i64::from(value as i32) as u64 }), 0]
}

/// In a general register: VCVTSI2xx (sign-extended) and VPINSRx.
fn from_gpr(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    let src = integer(op, c.r[usize::from(op.b & 15)]);
    let given = tri!(compute(c, op, src));
    give(c, op, given);
    Flow::Next
}

/// VCVTSI2xx from memory.
fn from_integer(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let at = tri!(address::<false>(c, op, bytes(op), false));
    let [value, _] = tri!(load::<false>(c, m, b, op, at, bytes(op)));
    let given = tri!(compute(c, op, integer(op, value as u64)));
    give(c, op, given);
    c.brk
}

/// Result to memory: VEXTRACTx128, VCVTPS2PH, VPEXTRx, VEXTRACTPS.
fn to_memory(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let size = bytes(op);
    let at = tri!(address::<false>(c, op, size, true));
    let src = get(c, op.b);
    // MXCSR is written only if the store is done, and a store that cannot be done comes first.
    tri!(c.check_write(m, b, op, at, u64::from(size)));
    let value = match tri!(compute(c, op, src)) {
        Given::Vector(value) => value,
        Given::Gpr(value) => [u128::from(value), 0],
        Given::Flags(_) => return simd::raise_ud(c, m, b, op),
    };
    tri!(store::<false>(c, m, b, op, at, size, value));
    c.brk
}

/// Chooses what runs a VEX-encoded SIMD instruction; `None` for BMI, which is the integer side's.
pub(crate) fn lower(insn: &Instruction, op: &mut Op, bits: u32) -> Option<Run> {
    if insn.cpuid_features().iter().any(|feature| matches!(feature, CpuidFeature::BMI1 | CpuidFeature::BMI2)) {
        return None;
    }
    if bits & mode::AVX == 0 {
        return Some(Run::plain(simd::raise_ud));
    }
    let run = choose(insn, op, bits)?;
    Some(if bits & mode::TS != 0 { Run::plain(simd::raise_nm) } else { run })
}

fn is_register(insn: &Instruction, operand: u32, kind: fn(Register) -> bool) -> bool {
    operand < insn.op_count() && insn.op_kind(operand) == OpKind::Register && kind(insn.op_register(operand))
}

fn number(insn: &Instruction, operand: u32) -> u8 {
    let register = insn.op_register(operand);
    if register.is_gpr() { register.full_register().number() as u8 } else { register.number() as u8 }
}

fn choose(insn: &Instruction, op: &mut Op, bits: u32) -> Option<Run> {
    let memory = (0..insn.op_count()).find(|&operand| insn.op_kind(operand) == OpKind::Memory);
    if memory.is_some() {
        crate::lower::memory_operand(insn, op, bits);
        op.imm |= (insn.memory_size().size() as u64 & 63) << field::BYTES;
    }
    if (0..insn.op_count()).any(|operand| is_register(insn, operand, Register::is_ymm)) || (memory.is_some() && insn.memory_size().size() == 32) {
        op.imm |= field::L256;
    }
    if let Some(run) = masked::lower(insn, op, bits).or_else(|| moves::lower(insn, op, bits)) {
        return Some(run);
    }
    let row = Row::of(insn)?;
    op.imm |= (row.index() as u64) << field::ROW;
    // Operands without the immediate and without the register in it.
    let mut count = insn.op_count();
    let last = count.checked_sub(1)?;
    if insn.op_kind(last) == OpKind::Immediate8 {
        op.imm |= u64::from(insn.immediate8());
        count -= 1;
    }
    if memory == Some(0) {
        op.b = number(insn, 1);
        return Some(Run::plain(to_memory));
    }
    op.a = number(insn, 0);
    let mut third = op.a;
    if count == 4 {
        third = number(insn, 3);
        count = 3;
    }
    let first = if count == 3 { number(insn, 1) } else { op.a };
    op.imm |= u64::from(first & 15) << field::VVVV | u64::from(third & 15) << field::THIRD;
    let source = count - 1;
    let from_int = matches!(insn.mnemonic(), Mnemonic::Vcvtsi2ss | Mnemonic::Vcvtsi2sd);
    if memory.is_some() {
        if insn.mnemonic() == Mnemonic::Vinsertps {
            // The element is the one in memory.
            op.imm &= !0xc0;
        }
        if !from_int {
            return Some(run!(from_memory[]));
        }
        if insn.memory_size().size() == 8 {
            op.imm |= field::WIDE_INTEGER;
        }
        return Some(Run::plain(from_integer));
    }
    op.b = number(insn, source);
    if is_register(insn, source, Register::is_gpr) {
        if insn.op_register(source).is_gpr64() {
            op.imm |= field::WIDE_INTEGER;
        }
        return Some(Run::plain(from_gpr as Handler));
    }
    Some(run!(from_register))
}
