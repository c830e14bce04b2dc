//! SSE to SSE4.2, AES, PCLMULQDQ and MMX: lowering to handlers, moves, and the glue to [`sim_fp`].
//!
//! # Theory
//! An instruction that computes is a row of [`sse::TABLE`]; [`reg`] and [`mem`] are compiled once per row, so the row's function is called
//! directly and small ones are inlined. Moves are handlers of their own. Legacy SSE leaves the upper halves of YMM registers alone.
//!
//! # Failure
//! #UD with CR0.EM or without CR4.OSFXSR, #NM with CR0.TS, #GP(0) for a misaligned 16-byte operand, #XM (or #UD without CR4.OSXMMEXCPT)
//! for an unmasked SIMD exception; MMX instructions take a pending x87 exception as #MF first.

use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register};
use sim_bus::CpuBus;
use sim_fp::sse::{self, Body, Op as SseOp};
use sim_fp::{MXCSR_MASK, crc32c, int, string};
use sim_mem::GuestMemory;

use crate::core::{Core, Fault, mode, vector};
use crate::op::{EA_ADDR16, EA_ADDR32, EA_SEG_SHIFT, Flow, Handler, Op, Run};
use crate::ops::{run, tri};
use crate::state::{cr4, RAX, RCX, RDI, RDX};

/// 64-bit form, in `Op::imm` above the instruction's own immediate.
const WIDE: u64 = 1 << 8;
/// Which [`SseOp`] an MMX handler runs.
const INDEX_SHIFT: u32 = 16;

macro_rules! handler {
    ($(#[$doc:meta])* $name:ident |$c:ident, $m:ident, $b:ident, $op:ident| $body:expr) => {
        $(#[$doc])*
        pub(crate) fn $name($c: &mut Core, $m: &mut GuestMemory, $b: &mut dyn CpuBus, $op: &Op) -> Flow {
            #[inline(always)]
            fn run($c: &mut Core, $m: &mut GuestMemory, $b: &mut dyn CpuBus, $op: &Op) -> Result<Flow, Fault> {
                $body
            }
            run($c, $m, $b, $op).unwrap_or(Flow::Fault)
        }
    };
}

pub(crate) fn raise_ud(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, _: &Op) -> Flow {
    c.ud();
    Flow::Fault
}

pub(crate) fn raise_nm(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, _: &Op) -> Flow {
    c.raise(vector::NM);
    Flow::Fault
}

#[cold]
pub(crate) fn simd_fault(c: &mut Core) -> Fault {
    let known = c.sys.cr4 & cr4::OSXMMEXCPT != 0;
    c.raise(if known { vector::XM } else { vector::UD })
}

/// Address of a memory operand, aligned if it must be.
#[inline(always)]
fn address(c: &mut Core, op: &Op, size: u64, write: bool, aligned: bool) -> Result<u64, Fault> {
    try_address::<false>(c, op, size, write, aligned)
}

/// The same; with `F` only without segment checks.
#[inline(always)]
fn try_address<const F: bool>(c: &mut Core, op: &Op, size: u64, write: bool, aligned: bool) -> Result<u64, Fault> {
    let address = if F { c.linear64(op)? } else { c.linear(op, size, write)? };
    if aligned && address & 15 != 0 {
        return Err(c.gp0());
    }
    Ok(address)
}

/// Loads `bytes` (1, 2, 4, 8 or 16), zero-extended.
#[inline(always)]
pub(crate) fn load(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, at: u64, bytes: u8) -> Result<u128, Fault> {
    try_load::<false>(c, m, b, op, at, bytes)
}

/// The same; with `F` only if the fast tags have it.
#[inline(always)]
pub(crate) fn try_load<const F: bool>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, at: u64, bytes: u8) -> Result<u128, Fault> {
    Ok(match bytes {
        1 => u128::from(c.try_load::<F, 1>(m, b, op, at)?),
        2 => u128::from(c.try_load::<F, 2>(m, b, op, at)?),
        4 => u128::from(c.try_load::<F, 4>(m, b, op, at)?),
        8 => u128::from(c.try_load::<F, 8>(m, b, op, at)?),
        _ => c.try_load128::<F>(m, b, op, at)?,
    })
}

#[inline(always)]
fn x(c: &Core, n: u8) -> u128 {
    c.xmm[usize::from(n & 15)]
}

#[inline(always)]
fn set_x(c: &mut Core, n: u8, value: u128) {
    c.xmm[usize::from(n & 15)] = value;
}

#[inline(always)]
fn set_r(c: &mut Core, n: u8, value: u64) {
    c.r[usize::from(n & 15)] = value;
}

/// One row on its operands.
#[inline(always)]
fn run_row<const ROW: usize>(c: &mut Core, op: &Op, src: u128) -> Result<(), Fault> {
    let imm = op.imm as u8;
    match const { sse::TABLE[if ROW < sse::COUNT { ROW } else { 0 }].body } {
        Body::Int(f) => set_x(c, op.a, f(x(c, op.a), src, imm)),
        Body::Masked(f) => set_x(c, op.a, f(x(c, op.a), src, c.xmm[0])),
        Body::Float(f) => match f(x(c, op.a), src, imm, &mut c.mxcsr) {
            Ok(value) => set_x(c, op.a, value),
            Err(_) => return Err(simd_fault(c)),
        },
        Body::ToGpr(f) => set_r(c, op.a, f(src, imm)),
        Body::FloatToGpr(f) => match f(src, imm, &mut c.mxcsr) {
            Ok(value) => set_r(c, op.a, value),
            Err(_) => return Err(simd_fault(c)),
        },
        Body::Flags(f) => {
            let flags = f(x(c, op.a), src);
            c.set_arith(u64::from(flags));
        }
        Body::FloatFlags(f) => match f(x(c, op.a), src, &mut c.mxcsr) {
            Ok(flags) => c.set_arith(u64::from(flags)),
            Err(_) => return Err(simd_fault(c)),
        },
    }
    Ok(())
}

/// Source in an XMM register.
#[inline(always)]
fn reg<const ROW: usize>(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    let src = x(c, op.b);
    match run_row::<ROW>(c, op, src) {
        Ok(()) => Flow::Next,
        Err(Fault) => Flow::Fault,
    }
}

/// Source in memory.
#[inline(always)]
fn mem<const F: bool, const ROW: usize>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let row = const { sse::TABLE[if ROW < sse::COUNT { ROW } else { 0 }] };
    let bytes = row.src_bytes;
    let at = tri!(try_address::<F>(c, op, u64::from(bytes), false, bytes == 16));
    let src = tri!(try_load::<F>(c, m, b, op, at, bytes));
    tri!(run_row::<ROW>(c, op, src));
    if F { Flow::Next } else { c.brk }
}

/// Shifts by an immediate: the count is the source.
#[inline(always)]
fn shift<const ROW: usize>(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    match run_row::<ROW>(c, op, u128::from(op.imm as u8)) {
        Ok(()) => Flow::Next,
        Err(Fault) => Flow::Fault,
    }
}

/// Source in a general register: CVTSI2xx (sign-extended) and PINSRx.
#[inline(always)]
fn gpr<const ROW: usize>(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = c.r[usize::from(op.b & 15)];
    match run_row::<ROW>(c, op, u128::from(sign_extended(op, value))) {
        Ok(()) => Flow::Next,
        Err(Fault) => Flow::Fault,
    }
}

fn sign_extended(op: &Op, value: u64) -> u64 {
    if op.imm & WIDE != 0 { value } else { i64::from(value as i32) as u64 }
}

/// CVTSI2xx from memory.
fn gpr_mem<const ROW: usize>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let bytes = if op.imm & WIDE != 0 { 8 } else { 4 };
    let mut run = || -> Result<Flow, Fault> {
        let at = address(c, op, u64::from(bytes), false, false)?;
        let value = load(c, m, b, op, at, bytes)? as u64;
        run_row::<ROW>(c, op, u128::from(sign_extended(op, value)))?;
        Ok(c.brk)
    };
    run().unwrap_or(Flow::Fault)
}

macro_rules! every_row {
    ($($n:literal)*) => {
        const _: () = assert!([$($n),*].len() >= sse::COUNT, "every_row must list every row");
        static REG: &[Run] = &[$(run!(reg::<$n>)),*];
        static MEM: &[Run] = &[$(run!(mem[$n])),*];
    };
}

every_row! {
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44
    45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86
    87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111 112 113 114 115 116 117 118 119 120
    121 122 123 124 125 126 127 128 129 130 131 132 133 134 135 136 137 138 139 140 141 142 143 144 145 146 147 148 149 150 151
    152 153 154 155 156 157 158 159 160 161 162 163 164 165 166 167 168 169 170 171 172 173 174 175 176 177 178 179 180 181 182
    183 184 185 186 187 188 189 190 191 192 193 194 195 196 197 198 199 200 201 202 203 204 205 206 207 208 209 210 211 212 213
    214 215 216 217 218 219 220 221 222 223 224 225 226 227 228 229 230 231 232 233 234 235 236 237 238 239 240 241 242 243 244
    245 246 247 248 249 250 251 252 253 254 255
}

fn merge_low(old: u128, new: u128, bits: u32) -> u128 {
    let mask = u128::MAX >> (128 - bits);
    old & !mask | new & mask
}

// Moves between XMM registers and memory.

#[inline(always)]
fn mov_rr(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    set_x(c, op.a, x(c, op.b));
    Flow::Next
}

/// A whole register from memory.
#[inline(always)]
fn load_whole<const F: bool, const ALIGNED: bool>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let at = tri!(try_address::<F>(c, op, 16, false, ALIGNED));
    let value = tri!(c.try_load128::<F>(m, b, op, at));
    set_x(c, op.a, value);
    if F { Flow::Next } else { c.brk }
}

#[inline(always)]
fn store_whole<const F: bool, const ALIGNED: bool>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let at = tri!(try_address::<F>(c, op, 16, true, ALIGNED));
    let value = x(c, op.b);
    tri!(c.try_store128::<F>(m, b, op, at, value));
    if F { Flow::Next } else { c.brk }
}

#[inline(always)]
fn movss_rr(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    set_x(c, op.a, merge_low(x(c, op.a), x(c, op.b), 32));
    Flow::Next
}
#[inline(always)]
fn movsd_rr(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    set_x(c, op.a, merge_low(x(c, op.a), x(c, op.b), 64));
    Flow::Next
}
#[inline(always)]
fn movq_rr(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    set_x(c, op.a, u128::from(x(c, op.b) as u64));
    Flow::Next
}
#[inline(always)]
fn movlhps(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    set_x(c, op.a, merge_low(x(c, op.b) << 64, x(c, op.a), 64));
    Flow::Next
}
#[inline(always)]
fn movhlps(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    set_x(c, op.a, merge_low(x(c, op.a), x(c, op.b) >> 64, 64));
    Flow::Next
}

/// MOVSS, MOVD (`N` = 4), MOVSD and MOVQ (`N` = 8) from memory: the rest becomes zero.
#[inline(always)]
fn load_lane<const F: bool, const N: usize>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let at = tri!(try_address::<F>(c, op, N as u64, false, false));
    let value = tri!(c.try_load::<F, N>(m, b, op, at));
    set_x(c, op.a, u128::from(value));
    if F { Flow::Next } else { c.brk }
}

/// Lane 0 to memory; with `HIGH` the upper half.
#[inline(always)]
fn store_lane<const F: bool, const N: usize, const HIGH: bool>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let at = tri!(try_address::<F>(c, op, N as u64, true, false));
    let value = x(c, op.b);
    tri!(c.try_store::<F, N>(m, b, op, at, (if HIGH { value >> 64 } else { value }) as u64));
    if F { Flow::Next } else { c.brk }
}

/// MOVLPx and MOVHPx (`HIGH`) from memory.
#[inline(always)]
fn load_half<const F: bool, const HIGH: bool>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let at = tri!(try_address::<F>(c, op, 8, false, false));
    let value = u128::from(tri!(c.try_load::<F, 8>(m, b, op, at)));
    let old = x(c, op.a);
    set_x(c, op.a, if HIGH { merge_low(value << 64, old, 64) } else { merge_low(old, value, 64) });
    if F { Flow::Next } else { c.brk }
}

// Between general and XMM registers.

#[inline(always)]
fn to_xmm(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = c.r[usize::from(op.b & 15)];
    set_x(c, op.a, u128::from(if op.imm & WIDE != 0 { value } else { value & 0xffff_ffff }));
    Flow::Next
}
#[inline(always)]
fn from_xmm(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = x(c, op.b) as u64;
    set_r(c, op.a, if op.imm & WIDE != 0 { value } else { value & 0xffff_ffff });
    Flow::Next
}

handler!(/// PEXTRx and EXTRACTPS to memory: the width is in `imm` bits 12 and up.
extract_store |c, m, b, op| {
    let bytes = op.imm >> 12;
    let value = x(c, op.b);
    let at = address(c, op, bytes, true, false)?;
    match bytes {
        1 => c.store::<1>(m, b, op, at, int::pextrb(value, op.imm as u8))?,
        2 => c.store::<2>(m, b, op, at, int::pextrw(value, op.imm as u8))?,
        4 => c.store::<4>(m, b, op, at, int::pextrd(value, op.imm as u8))?,
        _ => c.store::<8>(m, b, op, at, int::pextrq(value, op.imm as u8))?,
    }
    Ok(c.brk)
});
handler!(/// MASKMOVDQU: byte by byte through one 16-byte exchange; bytes not selected are not written, and their pages still checked.
maskmovdqu |c, m, b, op| {
    let mask = int::pmovmskb(x(c, op.b), 0) as u16;
    let value = x(c, op.a);
    masked_store(c, m, b, op, value, mask, 16)
});

fn masked_store(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, value: u128, mask: u16, bytes: u64) -> Result<Flow, Fault> {
    let at = address(c, op, bytes, true, false)?;
    if mask != 0 {
        c.check_write(m, b, op, at, bytes)?;
    } else {
        // Pages are checked all the same, alignment is not.
        c.check_write(m, b, op, at, 1)?;
        if at & 0xfff > 4096 - bytes {
            c.check_write(m, b, op, (at | 0xfff).wrapping_add(1), 1)?;
        }
    }
    for i in (0..bytes).filter(|i| mask >> i & 1 == 1) {
        c.store::<1>(m, b, op, at.wrapping_add(i), (value >> (8 * i)) as u64)?;
    }
    Ok(c.brk)
}

handler!(ldmxcsr |c, m, b, op| {
    let at = address(c, op, 4, false, false)?;
    let value = c.load::<4>(m, b, op, at)? as u32;
    if value & !MXCSR_MASK != 0 {
        return Err(c.gp0());
    }
    c.mxcsr = value;
    Ok(c.brk)
});
handler!(stmxcsr |c, m, b, op| {
    let at = address(c, op, 4, true, false)?;
    let value = u64::from(c.mxcsr);
    c.store::<4>(m, b, op, at, value)?;
    Ok(c.brk)
});

/// PCMPxSTRx; `imm` bits 9 and 10: explicit lengths, mask result.
const EXPLICIT: u64 = 1 << 9;
const TO_MASK: u64 = 1 << 10;

fn compare_strings(c: &mut Core, op: &Op, second: u128) {
    let (first, imm) = (x(c, op.a), op.imm as u8);
    let length = |register: u64| {
        let value = if op.imm & WIDE != 0 { register as i64 } else { i64::from(register as i32) };
        string::explicit_length(value, imm)
    };
    let (first_length, second_length) = if op.imm & EXPLICIT != 0 {
        (length(c.r[RAX]), length(c.r[RDX]))
    } else {
        (string::implicit_length(first, imm), string::implicit_length(second, imm))
    };
    let result = string::compare(first, second, first_length, second_length, imm);
    if op.imm & TO_MASK != 0 {
        c.xmm[0] = result.mask;
    } else {
        c.r[RCX] = u64::from(result.index);
    }
    c.set_arith(u64::from(result.flags));
}

pub(crate) fn strings_reg(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    let second = x(c, op.b);
    compare_strings(c, op, second);
    Flow::Next
}
handler!(strings_mem |c, m, b, op| {
    let at = address(c, op, 16, false, false)?;
    let second = c.load128(m, b, op, at)?;
    compare_strings(c, op, second);
    Ok(c.brk)
});

/// CRC32 r, r/m: source bytes in `imm`; 0x10 in `op.b` names AH to BH.
fn crc_reg(c: &mut Core, _: &mut GuestMemory, _: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = c.r[usize::from(op.b & 15)] >> if op.b & 0x10 != 0 { 8 } else { 0 };
    let crc = crc32c(c.r[usize::from(op.a & 15)] as u32, value, op.imm as u8);
    set_r(c, op.a, u64::from(crc));
    Flow::Next
}
handler!(crc_mem |c, m, b, op| {
    let bytes = op.imm as u8;
    let at = address(c, op, u64::from(bytes), false, false)?;
    let value = load(c, m, b, op, at, bytes)? as u64;
    let crc = crc32c(c.r[usize::from(op.a & 15)] as u32, value, bytes);
    set_r(c, op.a, u64::from(crc));
    Ok(c.brk)
});

// MMX.

/// A pending x87 exception comes first; then the stack becomes MMX registers.
fn enter_mmx(c: &mut Core) -> Result<(), Fault> {
    if c.x87.pending() {
        return Err(c.raise(vector::MF));
    }
    Ok(())
}

fn mmx_op(op: &Op) -> SseOp {
    sse::TABLE[(op.imm >> INDEX_SHIFT) as usize].op
}

/// `dst = f(dst, src)` on MMX registers.
fn mmx_compute(c: &mut Core, op: &Op, src: u64) -> Result<(), Fault> {
    let value = mmx_op(op).mmx(c.x87.mm(op.a), src, op.imm as u8);
    let Some(value) = value else { return Err(c.ud()) };
    c.x87.enter_mmx();
    c.x87.set_mm(op.a, value);
    Ok(())
}

handler!(mmx_reg |c, _m, _b, op| {
    enter_mmx(c)?;
    let src = c.x87.mm(op.b);
    mmx_compute(c, op, src)?;
    Ok(Flow::Next)
});
handler!(/// The width of the memory operand is in `imm` bits 12 to 15.
mmx_mem |c, m, b, op| {
    enter_mmx(c)?;
    let bytes = (op.imm >> 12 & 15) as u8;
    let at = address(c, op, u64::from(bytes), false, false)?;
    let src = load(c, m, b, op, at, bytes)? as u64;
    mmx_compute(c, op, src)?;
    Ok(c.brk)
});
handler!(mmx_shift |c, _m, _b, op| {
    enter_mmx(c)?;
    mmx_compute(c, op, u64::from(op.imm as u8))?;
    Ok(Flow::Next)
});
handler!(/// PINSRW from a general register, MOVD and MOVQ to MMX.
mmx_from_gpr |c, _m, _b, op| {
    enter_mmx(c)?;
    let value = c.r[usize::from(op.b & 15)];
    if op.imm >> INDEX_SHIFT != 0 {
        mmx_compute(c, op, value)?;
    } else {
        c.x87.enter_mmx();
        c.x87.set_mm(op.a, if op.imm & WIDE != 0 { value } else { value & 0xffff_ffff });
    }
    Ok(Flow::Next)
});
handler!(mmx_to_gpr |c, _m, _b, op| {
    enter_mmx(c)?;
    let value = c.x87.mm(op.b);
    c.x87.enter_mmx();
    let value = match op.imm >> INDEX_SHIFT {
        1 => int::movmskb_mmx(value),
        2 => value >> (16 * (op.imm & 3)) & 0xffff,
        _ if op.imm & WIDE != 0 => value,
        _ => value & 0xffff_ffff,
    };
    set_r(c, op.a, value);
    Ok(Flow::Next)
});
handler!(mmx_load |c, m, b, op| {
    enter_mmx(c)?;
    let bytes = if op.imm & WIDE != 0 { 8 } else { 4 };
    let at = address(c, op, u64::from(bytes), false, false)?;
    let value = load(c, m, b, op, at, bytes)? as u64;
    c.x87.enter_mmx();
    c.x87.set_mm(op.a, value);
    Ok(c.brk)
});
handler!(mmx_store |c, m, b, op| {
    enter_mmx(c)?;
    let value = c.x87.mm(op.b);
    if op.imm & WIDE != 0 {
        let at = address(c, op, 8, true, false)?;
        c.store::<8>(m, b, op, at, value)?;
    } else {
        let at = address(c, op, 4, true, false)?;
        c.store::<4>(m, b, op, at, value)?;
    }
    c.x87.enter_mmx();
    Ok(c.brk)
});
handler!(mmx_move |c, _m, _b, op| {
    enter_mmx(c)?;
    let value = c.x87.mm(op.b);
    c.x87.enter_mmx();
    c.x87.set_mm(op.a, value);
    Ok(Flow::Next)
});
handler!(movq2dq |c, _m, _b, op| {
    enter_mmx(c)?;
    let value = c.x87.mm(op.b);
    c.x87.enter_mmx();
    set_x(c, op.a, u128::from(value));
    Ok(Flow::Next)
});
handler!(movdq2q |c, _m, _b, op| {
    enter_mmx(c)?;
    let value = x(c, op.b) as u64;
    c.x87.enter_mmx();
    c.x87.set_mm(op.a, value);
    Ok(Flow::Next)
});
handler!(maskmovq |c, m, b, op| {
    enter_mmx(c)?;
    let mask = int::movmskb_mmx(c.x87.mm(op.b)) as u16;
    let value = u128::from(c.x87.mm(op.a));
    // The x87 state becomes MMX state even if the store faults.
    c.x87.enter_mmx();
    masked_store(c, m, b, op, value, mask, 8)
});
handler!(emms |c, _m, _b, _op| {
    enter_mmx(c)?;
    c.x87.leave_mmx();
    Ok(Flow::Next)
});

/// CVTPI2Px: source an MMX register or 8 bytes of memory.
fn run_float(c: &mut Core, op: &Op, src: u128) -> Result<u128, Fault> {
    let Body::Float(f) = mmx_op(op).row().body else { return Err(c.ud()) };
    let dst = x(c, op.a);
    f(dst, src, 0, &mut c.mxcsr).map_err(|_| simd_fault(c))
}
handler!(/// The x87 state becomes MMX state even if the conversion faults.
mmx_to_floats |c, _m, _b, op| {
    enter_mmx(c)?;
    c.x87.enter_mmx();
    let value = run_float(c, op, u128::from(c.x87.mm(op.b)))?;
    set_x(c, op.a, value);
    Ok(Flow::Next)
});
handler!(/// From memory no MMX register takes part, and the x87 state stays (Intel enters MMX state for CVTPI2PS, AMD does not).
memory_to_floats |c, m, b, op| {
    let at = address(c, op, 8, false, false)?;
    let src = c.load::<8>(m, b, op, at)?;
    let value = run_float(c, op, u128::from(src))?;
    set_x(c, op.a, value);
    Ok(c.brk)
});
/// CVT(T)PS2PI and CVT(T)PD2PI: destination an MMX register.
fn floats_to_mmx(c: &mut Core, op: &Op, src: u128) -> Result<(), Fault> {
    let Body::Float(f) = mmx_op(op).row().body else { return Err(c.ud()) };
    // The x87 state has become MMX state even if the conversion faults.
    c.x87.enter_mmx();
    let value = f(0, src, 0, &mut c.mxcsr).map_err(|_| simd_fault(c))?;
    c.x87.set_mm(op.a, value as u64);
    Ok(())
}
handler!(floats_to_mmx_reg |c, _m, _b, op| {
    enter_mmx(c)?;
    let src = x(c, op.b);
    floats_to_mmx(c, op, src)?;
    Ok(Flow::Next)
});
handler!(floats_to_mmx_mem |c, m, b, op| {
    enter_mmx(c)?;
    let bytes = mmx_op(op).row().src_bytes;
    let at = address(c, op, u64::from(bytes), false, bytes == 16)?;
    let src = load(c, m, b, op, at, bytes)?;
    floats_to_mmx(c, op, src)?;
    Ok(c.brk)
});

// Lowering.

fn number(register: Register) -> u8 {
    if register.is_xmm() || register.is_mm() {
        return register.number() as u8;
    }
    if matches!(register, Register::AH | Register::CH | Register::DH | Register::BH) {
        return register.full_register().number() as u8 | 0x10;
    }
    register.full_register().number() as u8
}

fn is_memory(insn: &Instruction, operand: u32) -> bool {
    operand < insn.op_count() && insn.op_kind(operand) == OpKind::Memory
}

fn is_mm(insn: &Instruction, operand: u32) -> bool {
    operand < insn.op_count() && insn.op_kind(operand) == OpKind::Register && insn.op_register(operand).is_mm()
}

fn is_gpr(insn: &Instruction, operand: u32) -> bool {
    operand < insn.op_count() && insn.op_kind(operand) == OpKind::Register && insn.op_register(operand).is_gpr()
}

fn immediate(insn: &Instruction) -> u64 {
    let last = insn.op_count().saturating_sub(1);
    if insn.op_count() > 0 && insn.op_kind(last) == OpKind::Immediate8 { u64::from(insn.immediate8()) } else { 0 }
}

/// Chooses the handler of an SSE or MMX instruction; `None` if it is neither.
pub(crate) fn lower(insn: &Instruction, op: &mut Op, bits: u32) -> Option<Run> {
    let mmx = (0..insn.op_count()).any(|i| is_mm(insn, i)) || insn.mnemonic() == M::Emms;
    let handler = choose(insn, op, bits)?;
    // CRC32 and MOVNTI use no SSE state.
    if matches!(insn.mnemonic(), M::Crc32) {
        return Some(handler);
    }
    if bits & mode::EM != 0 || (bits & mode::NO_SSE != 0 && (!mmx || has_xmm(insn))) {
        return Some(Run::plain(raise_ud));
    }
    if bits & mode::TS != 0 {
        return Some(Run::plain(raise_nm));
    }
    Some(handler)
}

fn has_xmm(insn: &Instruction) -> bool {
    (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Register && insn.op_register(i).is_xmm())
}

fn choose(insn: &Instruction, op: &mut Op, bits: u32) -> Option<Run> {
    if insn.encoding() != iced_x86::EncodingKind::Legacy {
        return None;
    }
    if (0..insn.op_count()).any(|i| is_memory(insn, i)) {
        crate::lower::memory_operand(insn, op, bits);
    }
    for (slot, operand) in [(&mut op.a, 0), (&mut op.b, 1)] {
        if operand < insn.op_count() && insn.op_kind(operand) == OpKind::Register {
            *slot = number(insn.op_register(operand));
        }
    }
    op.imm = immediate(insn);
    if let Some(handler) = moves(insn, op) {
        return Some(handler);
    }
    let row = SseOp::of(insn)?;
    let index = row.index();
    if (0..insn.op_count()).any(|i| is_mm(insn, i)) {
        return Some(Run::plain(lower_mmx(insn, op, row)));
    }
    use SseOp::{Cvtsi2sd, Cvtsi2ss, Extractps, Insertps, Pextrb, Pextrd, Pextrq, Pextrw};
    if matches!(row, Pextrb | Pextrw | Pextrd | Pextrq | Extractps) && is_memory(insn, 0) {
        let bytes = match row {
            Pextrb => 1,
            Pextrw => 2,
            Pextrq => 8,
            _ => 4,
        };
        op.imm |= bytes << 12;
        return Some(Run::plain(extract_store));
    }
    if matches!(row, Cvtsi2ss | Cvtsi2sd) {
        if matches!(insn.code(), Code::Cvtsi2ss_xmm_rm64 | Code::Cvtsi2sd_xmm_rm64) {
            op.imm |= WIDE;
        }
        return Some(match (row, is_memory(insn, 1)) {
            (Cvtsi2ss, false) => run!(gpr::<{ Cvtsi2ss as usize }>),
            (Cvtsi2ss, true) => Run::plain(gpr_mem::<{ Cvtsi2ss as usize }>),
            (_, false) => run!(gpr::<{ Cvtsi2sd as usize }>),
            (_, true) => Run::plain(gpr_mem::<{ Cvtsi2sd as usize }>),
        });
    }
    if is_gpr(insn, 1) {
        op.imm |= WIDE;
        return Some(match row {
            SseOp::Pinsrb => run!(gpr::<{ SseOp::Pinsrb as usize }>),
            SseOp::Pinsrw => run!(gpr::<{ SseOp::Pinsrw as usize }>),
            SseOp::Pinsrd => run!(gpr::<{ SseOp::Pinsrd as usize }>),
            SseOp::Pinsrq => run!(gpr::<{ SseOp::Pinsrq as usize }>),
            _ => return None,
        });
    }
    // The immediate forms of the shifts.
    if insn.op_count() == 2 && insn.op_kind(1) == OpKind::Immediate8 {
        return Some(match row {
            SseOp::Psllw => run!(shift::<{ SseOp::Psllw as usize }>),
            SseOp::Pslld => run!(shift::<{ SseOp::Pslld as usize }>),
            SseOp::Psllq => run!(shift::<{ SseOp::Psllq as usize }>),
            SseOp::Psrlw => run!(shift::<{ SseOp::Psrlw as usize }>),
            SseOp::Psrld => run!(shift::<{ SseOp::Psrld as usize }>),
            SseOp::Psrlq => run!(shift::<{ SseOp::Psrlq as usize }>),
            SseOp::Psraw => run!(shift::<{ SseOp::Psraw as usize }>),
            SseOp::Psrad => run!(shift::<{ SseOp::Psrad as usize }>),
            SseOp::Pslldq => run!(shift::<{ SseOp::Pslldq as usize }>),
            SseOp::Psrldq => run!(shift::<{ SseOp::Psrldq as usize }>),
            _ => return None,
        });
    }
    if is_memory(insn, 1) {
        if row == Insertps {
            op.imm &= 0x3f;
        }
        return MEM.get(index).copied();
    }
    // PEXTRx r, xmm: the XMM register is the source.
    REG.get(index).copied()
}

fn lower_mmx(insn: &Instruction, op: &mut Op, row: SseOp) -> Handler {
    use SseOp::{Cvtpd2pi, Cvtpi2pd, Cvtpi2ps, Cvtps2pi, Cvttpd2pi, Cvttps2pi};
    let index = (row.index() as u64) << INDEX_SHIFT;
    match row {
        Cvtpi2ps | Cvtpi2pd => {
            op.imm = index;
            return mmx_to_floats;
        }
        Cvtps2pi | Cvttps2pi | Cvtpd2pi | Cvttpd2pi => {
            op.imm = index;
            return if is_memory(insn, 1) { floats_to_mmx_mem } else { floats_to_mmx_reg };
        }
        SseOp::Pmovmskb => {
            op.imm = 1 << INDEX_SHIFT;
            return mmx_to_gpr;
        }
        SseOp::Pextrw => {
            op.imm |= 2 << INDEX_SHIFT;
            return mmx_to_gpr;
        }
        SseOp::Pinsrw if !is_memory(insn, 1) => {
            op.imm |= index;
            return mmx_from_gpr;
        }
        _ => {}
    }
    op.imm |= index;
    if is_memory(insn, 1) {
        op.imm |= (insn.memory_size().size() as u64) << 12;
        mmx_mem
    } else if insn.op_count() == 2 && insn.op_kind(1) == OpKind::Immediate8 {
        mmx_shift
    } else {
        mmx_reg
    }
}

/// `Op::imm` of a string comparison: explicit lengths, in 64-bit registers, and a mask for a result.
pub(crate) fn string_form(explicit: bool, wide: bool, mask: bool) -> u64 {
    [(explicit, EXPLICIT), (wide, WIDE), (mask, TO_MASK)].iter().filter(|row| row.0).fold(0, |bits, row| bits | row.1)
}

/// Operands of the MASKMOVs: the implicit DS:rDI, value, mask.
pub(crate) fn implicit_destination(insn: &Instruction, op: &mut Op) {
    op.a = number(insn.op_register(1));
    op.b = number(insn.op_register(2));
    op.base = RDI as u8;
    op.index = crate::op::NO_REG;
    op.disp = 0;
    let size = match insn.op0_kind() {
        OpKind::MemorySegDI => EA_ADDR16,
        OpKind::MemorySegEDI => EA_ADDR32,
        _ => 0,
    };
    op.ea = (crate::lower::segment_number(insn.memory_segment()) as u8) << EA_SEG_SHIFT | size;
}

/// Moves and the instructions with implicit operands.
fn moves(insn: &Instruction, op: &mut Op) -> Option<Run> {
    let (to_memory, from_memory) = (is_memory(insn, 0), is_memory(insn, 1));
    let by = |reg: Run, load: Run, store: Run| if to_memory { store } else if from_memory { load } else { reg };
    Some(match insn.mnemonic() {
        M::Movaps | M::Movapd | M::Movdqa => by(run!(mov_rr), run!(load_whole[true]), run!(store_whole[true])),
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => by(run!(mov_rr), run!(load_whole[false]), run!(store_whole[false])),
        M::Movntps | M::Movntpd | M::Movntdq | M::Movntdqa => by(run!(mov_rr), run!(load_whole[true]), run!(store_whole[true])),
        M::Movss => by(run!(movss_rr), run!(load_lane[4]), run!(store_lane[4, false])),
        M::Movsd => match insn.code() {
            Code::Movsd_xmm_xmmm64 | Code::Movsd_xmmm64_xmm => by(run!(movsd_rr), run!(load_lane[8]), run!(store_lane[8, false])),
            _ => return None,
        },
        M::Movlps | M::Movlpd => by(run!(movhlps), run!(load_half[false]), run!(store_lane[8, false])),
        M::Movhps | M::Movhpd => by(run!(movlhps), run!(load_half[true]), run!(store_lane[8, true])),
        M::Movlhps => run!(movlhps),
        M::Movhlps => run!(movhlps),
        M::Movd | M::Movq => {
            let wide = insn.mnemonic() == M::Movq;
            if wide {
                op.imm |= WIDE;
            }
            match (is_mm(insn, 0) || is_mm(insn, 1), to_memory, from_memory) {
                (true, true, _) => Run::plain(mmx_store),
                (true, _, true) => Run::plain(mmx_load),
                (true, ..) if is_gpr(insn, 0) => Run::plain(mmx_to_gpr),
                (true, ..) if is_gpr(insn, 1) => Run::plain(mmx_from_gpr),
                (true, ..) => Run::plain(mmx_move),
                (_, true, _) => if wide { run!(store_lane[8, false]) } else { run!(store_lane[4, false]) },
                (_, _, true) => if wide { run!(load_lane[8]) } else { run!(load_lane[4]) },
                _ if is_gpr(insn, 0) => run!(from_xmm),
                _ if is_gpr(insn, 1) => run!(to_xmm),
                _ => run!(movq_rr),
            }
        }
        M::Movntq => {
            op.imm |= WIDE;
            Run::plain(mmx_store)
        }
        M::Movq2dq => Run::plain(movq2dq),
        M::Movdq2q => Run::plain(movdq2q),
        M::Emms => Run::plain(emms),
        M::Cvtpi2ps | M::Cvtpi2pd if from_memory => {
            op.imm = (SseOp::of(insn)?.index() as u64) << INDEX_SHIFT;
            Run::plain(memory_to_floats)
        }
        M::Maskmovdqu | M::Maskmovq => {
            implicit_destination(insn, op);
            Run::plain(if insn.mnemonic() == M::Maskmovq { maskmovq } else { maskmovdqu })
        }
        M::Ldmxcsr => Run::plain(ldmxcsr),
        M::Stmxcsr => Run::plain(stmxcsr),
        M::Crc32 => {
            op.imm = match insn.code() {
                Code::Crc32_r32_rm8 | Code::Crc32_r64_rm8 => 1,
                Code::Crc32_r32_rm16 => 2,
                Code::Crc32_r64_rm64 => 8,
                _ => 4,
            };
            Run::plain(if from_memory { crc_mem } else { crc_reg })
        }
        M::Pcmpestri | M::Pcmpestrm | M::Pcmpistri | M::Pcmpistrm | M::Pcmpestri64 | M::Pcmpestrm64 => {
            op.imm |= string_form(
                !matches!(insn.mnemonic(), M::Pcmpistri | M::Pcmpistrm),
                matches!(insn.mnemonic(), M::Pcmpestri64 | M::Pcmpestrm64),
                matches!(insn.mnemonic(), M::Pcmpestrm | M::Pcmpistrm | M::Pcmpestrm64),
            );
            Run::plain(if from_memory { strings_mem } else { strings_reg })
        }
        _ => return None,
    })
}
