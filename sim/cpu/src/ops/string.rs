//! String instructions. One iteration is one tick; a REP instruction runs as many as the deadline allows and stays on itself.

use super::{get, set, tri};
use crate::core::{Core, Fault};
use crate::flags::trunc;
use crate::op::{EA_ADDR16, EA_ADDR32, Flow, Handler, Op};
use crate::ops::int::{CMP, alu};
use crate::state::{ES, RAX, RCX, RDI, RDX, RSI, rflags};
use crate::tlb::{self, ENTRIES};
use sim_bus::CpuBus;
use sim_mem::GuestMemory;

pub(crate) const MOVS: u8 = 0;
pub(crate) const STOS: u8 = 1;
pub(crate) const LODS: u8 = 2;
pub(crate) const SCAS: u8 = 3;
pub(crate) const CMPS: u8 = 4;
pub(crate) const INS: u8 = 5;
pub(crate) const OUTS: u8 = 6;

/// `Op::imm` of string operations.
pub(crate) const ONCE: u64 = 0;
pub(crate) const REP: u64 = 1;
pub(crate) const REPNE: u64 = 2;

#[inline(always)]
fn address_mask(op: &Op) -> u64 {
    if op.ea & EA_ADDR32 != 0 {
        0xffff_ffff
    } else if op.ea & EA_ADDR16 != 0 {
        0xffff
    } else {
        u64::MAX
    }
}

/// EXITINFO1 of INS and OUTS: segment, address size, REP, string (APM vol. 2 §15.10.2).
fn port_info(op: &Op, segment: usize) -> u64 {
    let size = if op.ea & EA_ADDR32 != 0 {
        1 << 8
    } else if op.ea & EA_ADDR16 != 0 {
        1 << 7
    } else {
        1 << 9
    };
    (segment as u64) << 10 | size | u64::from(op.imm != ONCE) << 3 | 1 << 2
}

/// Advances a pointer or counter register within the address size.
#[inline(always)]
fn bump(c: &mut Core, reg: usize, by: u64, mask: u64) {
    let value = c.r[reg].wrapping_add(by) & mask;
    c.r[reg] = if mask == 0xffff { c.r[reg] & !0xffff | value } else { value };
}

/// One iteration, without the counter.
#[inline(always)]
fn iterate<const K: u8, const N: usize>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, mask: u64) -> Result<(), Fault> {
    let step = if c.flags_rest & rflags::DF != 0 { (N as u64).wrapping_neg() } else { N as u64 };
    match K {
        MOVS => {
            let from = c.linear_at(op.seg(), c.r[RSI] & mask, N as u64, false)?;
            let to = c.linear_at(ES, c.r[RDI] & mask, N as u64, true)?;
            let value = c.load::<N>(m, b, op, from)?;
            c.store::<N>(m, b, op, to, value)?;
            bump(c, RSI, step, mask);
            bump(c, RDI, step, mask);
        }
        STOS => {
            let to = c.linear_at(ES, c.r[RDI] & mask, N as u64, true)?;
            c.store::<N>(m, b, op, to, c.r[RAX])?;
            bump(c, RDI, step, mask);
        }
        LODS => {
            let from = c.linear_at(op.seg(), c.r[RSI] & mask, N as u64, false)?;
            let value = c.load::<N>(m, b, op, from)?;
            set::<N>(c, RAX as u8, value);
            bump(c, RSI, step, mask);
        }
        SCAS => {
            let from = c.linear_at(ES, c.r[RDI] & mask, N as u64, false)?;
            let value = c.load::<N>(m, b, op, from)?;
            let a = get::<N>(c, RAX as u8);
            alu::<CMP, N>(c, a, value);
            bump(c, RDI, step, mask);
        }
        CMPS => {
            let from = c.linear_at(op.seg(), c.r[RSI] & mask, N as u64, false)?;
            let to = c.linear_at(ES, c.r[RDI] & mask, N as u64, false)?;
            let left = c.load::<N>(m, b, op, from)?;
            let right = c.load::<N>(m, b, op, to)?;
            alu::<CMP, N>(c, left, right);
            bump(c, RSI, step, mask);
            bump(c, RDI, step, mask);
        }
        INS => {
            let port = c.r[RDX] as u16;
            c.check_port(m, b, port, N as u64)?;
            c.vm_check_port(m, op, port, N as u64, port_info(op, ES) | 1)?;
            let to = c.linear_at(ES, c.r[RDI] & mask, N as u64, true)?;
            c.check_write(m, b, op, to, N as u64)?;
            let at = c.at(op);
            let value = u64::from(b.port_in(at, port, N as u8));
            c.brk = Flow::Break;
            c.store::<N>(m, b, op, to, trunc::<N>(value))?;
            bump(c, RDI, step, mask);
        }
        _ => {
            let port = c.r[RDX] as u16;
            c.check_port(m, b, port, N as u64)?;
            c.vm_check_port(m, op, port, N as u64, port_info(op, op.seg()))?;
            let from = c.linear_at(op.seg(), c.r[RSI] & mask, N as u64, false)?;
            let value = c.load::<N>(m, b, op, from)?;
            let at = c.at(op);
            b.port_out(at, port, N as u8, value as u32);
            c.brk = Flow::Break;
            bump(c, RSI, step, mask);
        }
    }
    Ok(())
}

/// Iterations that fit in the current pages, forwards, done at once on the RAM behind them. Returns how many (0: take the slow way).
#[inline]
fn bulk<const K: u8, const N: usize>(c: &mut Core, m: &mut GuestMemory, op: &Op, most: u64) -> u64 {
    let to = c.r[RDI];
    let room = |address: u64| (4096 - (address & 0xfff)) / N as u64;
    let to_index = tlb::index(to);
    if to.wrapping_add(c.tlb.fast.write(c.view / ENTRIES, to_index)) > 4095 {
        return 0;
    }
    let mut count = most.min(room(to));
    let target = c.tlb.fast.addend(to_index).wrapping_add(to) as usize;
    if K == STOS {
        let bytes = count as usize * N;
        let Some(area) = m.ram_mut().get_mut(target..target + bytes) else { return 0 };
        let value = c.r[RAX].to_le_bytes();
        if N == 1 {
            area.fill(value[0]);
        } else {
            for chunk in area.chunks_exact_mut(N) {
                chunk.copy_from_slice(&value[..N]);
            }
        }
        c.r[RDI] = to.wrapping_add(bytes as u64);
        return count;
    }
    let base = if op.seg() >= crate::state::FS { c.sys.seg[op.seg()].base } else { 0 };
    let from = c.r[RSI].wrapping_add(base);
    let from_index = tlb::index(from);
    if from.wrapping_add(c.tlb.fast.read(c.view / ENTRIES, from_index)) > 4095 {
        return 0;
    }
    count = count.min(room(from));
    let source = c.tlb.fast.addend(from_index).wrapping_add(from) as usize;
    let bytes = count as usize * N;
    let ram = m.ram_mut();
    if source + bytes > ram.len() || target + bytes > ram.len() {
        return 0;
    }
    if target > source && target < source + bytes {
        // Forward overlap repeats a pattern: as the hardware does it, element by element.
        for at in (0..bytes).step_by(N) {
            ram.copy_within(source + at..source + at + N, target + at);
        }
    } else {
        ram.copy_within(source..source + bytes, target);
    }
    c.r[RSI] = c.r[RSI].wrapping_add(bytes as u64);
    c.r[RDI] = to.wrapping_add(bytes as u64);
    count
}

/// A string instruction, with or without REP.
fn string<const K: u8, const N: usize>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let mask = address_mask(op);
    if op.imm == ONCE {
        tri!(iterate::<K, N>(c, m, b, op, mask));
        return c.brk;
    }
    // The block charged one tick for this instruction; `-budget` more are left until the deadline. An interrupt shadow is over after the first iteration: what it
    // held off comes before the second, wherever the run is cut.
    let mut done = 0i64;
    let most = if c.shadow_before { 1 } else { 1 - c.budget };
    let start = c.block_budget;
    let mut ended = c.r[RCX] & mask == 0;
    let fast = (K == MOVS || K == STOS) && c.flags_rest & rflags::TF == 0 && mask == u64::MAX && c.mode & crate::core::mode::SIZE == crate::core::mode::CODE64;
    while !ended && done < most {
        if fast && c.flags_rest & rflags::DF == 0 {
            let wanted = c.r[RCX].min((most - done) as u64);
            let count = bulk::<K, N>(c, m, op, wanted);
            if count != 0 {
                c.r[RCX] -= count;
                done += count as i64;
                ended = c.r[RCX] == 0;
                continue;
            }
        }
        // Device accesses inside see the tick of their own iteration.
        c.block_budget = start + done;
        if iterate::<K, N>(c, m, b, op, mask).is_err() {
            c.block_budget = start;
            c.budget += done;
            // RF is set between two iterations.
            c.resume_before |= done > 0;
            return Flow::Fault;
        }
        bump(c, RCX, u64::MAX, mask);
        done += 1;
        ended = c.r[RCX] & mask == 0;
        if K == SCAS || K == CMPS {
            ended |= c.zf() != (op.imm == REP);
        }
        if c.brk != Flow::Next || c.flags_rest & rflags::TF != 0 {
            break;
        }
    }
    c.block_budget = start;
    c.budget += (done - 1).max(0);
    if !ended {
        c.rip = c.rip_of(op);
        // What comes between two iterations saves it, so that a breakpoint on the instruction does not hit twice (SDM vol. 3 §18.3.1.1), and neither may
        // a cut show there.
        c.flags_rest |= rflags::RF;
        return Flow::Again;
    }
    c.rip = c.cut_rip(c.rip_after(op));
    if c.brk == Flow::Next { Flow::Indirect } else { Flow::Exit }
}

pub(crate) fn string_handler(kind: u8, size: usize) -> Handler {
    macro_rules! row {
        ($k:tt) => {
            match size {
                1 => string::<$k, 1> as Handler,
                2 => string::<$k, 2>,
                4 => string::<$k, 4>,
                _ => string::<$k, 8>,
            }
        };
    }
    match kind {
        MOVS => row!(MOVS),
        STOS => row!(STOS),
        LODS => row!(LODS),
        SCAS => row!(SCAS),
        CMPS => row!(CMPS),
        INS => row!(INS),
        _ => row!(OUTS),
    }
}
