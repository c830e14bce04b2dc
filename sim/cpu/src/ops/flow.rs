//! Near transfers of control and the stack.

use super::{IMM, MB, MI, MS, REG, done, ea, get, pick_rm, set, source, tri};
use crate::core::{Core, Fault, mode};
use crate::op::{EA_SEG_SHIFT, Flow, Op, Run};
use crate::state::{RBP, RCX, RSP, SS, rflags};
use sim_bus::CpuBus;
use sim_mem::GuestMemory;

/// `Op::ea` of operations that use the stack only.
pub(crate) const STACK_EA: u8 = (SS as u8) << EA_SEG_SHIFT;

impl Core {
    /// Bits of RSP that the stack uses.
    #[inline(always)]
    pub fn stack_mask(&self) -> u64 {
        if self.mode & mode::SIZE == mode::CODE64 {
            u64::MAX
        } else if self.mode & mode::STACK32 != 0 {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// Replaces the part of RSP that the stack uses.
    #[inline(always)]
    pub fn set_sp(&mut self, value: u64) {
        let mask = self.stack_mask();
        self.r[RSP] = self.r[RSP] & !mask | value & mask;
    }

    fn stack_op(op: &Op) -> Op {
        let mut copy = *op;
        copy.ea = STACK_EA;
        copy
    }

    /// Pushes `N` bytes.
    #[inline(always)]
    pub fn push<const F: bool, const N: usize>(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, value: u64) -> Result<(), Fault> {
        if self.mode & mode::SIZE == mode::CODE64 {
            let address = self.r[RSP].wrapping_sub(N as u64);
            self.try_store::<F, N>(m, b, op, address, value)?;
            self.r[RSP] = address;
            return Ok(());
        }
        if F {
            return Err(Fault);
        }
        let sp = self.r[RSP].wrapping_sub(N as u64) & self.stack_mask();
        let address = self.linear_at(SS, sp, N as u64, true)?;
        self.store::<N>(m, b, op, address, value)?;
        self.set_sp(sp);
        Ok(())
    }

    /// Reads `N` bytes at `skip` above the top of the stack.
    #[inline(always)]
    pub fn peek<const F: bool, const N: usize>(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, skip: u64) -> Result<u64, Fault> {
        let sp = self.r[RSP].wrapping_add(skip);
        if self.mode & mode::SIZE == mode::CODE64 {
            return self.try_load::<F, N>(m, b, op, sp);
        }
        if F {
            return Err(Fault);
        }
        let sp = sp & self.stack_mask();
        let address = self.linear_at(SS, sp, N as u64, false)?;
        self.load::<N>(m, b, op, address)
    }

    /// Drops bytes from the stack.
    #[inline(always)]
    pub fn drop_stack(&mut self, bytes: u64) {
        self.set_sp(self.r[RSP].wrapping_add(bytes));
    }

    /// Pushes `size` bytes (2, 4 or 8).
    pub fn push_sized(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, size: usize, value: u64) -> Result<(), Fault> {
        let op = Core::stack_op(op);
        match size {
            2 => self.push::<false, 2>(m, b, &op, value),
            4 => self.push::<false, 4>(m, b, &op, value),
            _ => self.push::<false, 8>(m, b, &op, value),
        }
    }

    /// Reads `size` bytes at `skip` above the top of the stack.
    pub fn peek_sized(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, size: usize, skip: u64) -> Result<u64, Fault> {
        let op = Core::stack_op(op);
        match size {
            2 => self.peek::<false, 2>(m, b, &op, skip),
            4 => self.peek::<false, 4>(m, b, &op, skip),
            _ => self.peek::<false, 8>(m, b, &op, skip),
        }
    }

    /// Checks a near target: canonical, or inside the code segment.
    #[inline(always)]
    pub fn check_target(&mut self, rip: u64) -> Result<(), Fault> {
        if self.mode & mode::SIZE == mode::CODE64 {
            if (rip << 16) as i64 >> 16 == rip as i64 { Ok(()) } else { Err(self.gp0()) }
        } else if rip > u64::from(self.sys.seg[crate::state::CS].limit) {
            Err(self.gp0())
        } else {
            Ok(())
        }
    }
}

/// `push src`.
#[inline(always)]
fn push_op<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = tri!(source::<F, N, M>(c, m, b, op));
    if M == MS && !F {
        tri!(c.push_sized(m, b, op, N, value));
    } else {
        tri!(c.push::<F, N>(m, b, op, value));
    }
    done::<F, MS>(c)
}

pub(crate) fn push_handler(size: usize, place: u8) -> Run {
    super::pick!(push_op[], size, if place == MB || place == MI { MS } else { place })
}

/// `pop reg`.
#[inline(always)]
fn pop_reg<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = tri!(c.peek::<F, N>(m, b, op, 0));
    c.drop_stack(N as u64);
    set::<N>(c, op.a, value);
    done::<F, MS>(c)
}

/// `pop mem`: an address with RSP sees it already incremented.
#[inline(always)]
fn pop_mem<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = if F { tri!(c.peek::<F, N>(m, b, op, 0)) } else { tri!(c.peek_sized(m, b, op, N, 0)) };
    let old = c.r[RSP];
    c.drop_stack(N as u64);
    let result = match ea::<F, M>(c, op, N as u64, true) {
        Ok(address) => c.try_store::<F, N>(m, b, op, address, value),
        Err(fault) => Err(fault),
    };
    if result.is_err() {
        c.r[RSP] = old;
        return Flow::Fault;
    }
    done::<F, MS>(c)
}

pub(crate) fn pop_handler(size: usize, place: u8) -> Run {
    if place == REG { super::pick_size!(pop_reg[], size, REG) } else { super::pick_size!(pop_mem[], size, MS) }
}

/// Direct `jmp`.
pub(crate) fn jmp(_c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    Flow::Taken
}

/// Direct `call`; the target is the block's.
#[inline(always)]
fn call<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let next = c.cut_rip(c.rip_after(op));
    tri!(c.push::<F, N>(m, b, op, next));
    Flow::Taken
}

pub(crate) fn call_handler(size: usize) -> Run {
    super::pick_size!(call[], size, REG)
}

/// Indirect `jmp`.
#[inline(always)]
fn jmp_indirect<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let target = tri!(source::<F, N, M>(c, m, b, op));
    tri!(c.check_target(target));
    c.rip = target;
    Flow::Indirect
}

pub(crate) fn jmp_indirect_handler(size: usize, place: u8) -> Run {
    super::pick!(jmp_indirect[], size, place)
}

/// Indirect `call`.
#[inline(always)]
fn call_indirect<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let target = tri!(source::<F, N, M>(c, m, b, op));
    tri!(c.check_target(target));
    let next = c.cut_rip(c.rip_after(op));
    if F {
        tri!(c.push::<F, N>(m, b, op, next));
    } else {
        tri!(c.push_sized(m, b, op, N, next));
    }
    c.rip = target;
    Flow::Indirect
}

pub(crate) fn call_indirect_handler(size: usize, place: u8) -> Run {
    pick_rm!(call_indirect[], size, place)
}

/// Near `ret`; `imm` more bytes are dropped.
#[inline(always)]
fn ret<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let target = tri!(c.peek::<F, N>(m, b, op, 0));
    tri!(c.check_target(target));
    c.drop_stack(N as u64 + op.imm);
    c.rip = target;
    Flow::Indirect
}

pub(crate) fn ret_handler(size: usize) -> Run {
    super::pick_size!(ret[], size, REG)
}

/// LOOP (0), LOOPE (1), LOOPNE (2), JCXZ (3) with an `N`-byte counter.
#[inline(always)]
fn counted<const F: bool, const N: usize, const M: u8>(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    let count = get::<N>(c, RCX as u8);
    if op.imm == 3 {
        return if count == 0 { Flow::Taken } else { Flow::Fall };
    }
    let count = count.wrapping_sub(1);
    set::<N>(c, RCX as u8, count);
    let left = crate::flags::trunc::<N>(count) != 0;
    let wanted = match op.imm {
        0 => true,
        1 => c.zf(),
        _ => !c.zf(),
    };
    if left && wanted { Flow::Taken } else { Flow::Fall }
}

pub(crate) fn counted_handler(counter_size: usize) -> Run {
    super::pick_size!(counted[], counter_size, REG)
}

/// LEAVE.
#[inline(always)]
fn leave<const F: bool, const N: usize, const M: u8>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let old = c.r[RSP];
    c.set_sp(c.r[RBP]);
    let Ok(value) = c.peek::<F, N>(m, b, op, 0) else {
        c.r[RSP] = old;
        return Flow::Fault;
    };
    c.drop_stack(N as u64);
    set::<N>(c, RBP as u8, value);
    done::<F, MS>(c)
}

pub(crate) fn leave_handler(size: usize) -> Run {
    super::pick_size!(leave[], size, REG)
}

/// ENTER: `imm` bytes, `disp` levels, `b` operand size.
pub(crate) fn enter(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let (size, levels, bytes) = (usize::from(op.b), op.disp & 31, op.imm & 0xffff);
    let (old_sp, old_bp) = (c.r[RSP], c.r[RBP]);
    let result = enter_steps(c, m, b, op, size, levels, bytes);
    if result.is_err() {
        c.r[RSP] = old_sp;
        c.r[RBP] = old_bp;
        return Flow::Fault;
    }
    c.brk
}

fn enter_steps(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, size: usize, levels: u64, bytes: u64) -> Result<(), Fault> {
    let mask = c.stack_mask();
    let stack = Core::stack_op(op);
    c.push_sized(m, b, op, size, c.r[RBP])?;
    let frame = c.r[RSP];
    if levels > 0 {
        for level in 1..levels {
            let at = c.r[RBP].wrapping_sub(level * size as u64) & mask;
            let address = c.linear_at(SS, at, size as u64, false)?;
            let value = c.load_slow(m, b, &stack, address, size as u64)?;
            c.push_sized(m, b, op, size, value)?;
        }
        c.push_sized(m, b, op, size, frame)?;
    }
    c.set_sp(c.r[RSP].wrapping_sub(bytes));
    // The last byte of the new frame must be writable.
    let address = c.linear_at(SS, c.r[RSP] & mask, size as u64, true)?;
    c.check_align(address, size as u64)?;
    c.check_write(m, b, &stack, address, 1)?;
    match size {
        2 => set::<2>(c, RBP as u8, frame),
        4 => set::<4>(c, RBP as u8, frame),
        _ => set::<8>(c, RBP as u8, frame),
    }
    Ok(())
}

/// PUSHA.
pub(crate) fn pusha(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let size = usize::from(op.b);
    let old = c.r[RSP];
    for reg in 0..8 {
        let value = if reg == RSP { old } else { c.r[reg] };
        if c.push_sized(m, b, op, size, value).is_err() {
            c.r[RSP] = old;
            return Flow::Fault;
        }
    }
    c.brk
}

/// POPA.
pub(crate) fn popa(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let size = usize::from(op.b);
    let mut values = [0; 8];
    for (index, value) in values.iter_mut().enumerate() {
        *value = tri!(c.peek_sized(m, b, op, size, (index * size) as u64));
    }
    for reg in (0..8).filter(|&reg| reg != RSP) {
        let value = values[7 - reg];
        if size == 2 { set::<2>(c, reg as u8, value) } else { set::<4>(c, reg as u8, value) }
    }
    c.drop_stack(8 * size as u64);
    c.brk
}

/// PUSHF.
pub(crate) fn pushf(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let virtual_8086 = c.flags_rest & rflags::VM != 0;
    if virtual_8086 && c.flags_rest & rflags::IOPL != rflags::IOPL {
        c.gp0();
        return Flow::Fault;
    }
    tri!(c.vm_check(op, crate::svm::exit::PUSHF));
    let image = c.rflags() & !(rflags::RF | rflags::VM);
    tri!(c.push_sized(m, b, op, usize::from(op.b), image));
    c.brk
}

/// POPF.
pub(crate) fn popf(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    use rflags::{AC, ARITH, DF, ID, IF, IOPL, NT, RF, TF, VIF, VIP, VM};
    let size = usize::from(op.b);
    let iopl = (c.flags_rest >> 12 & 3) as u8;
    if c.flags_rest & VM != 0 && iopl < 3 {
        c.gp0();
        return Flow::Fault;
    }
    tri!(c.vm_check(op, crate::svm::exit::POPF));
    let image = tri!(c.peek_sized(m, b, op, size, 0));
    c.drop_stack(size as u64);
    let mut change = ARITH | TF | DF | NT;
    if size > 2 {
        change |= AC | ID;
    }
    if c.sys.cpl <= iopl {
        change |= IF;
    }
    if c.sys.cpl == 0 {
        change |= IOPL;
    }
    let old = c.rflags();
    let mut new = old & !change | image & change;
    if size > 2 {
        new &= !(RF | VIF | VIP);
    }
    c.rip = c.cut_rip(c.rip_after(op));
    c.set_rflags(new);
    if (old ^ new) & AC != 0 {
        c.update_mode();
    }
    // Only what the loop between blocks must see ends the block.
    let seen = (old ^ new) & (IF | TF | AC) != 0;
    if seen { Flow::Exit } else { c.brk }
}
