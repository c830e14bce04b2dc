//! Integer arithmetic and moves.

use super::{IMM, MB, MI, MS, REG, done, ea, get, pick, pick_mem, pick_rm, set, source, tri};
use crate::core::{Core, vector};
use crate::flags::{self, log2, sext, trunc};
use crate::op::{Flow, Op, Run};
use crate::state::rflags::{CF, OF, PF, SF, ZF};
use crate::state::{RAX, RBX, RCX, RDX};
use sim_bus::CpuBus;
use sim_mem::GuestMemory;

/// The ALU group in the order of its encoding; TEST beside it.
pub(crate) const ADD: u8 = 0;
pub(crate) const OR: u8 = 1;
pub(crate) const ADC: u8 = 2;
pub(crate) const SBB: u8 = 3;
pub(crate) const AND: u8 = 4;
pub(crate) const SUB: u8 = 5;
pub(crate) const XOR: u8 = 6;
pub(crate) const CMP: u8 = 7;
pub(crate) const TEST: u8 = 8;
pub(crate) const INC: u8 = 9;
pub(crate) const DEC: u8 = 10;
pub(crate) const NEG: u8 = 11;
pub(crate) const NOT: u8 = 12;

/// Computes one ALU operation and leaves its flags.
#[inline(always)]
pub(crate) fn alu<const K: u8, const N: usize>(c: &mut Core, dst: u64, src: u64) -> u64 {
    match K {
        ADD => {
            let res = trunc::<N>(dst.wrapping_add(src));
            c.set_cc::<N>(flags::ADD, res, src);
            res
        }
        ADC => {
            let carry = c.cf();
            let res = trunc::<N>(dst.wrapping_add(src).wrapping_add(u64::from(carry)));
            c.set_cc::<N>(if carry { flags::ADC } else { flags::ADD }, res, src);
            res
        }
        SUB | CMP => {
            let res = trunc::<N>(dst.wrapping_sub(src));
            c.set_cc::<N>(flags::SUB, res, src);
            res
        }
        SBB => {
            let borrow = c.cf();
            let res = trunc::<N>(dst.wrapping_sub(src).wrapping_sub(u64::from(borrow)));
            c.set_cc::<N>(if borrow { flags::SBB } else { flags::SUB }, res, src);
            res
        }
        INC => {
            let carry = u64::from(c.cf());
            let res = trunc::<N>(dst.wrapping_add(1));
            c.set_cc::<N>(flags::INC, res, carry);
            res
        }
        DEC => {
            let carry = u64::from(c.cf());
            let res = trunc::<N>(dst.wrapping_sub(1));
            c.set_cc::<N>(flags::DEC, res, carry);
            res
        }
        NEG => {
            let res = trunc::<N>(dst.wrapping_neg());
            c.set_cc::<N>(flags::SUB, res, dst);
            res
        }
        NOT => trunc::<N>(!dst),
        _ => {
            let res = match K {
                OR => dst | src,
                XOR => dst ^ src,
                _ => dst & src,
            };
            c.set_cc::<N>(flags::LOGIC, res, 0);
            res
        }
    }
}

const fn keeps_destination(kind: u8) -> bool {
    kind == CMP || kind == TEST
}

/// `op reg, src`.
#[inline(always)]
fn alu_reg<const F: bool, const K: u8, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let src = tri!(source::<F, N, M>(c, m, b, op));
    let dst = get::<N>(c, op.a);
    let res = alu::<K, N>(c, dst, src);
    if !keeps_destination(K) {
        set::<N>(c, op.a, res);
    }
    done::<F, M>(c)
}

/// `op mem, reg`.
#[inline(always)]
fn alu_mem_reg<const F: bool, const K: u8, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let src = get::<N>(c, op.b);
    alu_mem::<F, K, N, M>(c, m, b, op, src)
}

/// `op mem, imm`, and `op mem`.
#[inline(always)]
fn alu_mem_imm<const F: bool, const K: u8, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    alu_mem::<F, K, N, M>(c, m, b, op, trunc::<N>(op.imm))
}

#[inline(always)]
fn alu_mem<const F: bool, const K: u8, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, src: u64) -> Flow {
    if keeps_destination(K) {
        let address = tri!(ea::<F, M>(c, op, N as u64, false));
        let dst = tri!(c.try_load::<F, N>(m, b, op, address));
        alu::<K, N>(c, dst, src);
    } else {
        let address = tri!(ea::<F, M>(c, op, N as u64, true));
        tri!(c.try_modify::<F, N>(m, b, op, address, |c, dst| alu::<K, N>(c, dst, src)));
    }
    done::<F, MS>(c)
}

macro_rules! by_kind {
    ($f:ident, $pick:ident, $kind:expr, $n:expr, $m:expr) => {
        match $kind {
            ADD => $pick!($f [ADD,], $n, $m),
            OR => $pick!($f [OR,], $n, $m),
            ADC => $pick!($f [ADC,], $n, $m),
            SBB => $pick!($f [SBB,], $n, $m),
            AND => $pick!($f [AND,], $n, $m),
            SUB => $pick!($f [SUB,], $n, $m),
            XOR => $pick!($f [XOR,], $n, $m),
            CMP => $pick!($f [CMP,], $n, $m),
            _ => $pick!($f [TEST,], $n, $m),
        }
    };
}

/// Handler for `op reg, (reg|imm|mem)`.
pub(crate) fn alu_reg_handler(kind: u8, size: usize, place: u8) -> Run {
    by_kind!(alu_reg, pick, kind, size, place)
}

/// Handler for `op mem, (reg|imm)`.
pub(crate) fn alu_mem_handler(kind: u8, size: usize, place: u8, imm: bool) -> Run {
    if imm { by_kind!(alu_mem_imm, pick_mem, kind, size, place) } else { by_kind!(alu_mem_reg, pick_mem, kind, size, place) }
}

/// INC, DEC, NEG, NOT of a register.
#[inline(always)]
fn unary_reg<const F: bool, const K: u8, const N: usize, const M: u8>(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    let dst = get::<N>(c, op.a);
    let res = alu::<K, N>(c, dst, 0);
    set::<N>(c, op.a, res);
    Flow::Next
}

pub(crate) fn unary_handler(kind: u8, size: usize, place: u8) -> Run {
    if place == REG {
        match kind {
            INC => super::pick_size!(unary_reg[INC,], size, REG),
            DEC => super::pick_size!(unary_reg[DEC,], size, REG),
            NEG => super::pick_size!(unary_reg[NEG,], size, REG),
            _ => super::pick_size!(unary_reg[NOT,], size, REG),
        }
    } else {
        match kind {
            INC => pick_mem!(alu_mem_imm[INC,], size, place),
            DEC => pick_mem!(alu_mem_imm[DEC,], size, place),
            NEG => pick_mem!(alu_mem_imm[NEG,], size, place),
            _ => pick_mem!(alu_mem_imm[NOT,], size, place),
        }
    }
}

// ---- moves -----------------------------------------------------------------------------------------------------------------

/// `mov reg, src`.
#[inline(always)]
fn mov_reg<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = tri!(source::<F, N, M>(c, m, b, op));
    set::<N>(c, op.a, value);
    done::<F, M>(c)
}

pub(crate) fn mov_reg_handler(size: usize, place: u8) -> Run {
    pick!(mov_reg[], size, place)
}

/// `mov mem, reg`.
#[inline(always)]
fn mov_mem_reg<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let address = tri!(ea::<F, M>(c, op, N as u64, true));
    let value = get::<N>(c, op.b);
    tri!(c.try_store::<F, N>(m, b, op, address, value));
    done::<F, MS>(c)
}

/// `mov mem, imm`.
#[inline(always)]
fn mov_mem_imm<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let address = tri!(ea::<F, M>(c, op, N as u64, true));
    tri!(c.try_store::<F, N>(m, b, op, address, op.imm));
    done::<F, MS>(c)
}

pub(crate) fn mov_mem_handler(size: usize, place: u8, imm: bool) -> Run {
    if imm { pick_mem!(mov_mem_imm[], size, place) } else { pick_mem!(mov_mem_reg[], size, place) }
}

/// `movzx reg, src`: the destination is written as 8 bytes (32 and 64 bits) or 2.
#[inline(always)]
fn movzx<const F: bool, const D: usize, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = tri!(source::<F, N, M>(c, m, b, op));
    set::<D>(c, op.a, value);
    done::<F, M>(c)
}

/// `movsx reg, src`, `movsxd`.
#[inline(always)]
fn movsx<const F: bool, const D: usize, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = tri!(source::<F, N, M>(c, m, b, op));
    set::<D>(c, op.a, sext::<N>(value) as u64);
    done::<F, M>(c)
}

pub(crate) fn extend_handler(signed: bool, dst: usize, src: usize, place: u8) -> Run {
    match (signed, dst) {
        (false, 2) => pick!(movzx[2,], src, place),
        (false, _) => pick!(movzx[8,], src, place),
        (true, 2) => pick!(movsx[2,], src, place),
        (true, 4) => pick!(movsx[4,], src, place),
        (true, _) => pick!(movsx[8,], src, place),
    }
}

/// `lea`: the offset, not the linear address.
#[inline(always)]
fn lea<const F: bool, const N: usize, const M: u8>(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = match M {
        MB => c.r[usize::from(op.base & 31)].wrapping_add(op.disp),
        MI => c.r[usize::from(op.base & 31)].wrapping_add(c.r[usize::from(op.index & 31)] << (op.ea & 3)).wrapping_add(op.disp),
        _ => c.offset(op),
    };
    set::<N>(c, op.a, value);
    Flow::Next
}

pub(crate) fn lea_handler(size: usize, place: u8) -> Run {
    pick_mem!(lea[], size, place)
}

/// `xchg`.
#[inline(always)]
fn xchg<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let new = get::<N>(c, op.a);
    if M == REG {
        let old = get::<N>(c, op.b);
        set::<N>(c, op.a, old);
        set::<N>(c, op.b, new);
        return Flow::Next;
    }
    let address = tri!(ea::<F, M>(c, op, N as u64, true));
    let mut old = 0;
    tri!(c.try_modify::<F, N>(m, b, op, address, |_, value| {
        old = value;
        new
    }));
    set::<N>(c, op.a, old);
    done::<F, MS>(c)
}

pub(crate) fn xchg_handler(size: usize, place: u8) -> Run {
    pick_rm!(xchg[], size, place)
}

/// `xadd dst, reg b`.
#[inline(always)]
fn xadd<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let add = get::<N>(c, op.b);
    if M == REG {
        let old = get::<N>(c, op.a);
        let res = alu::<ADD, N>(c, old, add);
        set::<N>(c, op.b, old);
        set::<N>(c, op.a, res);
        return Flow::Next;
    }
    let address = tri!(ea::<F, M>(c, op, N as u64, true));
    let mut old = 0;
    tri!(c.try_modify::<F, N>(m, b, op, address, |c, value| {
        old = value;
        alu::<ADD, N>(c, value, add)
    }));
    set::<N>(c, op.b, old);
    done::<F, MS>(c)
}

pub(crate) fn xadd_handler(size: usize, place: u8) -> Run {
    pick_rm!(xadd[], size, place)
}

/// `cmpxchg dst, reg b`. The destination is always written in memory, as on hardware.
#[inline(always)]
fn cmpxchg<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let new = get::<N>(c, op.b);
    let expected = get::<N>(c, 0);
    let mut old = 0;
    if M == REG {
        old = get::<N>(c, op.a);
        alu::<CMP, N>(c, expected, old);
        if old == expected {
            set::<N>(c, op.a, new);
        } else {
            set::<N>(c, 0, old);
        }
        return Flow::Next;
    }
    let address = tri!(ea::<F, M>(c, op, N as u64, true));
    tri!(c.try_modify::<F, N>(m, b, op, address, |c, value| {
        old = value;
        alu::<CMP, N>(c, expected, value);
        if value == expected { new } else { value }
    }));
    if old != expected {
        set::<N>(c, 0, old);
    }
    done::<F, MS>(c)
}

pub(crate) fn cmpxchg_handler(size: usize, place: u8) -> Run {
    pick_rm!(cmpxchg[], size, place)
}

/// CMPXCHG8B.
pub(crate) fn cmpxchg8b(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let address = tri!(c.linear(op, 8, true));
    let expected = get::<4>(c, RDX as u8) << 32 | get::<4>(c, RAX as u8);
    let new = get::<4>(c, RCX as u8) << 32 | get::<4>(c, RBX as u8);
    let mut old = 0;
    tri!(c.modify::<8>(m, b, op, address, |_, value| {
        old = value;
        if value == expected { new } else { value }
    }));
    if old == expected {
        c.set_some(ZF, ZF);
    } else {
        c.set_some(ZF, 0);
        set::<4>(c, RAX as u8, old);
        set::<4>(c, RDX as u8, old >> 32);
    }
    c.brk
}

/// CMPXCHG16B.
pub(crate) fn cmpxchg16b(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let address = tri!(c.linear(op, 16, true));
    if address & 15 != 0 {
        c.gp0();
        return Flow::Fault;
    }
    tri!(c.check_write(m, b, op, address, 16));
    let old = tri!(c.load128(m, b, op, address));
    let expected = u128::from(c.r[RDX]) << 64 | u128::from(c.r[RAX]);
    let new = u128::from(c.r[RCX]) << 64 | u128::from(c.r[RBX]);
    tri!(c.store128(m, b, op, address, if old == expected { new } else { old }));
    if old == expected {
        c.set_some(ZF, ZF);
    } else {
        c.set_some(ZF, 0);
        c.r[RAX] = old as u64;
        c.r[RDX] = (old >> 64) as u64;
    }
    c.brk
}

/// BSWAP; 16-bit operands give zero, as on AMD and Intel processors.
#[inline(always)]
pub(crate) fn bswap<const F: bool, const N: usize, const M: u8>(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = get::<N>(c, op.a);
    let res = match N {
        8 => value.swap_bytes(),
        4 => u64::from((value as u32).swap_bytes()),
        _ => 0,
    };
    set::<N>(c, op.a, res);
    Flow::Next
}

pub(crate) fn bswap_handler(size: usize) -> Run {
    super::pick_size!(bswap[], size, REG)
}

fn swap<const N: usize>(value: u64) -> u64 {
    match N {
        8 => value.swap_bytes(),
        4 => u64::from((value as u32).swap_bytes()),
        _ => u64::from((value as u16).swap_bytes()),
    }
}

/// MOVBE reg, mem.
#[inline(always)]
fn movbe_load<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = tri!(source::<F, N, M>(c, m, b, op));
    set::<N>(c, op.a, swap::<N>(value));
    done::<F, MS>(c)
}

/// MOVBE mem, reg.
#[inline(always)]
fn movbe_store<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let address = tri!(ea::<F, M>(c, op, N as u64, true));
    let value = swap::<N>(get::<N>(c, op.b));
    tri!(c.try_store::<F, N>(m, b, op, address, value));
    done::<F, MS>(c)
}

pub(crate) fn movbe_handler(size: usize, store: bool) -> Run {
    if store { super::pick_size!(movbe_store[], size, MS) } else { super::pick_size!(movbe_load[], size, MS) }
}

/// CBW, CWDE, CDQE: `imm` is the destination size.
#[inline(always)]
pub(crate) fn convert_a<const F: bool, const N: usize, const M: u8>(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    let a = c.r[RAX];
    match N {
        2 => set::<2>(c, 0, sext::<1>(a) as u64),
        4 => set::<4>(c, 0, sext::<2>(a) as u64),
        _ => set::<8>(c, 0, sext::<4>(a) as u64),
    }
    Flow::Next
}

/// CWD, CDQ, CQO.
#[inline(always)]
pub(crate) fn convert_d<const F: bool, const N: usize, const M: u8>(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    let sign = (sext::<N>(c.r[RAX]) >> 63) as u64;
    set::<N>(c, RDX as u8, sign);
    Flow::Next
}

pub(crate) fn convert_handler(size: usize, d: bool) -> Run {
    if d { super::pick_size!(convert_d[], size, REG) } else { super::pick_size!(convert_a[], size, REG) }
}

// ---- multiplication and division --------------------------------------------------------------------------------------------

fn multiply_flags<const N: usize>(c: &mut Core, low: u64, overflow: bool) {
    c.cc_op = flags::SHIFT | log2(N);
    c.cc_res = low;
    c.cc_src = if overflow { CF | OF } else { 0 };
}

/// MUL, IMUL with one operand.
#[inline(always)]
fn mul1<const F: bool, const S: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let src = tri!(source::<F, N, M>(c, m, b, op));
    let a = get::<N>(c, 0);
    let (low, high, overflow) = if S {
        let product = i128::from(sext::<N>(a)) * i128::from(sext::<N>(src));
        let low = trunc::<N>(product as u64);
        let high = trunc::<N>((product >> (8 * N)) as u64);
        (low, high, product != i128::from(sext::<N>(low)))
    } else {
        let product = u128::from(a) * u128::from(src);
        let high = trunc::<N>((product >> (8 * N)) as u64);
        (trunc::<N>(product as u64), high, high != 0)
    };
    if N == 1 {
        set::<2>(c, 0, high << 8 | low);
    } else {
        set::<N>(c, RAX as u8, low);
        set::<N>(c, RDX as u8, high);
    }
    multiply_flags::<N>(c, low, overflow);
    done::<F, M>(c)
}

pub(crate) fn mul1_handler(signed: bool, size: usize, place: u8) -> Run {
    if signed { pick_rm!(mul1[true,], size, place) } else { pick_rm!(mul1[false,], size, place) }
}

/// IMUL reg, src.
#[inline(always)]
fn imul2<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let src = tri!(source::<F, N, M>(c, m, b, op));
    let dst = get::<N>(c, op.a);
    imul_into::<N>(c, op.a, dst, src);
    done::<F, M>(c)
}

#[inline(always)]
fn imul_into<const N: usize>(c: &mut Core, reg: u8, left: u64, right: u64) {
    let (low, overflow) = if N == 8 {
        let (low, overflow) = (left as i64).overflowing_mul(right as i64);
        (low as u64, overflow)
    } else {
        let product = sext::<N>(left).wrapping_mul(sext::<N>(right));
        let low = trunc::<N>(product as u64);
        (low, sext::<N>(low) != product)
    };
    set::<N>(c, reg, low);
    multiply_flags::<N>(c, low, overflow);
}

pub(crate) fn imul2_handler(size: usize, place: u8) -> Run {
    pick!(imul2[], size, place)
}

/// IMUL reg, src, imm.
#[inline(always)]
fn imul3<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let src = tri!(source::<F, N, M>(c, m, b, op));
    imul_into::<N>(c, op.a, src, trunc::<N>(op.imm));
    done::<F, M>(c)
}

pub(crate) fn imul3_handler(size: usize, place: u8) -> Run {
    pick!(imul3[], size, place)
}

/// DIV, IDIV.
#[inline(always)]
fn div<const F: bool, const S: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let divisor = tri!(source::<F, N, M>(c, m, b, op));
    if divisor == 0 {
        c.raise(vector::DE);
        return Flow::Fault;
    }
    if !S && N == 8 && c.r[RDX] == 0 {
        let a = c.r[RAX];
        c.r[RAX] = a / divisor;
        c.r[RDX] = a % divisor;
        return done::<F, M>(c);
    }
    let low = get::<N>(c, RAX as u8);
    let high = if N == 1 { c.r[RAX] >> 8 & 0xff } else { get::<N>(c, RDX as u8) };
    let dividend = u128::from(high) << (8 * N) | u128::from(low);
    let (quotient, remainder) = if S {
        let shift = 128 - 16 * N as u32;
        let dividend = (dividend << shift) as i128 >> shift;
        let divisor = i128::from(sext::<N>(divisor));
        // The only overflow of i128 itself is MIN / -1, which does not fit either.
        let Some(quotient) = dividend.checked_div(divisor) else {
            c.raise(vector::DE);
            return Flow::Fault;
        };
        if quotient != i128::from(sext::<N>(quotient as u64)) {
            c.raise(vector::DE);
            return Flow::Fault;
        }
        (quotient as u64, (dividend % divisor) as u64)
    } else {
        let quotient = dividend / u128::from(divisor);
        if quotient >> (8 * N) != 0 {
            c.raise(vector::DE);
            return Flow::Fault;
        }
        (quotient as u64, (dividend % u128::from(divisor)) as u64)
    };
    if N == 1 {
        set::<2>(c, 0, trunc::<1>(remainder) << 8 | trunc::<1>(quotient));
    } else {
        set::<N>(c, RAX as u8, quotient);
        set::<N>(c, RDX as u8, remainder);
    }
    done::<F, M>(c)
}

pub(crate) fn div_handler(signed: bool, size: usize, place: u8) -> Run {
    if signed { pick_rm!(div[true,], size, place) } else { pick_rm!(div[false,], size, place) }
}

// ---- decimal ----------------------------------------------------------------------------------------------------------------

/// DAA, DAS (`S`).
pub(crate) fn daa<const S: bool>(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    use crate::state::rflags::AF;
    let al = c.r[RAX] as u8;
    let (mut res, mut flags_out) = (al, 0);
    let old_carry = c.cf();
    if al & 0xf > 9 || c.af() {
        res = if S { res.wrapping_sub(6) } else { res.wrapping_add(6) };
        flags_out |= AF;
        if old_carry || (S && al < 6) || (!S && al > 0xf9) {
            flags_out |= CF;
        }
    }
    if al > 0x99 || old_carry {
        res = if S { res.wrapping_sub(0x60) } else { res.wrapping_add(0x60) };
        flags_out |= CF;
    }
    set::<1>(c, 0, u64::from(res));
    c.set_arith(flags_out | result_flags(res));
    Flow::Next
}

fn result_flags(res: u8) -> u64 {
    let mut out = 0;
    if res == 0 {
        out |= ZF;
    }
    if res & 0x80 != 0 {
        out |= SF;
    }
    if res.count_ones() & 1 == 0 {
        out |= PF;
    }
    out
}

/// AAA, AAS (`S`).
pub(crate) fn aaa<const S: bool>(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    use crate::state::rflags::AF;
    let mut ax = c.r[RAX] as u16;
    let mut out = 0;
    if ax & 0xf > 9 || c.af() {
        ax = if S { ax.wrapping_sub(0x106) } else { ax.wrapping_add(0x106) };
        out = AF | CF;
    }
    ax &= 0xff0f;
    set::<2>(c, 0, u64::from(ax));
    c.set_arith(out | result_flags(ax as u8));
    Flow::Next
}

/// AAM.
pub(crate) fn aam(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    let base = op.imm as u8;
    if base == 0 {
        c.raise(vector::DE);
        return Flow::Fault;
    }
    let al = c.r[RAX] as u8;
    set::<2>(c, 0, u64::from(al / base) << 8 | u64::from(al % base));
    c.set_arith(result_flags(al % base));
    Flow::Next
}

/// AAD.
pub(crate) fn aad(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    let ax = c.r[RAX];
    let res = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(op.imm as u8));
    set::<2>(c, 0, u64::from(res));
    c.set_arith(result_flags(res));
    Flow::Next
}

// ---- flags ------------------------------------------------------------------------------------------------------------------

/// CLC, STC.
pub(crate) fn set_carry<const ON: bool>(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    c.set_some(CF, if ON { CF } else { 0 });
    Flow::Next
}

/// CMC.
pub(crate) fn cmc(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    let flipped = c.arith() ^ CF;
    c.set_arith(flipped);
    Flow::Next
}

/// CLD, STD.
pub(crate) fn set_direction<const ON: bool>(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    use crate::state::rflags::DF;
    c.flags_rest = if ON { c.flags_rest | DF } else { c.flags_rest & !DF };
    Flow::Next
}

/// LAHF.
pub(crate) fn lahf(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    let image = c.arith() & 0xd5 | 2;
    set::<1>(c, 0x14, image);
    Flow::Next
}

/// SAHF.
pub(crate) fn sahf(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    let image = get::<1>(c, 0x14);
    c.set_some(0xd5, image);
    Flow::Next
}

/// SALC (undocumented, present on every x86): AL = CF ? 0xff : 0.
pub(crate) fn salc(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    let value = if c.cf() { 0xff } else { 0 };
    set::<1>(c, 0, value);
    Flow::Next
}

/// XLATB.
pub(crate) fn xlat(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    // Lowered with base = RBX and the address size; AL is added here.
    let mut with_al = *op;
    with_al.disp = c.r[RAX] & 0xff;
    let address = tri!(c.linear(&with_al, 1, false));
    let value = tri!(c.load::<1>(m, b, &with_al, address));
    set::<1>(c, 0, value);
    c.brk
}

// ---- compare and branch ------------------------------------------------------------------------------------------------------

/// Compare (or any flag-setting ALU operation on a register) and branch, fused.
#[inline(always)]
fn fused<const F: bool, const K: u8, const CC: u8, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let src = if K == INC || K == DEC { 0 } else { tri!(source::<F, N, M>(c, m, b, op)) };
    let dst = get::<N>(c, op.a);
    let res = alu::<K, N>(c, dst, src);
    if !keeps_destination(K) {
        set::<N>(c, op.a, res);
    }
    if c.condition::<CC>() { Flow::Taken } else { Flow::Fall }
}

/// `cmp mem, imm` (or `test`) and branch, fused.
#[inline(always)]
fn fused_mem<const F: bool, const K: u8, const CC: u8, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let address = tri!(ea::<F, M>(c, op, N as u64, false));
    let dst = tri!(c.try_load::<F, N>(m, b, op, address));
    alu::<K, N>(c, dst, trunc::<N>(op.imm));
    if c.condition::<CC>() { Flow::Taken } else { Flow::Fall }
}

macro_rules! by_condition {
    ($f:ident [$k:tt], $cc:expr, $n:tt, $m:tt) => {
        match $cc {
            0 => super::run!($f [$k, 0, $n, $m]),
            1 => super::run!($f [$k, 1, $n, $m]),
            2 => super::run!($f [$k, 2, $n, $m]),
            3 => super::run!($f [$k, 3, $n, $m]),
            4 => super::run!($f [$k, 4, $n, $m]),
            5 => super::run!($f [$k, 5, $n, $m]),
            6 => super::run!($f [$k, 6, $n, $m]),
            7 => super::run!($f [$k, 7, $n, $m]),
            8 => super::run!($f [$k, 8, $n, $m]),
            9 => super::run!($f [$k, 9, $n, $m]),
            10 => super::run!($f [$k, 10, $n, $m]),
            11 => super::run!($f [$k, 11, $n, $m]),
            12 => super::run!($f [$k, 12, $n, $m]),
            13 => super::run!($f [$k, 13, $n, $m]),
            14 => super::run!($f [$k, 14, $n, $m]),
            _ => super::run!($f [$k, 15, $n, $m]),
        }
    };
}

/// The fused handler for an ALU operation with destination register and `place` source, followed by Jcc; `None` if there is none.
pub(crate) fn fused_handler(kind: u8, size: usize, place: u8, cc: u8) -> Option<Run> {
    Some(match (kind, size, place) {
        (CMP, 1, REG) => by_condition!(fused[CMP], cc, 1, REG),
        (CMP, 1, IMM) => by_condition!(fused[CMP], cc, 1, IMM),
        (CMP, 4, REG) => by_condition!(fused[CMP], cc, 4, REG),
        (CMP, 4, IMM) => by_condition!(fused[CMP], cc, 4, IMM),
        (CMP, 4, MB) => by_condition!(fused[CMP], cc, 4, MB),
        (CMP, 8, REG) => by_condition!(fused[CMP], cc, 8, REG),
        (CMP, 8, IMM) => by_condition!(fused[CMP], cc, 8, IMM),
        (CMP, 8, MB) => by_condition!(fused[CMP], cc, 8, MB),
        (TEST, 1, REG) => by_condition!(fused[TEST], cc, 1, REG),
        (TEST, 1, IMM) => by_condition!(fused[TEST], cc, 1, IMM),
        (TEST, 4, REG) => by_condition!(fused[TEST], cc, 4, REG),
        (TEST, 4, IMM) => by_condition!(fused[TEST], cc, 4, IMM),
        (TEST, 8, REG) => by_condition!(fused[TEST], cc, 8, REG),
        (SUB, 4, IMM) => by_condition!(fused[SUB], cc, 4, IMM),
        (SUB, 8, IMM) => by_condition!(fused[SUB], cc, 8, IMM),
        (SUB, 8, REG) => by_condition!(fused[SUB], cc, 8, REG),
        (ADD, 4, IMM) => by_condition!(fused[ADD], cc, 4, IMM),
        (ADD, 8, IMM) => by_condition!(fused[ADD], cc, 8, IMM),
        (AND, 4, IMM) => by_condition!(fused[AND], cc, 4, IMM),
        (DEC, 4, _) => by_condition!(fused[DEC], cc, 4, REG),
        (DEC, 8, _) => by_condition!(fused[DEC], cc, 8, REG),
        (INC, 4, _) => by_condition!(fused[INC], cc, 4, REG),
        (INC, 8, _) => by_condition!(fused[INC], cc, 8, REG),
        _ => return None,
    })
}

/// As [`fused_handler`], for a memory destination and an immediate.
pub(crate) fn fused_mem_handler(kind: u8, size: usize, place: u8, cc: u8) -> Option<Run> {
    Some(match (kind, size, place) {
        (CMP, 1, MB) => by_condition!(fused_mem[CMP], cc, 1, MB),
        (CMP, 1, MI) => by_condition!(fused_mem[CMP], cc, 1, MI),
        (CMP, 4, MB) => by_condition!(fused_mem[CMP], cc, 4, MB),
        (CMP, 8, MB) => by_condition!(fused_mem[CMP], cc, 8, MB),
        (TEST, 1, MB) => by_condition!(fused_mem[TEST], cc, 1, MB),
        _ => return None,
    })
}

/// Jcc alone.
#[inline(always)]
fn jcc<const F: bool, const K: u8, const CC: u8, const N: usize, const M: u8>(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    if c.condition::<CC>() { Flow::Taken } else { Flow::Fall }
}

pub(crate) fn jcc_handler(cc: u8) -> Run {
    by_condition!(jcc[0], cc, 8, REG)
}

/// SETcc.
#[inline(always)]
fn setcc<const F: bool, const K: u8, const CC: u8, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = u64::from(c.condition::<CC>());
    if M == REG {
        set::<1>(c, op.a, value);
        return Flow::Next;
    }
    let address = tri!(ea::<F, M>(c, op, 1, true));
    tri!(c.try_store::<F, 1>(m, b, op, address, value));
    done::<F, MS>(c)
}

pub(crate) fn setcc_handler(cc: u8, place: u8) -> Run {
    if place == REG { by_condition!(setcc[0], cc, 1, REG) } else { by_condition!(setcc[0], cc, 1, MS) }
}

/// CMOVcc: the source is read in any case, and a 32-bit destination is zero-extended in any case.
#[inline(always)]
fn cmov<const F: bool, const K: u8, const CC: u8, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let src = tri!(source::<F, N, M>(c, m, b, op));
    let value = if c.condition::<CC>() { src } else { get::<N>(c, op.a) };
    set::<N>(c, op.a, value);
    done::<F, M>(c)
}

pub(crate) fn cmov_handler(cc: u8, size: usize, place: u8) -> Run {
    match (size, place) {
        (2, REG) => by_condition!(cmov[0], cc, 2, REG),
        (4, REG) => by_condition!(cmov[0], cc, 4, REG),
        (_, REG) => by_condition!(cmov[0], cc, 8, REG),
        (2, _) => by_condition!(cmov[0], cc, 2, MS),
        (4, _) => by_condition!(cmov[0], cc, 4, MS),
        (_, _) => by_condition!(cmov[0], cc, 8, MS),
    }
}
