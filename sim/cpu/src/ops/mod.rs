//! Handlers, by subject. Each checks everything that can fault before it changes anything.

pub(crate) mod bits;
pub(crate) mod flow;
pub(crate) mod int;
pub(crate) mod string;
pub(crate) mod system;
pub(crate) mod xsave;

use crate::core::{Core, Fault};
use crate::flags::trunc;
use crate::op::{Flow, Op};
use sim_bus::CpuBus;
use sim_mem::GuestMemory;

/// Where an operand is, as a handler's const parameter.
pub(crate) const REG: u8 = 0;
pub(crate) const IMM: u8 = 1;
/// Memory at base + displacement, no segment work.
pub(crate) const MB: u8 = 2;
/// Memory at base + index * scale + displacement, no segment work.
pub(crate) const MI: u8 = 3;
/// Any other memory operand.
pub(crate) const MS: u8 = 4;

/// `?` for handlers.
macro_rules! tri {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err($crate::core::Fault) => return $crate::op::Flow::Fault,
        }
    };
}
pub(crate) use tri;

/// Both forms of a handler. With `[...]` it is one whose first const parameter `F` is set in the chained form: there it does only what needs no
/// call (memory through fast tags, 64-bit stack) and returns [`Flow::Fault`] where that is not enough, after which the other form runs.
macro_rules! run {
    ($f:ident [$($k:tt)*]) => {
        $crate::op::Run { f: |c, m, b, ops| $crate::op::chain(c, m, b, ops, |c, m, b, op| $f::<true, $($k)*>(c, m, b, op)), plain: $f::<false, $($k)*> }
    };
    ($f:expr) => {
        $crate::op::Run { f: |c, m, b, ops| $crate::op::chain(c, m, b, ops, |c, m, b, op| $f(c, m, b, op)), plain: $f }
    };
}
pub(crate) use run;

/// Picks a handler by operand size and place: `pick!(f, n, m)` or with leading const arguments `pick!(f [K], n, m)`.
macro_rules! pick_size {
    ($f:ident [$($k:tt)*], $n:expr, $m:tt) => {
        match $n {
            1 => $crate::ops::run!($f [$($k)* 1, $m]),
            2 => $crate::ops::run!($f [$($k)* 2, $m]),
            4 => $crate::ops::run!($f [$($k)* 4, $m]),
            _ => $crate::ops::run!($f [$($k)* 8, $m]),
        }
    };
}
pub(crate) use pick_size;

macro_rules! pick {
    ($f:ident [$($k:tt)*], $n:expr, $m:expr) => {
        match $m {
            REG => $crate::ops::pick_size!($f [$($k)*], $n, REG),
            IMM => $crate::ops::pick_size!($f [$($k)*], $n, IMM),
            MB => $crate::ops::pick_size!($f [$($k)*], $n, MB),
            MI => $crate::ops::pick_size!($f [$($k)*], $n, MI),
            _ => $crate::ops::pick_size!($f [$($k)*], $n, MS),
        }
    };
}
pub(crate) use pick;

/// As `pick`, memory places only.
macro_rules! pick_mem {
    ($f:ident [$($k:tt)*], $n:expr, $m:expr) => {
        match $m {
            MB => $crate::ops::pick_size!($f [$($k)*], $n, MB),
            MI => $crate::ops::pick_size!($f [$($k)*], $n, MI),
            _ => $crate::ops::pick_size!($f [$($k)*], $n, MS),
        }
    };
}
pub(crate) use pick_mem;

/// As `pick`, without an immediate; all memory forms take the general address path (for rarer instructions).
macro_rules! pick_rm {
    ($f:ident [$($k:tt)*], $n:expr, $m:expr) => {
        match $m {
            REG => $crate::ops::pick_size!($f [$($k)*], $n, REG),
            _ => $crate::ops::pick_size!($f [$($k)*], $n, MS),
        }
    };
}
pub(crate) use pick_rm;

/// Reads a register operand.
#[inline(always)]
pub(crate) fn get<const N: usize>(c: &Core, reg: u8) -> u64 {
    if N == 1 && reg & 0x10 != 0 {
        return c.r[usize::from(reg & 3)] >> 8 & 0xff;
    }
    trunc::<N>(c.r[usize::from(reg & 31)])
}

/// Writes a register operand: 32-bit writes clear the upper half, narrower ones keep the rest.
#[inline(always)]
pub(crate) fn set<const N: usize>(c: &mut Core, reg: u8, value: u64) {
    match N {
        1 if reg & 0x10 != 0 => {
            let slot = &mut c.r[usize::from(reg & 3)];
            *slot = *slot & !0xff00 | (value & 0xff) << 8;
        }
        1 => {
            let slot = &mut c.r[usize::from(reg & 15)];
            *slot = *slot & !0xff | value & 0xff;
        }
        2 => {
            let slot = &mut c.r[usize::from(reg & 15)];
            *slot = *slot & !0xffff | value & 0xffff;
        }
        4 => c.r[usize::from(reg & 15)] = value & 0xffff_ffff,
        _ => c.r[usize::from(reg & 15)] = value,
    }
}

/// The address of a memory operand.
#[inline(always)]
pub(crate) fn ea<const F: bool, const M: u8>(c: &mut Core, op: &Op, size: u64, write: bool) -> Result<u64, Fault> {
    match M {
        MB => Ok(c.r[usize::from(op.base & 31)].wrapping_add(op.disp)),
        MI => Ok(c.r[usize::from(op.base & 31)].wrapping_add(c.r[usize::from(op.index & 31)] << (op.ea & 3)).wrapping_add(op.disp)),
        _ if F => c.linear64(op),
        _ => c.linear(op, size, write),
    }
}

/// The source operand: register `b`, immediate or memory.
#[inline(always)]
pub(crate) fn source<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Result<u64, Fault> {
    match M {
        REG => Ok(get::<N>(c, op.b)),
        IMM => Ok(trunc::<N>(op.imm)),
        _ => {
            let address = ea::<F, M>(c, op, N as u64, false)?;
            c.try_load::<F, N>(m, b, op, address)
        }
    }
}

/// What a handler that may have touched memory returns.
#[inline(always)]
pub(crate) fn done<const F: bool, const M: u8>(c: &Core) -> Flow {
    if F || M == REG || M == IMM { Flow::Next } else { c.brk }
}

/// Does nothing.
pub(crate) fn nop(_c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    Flow::Next
}
