//! Shifts, rotates, bit tests and scans, BMI, ADX, CRC32.

use super::{IMM, MB, MI, MS, REG, done, ea, get, pick, pick_rm, set, source, tri};
use crate::core::Core;
use crate::flags::{self, log2, sext, trunc};
use crate::op::{Flow, Op, Run};
use crate::state::RCX;
use crate::state::rflags::{AF, CF, OF, ZF};
use sim_bus::CpuBus;
use sim_mem::GuestMemory;

/// Shift group, in the order of its encoding.
pub(crate) const ROL: u8 = 0;
pub(crate) const ROR: u8 = 1;
pub(crate) const RCL: u8 = 2;
pub(crate) const RCR: u8 = 3;
pub(crate) const SHL: u8 = 4;
pub(crate) const SHR: u8 = 5;
pub(crate) const SAR: u8 = 7;

#[inline(always)]
fn shift_flags<const N: usize>(c: &mut Core, res: u64, carry: bool, overflow: bool) {
    c.cc_op = flags::SHIFT | log2(N);
    c.cc_res = res;
    c.cc_src = AF | if carry { CF } else { 0 } | if overflow { OF } else { 0 };
}

/// SF, ZF and PF of a result, a carry, no overflow and no AF.
#[inline(always)]
fn carry_flags<const N: usize>(c: &mut Core, res: u64, carry: bool) {
    c.cc_op = flags::SHIFT | log2(N);
    c.cc_res = res;
    c.cc_src = if carry { CF } else { 0 };
}

/// One shift or rotate. A masked count of zero changes no flag.
#[inline(always)]
fn shift<const K: u8, const N: usize>(c: &mut Core, value: u64, count: u64) -> u64 {
    let bits = 8 * N as u32;
    let count = (count & if N == 8 { 63 } else { 31 }) as u32;
    if count == 0 {
        return value;
    }
    let top = |value: u64| value >> (bits - 1) & 1 != 0;
    match K {
        SHL => {
            let res = trunc::<N>(value << count);
            let carry = if count > bits { false } else { value >> (bits - count) & 1 != 0 };
            shift_flags::<N>(c, res, carry, top(res) != carry);
            res
        }
        SHR => {
            let res = value >> count;
            let carry = value >> (count - 1) & 1 != 0;
            shift_flags::<N>(c, res, carry, (res << 1 ^ res) >> (bits - 1) & 1 != 0);
            res
        }
        SAR => {
            let signed = sext::<N>(value);
            let res = trunc::<N>((signed >> count) as u64);
            let carry = signed >> (count - 1) & 1 != 0;
            shift_flags::<N>(c, res, carry, false);
            res
        }
        ROL | ROR => {
            let turn = count % bits;
            let res = if turn == 0 {
                value
            } else if K == ROL {
                trunc::<N>(value << turn | value >> (bits - turn))
            } else {
                trunc::<N>(value >> turn | value << (bits - turn))
            };
            let (carry, overflow) = if K == ROL { (res & 1 != 0, top(res) != (res & 1 != 0)) } else { (top(res), top(res) != (res >> (bits - 2) & 1 != 0)) };
            c.set_some(CF | OF, if carry { CF } else { 0 } | if overflow { OF } else { 0 });
            res
        }
        _ => {
            // RCL, RCR: through carry, modulo size + 1.
            let turn = count % (bits + 1);
            let carry_in = c.cf();
            let wide = u128::from(value) | u128::from(carry_in) << bits;
            let width = bits + 1;
            let mask = (1u128 << width) - 1;
            let turned = if turn == 0 {
                wide
            } else if K == RCL {
                (wide << turn | wide >> (width - turn)) & mask
            } else {
                (wide >> turn | wide << (width - turn)) & mask
            };
            let res = trunc::<N>(turned as u64);
            let carry = turned >> bits & 1 != 0;
            let overflow = if K == RCL { top(res) != carry } else { top(res) != (res >> (bits - 2) & 1 != 0) };
            c.set_some(CF | OF, if carry { CF } else { 0 } | if overflow { OF } else { 0 });
            res
        }
    }
}

/// Shift by immediate (`S` = IMM) or by CL (`S` = REG).
#[inline(always)]
fn shift_reg<const F: bool, const K: u8, const S: u8, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let count = if S == IMM { op.imm } else { c.r[RCX] };
    if M == REG {
        let value = get::<N>(c, op.a);
        let res = shift::<K, N>(c, value, count);
        set::<N>(c, op.a, res);
        return Flow::Next;
    }
    let address = tri!(ea::<F, M>(c, op, N as u64, true));
    tri!(c.try_modify::<F, N>(m, b, op, address, |c, value| shift::<K, N>(c, value, count)));
    done::<F, MS>(c)
}

pub(crate) fn shift_handler(kind: u8, imm: bool, size: usize, place: u8) -> Run {
    macro_rules! by_kind {
        ($s:tt) => {
            match kind {
                ROL => pick_rm!(shift_reg [ROL, $s,], size, place),
                ROR => pick_rm!(shift_reg [ROR, $s,], size, place),
                RCL => pick_rm!(shift_reg [RCL, $s,], size, place),
                RCR => pick_rm!(shift_reg [RCR, $s,], size, place),
                SHL => pick_rm!(shift_reg [SHL, $s,], size, place),
                SHR => pick_rm!(shift_reg [SHR, $s,], size, place),
                _ => pick_rm!(shift_reg [SAR, $s,], size, place),
            }
        };
    }
    if imm { by_kind!(IMM) } else { by_kind!(REG) }
}

/// SHLD, SHRD (`R`) of `dst` with `fill`.
fn double_shift<const R: bool, const N: usize>(c: &mut Core, dst: u64, fill: u64, count: u64) -> u64 {
    let bits = 8 * N as u32;
    let count = (count & if N == 8 { 63 } else { 31 }) as u32;
    if count == 0 {
        return dst;
    }
    let (dst, fill) = (u128::from(dst), u128::from(fill));
    // 16-bit operands with counts over 16 go on into the destination again (a:b:a).
    let (res, carry) = if R {
        let wide = dst | fill << bits | if N == 2 { dst << 32 } else { 0 };
        ((wide >> count) as u64, wide >> (count - 1) & 1 != 0)
    } else if N == 2 {
        let wide = dst << 32 | fill << 16 | dst;
        ((wide << count >> 32) as u64, wide >> (48 - count) & 1 != 0)
    } else {
        let wide = dst << bits | fill;
        ((wide << count >> bits) as u64, dst >> (bits - count) & 1 != 0)
    };
    let res = trunc::<N>(res);
    let top = res >> (bits - 1) & 1 != 0;
    let overflow = if R { top != (res >> (bits - 2) & 1 != 0) } else { top != carry };
    shift_flags::<N>(c, res, carry, overflow);
    res
}

#[inline(always)]
fn double<const F: bool, const R: bool, const S: u8, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let count = if S == IMM { op.imm } else { c.r[RCX] };
    let fill = get::<N>(c, op.b);
    if M == REG {
        let value = get::<N>(c, op.a);
        let res = double_shift::<R, N>(c, value, fill, count);
        set::<N>(c, op.a, res);
        return Flow::Next;
    }
    let address = tri!(ea::<F, M>(c, op, N as u64, true));
    tri!(c.try_modify::<F, N>(m, b, op, address, |c, value| double_shift::<R, N>(c, value, fill, count)));
    done::<F, MS>(c)
}

pub(crate) fn double_shift_handler(right: bool, imm: bool, size: usize, place: u8) -> Run {
    match (right, imm) {
        (false, false) => pick_rm!(double [false, REG,], size, place),
        (false, true) => pick_rm!(double [false, IMM,], size, place),
        (true, false) => pick_rm!(double [true, REG,], size, place),
        (true, true) => pick_rm!(double [true, IMM,], size, place),
    }
}

/// BT group.
pub(crate) const BT: u8 = 0;
pub(crate) const BTS: u8 = 1;
pub(crate) const BTR: u8 = 2;
pub(crate) const BTC: u8 = 3;

fn bit_change<const K: u8>(value: u64, bit: u64) -> u64 {
    match K {
        BTS => value | 1 << bit,
        BTR => value & !(1 << bit),
        BTC => value ^ 1 << bit,
        _ => value,
    }
}

/// BT and friends. `S` = IMM or REG for the bit offset; a register offset reaches beyond a memory operand.
#[inline(always)]
fn bit_test<const F: bool, const K: u8, const S: u8, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let bits = 8 * N as u64;
    let offset = if S == IMM { op.imm & (bits - 1) } else { get::<N>(c, op.b) };
    let bit = offset & (bits - 1);
    if M == REG {
        let value = get::<N>(c, op.a);
        c.set_some(CF, value >> bit & 1);
        if K != BT {
            set::<N>(c, op.a, bit_change::<K>(value, bit));
        }
        return Flow::Next;
    }
    let mut moved = *op;
    if S == REG {
        moved.disp = op.disp.wrapping_add(((sext::<N>(offset) >> log2(N) >> 3) * N as i64) as u64);
    }
    let address = tri!(ea::<F, M>(c, &moved, N as u64, K != BT));
    if K == BT {
        let value = tri!(c.try_load::<F, N>(m, b, &moved, address));
        c.set_some(CF, value >> bit & 1);
    } else {
        tri!(c.try_modify::<F, N>(m, b, &moved, address, |c, value| {
            c.set_some(CF, value >> bit & 1);
            bit_change::<K>(value, bit)
        }));
    }
    done::<F, MS>(c)
}

pub(crate) fn bit_test_handler(kind: u8, imm: bool, size: usize, place: u8) -> Run {
    macro_rules! by_kind {
        ($s:tt) => {
            match kind {
                BT => pick_rm!(bit_test [BT, $s,], size, place),
                BTS => pick_rm!(bit_test [BTS, $s,], size, place),
                BTR => pick_rm!(bit_test [BTR, $s,], size, place),
                _ => pick_rm!(bit_test [BTC, $s,], size, place),
            }
        };
    }
    if imm { by_kind!(IMM) } else { by_kind!(REG) }
}

/// Counting and scanning.
pub(crate) const BSF: u8 = 0;
pub(crate) const BSR: u8 = 1;
pub(crate) const TZCNT: u8 = 2;
pub(crate) const LZCNT: u8 = 3;
pub(crate) const POPCNT: u8 = 4;

#[inline(always)]
fn scan<const F: bool, const K: u8, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let bits = 8 * N as u64;
    let src = tri!(source::<F, N, M>(c, m, b, op));
    let res = match K {
        BSF | BSR if src == 0 => {
            // The destination stays (APM vol. 3), in all its bits.
            c.set_cc::<N>(flags::LOGIC, 0, 0);
            return done::<F, M>(c);
        }
        BSF => u64::from(src.trailing_zeros()),
        BSR => 63 - u64::from(src.leading_zeros()),
        TZCNT => u64::from(src.trailing_zeros()).min(bits),
        LZCNT => u64::from(src.leading_zeros()) - (64 - bits),
        _ => u64::from(src.count_ones()),
    };
    match K {
        // ZF tells of the source, SF and PF of the result.
        BSF | BSR => {
            c.set_cc::<N>(flags::LOGIC, res, 0);
            c.set_some(ZF, 0);
        }
        TZCNT | LZCNT => c.set_arith(if res == bits { CF } else { 0 } | if res == 0 { ZF } else { 0 }),
        _ => c.set_arith(if src == 0 { ZF } else { 0 }),
    }
    set::<N>(c, op.a, res);
    done::<F, M>(c)
}

pub(crate) fn scan_handler(kind: u8, size: usize, place: u8) -> Run {
    match kind {
        BSF => pick_rm!(scan [BSF,], size, place),
        BSR => pick_rm!(scan [BSR,], size, place),
        TZCNT => pick_rm!(scan [TZCNT,], size, place),
        LZCNT => pick_rm!(scan [LZCNT,], size, place),
        _ => pick_rm!(scan [POPCNT,], size, place),
    }
}

/// BMI1 and BMI2 with three operands: destination `a`, `b` or memory, and a second register in `imm`.
pub(crate) const ANDN: u8 = 0;
pub(crate) const BEXTR: u8 = 1;
pub(crate) const BLSR: u8 = 2;
pub(crate) const BLSMSK: u8 = 3;
pub(crate) const BLSI: u8 = 4;
pub(crate) const BZHI: u8 = 5;
pub(crate) const PDEP: u8 = 6;
pub(crate) const PEXT: u8 = 7;
pub(crate) const SARX: u8 = 8;
pub(crate) const SHLX: u8 = 9;
pub(crate) const SHRX: u8 = 10;
pub(crate) const RORX: u8 = 11;
pub(crate) const MULX: u8 = 12;

#[inline(always)]
fn bmi<const F: bool, const K: u8, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let bits = 8 * N as u64;
    let src = tri!(source::<F, N, M>(c, m, b, op));
    let other = if K == RORX { op.imm } else { get::<N>(c, op.imm as u8 & 31) };
    let res = match K {
        ANDN => {
            let res = trunc::<N>(!other & src);
            c.set_cc::<N>(flags::LOGIC, res, 0);
            res
        }
        BEXTR => {
            let (start, len) = (other & 0xff, other >> 8 & 0xff);
            let shifted = if start >= bits { 0 } else { src >> start };
            let res = if len >= bits { shifted } else { shifted & ((1 << len) - 1) };
            c.set_arith(if res == 0 { ZF } else { 0 });
            res
        }
        BLSR | BLSMSK | BLSI => {
            let minus = src.wrapping_sub(1);
            let (res, carry) = match K {
                BLSR => (src & minus, src == 0),
                BLSMSK => (trunc::<N>(src ^ minus), src == 0),
                _ => (trunc::<N>(src & src.wrapping_neg()), src != 0),
            };
            carry_flags::<N>(c, res, carry);
            res
        }
        BZHI => {
            let count = other & 0xff;
            let res = if count >= bits { src } else { src & ((1 << count) - 1) };
            carry_flags::<N>(c, res, count >= bits);
            res
        }
        PDEP => deposit(other, src),
        PEXT => extract(other, src),
        SARX => trunc::<N>((sext::<N>(src) >> (other & (bits - 1))) as u64),
        SHLX => trunc::<N>(src << (other & (bits - 1))),
        SHRX => src >> (other & (bits - 1)),
        RORX => {
            let turn = other & (bits - 1);
            if turn == 0 { src } else { trunc::<N>(src >> turn | src << (bits - turn)) }
        }
        _ => {
            // MULX high:low = RDX * src; low to the second register first, so that equal registers keep the high half.
            let product = u128::from(get::<N>(c, crate::state::RDX as u8)) * u128::from(src);
            set::<N>(c, op.imm as u8, product as u64);
            trunc::<N>((product >> bits) as u64)
        }
    };
    set::<N>(c, op.a, res);
    done::<F, M>(c)
}

fn deposit(mut value: u64, mask: u64) -> u64 {
    let (mut left, mut res) = (mask, 0);
    while left != 0 {
        let bit = left & left.wrapping_neg();
        if value & 1 != 0 {
            res |= bit;
        }
        value >>= 1;
        left ^= bit;
    }
    res
}

fn extract(value: u64, mask: u64) -> u64 {
    let (mut left, mut res, mut place) = (mask, 0, 0);
    while left != 0 {
        let bit = left & left.wrapping_neg();
        if value & bit != 0 {
            res |= 1 << place;
        }
        place += 1;
        left ^= bit;
    }
    res
}

pub(crate) fn bmi_handler(kind: u8, size: usize, place: u8) -> Run {
    macro_rules! row {
        ($k:tt) => {
            match (size, place) {
                (8, REG) => super::run!(bmi [$k, 8, REG]),
                (_, REG) => super::run!(bmi [$k, 4, REG]),
                (8, _) => super::run!(bmi [$k, 8, MS]),
                (_, _) => super::run!(bmi [$k, 4, MS]),
            }
        };
    }
    match kind {
        ANDN => row!(ANDN),
        BEXTR => row!(BEXTR),
        BLSR => row!(BLSR),
        BLSMSK => row!(BLSMSK),
        BLSI => row!(BLSI),
        BZHI => row!(BZHI),
        PDEP => row!(PDEP),
        PEXT => row!(PEXT),
        SARX => row!(SARX),
        SHLX => row!(SHLX),
        SHRX => row!(SHRX),
        RORX => row!(RORX),
        _ => row!(MULX),
    }
}

/// ADCX (`O` false), ADOX.
#[inline(always)]
fn adx<const F: bool, const O: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let src = tri!(source::<F, N, M>(c, m, b, op));
    let flag = if O { OF } else { CF };
    let carry = if O { c.of() } else { c.cf() };
    let sum = u128::from(get::<N>(c, op.a)) + u128::from(src) + u128::from(carry);
    c.set_some(flag, if sum >> (8 * N) != 0 { flag } else { 0 });
    set::<N>(c, op.a, sum as u64);
    done::<F, M>(c)
}

pub(crate) fn adx_handler(overflow: bool, size: usize, place: u8) -> Run {
    match (overflow, size, place) {
        (false, 8, REG) => super::run!(adx [false, 8, REG]),
        (false, 8, _) => super::run!(adx [false, 8, MS]),
        (false, _, REG) => super::run!(adx [false, 4, REG]),
        (false, _, _) => super::run!(adx [false, 4, MS]),
        (true, 8, REG) => super::run!(adx [true, 8, REG]),
        (true, 8, _) => super::run!(adx [true, 8, MS]),
        (true, _, REG) => super::run!(adx [true, 4, REG]),
        (true, _, _) => super::run!(adx [true, 4, MS]),
    }
}

/// CRC32 (SSE4.2).
#[inline(always)]
fn crc32<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let src = tri!(source::<F, N, M>(c, m, b, op));
    let mut crc = c.r[usize::from(op.a & 15)] as u32;
    for index in 0..N {
        crc ^= (src >> (8 * index)) as u32 & 0xff;
        for _ in 0..8 {
            crc = crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    c.r[usize::from(op.a & 15)] = u64::from(crc);
    done::<F, M>(c)
}

pub(crate) fn crc32_handler(size: usize, place: u8) -> Run {
    pick!(crc32[], size, place)
}
